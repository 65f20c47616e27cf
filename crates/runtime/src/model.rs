//! The model: embedding, layers, head.

use gemma::{Attention, Config, ROPE_FREQS};
use ndarray::s;
use quant::Simd;
use tensor::{Error, Result};

use crate::batch::{Batch, Sequence};
use crate::norm::rms;
use crate::ple_cache::{self, PleCache, PleCacheReads};
use crate::{Compute, KvCache, Matrix, RowMajor, Segment, Weights, math, rope, segments};

/// A Gemma 4 text model.
pub struct Model<'a> {
    config: &'a Config,
    weights: Weights<'a>,
    sliding: Vec<f32>,
    full: Vec<f32>,
    pub(crate) table: PleCache,
}

/// A part of a layer: one residual branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerPart {
    /// Attention and the norm behind it.
    Attention,
    /// The dense network, plus the experts in a mixture, and the norm behind.
    FeedForward,
    /// The per-layer embedding, if the model has one, and the output scale of the layer.
    PerLayer,
}

/// Tokens of a prompt in one batch: enough to amortise the decoding of weights.
const PIECE: usize = 512;

/// A point in the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// After the embedding.
    Embedding,
    /// After a layer.
    Layer(usize),
}

impl<'a> Model<'a> {
    /// A model of this config with these weights.
    ///
    /// # Errors
    /// `Unsupported` for a model without causal attention; `Malformed` for inconsistent sizes; `Io`.
    pub fn new(config: &'a Config, weights: Weights<'a>) -> Result<Model<'a>> {
        if config.draft.is_some() {
            return Err(Error::unsupported("model", "a draft model says nothing by itself")
                .help("Give it to `generate` as ‹draft›, with the model that it drafts for."));
        }
        Model::of_layers(config, weights)
    }

    /// As [`Model::new`], also for assistants, whose layers have no keys and values.
    pub(crate) fn of_layers(config: &'a Config, weights: Weights<'a>) -> Result<Model<'a>> {
        check(config)?;
        // the frequencies are in the config of a checkpoint, and in a tensor of a GGUF
        let (full, sliding) = (&config.rope, &config.rope_swa);
        let divisors = match weights.global().find(ROPE_FREQS) {
            Some(weight) => weight.vector()?.into_iter().map(|divisor| divisor * full.factor).collect(),
            None => config.rope_freqs(),
        };
        let of_sliding = sliding.divisors(config.head_dim);
        Ok(Model {
            sliding: rope::frequencies(sliding.base, config.head_dim as usize, Some(&of_sliding)),
            full: rope::frequencies(full.base, config.full_head_dim as usize, Some(&divisors)),
            table: PleCache::new(ple_cache::PLE_CACHE_BYTES),
            config,
            weights,
        })
    }

    /// The same model with another size of the LRU cache for rows of the PLE table, in bytes; see
    /// [`PLE_CACHE_BYTES`](crate::PLE_CACHE_BYTES). Results do not depend on it.
    pub fn with_ple_cache_bytes(self, bytes: usize) -> Model<'a> {
        Model { table: PleCache::new(bytes), ..self }
    }

    /// Reads of the PLE table so far; `None` for models without one.
    pub fn ple_reads(&self) -> Option<PleCacheReads> {
        (self.config.ple > 0).then(|| self.table.reads())
    }

    /// Its config.
    pub fn config(&self) -> &'a Config {
        self.config
    }

    /// The arithmetic of its weights.
    pub fn compute(&self) -> Compute {
        self.weights.compute()
    }

    pub(crate) fn simd(&self) -> Simd {
        self.compute().simd
    }

    /// Its tensors.
    pub fn weights(&self) -> &Weights<'a> {
        &self.weights
    }

    /// Rotation frequencies of the layers of a kind.
    pub(crate) fn frequencies(&self, kind: Attention) -> &[f32] {
        match kind {
            Attention::Sliding => &self.sliding,
            Attention::Full => &self.full,
        }
    }

    /// Sequences from their first token on, embedded: `√hidden · E[token]`.
    ///
    /// A batch of a thousand tokens amortises the decoding of weights; a larger one takes more memory and saves little.
    /// If only some final hidden states are needed, see [`Batch::want`].
    ///
    /// # Errors
    /// `Malformed` for a token beyond the vocabulary, `Limit` for more tokens than the model's context, `Io`.
    pub fn embed(&self, sequences: &[&[u32]]) -> Result<Batch> {
        let segments: Vec<_> = sequences.iter().map(|&tokens| [Segment::Tokens(tokens)]).collect();
        self.embed_segments(&segments.iter().map(|segments| &segments[..]).collect::<Vec<_>>())
    }

    /// As [`Model::embed`], for sequences with images and sounds.
    ///
    /// # Errors
    /// Those of [`Model::embed`]; `Malformed` for soft tokens of another length than the model's hidden states.
    pub fn embed_segments<'s>(&self, sequences: &[&[Segment<'s>]]) -> Result<Batch> {
        let new = || KvCache::of_one_pass(self.config);
        self.start(sequences.iter().map(|&segments| (segments, new())))
    }

    fn start<'t, 's: 't>(&self, parts: impl Iterator<Item = (&'t [Segment<'s>], KvCache)>) -> Result<Batch> {
        let (mut tokens, mut positions, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        let (mut sequences, mut soft) = (Vec::new(), Vec::new());
        for (part, cache) in parts {
            let start = cache.len();
            self.check_segments(part, start)?;
            let first = tokens.len();
            ends.extend(segments::ends(part, start, self.config.image_blocks));
            let mut row = first;
            for segment in part {
                soft.extend(segment.soft_tokens().map(|rows| (row, rows)));
                row += segment.len();
            }
            tokens.extend(segments::tokens(part));
            let end = start + (row - first);
            positions.extend(start..end);
            sequences.push(Sequence { rows: first..row, end, cache });
        }
        let mut hidden = self.embedded(&tokens)?;
        for (row, rows) in soft {
            hidden.slice_mut(s![row..row + rows.nrows(), ..]).assign(&rows);
        }
        let embedding = if self.config.ple > 0 { hidden.clone() } else { Matrix::zeros((0, 0)) };
        let batch = Batch {
            embedded: tokens.len(),
            tokens,
            positions,
            ends,
            sequences,
            hidden,
            embedding,
            done: 0,
            next: LayerPart::Attention,
            wanted: None,
        };
        self.check_finite(&batch, "token_embd")?;
        Ok(batch)
    }

    /// `√hidden · E[token]`, a row each.
    pub(crate) fn embedded(&self, tokens: &[u32]) -> Result<Matrix> {
        let mut hidden = self.weights.global().get("token_embd")?.gather(tokens)?;
        hidden *= (self.config.hidden as f32).sqrt();
        Ok(hidden)
    }

    /// Computes the next layer of a batch.
    ///
    /// # Errors
    /// `Malformed`, naming the layer, when a hidden state is infinite or NaN; `Io`.
    ///
    /// # Panics
    /// When it is not the batch's next layer.
    pub fn layer(&self, layer: usize, batch: &mut Batch) -> Result<()> {
        [LayerPart::Attention, LayerPart::FeedForward, LayerPart::PerLayer]
            .into_iter()
            .try_for_each(|part| self.part(layer, part, batch))
    }

    /// Computes the next part of a layer of a batch.
    ///
    /// # Errors
    /// Those of [`Model::layer`].
    ///
    /// # Panics
    /// When it is not the batch's next part.
    pub fn part(&self, layer: usize, part: LayerPart, batch: &mut Batch) -> Result<()> {
        assert_eq!((layer, part), (batch.done, batch.next), "the batch's next part");
        let (eps, w) = (self.config.norm_eps, self.weights.layer(layer));
        w.observe_residual(&batch.hidden)?;
        match part {
            LayerPart::Attention => {
                let a = self.attention(layer, batch)?;
                batch.hidden += &rms(self.simd(), &a, Some(&w.vector("post_attention_norm")?), eps);
                batch.next = LayerPart::FeedForward;
                Ok(())
            }
            LayerPart::FeedForward => {
                let f = match self.config.experts {
                    None => self.dense(&w, &batch.hidden)?,
                    Some(_) => self.dense_and_experts(&w, &batch.hidden)?,
                };
                batch.hidden += &rms(self.simd(), &f, Some(&w.vector("post_ffw_norm")?), eps);
                batch.next = LayerPart::PerLayer;
                Ok(())
            }
            LayerPart::PerLayer => {
                if self.config.ple > 0 {
                    let p = self.per_layer(layer, batch)?;
                    batch.hidden += &p;
                }
                batch.hidden *= w.vector("layer_output_scale")?[0];
                (batch.done, batch.next) = (layer + 1, LayerPart::Attention);
                self.check_finite(batch, &format!("layer {layer}"))
            }
        }
    }

    /// The normalised hidden states after the last layer: the input of the head.
    ///
    /// # Errors
    /// `Malformed` for a missing norm; `Io`.
    pub fn norm(&self, hidden: &Matrix) -> Result<Matrix> {
        let weight = self.weights.global().vector("output_norm")?;
        Ok(rms(self.simd(), hidden, Some(&weight), self.config.norm_eps))
    }

    /// Logits of normalised hidden states for a range of the vocabulary: `cap · tanh(E h / cap)`.
    ///
    /// # Errors
    /// `Malformed` when a logit is infinite or NaN; `Io`.
    ///
    /// # Panics
    /// When the range is beyond the vocabulary.
    pub fn logits(&self, normed: &Matrix, tokens: std::ops::Range<u64>) -> Result<Matrix> {
        use rayon::prelude::*;
        let head = if self.config.tied { "token_embd" } else { "output" };
        let mut logits = self.weights.global().get(head)?.project(normed, tokens)?;
        // before the soft cap, which would hide an infinity
        if let Some(bad) = quant::first_beyond(logits.values(), f32::MAX) {
            let place = format!("logits of row {}", bad / logits.ncols());
            return Err(Error::malformed(place, "not finite, while all layers are")
                .expected("numbers", logits.values()[bad]));
        }
        if let Some(cap) = self.config.softcap {
            logits
                .values_mut()
                .par_chunks_mut(16 * 1024)
                .for_each(|logits| math::softcap(self.simd(), logits, cap));
        }
        Ok(logits)
    }

    /// Logits of the whole vocabulary for hidden states after the last layer, one row a token.
    ///
    /// # Errors
    /// Those of [`Model::logits`].
    pub fn head(&self, hidden: &Matrix) -> Result<Matrix> {
        self.logits(&self.norm(hidden)?, 0..self.config.vocab)
    }

    /// Computes all layers for the next tokens of one sequence; `cache` holds the positions before. Returns the hidden states
    /// after the last layer. `observe` gets the hidden states at every stage.
    ///
    /// # Errors
    /// Those of [`Model::embed`] and [`Model::layer`]; the cache is empty then.
    pub fn forward(
        &self,
        tokens: &[u32],
        cache: &mut KvCache,
        observe: impl FnMut(Stage, &Matrix),
    ) -> Result<Matrix> {
        self.forward_segments(&[Segment::Tokens(tokens)], cache, observe)
    }

    /// As [`Model::forward`], for tokens, images and sounds. An image must be whole in one call.
    ///
    /// # Errors
    /// Those of [`Model::embed_segments`] and [`Model::layer`]; the cache is empty then.
    pub fn forward_segments(
        &self,
        segments: &[Segment<'_>],
        cache: &mut KvCache,
        mut observe: impl FnMut(Stage, &Matrix),
    ) -> Result<Matrix> {
        let taken = std::mem::replace(cache, KvCache::new(self.config));
        let mut batch = self.start(std::iter::once((segments, taken)))?;
        observe(Stage::Embedding, &batch.hidden);
        for layer in 0..self.config.layers() {
            self.layer(layer, &mut batch)?;
            observe(Stage::Layer(layer), &batch.hidden);
        }
        if let Some(sequence) = batch.sequences.pop() {
            *cache = sequence.cache;
        }
        Ok(batch.hidden)
    }

    /// As [`Model::forward`], for callers that need only the last token's hidden state: a long prompt is computed in pieces,
    /// and in E2B and E4B only the last token is computed in the layers with shared keys and values.
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    pub fn forward_last(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Matrix> {
        self.forward_last_segments(&[Segment::Tokens(tokens)], cache)
    }

    /// As [`Model::forward_last`], for tokens, images and sounds. An image must be whole in one call, and is never cut.
    ///
    /// # Errors
    /// Those of [`Model::forward_segments`].
    pub fn forward_last_segments(&self, segments: &[Segment<'_>], cache: &mut KvCache) -> Result<Matrix> {
        self.check_segments(segments, cache.len())?;
        let mut last = Matrix::zeros((0, 0));
        let pieces = segments::pieces(segments, PIECE);
        let count = pieces.len();
        for (n, piece) in pieces.iter().enumerate() {
            let taken = std::mem::replace(cache, KvCache::new(self.config));
            let mut batch = self.start(std::iter::once((&piece[..], taken)))?;
            batch.want(if n + 1 == count { vec![batch.embedded - 1] } else { vec![] });
            // on a thread of the pool: a product that is begun outside of it waits for a thread to wake up, 300 times a token
            rayon::scope(|_| (0..self.config.layers()).try_for_each(|layer| self.layer(layer, &mut batch)))?;
            if let Some(sequence) = batch.sequences.pop() {
                *cache = sequence.cache;
            }
            last = batch.hidden;
        }
        Ok(last)
    }

    fn check_finite(&self, batch: &Batch, place: &str) -> Result<()> {
        let Some(bad) = quant::first_beyond(batch.hidden.values(), f32::MAX) else { return Ok(()) };
        let row = bad / batch.hidden.ncols();
        let problem = format!(
            "the hidden state at position {} (token {}) is not finite",
            batch.positions[row], batch.tokens[row]
        );
        Err(Error::malformed(place, problem).expected("numbers", batch.hidden.values()[bad]))
    }
}

/// Refuses configs that this crate does not support, or that would divide by zero.
fn check(config: &Config) -> Result<()> {
    if !config.causal {
        return Err(Error::unsupported(
            "model",
            "its tokens see those after them; there is no next token to predict",
        ));
    }
    for layer in 0..config.layers() {
        let (heads, kv_heads) = (config.heads, config.kv_heads_of(layer));
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(Error::malformed(
                format!("layer {layer}"),
                "query heads cannot share its key heads evenly",
            )
            .expected(format!("a divisor of {heads}"), kv_heads));
        }
        if !config.head_dim_of(layer).is_multiple_of(2) {
            return Err(Error::malformed(format!("layer {layer}"), "a head cannot be turned in pairs")
                .expected("an even size", config.head_dim_of(layer)));
        }
    }
    if let Some(experts) = config.experts {
        let used = config.experts_used.unwrap_or(0);
        if used == 0 || used > experts {
            return Err(Error::malformed("model", "experts used for a token")
                .expected(format!("1 to {experts}"), used));
        }
    }
    if config.window == 0 {
        return Err(
            Error::malformed("model", "sliding layers see nothing").expected("a window of at least 1", 0)
        );
    }
    if config.ple > 0 && config.vocab_ple < config.vocab {
        return Err(Error::malformed("model", "tokens without per-layer embeddings")
            .expected(format!("at least {}", config.vocab), config.vocab_ple));
    }
    Ok(())
}
