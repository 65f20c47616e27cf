//! The description of the towers in an mmproj file: sizes from its keys and tensors, tensors by role.
//!
//! The inverse of `keys/mmproj.rs`. What has no key is what llama.cpp's `tools/mtmd/clip.cpp` computes with: 3 × 3 patches of a soft
//! token (unless `clip.vision.projector.scale_factor` says otherwise), rotations of base 100, 12 keys of a query of sounds, scores up to 50.

use std::collections::{HashMap, HashSet};

use gguf::{Metadata, ggml_shape};
use tensor::{Error, Result, TensorDesc};

use super::config::ROPE_BASE;
use super::{Audio, Embedders, MEL_BINS, TowerTensor, Towers, Vision};
use crate::config::field;
use crate::formats;

/// The activation that a file of towers asks for.
pub const GELU_KEY: &str = "clip.use_gelu";

/// What llama.cpp computes with.
const POOLING: u64 = 3;
const NORM_EPS: f32 = 1e-6;
const WINDOW: u64 = 12;
const SOFTCAP: f32 = 50.0;
const RESIDUAL: f32 = 0.5;
const TAPS: u64 = 5;

impl Towers {
    /// The towers of an mmproj file.
    ///
    /// # Errors
    /// `Unsupported` for a file that is not an mmproj file of a Gemma 4; `Malformed` for a missing or mistyped key.
    pub fn from_metadata(metadata: &Metadata, tensors: &[TensorDesc]) -> Result<Towers> {
        let file = File {
            metadata,
            shapes: tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice())).collect(),
        };
        let architecture: &str = metadata.required("general.architecture")?;
        if architecture != formats::mmproj_keys().architecture {
            return Err(Error::unsupported("key general.architecture", "not an mmproj file")
                .expected(&formats::mmproj_keys().architecture, architecture));
        }
        let projector: &str = metadata.required("clip.vision.projector_type")?;
        let mut towers = Towers {
            vision: None,
            audio: None,
            embedders: None,
            hidden: file.count("clip.vision.projection_dim")?,
        };
        if metadata.typed("clip.has_vision_encoder")? != Some(true) {
            return Err(Error::malformed(
                "key clip.has_vision_encoder",
                "llama.cpp reads no images with this file",
            )
            .expected(true, "false, or no such key"));
        }
        let reads_sounds = metadata.typed("clip.has_audio_encoder")?.unwrap_or(false);
        match projector {
            "gemma4v" => {
                towers.vision = Some(file.vision()?);
                towers.audio = reads_sounds.then(|| file.audio()).transpose()?;
            }
            "gemma4uv" => towers.embedders = Some(file.embedders(reads_sounds)?),
            other => {
                return Err(Error::unsupported("key clip.vision.projector_type", "not of a Gemma 4")
                    .expected("gemma4v or gemma4uv", other));
            }
        }
        Ok(towers)
    }

    /// Refuses values that an mmproj file has no key for, and that differ from those with which llama.cpp computes.
    ///
    /// # Errors
    /// `Unsupported`, with the field of the config.
    pub fn check_mmproj(&self) -> Result<()> {
        let refuse = |place: &str, known: f64, value: f64| {
            if known == value {
                return Ok(());
            }
            let problem = "an mmproj file has no key for this value, and llama.cpp computes with another";
            Err(Error::unsupported(field(place), problem).expected(known, value))
        };
        if let Some(vision) = &self.vision {
            refuse("vision_config.rope_parameters.rope_theta", ROPE_BASE.into(), vision.rope_base.into())?;
            refuse("vision_config.pooling_kernel_size", POOLING as f64, vision.pooling as f64)?;
            refuse("vision_config.rms_norm_eps", NORM_EPS.into(), vision.norm_eps.into())?;
            refuse("vision_config.head_dim", (vision.hidden / vision.heads) as f64, vision.head_dim as f64)?;
        }
        if let Some(audio) = &self.audio {
            refuse("audio_config.attention_context_left", (WINDOW + 1) as f64, (audio.window + 1) as f64)?;
            refuse("audio_config.attention_logit_cap", SOFTCAP.into(), audio.softcap.into())?;
            refuse("audio_config.residual_weight", RESIDUAL.into(), audio.residual.into())?;
            refuse("audio_config.rms_norm_eps", NORM_EPS.into(), audio.norm_eps.into())?;
            refuse("audio_config.conv_kernel_size", TAPS as f64, audio.taps as f64)?;
        }
        if let Some(embedders) = &self.embedders {
            refuse("vision_config.rms_norm_eps", NORM_EPS.into(), embedders.norm_eps.into())?;
            refuse("audio_config.rms_norm_eps", NORM_EPS.into(), embedders.audio_norm_eps.into())?;
        }
        Ok(())
    }

    /// The tensors of an mmproj file, in its order.
    ///
    /// # Errors
    /// `Malformed` for a missing tensor or a wrong shape, `Unsupported` for a tensor that no such file has.
    pub fn find_in_mmproj(&self, tensors: &[TensorDesc]) -> Result<Vec<TowerTensor>> {
        let by_name: HashMap<&str, usize> =
            tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        let mut found = Vec::new();
        for slot in self.slots()? {
            let index = *by_name.get(slot.gguf.as_str()).ok_or_else(|| {
                Error::malformed(
                    format!("tensor {}", slot.gguf),
                    "missing: the keys say that the file has such a tower",
                )
            })?;
            let (wanted, is) = (slot.mmproj_shape(), &tensors[index].shape);
            if ggml_shape(&wanted) != ggml_shape(is) {
                return Err(Error::malformed(format!("tensor {}", slot.gguf), "wrong shape for the keys")
                    .expected(format!("{wanted:?}"), format!("{is:?}")));
            }
            found.push(TowerTensor { slot, index });
        }
        let known: HashSet<usize> = found.iter().map(|tensor| tensor.index).collect();
        if let Some(unknown) = (0..tensors.len()).find(|index| !known.contains(index)) {
            return Err(Error::unsupported(format!("tensor {}", tensors[unknown].name), "no tower has it")
                .expected("the tensors of formats/gemma4-mmproj.tensors.toml", "another name"));
        }
        found.sort_by_key(|tensor| tensor.index);
        Ok(found)
    }
}

/// Keys and shapes of an mmproj file.
struct File<'a> {
    metadata: &'a Metadata,
    shapes: HashMap<&'a str, &'a [u64]>,
}

impl File<'_> {
    fn count(&self, key: &str) -> Result<u64> {
        let count: u32 = self.metadata.required(key)?;
        if count == 0 {
            return Err(Error::malformed(format!("key {key}"), "not a count").expected("above 0", count));
        }
        Ok(count.into())
    }

    fn layers(&self, key: &str) -> Result<usize> {
        let layers = self.count(key)?;
        if layers > 1000 {
            return Err(Error::malformed(format!("key {key}"), "no such number of layers")
                .expected("1 to 1000", layers));
        }
        Ok(layers as usize)
    }

    fn eps(&self, key: &str) -> Result<f32> {
        self.metadata.required(key)
    }

    /// A dimension of a tensor, counted from the slowest.
    fn dimension(&self, tensor: &str, number: usize) -> Result<u64> {
        let shape = self.shapes.get(tensor).ok_or_else(|| Error::missing(format!("tensor {tensor}")))?;
        shape.get(number).copied().filter(|&length| length > 0).ok_or_else(|| {
            Error::malformed(format!("tensor {tensor}"), "wrong number of dimensions")
                .expected(format!("at least {}", number + 1), shape.len())
        })
    }

    fn has(&self, tensor: &str) -> bool {
        self.shapes.contains_key(tensor)
    }

    fn vision(&self) -> Result<Vision> {
        let (hidden, heads) =
            (self.count("clip.vision.embedding_length")?, self.count("clip.vision.attention.head_count")?);
        if !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(4) {
            return Err(Error::malformed("key clip.vision.attention.head_count", "heads of no valid size")
                .expected(format!("a divisor of {hidden} into multiples of 4"), heads));
        }
        let pooling: Option<u32> = self.metadata.typed("clip.vision.projector.scale_factor")?;
        Ok(Vision {
            hidden,
            ffn: self.count("clip.vision.feed_forward_length")?,
            layers: self.layers("clip.vision.block_count")?,
            heads,
            head_dim: hidden / heads,
            patch: self.count("clip.vision.patch_size")?,
            positions: self.dimension("v.position_embd.weight", 1)?,
            pooling: pooling.map_or(POOLING, u64::from).max(1),
            standardize: self.has("v.std_bias"),
            clipped: self.has("v.blk.0.attn_q.input_max"),
            norm_eps: self.eps("clip.vision.attention.layer_norm_epsilon")?,
            rope_base: ROPE_BASE,
        })
    }

    fn audio(&self) -> Result<Audio> {
        let projector: &str = self.metadata.required("clip.audio.projector_type")?;
        if projector != "gemma4a" {
            return Err(Error::unsupported("key clip.audio.projector_type", "not of such a Gemma 4")
                .expected("gemma4a", projector));
        }
        let mel_bins = self.count("clip.audio.num_mel_bins")?;
        if mel_bins != MEL_BINS {
            return Err(Error::unsupported("key clip.audio.num_mel_bins", "not of a Gemma 4")
                .expected(MEL_BINS, mel_bins));
        }
        let (hidden, heads) =
            (self.count("clip.audio.embedding_length")?, self.count("clip.audio.attention.head_count")?);
        if !hidden.is_multiple_of(heads) || !hidden.is_multiple_of(2) {
            return Err(Error::malformed("key clip.audio.attention.head_count", "heads of unequal size")
                .expected(format!("a divisor of {hidden}"), heads));
        }
        Ok(Audio {
            hidden,
            layers: self.layers("clip.audio.block_count")?,
            heads,
            channels: [self.dimension("a.conv1d.0.weight", 0)?, self.dimension("a.conv1d.1.weight", 0)?],
            output: self.dimension("a.pre_encode.out.weight", 0)?,
            taps: self.dimension("a.blk.0.conv_dw.weight", 1)?,
            clipped: self.has("a.blk.0.attn_q.input_max"),
            window: WINDOW,
            softcap: SOFTCAP,
            residual: RESIDUAL,
            norm_eps: self.eps("clip.audio.attention.layer_norm_epsilon")?,
        })
    }

    fn embedders(&self, reads_sounds: bool) -> Result<Embedders> {
        let columns = self.dimension("v.patch_embd.weight", 1)?;
        let patch = (columns / 3).isqrt();
        if 3 * patch * patch != columns {
            return Err(Error::malformed(
                "tensor v.patch_embd.weight",
                "not of square patches of three colours",
            )
            .expected("rows of 3 n²", columns));
        }
        Ok(Embedders {
            hidden: self.count("clip.vision.embedding_length")?,
            patch,
            patch_size: self.count("clip.vision.patch_size")?,
            positions: self.dimension("v.position_embd.weight", 1)?,
            audio: reads_sounds.then(|| self.count("clip.audio.embedding_length")).transpose()?,
            norm_eps: self.eps("clip.vision.attention.layer_norm_epsilon")?,
            audio_norm_eps: if reads_sounds {
                self.eps("clip.audio.attention.layer_norm_epsilon")?
            } else {
                NORM_EPS
            },
        })
    }
}
