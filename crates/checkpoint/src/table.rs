//! The table `formats/checkpoint.toml`, embedded and parsed once.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::quantised::Codec;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    pub(crate) wrapper_segments: Vec<String>,
    pub(crate) wrapper_prefixes: Vec<String>,
    pub(crate) rename: Vec<Rename>,
    /// Ends of the names of convolutions.
    pub(crate) convolutions: Vec<String>,
    pub(crate) experts: Experts,
    pub(crate) packed: Vec<PackedRow>,
    /// Ends of the names of tensors whose values are read when a folder is opened.
    pub(crate) read_on_open: Vec<String>,
    pub(crate) activations: Activations,
    pub(crate) refused: Vec<Refused>,
    /// Names of quantisation methods for people, by `quant_method`.
    pub(crate) methods: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rename {
    pub(crate) from: String,
    pub(crate) to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Experts {
    pub(crate) blocks: Vec<String>,
    pub(crate) silent: Vec<String>,
    pub(crate) gate: Vec<String>,
    pub(crate) up: Vec<String>,
    pub(crate) down: Vec<String>,
    pub(crate) gate_up: Vec<String>,
}

/// A way of quantisation that is decoded.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackedRow {
    pub(crate) codec: Codec,
    pub(crate) codes: String,
    pub(crate) weight: String,
    pub(crate) parts: Vec<String>,
    #[serde(default)]
    pub(crate) marks: Vec<String>,
    #[serde(default)]
    pub(crate) methods: Vec<String>,
    #[serde(default)]
    pub(crate) dtypes: Vec<String>,
    #[serde(default)]
    pub(crate) only: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Activations {
    pub(crate) suffixes: Vec<String>,
}

/// A way of quantisation that is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refused {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) methods: Vec<String>,
    pub(crate) suffixes: Vec<String>,
}

pub(crate) fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| {
        toml::from_str(include_str!("../../../formats/checkpoint.toml"))
            .expect("formats/checkpoint.toml is tested")
    });
    &TABLE
}
