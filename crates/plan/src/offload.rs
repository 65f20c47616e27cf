//! The classes of `formats/offload.toml`: sparsely accessed weights, which need not be in fast memory.

use std::sync::LazyLock;

use gemma::{Config, ModelSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

use base::{Sha256, hex};

use crate::artifact::OutputTensor;
use crate::request::Request;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    class: Vec<Class>,
}

/// A class of sparsely accessed weights.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Class {
    name: String,
    roles: Vec<String>,
    touched: Touched,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Touched {
    Row,
    Experts,
}

/// The part of an artifact that is in separate files, to be loaded on demand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Offloaded {
    /// The class, see `formats/offload.toml`.
    pub class: &'static str,
    /// Total size of its tensors, in bytes.
    pub bytes: u64,
    /// Bytes that one token reads.
    pub bytes_per_token: u64,
}

impl Offloaded {
    /// Whether the class has the tensors of a role.
    pub fn holds(&self, role: &str) -> bool {
        table().class.iter().any(|class| class.name == self.class && class.holds(role))
    }
}

fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| {
        toml::from_str(include_str!("../../../formats/offload.toml")).expect("formats/offload.toml is tested")
    });
    &TABLE
}

/// An id that the files of one conversion share: a digest of the checkpoint, the recipe and the imatrix.
pub(crate) fn set_id(model: &ModelSpec, request: &Request) -> String {
    let mut hash = Sha256::new();
    hash.update(model.fingerprint);
    hash.update(serde_json::to_vec(&request.recipe).expect("a recipe is plain data"));
    if let Some(file) = request.importance.as_ref().and_then(|given| given.source.file.as_ref()) {
        hash.update(&file.sha256);
    }
    hex(&hash.finish()[..16])
}

impl Class {
    /// # Errors
    /// `Recipe` for an unknown name, with a list of the classes.
    pub(crate) fn named(name: &str) -> Result<&'static Class> {
        table().class.iter().find(|class| class.name == name).ok_or_else(|| {
            let known: Vec<_> = table().class.iter().map(|class| class.name.as_str()).collect();
            Error::recipe("output.offload", "no such class").expected(known.join(", "), format!("{name:?}"))
        })
    }

    pub(crate) fn holds(&self, role: &str) -> bool {
        self.roles.iter().any(|r| r == role)
    }

    /// The class's share of these tensors; `None` if it has none of them.
    pub(crate) fn of<'t>(
        &'static self,
        config: &Config,
        tensors: impl Iterator<Item = &'t OutputTensor>,
    ) -> Option<Offloaded> {
        let mut all = Offloaded { class: &self.name, bytes: 0, bytes_per_token: 0 };
        for tensor in tensors.filter(|tensor| self.holds(tensor.role)) {
            all.bytes += tensor.bytes;
            all.bytes_per_token += match self.touched {
                Touched::Row => tensor.desc.row_bytes(),
                Touched::Experts => {
                    let experts = config.experts.unwrap_or(1).max(1);
                    tensor.bytes / experts * config.experts_used.unwrap_or(experts)
                }
            };
        }
        (all.bytes > 0).then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_of_classes_exist() {
        for role in table().class.iter().flat_map(|class| &class.roles) {
            assert!(gemma::is_role(role), "{role}");
        }
        assert!(Class::named("all").unwrap_err().to_string().contains("per-layer, experts"));
    }
}
