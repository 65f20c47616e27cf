//! The ordered embedding of a draft model: left out of a GGUF unless the recipe keeps it.

use std::borrow::Cow;

use gemma::{Config, Found, ModelSpec};

use crate::artifact::Dropped;
use crate::recipe::{MaskedEmbedding, Recipe};
use crate::request::{Shards, dropped};

/// The prefix of the roles of an ordered embedding's tensors.
const ROLE: &str = "masked_embd";

const LEFT_OUT: &str = "ordered embedding: llama.cpp uses the dense head (masked_embedding = \"drop\")";

/// The parts of a model that its GGUF contains.
pub(crate) struct Head<'m> {
    /// The config of the written model.
    pub(crate) config: Cow<'m, Config>,
    /// All tensors except those of the ordered embedding.
    pub(crate) found: Vec<&'m Found>,
    /// The tensors of the ordered embedding, if they are written. They do not count towards the size of the model.
    pub(crate) kept: Vec<&'m Found>,
}

/// Separates the ordered embedding from the other tensors, and notes its treatment.
pub(crate) fn head<'m>(
    model: &'m ModelSpec,
    shards: &Shards<'_>,
    recipe: &Recipe,
    found: Vec<&'m Found>,
    left_out: &mut Vec<Dropped>,
    notes: &mut Vec<String>,
) -> Head<'m> {
    let mut config = Cow::Borrowed(&model.config);
    let (mut kept, found): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|found| found.slot.role.starts_with(ROLE));
    match recipe.masked_embedding {
        MaskedEmbedding::Keep if kept.is_empty() => {
            notes.push("masked_embedding = \"keep\": this model has no ordered embedding".to_owned());
        }
        MaskedEmbedding::Keep => notes.push(
            "the ordered embedding is kept: llama.cpp knows its tensors by name, but as of commit 0c1e5709 loads no file \
             that has them; this tool does"
                .to_owned(),
        ),
        MaskedEmbedding::Drop if kept.is_empty() => {}
        MaskedEmbedding::Drop => {
            let bytes: u64 = kept.iter().map(|found| shards.tensors[found.index].byte_len()).sum();
            notes.push(format!(
                "the ordered embedding ({bytes} bytes in the checkpoint) is left out, as by llama.cpp's converter: the \
                 dense head takes its place; ‹set› masked_embedding=keep writes it"
            ));
            left_out.extend(kept.drain(..).map(|found| dropped(shards, found.index, LEFT_OUT)));
            if let Some(draft) = &mut config.to_mut().draft {
                draft.ordered = None;
            }
        }
    }
    Head { config, found, kept }
}
