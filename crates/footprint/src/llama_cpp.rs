//! Memory of llama.cpp, version b0.3.36 (ggml-org/llama.cpp): one sequence, a CPU, flash attention `auto`.
//!
//! KV cells: `llama_context::llama_context` (src/llama-context.cpp) rounds the context up, `llama_kv_cache_iswa`
//! (src/llama-kv-cache-iswa.cpp) gives sliding layers a window and a batch. KV-shared layers have none
//! (`n_layer_kv_from_start`), and all others have keys and values, even if both come from one projection.
//!
//! The compute buffer depends on llama.cpp's graph allocator. The formula here is a fit to the output of llama-server
//! for the five published sizes, within a tenth. Tools that may need the logits of a whole batch (llama-completion,
//! llama-perplexity) reserve, and print, 512 MiB for those; the part that they do not use is never touched. K/V in
//! f32 make the buffer larger.
//!
//! `clip_ctx` (tools/mtmd/clip.cpp) reads the weights of an mmproj file into its own memory, and has a compute buffer
//! for images and one for sounds, which both stay. The formulas are a fit to what `llama-mtmd-cli` prints for the
//! towers of E2B, 31B and 12B. For an image of fewer soft tokens than 280, or a sound of less than 30 seconds, they
//! may be a third too small.

use gemma::{Attention, Config, ModelSpec};

use super::media::{ImageReader, MEL_BINS, Media, SAMPLE_RATE, SoundReader};
use super::{Conditions, entries};

/// Contexts, and the cells of sliding layers, are multiples of this.
const PAD: u64 = 256;

const F32: u64 = 4;

/// BF16 or F16 copies of the inputs of a product.
const HALF: u64 = 2;

/// KV cells of a layer with its own K/V.
pub(super) fn cells(config: &Config, attention: Attention, conditions: Conditions) -> u64 {
    let context = conditions.context.next_multiple_of(PAD);
    match attention {
        Attention::Full => context,
        Attention::Sliding => {
            context.min(config.window.saturating_add(conditions.together())).next_multiple_of(PAD)
        }
    }
}

/// Bytes of the compute buffer, and of the logits of one token.
pub(super) fn working(config: &Config, conditions: Conditions) -> u64 {
    let ffn = (0..config.layers()).map(|layer| config.ffn_of(layer)).max().unwrap_or(0);
    let per_layer = config.layers() as u64 * config.ple;
    let experts = config.experts.and(config.experts_used).unwrap_or(0);
    let experts = experts * (3 * config.expert_ffn.unwrap_or(0) + config.hidden);
    let matrices = F32 * (4 * ffn + config.hidden + per_layer + experts);
    // a mask for each kind of layer, in f16
    let masks: u64 = [Attention::Sliding, Attention::Full]
        .into_iter()
        .filter(|kind| config.attention.contains(kind))
        .map(|kind| 2 * cells(config, kind, conditions))
        .sum();
    conditions.together() * (matrices + masks) + F32 * config.vocab
}

/// Bytes of the program and its tokenizer, as measured with `llama-tokenize`: 10 MB, and 155 per token or merge.
pub(super) fn process(model: &ModelSpec) -> u64 {
    10_000_000 + 155 * entries(model)
}

/// Bytes for the image and the sound: compute buffers, inputs of products, pixels and samples, soft tokens.
pub(super) fn media(config: &Config, media: &Media) -> u64 {
    let tokens = media.tokens();
    image(media) + sound(config, media) + F32 * config.hidden * (tokens.image + tokens.sound)
}

fn image(media: &Media) -> u64 {
    let (patches, pixels) = (media.patches(), media.pixels());
    if patches == 0 {
        return 0;
    }
    let inputs = pixels / patches;
    let (graph, widest) = match media.image {
        Some(ImageReader::Tower(vision)) => {
            // the place of the pixels stays empty if a state does not fit into it
            let gap = if inputs < vision.hidden { inputs } else { 0 };
            // at the beginning, the pixels, and in f16 those of each patch
            let values = (3 * (vision.hidden + vision.ffn) + gap).max(inputs * 3 / 2);
            (F32 * (patches * values).max(vision.positions * vision.hidden), vision.ffn)
        }
        // the pixels, and those of each patch
        _ => (F32 * 2 * pixels, inputs),
    };
    // bytes of the file's pixels, and two copies in f32
    graph + patches * HALF * widest + pixels * (1 + 2 * F32)
}

fn sound(config: &Config, media: &Media) -> u64 {
    let tokens = media.sound_together();
    let samples = F32 * 2 * SAMPLE_RATE * media.tokens().seconds;
    match media.sound {
        // two states of half the frames and half the bins, and some of the size of the spectrum
        Some(SoundReader::Tower(audio)) => {
            let frames = 4 * tokens;
            let graph = F32 * frames * (MEL_BINS / 2 * audio.channels[0] + 5 * MEL_BINS);
            graph + tokens * HALF * 4 * audio.hidden + samples
        }
        Some(SoundReader::Embedder(count)) => F32 * tokens * (2 * count + config.hidden) + samples,
        None => 0,
    }
}
