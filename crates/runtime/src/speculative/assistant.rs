//! Assistants: draft models of a few layers that read the KV cache of their target model.
//!
//! The input of a draft step is the target's embedding of the last token and the target's normalised hidden state before it.
//! The layers have queries only; each reads the cached keys and values of the target's last layer of its kind. The output is
//! logits, and a hidden state that replaces the target's in the next step. All steps of a burst use the same position, the
//! first one after the target's cache.
//!
//! The sources are `models/gemma4_assistant/modeling_gemma4_assistant.py` of huggingface/transformers and
//! `src/models/gemma4-assistant.cpp` of ggml-org/llama.cpp. Acceptance of draft tokens is up to the caller.

use gemma::{Config, Inventory, Ordered};
use ndarray::Axis;
use tensor::{DType, Error, Result, TensorSource};

use crate::attention::{At, Heads};
use crate::norm::{rms, rms_in_place};
use crate::{Compute, KvCache, Matrix, Model, RowMajor, Segment, Weights, rope};

/// The role of the token ids of an ordered embedding; they are integers, not weights.
const ORDERING: &str = "masked_embd_ordering";

/// An assistant of a target model.
pub struct Assistant<'a> {
    /// Norms, feed-forward networks and head are those of a text model.
    model: Model<'a>,
    head: Option<Head>,
    /// For each layer, the layer of the target whose keys and values it reads.
    owners: Vec<usize>,
}

/// The ordered embedding: the tokens of each group.
struct Head {
    ordered: Ordered,
    /// Group after group.
    tokens: Vec<u32>,
}

/// Output of a draft step.
#[derive(Clone, Debug)]
pub struct AssistantOutput {
    /// Logits of the whole vocabulary.
    pub logits: Vec<f32>,
    /// One row: input of the next step of the burst.
    pub hidden: Matrix,
}

impl<'a> Assistant<'a> {
    /// The assistant of this config, for a target.
    ///
    /// # Errors
    /// `Malformed` for a config that does not fit the target or invalid groups of tokens; those of [`Model::new`].
    pub fn new(
        config: &'a Config,
        source: &'a dyn TensorSource,
        inventory: &Inventory,
        target: &Config,
        compute: Compute,
    ) -> Result<Assistant<'a>> {
        config.check_target(target)?;
        let (ordering, text): (Vec<_>, Vec<_>) =
            inventory.text.iter().cloned().partition(|found| found.slot.role == ORDERING);
        let weights = Weights::new(source, &Inventory { text, dropped: Vec::new() }, compute)?;
        let head = match (config.ordered(), ordering.first()) {
            (Some(ordered), Some(found)) => Some(Head::read(ordered, config.vocab, source, found.index)?),
            _ => None,
        };
        let owners = config.attention.iter().filter_map(|&kind| target.last_owner(kind)).collect();
        Ok(Assistant { model: Model::of_layers(config, weights)?, head, owners })
    }

    /// Its config.
    pub fn config(&self) -> &'a Config {
        self.model.config()
    }

    /// One draft step: predicts the token after `token`, which follows the positions of `cache`. `hidden` is one row: the
    /// target's [normalised](Model::norm) hidden state at the last position of `cache`, or that of the previous step.
    ///
    /// # Errors
    /// `Malformed` for an empty cache or a token beyond the vocabulary; `Io`.
    ///
    /// # Panics
    /// When `target` and `cache` are of another model than the assistant was made for.
    pub fn guess(
        &self,
        target: &Model<'_>,
        cache: &KvCache,
        token: u32,
        hidden: &Matrix,
    ) -> Result<AssistantOutput> {
        target.check_segments(&[Segment::Tokens(&[token])], cache.len())?;
        if cache.is_empty() {
            return Err(Error::malformed("draft", "there is nothing to look back to").expected("a prompt", 0));
        }
        let embedded = target.embedded(&[token])?;
        let both = ndarray::concatenate![Axis(1), embedded, *hidden];

        let global = self.model.weights().global();
        let mut x = global.project("nextn_pre_projection", &both)?;
        for layer in 0..self.config().layers() {
            self.layer(layer, cache, &mut x)?;
        }
        let normed = self.model.norm(&x)?;
        let logits = match &self.head {
            Some(head) => head.logits(&self.model, &normed)?,
            None => self.model.logits(&normed, 0..self.config().vocab)?.into_raw_vec_and_offset().0,
        };
        Ok(AssistantOutput { logits, hidden: global.project("nextn_post_projection", &normed)? })
    }

    /// Computes a layer for one row, as [`Model::layer`] does.
    fn layer(&self, layer: usize, cache: &KvCache, x: &mut Matrix) -> Result<()> {
        let (eps, w) = (self.config().norm_eps, self.model.weights().layer(layer));
        let a = self.attention(layer, cache, x)?;
        *x += &rms(self.model.simd(), &a, Some(&w.vector("post_attention_norm")?), eps);
        let f = self.model.dense(&w, x)?;
        *x += &rms(self.model.simd(), &f, Some(&w.vector("post_ffw_norm")?), eps);
        *x *= w.vector("layer_output_scale")?[0];
        Ok(())
    }

    fn attention(&self, layer: usize, cache: &KvCache, x: &Matrix) -> Result<Matrix> {
        let (config, w) = (self.config(), self.model.weights().layer(layer));
        let (head_dim, position) = (config.head_dim_of(layer) as usize, cache.len());
        let a = rms(self.model.simd(), x, Some(&w.vector("attn_norm")?), config.norm_eps);
        let mut q = w.project("attn_q", &a)?;
        rms_in_place(self.model.simd(), &mut q, head_dim, Some(&w.vector("attn_q_norm")?), config.norm_eps);
        rope::rotate(&mut q, &[position], self.model.frequencies(config.attention[layer]));
        let mut o = Matrix::zeros(q.raw_dim());
        let heads = Heads::of(config, layer, self.model.simd());
        heads.attend_alone(q.row(0), cache.layer(self.owners[layer]), At::causal(position), o.row_mut(0));
        w.project("attn_output", &o)
    }
}

impl Head {
    /// Reads the groups: `[vocab]` integers of 64 bits, every token once.
    fn read(ordered: Ordered, vocab: u64, source: &dyn TensorSource, index: usize) -> Result<Head> {
        let desc = &source.tensors()[index];
        let place = || format!("tensor {}", desc.name);
        if desc.dtype != DType::I64 {
            return Err(Error::unsupported(place(), "not the type of token ids").expected("i64", desc.dtype));
        }
        if !vocab.is_multiple_of(ordered.centroids) {
            return Err(Error::malformed(place(), "its groups are not of one size")
                .expected(format!("a divisor of {vocab} groups"), ordered.centroids));
        }
        let mut bytes = vec![0; desc.byte_len() as usize];
        source.read_rows(index, 0, &mut bytes)?;
        let ids = bytes.as_chunks::<8>().0.iter().map(|id| u64::from_le_bytes(*id));
        let mut seen = vec![false; vocab as usize];
        let tokens =
            ids.map(|id| match seen.get_mut(id as usize).map(|seen| std::mem::replace(seen, true)) {
                Some(false) => Ok(id as u32),
                _ => Err(Error::malformed(place(), "not every token once")
                    .expected(format!("each of 0 to {}", vocab - 1), id)),
            });
        Ok(Head { ordered, tokens: tokens.collect::<Result<_>>()? })
    }

    /// Logits of the tokens in the groups with the nearest centroids; all others get the least of them minus 1.
    fn logits(&self, model: &Model<'_>, normed: &Matrix) -> Result<Vec<f32>> {
        let global = model.weights().global();
        let near = global.project("masked_embd_centroids", normed)?;
        let mut groups: Vec<usize> = (0..near.ncols()).collect();
        groups.sort_by(|&a, &b| near[[0, b]].total_cmp(&near[[0, a]]));
        let size = self.tokens.len() / self.ordered.centroids as usize;
        let groups = &groups[..self.ordered.used as usize];
        let tokens: Vec<u32> =
            groups.iter().flat_map(|group| &self.tokens[group * size..][..size]).copied().collect();

        let embedding = global.get("token_embd")?.gather(&tokens)?;
        let product =
            |row| embedding.row_values(row).iter().zip(normed.row_values(0)).map(|(a, b)| a * b).sum::<f32>();
        let found: Vec<f32> = (0..tokens.len()).map(product).collect();
        let least = found.iter().copied().fold(f32::INFINITY, f32::min);
        let mut logits = vec![least - 1.0; self.tokens.len()];
        for (&token, logit) in tokens.iter().zip(found) {
            logits[token as usize] = logit;
        }
        Ok(logits)
    }
}
