//! `vision_config` and `audio_config` of `config.json`.
//!
//! Defaults are in `formats/gemma4.defaults.toml`. A value with which no Gemma 4 was published, and which would change the formulas, is
//! refused.

use serde_json::{Map, Value};
use tensor::{Error, Result};

use crate::config::field;
use crate::formats::{self, Class};

/// The image tower, `vision_config`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vision {
    /// `hidden_size`.
    pub hidden: u64,
    /// `intermediate_size`.
    pub ffn: u64,
    /// `num_hidden_layers`.
    pub layers: usize,
    /// `num_attention_heads`; keys have as many.
    pub heads: u64,
    /// `head_dim`: a multiple of 4.
    pub head_dim: u64,
    /// `patch_size`: the side of a patch in pixels.
    pub patch: u64,
    /// `position_embedding_size`: rows of the position table of each axis.
    pub positions: u64,
    /// `pooling_kernel_size`: patches of a soft token along each axis.
    pub pooling: u64,
    /// `standardize`: soft tokens are shifted and scaled before the projection.
    pub standardize: bool,
    /// `use_clipped_linears`: inputs and outputs of linears are clamped to stored bounds.
    pub clipped: bool,
    /// `rms_norm_eps`.
    pub norm_eps: f32,
    /// `rope_parameters.rope_theta`.
    pub rope_base: f32,
}

/// The audio tower, `audio_config`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Audio {
    /// `hidden_size`.
    pub hidden: u64,
    /// `num_hidden_layers`.
    pub layers: usize,
    /// `num_attention_heads`.
    pub heads: u64,
    /// `subsampling_conv_channels`: channels of the two convolutions that halve time and frequency.
    pub channels: [u64; 2],
    /// `output_proj_dims`: the length of an output of the tower.
    pub output: u64,
    /// `conv_kernel_size`: taps of the depthwise convolution.
    pub taps: u64,
    /// `use_clipped_linears`.
    pub clipped: bool,
    /// `attention_context_left` − 1: keys that a query sees, its own included.
    pub window: u64,
    /// `attention_logit_cap`: bound of a score.
    pub softcap: f32,
    /// `residual_weight`: factor of the output of a feed-forward network.
    pub residual: f32,
    /// `rms_norm_eps` of the subsampling, the convolution and the projector. The other norms have 1e-6.
    pub norm_eps: f32,
}

/// The embedders of the 12B.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embedders {
    /// `mm_embed_dim`: the length of an embedded patch.
    pub hidden: u64,
    /// `model_patch_size`, or `patch_size` × `pooling_kernel_size`: the side of a patch in pixels.
    pub patch: u64,
    /// `patch_size`. No computation reads it.
    pub patch_size: u64,
    /// `mm_posemb_size`: rows of the position table of each axis.
    pub positions: u64,
    /// `audio_embed_dim`: samples of a soft token; `None` without audio.
    pub audio: Option<u64>,
    /// `rms_norm_eps` of the projector of patches.
    pub norm_eps: f32,
    /// `rms_norm_eps` of the projector of samples.
    pub audio_norm_eps: f32,
}

/// `default_theta` of `Gemma4VisionConfig`.
pub(super) const ROPE_BASE: f32 = 100.0;

impl Vision {
    pub(super) fn of(section: &Section<'_>) -> Result<Vision> {
        let (heads, head_dim) = (section.count("num_attention_heads")?, section.count("head_dim")?);
        if !head_dim.is_multiple_of(4) {
            return Err(Error::malformed(section.place("head_dim"), "two axes rotate pairs of dimensions")
                .expected("a multiple of 4", head_dim));
        }
        section.only("num_key_value_heads", |value| value.as_u64() == Some(heads), heads)?;
        section.only("hidden_activation", |value| value == "gelu_pytorch_tanh", "gelu_pytorch_tanh")?;
        section.only("attention_bias", |value| value == false, false)?;
        let rope = section.part("rope_parameters")?;
        if let Some(rope) = &rope {
            rope.only("rope_type", |value| value == "axial" || value == "default", "axial")?;
        }
        Ok(Vision {
            hidden: section.count("hidden_size")?,
            ffn: section.count("intermediate_size")?,
            layers: section.count("num_hidden_layers")? as usize,
            heads,
            head_dim,
            patch: section.count("patch_size")?,
            positions: section.count("position_embedding_size")?,
            pooling: section.count("pooling_kernel_size")?,
            standardize: section.flag("standardize")?,
            clipped: section.flag("use_clipped_linears")?,
            norm_eps: section.positive("rms_norm_eps")?,
            rope_base: match &rope {
                Some(rope) if rope.fields.contains_key("rope_theta") => rope.positive("rope_theta")?,
                _ => ROPE_BASE,
            },
        })
    }
}

impl Audio {
    pub(super) fn of(section: &Section<'_>) -> Result<Audio> {
        let channels = section.value("subsampling_conv_channels").unwrap_or(&Value::Null);
        let pair = channels.as_array().and_then(|list| match &list[..] {
            [first, second] => Some([first.as_u64()?, second.as_u64()?]),
            _ => None,
        });
        let heads = section.count("num_attention_heads")?;
        let hidden = section.count("hidden_size")?;
        if !hidden.is_multiple_of(heads) {
            return Err(Error::malformed(section.place("num_attention_heads"), "heads of unequal size")
                .expected(format!("a divisor of {hidden}"), heads));
        }
        if !hidden.is_multiple_of(2) {
            return Err(Error::malformed(section.place("hidden_size"), "positions are sines and cosines")
                .expected("an even size", hidden));
        }
        section.only("hidden_act", |value| value == "silu", "silu")?;
        section.only("attention_context_right", |value| value == 0, 0)?;
        let window = section.count("attention_context_left")? - 1;
        // else the relative positions of transformers' chunks are others than the distances of keys
        let is_window = |value: &Value| window > 0 && value.as_u64() == Some(window);
        section.only("attention_chunk_size", is_window, format!("attention_context_left - 1, {window}"))?;
        // a smaller bound would take part in the computation
        section.only("gradient_clipping", |value| value.as_f64() >= Some(1e10), "1e10")?;
        Ok(Audio {
            hidden,
            layers: section.count("num_hidden_layers")? as usize,
            heads,
            channels: pair.ok_or_else(|| {
                Error::malformed(
                    section.place("subsampling_conv_channels"),
                    "not the channels of two convolutions",
                )
                .expected("two numbers", channels)
            })?,
            output: section.count("output_proj_dims")?,
            taps: section.count("conv_kernel_size")?,
            clipped: section.flag("use_clipped_linears")?,
            window: window.max(1),
            softcap: section.positive("attention_logit_cap")?,
            residual: section.positive("residual_weight")?,
            norm_eps: section.positive("rms_norm_eps")?,
        })
    }
}

impl Embedders {
    pub(super) fn of(vision: &Section<'_>, audio: Option<&Section<'_>>) -> Result<Embedders> {
        let norm_eps = |section: &Section<'_>| section.positive("rms_norm_eps");
        let patch_size = vision.count("patch_size")?;
        Ok(Embedders {
            hidden: vision.count("mm_embed_dim")?,
            patch: match vision.value("model_patch_size") {
                Some(_) => vision.count("model_patch_size")?,
                // transformers 5.23 does not write it
                None => patch_size.saturating_mul(vision.count("pooling_kernel_size")?),
            },
            patch_size,
            positions: vision.count("mm_posemb_size")?,
            audio: audio.map(|audio| audio.count("audio_embed_dim")).transpose()?,
            norm_eps: norm_eps(vision)?,
            audio_norm_eps: audio.map_or_else(|| norm_eps(vision), norm_eps)?,
        })
    }
}

/// An object of `config.json`, with the defaults of its class.
pub(super) struct Section<'a> {
    name: String,
    fields: &'a Map<String, Value>,
    class: Option<&'static Class>,
}

impl<'a> Section<'a> {
    /// `vision_config` or `audio_config`. `model_type` names its class; without one, the whole model's kind decides.
    pub(super) fn of(json: &'a Value, name: &str, unified: bool) -> Result<Option<Section<'a>>> {
        let Some(mut section) = Section::read(json.get(name), name.to_owned())? else { return Ok(None) };
        let family = if unified { "gemma4_unified" } else { "gemma4" };
        let usual = format!("{family}_{}", name.trim_end_matches("_config"));
        let class = section.fields.get("model_type").and_then(Value::as_str).unwrap_or(&usual);
        let known = &formats::defaults().class;
        section.class = known.get(class).or_else(|| known.get(usual.as_str()));
        Ok(Some(section))
    }

    fn read(value: Option<&'a Value>, name: String) -> Result<Option<Section<'a>>> {
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Section { name, fields, class: None })),
            Some(other) => {
                Err(Error::malformed(field(&name), "not an object").expected("fields by name", other))
            }
        }
    }

    /// An object in this one.
    fn part(&self, key: &str) -> Result<Option<Section<'a>>> {
        Section::read(self.fields.get(key), format!("{}.{key}", self.name))
    }

    pub(super) fn is_unified(&self) -> bool {
        self.fields.get("model_type").and_then(Value::as_str).is_some_and(|kind| kind.contains("unified"))
    }

    /// A field, or its default.
    fn value(&self, key: &str) -> Option<&Value> {
        let given = self.fields.get(key).filter(|value| !value.is_null());
        given.or_else(|| self.class?.default.get(key))
    }

    fn place(&self, key: &str) -> String {
        field(&format!("{}.{key}", self.name))
    }

    fn count(&self, key: &str) -> Result<u64> {
        let value = self.value(key).unwrap_or(&Value::Null);
        value.as_u64().filter(|count| (1..=u64::from(u32::MAX)).contains(count)).ok_or_else(|| {
            Error::malformed(self.place(key), "not a count").expected("a whole number above 0", value)
        })
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.value(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| {
                Error::malformed(self.place(key), "not a flag").expected("true or false", value)
            }),
        }
    }

    /// A number above 0.
    fn positive(&self, key: &str) -> Result<f32> {
        let value = self.value(key).unwrap_or(&Value::Null);
        let number = value.as_f64().map(|number| number as f32);
        number.filter(|number| *number > 0.0 && number.is_finite()).ok_or_else(|| {
            Error::malformed(self.place(key), "not a number above 0").expected("a number above 0", value)
        })
    }

    /// Refuses a value that is given and is not the only one that the formulas hold for.
    fn only(
        &self,
        key: &str,
        is_known: impl Fn(&Value) -> bool,
        known: impl std::fmt::Display,
    ) -> Result<()> {
        match self.fields.get(key) {
            Some(value) if !value.is_null() && !is_known(value) => {
                Err(Error::unsupported(self.place(key), "no Gemma 4 tower has this value")
                    .expected(known, value))
            }
            _ => Ok(()),
        }
    }
}
