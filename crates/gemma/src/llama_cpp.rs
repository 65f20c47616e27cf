//! Limits of llama.cpp's loader: a model that it cannot load is not written as a GGUF silently. And what llama.cpp
//! decides without a key.
//!
//! Sources: ggml-org/llama.cpp `src/llama-hparams.h` (limits), `src/llama-model.cpp` (`load_hparams`, `create_memory`),
//! `src/models/gemma4.cpp`, `src/models/gemma4-assistant.cpp`, `tools/mtmd/mtmd.cpp` (`mtmd_decode_use_non_causal`).

use tensor::{Error, Result};

use crate::config::{Attention, Config, ModelKind, field};

/// `LLAMA_MAX_LAYERS` of llama.cpp.
const MOST_LAYERS: usize = 512;

/// `LLAMA_MAX_EXPERTS` of llama.cpp.
const MOST_EXPERTS: u64 = 1024;

/// llama.cpp compares the window as a signed number: a larger one would mask visible positions.
const MOST_WINDOW: u64 = i32::MAX as u64;

/// The number of layers with their own K/V that llama.cpp's cache needs.
pub const KV_OWNERS: usize = 2;

/// Hidden sizes of E2B and E4B, by which llama.cpp knows the models whose images have causal attention.
const CAUSAL_IMAGES: [u64; 2] = [1536, 2560];

/// Whether llama.cpp lets the soft tokens of an image attend, in sliding layers, to all of that image. A GGUF has no
/// key for it. The embedded patches of a 12B always do.
pub(crate) fn has_image_blocks(hidden: u64) -> bool {
    !CAUSAL_IMAGES.contains(&hidden)
}

impl Config {
    /// Whether an image is one batch in llama.cpp, since its soft tokens attend to each other: `--ubatch-size` has to be as large.
    pub fn image_is_one_batch(&self) -> bool {
        self.kind == ModelKind::Unified || has_image_blocks(self.hidden)
    }

    /// A note for users of an mmproj file, if llama.cpp lets soft tokens of images attend to other positions than
    /// config.json does.
    pub fn image_note(&self) -> Option<String> {
        let theirs = self.image_is_one_batch();
        let ours = self.image_blocks || !self.causal;
        if theirs == ours {
            return None;
        }
        let reach = |whole| if whole { "all of it" } else { "earlier positions only" };
        let models = match theirs {
            true => format!("of a hidden size other than {} and {}", CAUSAL_IMAGES[0], CAUSAL_IMAGES[1]),
            false => format!("of hidden size {}", self.hidden),
        };
        Some(format!(
            "in llama.cpp the soft tokens of an image attend to {}, as in every model {models}; by \
             use_bidirectional_attention in config.json they attend to {}",
            reach(theirs),
            reach(ours)
        ))
    }

    /// Checks that a GGUF can represent this model and llama.cpp can load it. Returns notes for users of the file.
    ///
    /// # Errors
    /// `Unsupported`, with the key of config.json, for a model that a GGUF cannot represent or that llama.cpp
    /// rejects.
    pub fn check_gguf(&self) -> Result<Vec<String>> {
        let refused = |key: &str, problem: &str| Error::unsupported(field(key), problem);
        let safetensors = "Safetensors outputs keep the model as it is.";
        if self.layers() > MOST_LAYERS {
            return Err(refused("num_hidden_layers", "more layers than llama.cpp can load")
                .expected(format!("at most {MOST_LAYERS}"), self.layers())
                .help(safetensors));
        }
        if let Some(experts) = self.experts.filter(|&experts| experts > MOST_EXPERTS) {
            return Err(refused("num_experts", "more experts than llama.cpp can load")
                .expected(format!("at most {MOST_EXPERTS}"), experts)
                .help(safetensors));
        }
        if self.window > MOST_WINDOW {
            return Err(refused("sliding_window", "more positions than llama.cpp can count")
                .expected(format!("at most {MOST_WINDOW}"), self.window)
                .help(safetensors));
        }
        if self.attention.contains(&Attention::Sliding) && !self.rope_swa.is_plain() {
            return Err(refused(
                "rope_parameters.sliding_attention",
                "a GGUF cannot express it: rope_freqs and rope.scaling.* apply to full-attention layers only",
            )
            .expected("rope_type default, no factor", format!("{:?}", self.rope_swa))
            .help(safetensors));
        }
        if let Some(draft) = &self.draft {
            return match draft.backbone == self.hidden {
                false => Ok(Vec::new()),
                true => Err(refused(
                    "backbone_hidden_size",
                    "llama.cpp does not load a draft model with the hidden size of its target",
                )
                .expected(format!("another size than hidden_size {}", self.hidden), draft.backbone)),
            };
        }
        if self.ple > 0 && self.vocab_ple != self.vocab {
            return Err(refused(
                "vocab_size_per_layer_input",
                "llama.cpp needs as many rows in the per-layer table as in the embedding",
            )
            .expected(format!("vocab_size {}", self.vocab), self.vocab_ple));
        }
        let mut notes = Vec::new();
        notes.extend(self.cache_note());
        if !self.causal {
            notes.push(
                "config.json: use_bidirectional_attention is \"all\": in llama.cpp the full-attention layers of this \
                 family look back only"
                    .to_owned(),
            );
        }
        Ok(notes)
    }

    /// KV-shared layers read, in llama.cpp, the K/V of the last two layers that have their own: a full layer those of
    /// the last, a sliding layer those of the one before.
    fn cache_note(&self) -> Option<String> {
        assert_ne!(self.kind, ModelKind::Draft);
        let owners = self.layers().saturating_sub(self.shared_kv_layers as usize);
        if owners < KV_OWNERS {
            return Some(format!(
                "llama.cpp stops when it makes a context for this model: {owners} of its layers have keys and values of \
                 their own, and it wants {KV_OWNERS}"
            ));
        }
        let sharing = owners..self.layers();
        let donor = |kind| owners - if kind == Attention::Full { 1 } else { 2 };
        let mut wrong =
            sharing.filter(|&layer| self.attention[donor(self.attention[layer])] != self.attention[layer]);
        let layer = wrong.next()?;
        let kind = if self.attention[layer] == Attention::Full { "full" } else { "sliding" };
        Some(format!(
            "llama.cpp stops at this model: layer {layer} shares keys and values, and llama.cpp takes those of layer {} for \
             it, which is no {kind} layer. It wants the last two layers that own some to be a sliding one and a full one. \
             gemma-convert itself reads the file",
            donor(self.attention[layer])
        ))
    }
}
