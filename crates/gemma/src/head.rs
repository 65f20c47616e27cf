//! Tied heads: whether a model's head is its embedding.
//!
//! transformers ties the two if the config says so, except that it keeps a stored head that differs from the
//! embedding. So the bytes decide, and they are compared only if a head is stored.
//!
//! Source: huggingface/transformers 5.23 `modeling_utils.py`, `tie_weights`.

use checkpoint::Checkpoint;
use serde_json::Value;
use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::config::{Config, ModelKind, field};
use crate::inventory;

/// Bytes per tensor that are compared at a time.
const PIECE: u64 = 1 << 20;

impl Config {
    /// The config of a text model's checkpoint, corrected by its weights: [`Config::tied`] is false if a head is
    /// stored that differs from the embedding.
    ///
    /// # Errors
    /// Those of [`Config::from_json`], and read errors of the weights.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Config> {
        Config::with_weights(checkpoint, Config::from_json)
    }

    /// Like [`Config::of_checkpoint`], and also for a draft model.
    ///
    /// # Errors
    /// Those of [`Config::of_checkpoint`].
    pub fn any_of_checkpoint(checkpoint: &Checkpoint) -> Result<Config> {
        Config::with_weights(checkpoint, Config::any_from_json)
    }

    /// Like [`Config::of_checkpoint`], with the reader `read` for the config file.
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
                "a draft model with a head of its own: in a GGUF and in llama.cpp its embedding is the head",
            )),
            None if !said => Err(Error::missing("tensor lm_head.weight").within(field("tie_word_embeddings")).expected(
                "a head, where tie_word_embeddings is false",
                "none",
            ).help("If the embedding is the head, say tie_word_embeddings: true at the top of config.json; transformers would initialise the head at random.")),
            _ => Ok(config),
        }
    }
}

/// Whether two tensors have the same type, shape and bytes. Reads both side by side, some rows at a time.
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
