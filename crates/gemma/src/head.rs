//! Tied heads: whether a model's head is its embedding.
//!
//! transformers ties the two if the config says so, except that it keeps a stored head that differs from the
//! embedding. So the bytes decide, and they are compared only if a head is stored.
//!
//! Source: huggingface/transformers 5.23 `modeling_utils.py`, `tie_weights`.

use checkpoint::Checkpoint;
use serde_json::Value;
use tensor::{Error, Result, TensorSource};

use crate::config::{Config, ModelKind, field};
use crate::inventory;

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
            && !tensor::are_equal((checkpoint, embedding), (checkpoint, head))?
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
