//! Whether a model's head is its embedding.
//!
//! transformers ties the two where the config says so, but for a stored head that differs from the embedding: that one it
//! keeps. So the bytes decide, and they are compared only where a head is stored.
//!
//! Source: huggingface/transformers 5.23 `modeling_utils.py`, `tie_weights`.

use checkpoint::Checkpoint;
use serde_json::Value;
use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::config::{Config, ModelKind, field};
use crate::inventory;

/// Bytes of either tensor that are compared at a time.
const PIECE: u64 = 1 << 20;

impl Config {
    /// The config of a checkpoint of a text model, as its weights have it: [`Config::tied`] is false where a head of its
    /// own is stored.
    ///
    /// # Errors
    /// Those of [`Config::from_json`], and what reading the weights says.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Config> {
        Config::with_weights(checkpoint, Config::from_json)
    }

    /// As [`Config::of_checkpoint`], also for a draft model.
    ///
    /// # Errors
    /// Those of [`Config::of_checkpoint`].
    pub fn any_of_checkpoint(checkpoint: &Checkpoint) -> Result<Config> {
        Config::with_weights(checkpoint, Config::any_from_json)
    }

    /// As [`Config::of_checkpoint`], for the config that `read` makes of the file.
    pub(crate) fn with_weights(
        checkpoint: &Checkpoint,
        read: fn(&Value) -> Result<Config>,
    ) -> Result<Config> {
        let mut config = read(checkpoint.config())?;
        let tensors = checkpoint.tensors();
        let head = inventory::heads(tensors).next();
        let said = config.tied;
        if said
            && let Some(head) = head
            && let Some(embedding) = inventory::embedding(&config, tensors)
            && !same_bytes(checkpoint, embedding, head)?
        {
            config.tied = false;
            config.notes.push(format!(
                "{} differs from the embedding and is kept as the head, though config.json says tie_word_embeddings",
                tensors[head].name
            ));
        }
        if config.tied {
            return Ok(config);
        }
        match head {
            Some(head) if config.kind == ModelKind::Draft => Err(Error::unsupported(
                format!("tensor {}", tensors[head].name),
                "a draft model with a head of its own: a GGUF and llama.cpp have its embedding for it",
            )),
            None if !said => Err(Error::missing("tensor lm_head.weight").within(field("tie_word_embeddings")).expected(
                "a head, where tie_word_embeddings is false",
                "none",
            ).help("If the embedding is the head, say tie_word_embeddings: true at the top of config.json; transformers would begin with a random head.")),
            _ => Ok(config),
        }
    }
}

/// Whether two tensors hold the same bytes, read side by side.
fn same_bytes(source: &dyn TensorSource, a: usize, b: usize) -> Result<bool> {
    let [left, right]: [&TensorDesc; 2] = [&source.tensors()[a], &source.tensors()[b]];
    if (left.dtype, &left.shape) != (right.dtype, &right.shape) {
        return Ok(false);
    }
    let rows_at_a_time = (PIECE / left.row_bytes().max(1)).max(1);
    let mut buffers = [Vec::new(), Vec::new()];
    let mut first = 0;
    while first < left.rows() {
        let rows = rows_at_a_time.min(left.rows() - first);
        for (buffer, index) in buffers.iter_mut().zip([a, b]) {
            buffer.resize((rows * left.row_bytes()) as usize, 0);
            source.read_rows(index, first, buffer)?;
        }
        if buffers[0] != buffers[1] {
            return Ok(false);
        }
        first += rows;
    }
    Ok(true)
}
