//! Memory of `gemma-convert generate` besides its weights, which are mapped (GGUF) or read from the file when they are multiplied
//! (folders): the program, the tokenizer, the KV cache, and the activation memory of the largest piece of the prompt.
//!
//! The counts follow `crates/runtime`: a prompt is processed in pieces (`Model::forward_last`), the KV cache is in
//! `cache.rs`, matrices with a row per token are in `attention.rs`, `ffn.rs` and `moe.rs`, rows of the per-layer
//! table in `ple_cache.rs`. The allocator keeps the memory that attention has freed while the feed-forward network
//! runs, so the two are added. Towers are in `towers/`; their memory is free again before the text is computed.

use gemma::{Attention, Config, ModelSpec};
use plan::{Artifact, OutputTensor};
use runtime::towers::TOWER_QUERIES;
use runtime::{PLE_CACHE_BYTES, QUERIES_AT_A_TIME, SCRATCH_BYTES};
use tensor::DType;

use super::media::{ImageReader, MEL_BINS, Media, SAMPLE_RATE, SoundReader};
use super::{Conditions, entries};

const F32: u64 = 4;

/// Maximum positions in a layer's KV cache: for a sliding layer, before positions that a piece pushes out of the
/// window are dropped.
pub(super) fn cells(config: &Config, attention: Attention, conditions: Conditions) -> u64 {
    let window = config.window.saturating_sub(1).saturating_add(conditions.together());
    match attention {
        Attention::Full => conditions.context,
        Attention::Sliding => conditions.context.min(window),
    }
}

/// The role of the per-layer embedding table.
const TABLE: &str = "per_layer_token_embd";

/// Bytes of the weights of a GGUF that are mapped, of `resident` ones without towers: all but the per-layer table, whose rows are
/// read wherever it is.
pub(super) fn mapped(artifact: &Artifact, resident: u64) -> u64 {
    if artifact.offloaded.iter().any(|class| class.holds(TABLE)) {
        return resident;
    }
    let tables = artifact.tensors().filter(|tensor| tensor.role == TABLE);
    resident - tables.map(|tensor| tensor.bytes).sum::<u64>()
}

/// Bytes of activation memory for a piece of the prompt, of cached rows of the per-layer table, and of the threads'
/// buffers.
pub(super) fn working(config: &Config, artifact: &Artifact, conditions: Conditions) -> u64 {
    let tensors = |role: &'static str| artifact.tensors().filter(move |tensor| tensor.role == role);
    let row_bytes = |tensor: &OutputTensor| tensor.desc.row_bytes();
    let table: u64 = tensors(TABLE).map(row_bytes).sum();
    let is_bf16 = tensors("ffn_down").any(|tensor| tensor.desc.dtype == DType::BF16);
    let scores = F32 * (QUERIES_AT_A_TIME as u64).min(conditions.together()) * conditions.context;
    // the logits of the head, and a copy without suppressed tokens
    let logits = 2 * F32 * config.vocab;
    conditions.together() * F32 * values(config, is_bf16)
        + (PLE_CACHE_BYTES as u64).min(table * conditions.context)
        + conditions.threads * (SCRATCH_BYTES as u64 + scores)
        + logits
}

/// Values per token. Only the last token goes through KV-shared layers.
fn values(config: &Config, is_bf16: bool) -> u64 {
    let owners = || (0..config.layers()).filter(|&layer| !config.shares_kv(layer));
    let queries = owners().map(|layer| config.heads * config.head_dim_of(layer)).max().unwrap_or(0);
    let ffn = owners().map(|layer| config.ffn_of(layer)).max().unwrap_or(0);
    // the residual stream, and with per-layer embeddings its initial state
    let stream = if config.ple > 0 { 2 } else { 1 } * config.hidden;
    // inputs of AMX products are copied: as three BF16 values for BF16 weights, as two for others
    let halves = if is_bf16 { 3 } else { 2 };
    // the normalised input, the output, and between them two matrices and a copy
    let attention = 2 * config.hidden + 2 * queries + queries * halves / 2;
    let dense = 2 * config.hidden + 2 * ffn + ffn * halves / 2;
    // the output of the dense network, the input and the output of the experts, and the outputs of some experts
    let experts = if config.experts.is_some() { 5 * config.hidden } else { 0 };
    stream + attention + dense + experts
}

/// Bytes for the image and the sound, the larger of the two, and their soft tokens.
pub(super) fn media(config: &Config, media: &Media, conditions: Conditions) -> u64 {
    let tokens = media.tokens();
    let scratch = conditions.threads * SCRATCH_BYTES as u64;
    let soft_tokens = F32 * config.hidden * (tokens.image + tokens.sound);
    soft_tokens + scratch + image(media, conditions.threads).max(sound(media))
}

fn image(media: &Media, threads: u64) -> u64 {
    let (patches, pixels) = (media.patches(), media.pixels());
    let values = match media.image {
        Some(ImageReader::Tower(vision)) => network(vision.hidden, vision.ffn, media.is_bf16),
        _ if patches == 0 => 0,
        // pixels in the order of the weights, and their normalised copy
        _ => 2 * (pixels / patches),
    };
    // bytes of the file's pixels, and in f32
    let scores = threads * TOWER_QUERIES as u64 * patches;
    F32 * (patches * values + scores) + pixels * (1 + F32)
}

fn sound(media: &Media) -> u64 {
    let tokens = media.sound_together();
    let values = match media.sound {
        Some(SoundReader::Tower(audio)) => {
            // outputs of the convolutions: half and quarter of the frames and of the bins
            let convolutions = 2 * (MEL_BINS / 2) * audio.channels[0] + MEL_BINS / 4 * audio.channels[1];
            4 * MEL_BINS + convolutions.max(network(audio.hidden, 4 * audio.hidden, media.is_bf16))
        }
        Some(SoundReader::Embedder(count)) => 2 * count,
        None => 0,
    };
    F32 * (tokens * values + 2 * SAMPLE_RATE * media.tokens().seconds)
}

/// Values per position in the feed-forward network of a tower: state, input and output, two matrices, and the copy
/// for AMX products.
fn network(hidden: u64, ffn: u64, is_bf16: bool) -> u64 {
    let halves = if is_bf16 { 3 } else { 2 };
    3 * hidden + 2 * ffn + ffn * halves / 2
}

/// Bytes of the program and its tokenizer: after the model is opened, and the peak while opening, which needs
/// temporary tables. Measured: 7.3 MB, and a number of bytes per token or merge.
pub(super) fn process(model: &ModelSpec, is_gguf: bool) -> (u64, u64) {
    let (open, opening) = if is_gguf { (148, 178) } else { (104, 104) };
    let process = |bytes| 7_300_000 + bytes * entries(model);
    (process(open), process(opening))
}
