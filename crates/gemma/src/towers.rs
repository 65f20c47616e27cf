//! The image and audio parts of a model: their config, and their tensors by role, with names in an mmproj file.
//!
//! E2B, E4B, 26B-A4B and 31B have an image tower, E2B and E4B an audio tower too. The 12B has none: patches of images and samples of
//! sounds are embedded directly ([`Embedders`]). The table is `formats/gemma4-mmproj.tensors.toml`. Every tensor under the names
//! of these parts is in it, or is an error.

mod change;
mod view;

use std::collections::HashMap;

use serde_json::{Map, Value};
use tensor::{Error, Result, TensorDesc};

use crate::config::{Config, field};
use crate::formats::{self, TowerRow};

pub use change::{TowerChange, softplus};
pub use view::MmprojView;

/// The parts of a model that read images and sounds. Sizes are in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Towers {
    /// The image tower.
    pub vision: Option<Vision>,
    /// The audio tower.
    pub audio: Option<Audio>,
    /// The 12B's embedders of patches and samples.
    pub embedders: Option<Embedders>,
    /// `hidden_size` of the text model, the length of a soft token.
    pub hidden: u64,
}

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
    /// `head_dim`.
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
}

/// The embedders of the 12B.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embedders {
    /// `mm_embed_dim`: the length of an embedded patch.
    pub hidden: u64,
    /// `model_patch_size`: the side of a patch in pixels.
    pub patch: u64,
    /// `mm_posemb_size`: rows of the position table of each axis.
    pub positions: u64,
    /// `audio_embed_dim`: samples of a soft token; `None` without audio.
    pub audio: Option<u64>,
}

/// Mel bins of the audio tower.
const MEL_BINS: u64 = 128;

/// Frequencies that are left of the mel bins after two convolutions of stride 2.
const FREQUENCIES: u64 = MEL_BINS / 4;

/// A tensor of an image or audio part.
#[derive(Clone, Debug)]
pub struct TowerSlot {
    /// The role by llama.cpp's name.
    pub role: &'static str,
    /// The tower's layer.
    pub layer: Option<usize>,
    /// Name in the checkpoint, without prefix.
    pub hf: String,
    /// Name in an mmproj file.
    pub gguf: String,
    /// Dimensions in the checkpoint, slowest first.
    pub shape: Vec<u64>,
    /// The type in an mmproj file.
    pub store: TowerType,
    /// The change of the values.
    pub change: Option<TowerChange>,
    /// The part that the tensor belongs to.
    pub tower: Tower,
}

impl TowerSlot {
    /// Dimensions in an mmproj file, slowest first.
    pub fn mmproj_shape(&self) -> Vec<u64> {
        self.change.map_or_else(|| self.shape.clone(), |change| change.shape(&self.shape))
    }
}

/// A part of a model that reads images or sounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tower {
    /// The image tower, with its projector.
    Vision,
    /// The audio tower, with its projector.
    Audio,
    /// The 12B's embedder of patches, with its projector.
    ImageEmbedder,
    /// The 12B's projector of samples.
    SoundEmbedder,
}

/// Whether the role is of a bound of a clipped linear, which may be infinite.
pub fn is_bound(role: &str) -> bool {
    BOUNDS.iter().any(|bound| role.ends_with(bound))
}

/// The type of a tensor in an mmproj file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TowerType {
    /// The type of the output.
    #[default]
    Output,
    /// Always F32.
    F32,
    /// F16 in an F16 file, else F32.
    Patch,
}

/// A tensor of an image or audio part, found in the checkpoint.
#[derive(Clone, Debug)]
pub struct TowerTensor {
    /// Its description.
    pub slot: TowerSlot,
    /// Its index in the checkpoint.
    pub index: usize,
}

/// The four bounds of a clipped linear.
const BOUNDS: [&str; 4] = ["input_max", "input_min", "output_max", "output_min"];

impl Towers {
    /// Reads `vision_config` and `audio_config`. `None` for a model without either.
    ///
    /// # Errors
    /// `Malformed` for a missing or mistyped field.
    pub fn from_json(json: &Value, text: &Config) -> Result<Option<Towers>> {
        let section = |name: &'static str| Section::of(json, name);
        let (vision, audio) = (section("vision_config")?, section("audio_config")?);
        let unified = [&vision, &audio].into_iter().flatten().any(Section::is_unified);
        let mut towers = Towers { vision: None, audio: None, embedders: None, hidden: text.hidden };
        if unified {
            towers.embedders = vision.map(|vision| Embedders::of(&vision, audio.as_ref())).transpose()?;
        } else {
            towers.vision = vision.as_ref().map(Vision::of).transpose()?;
            towers.audio = audio.as_ref().map(Audio::of).transpose()?;
        }
        let any = towers.vision.is_some() || towers.audio.is_some() || towers.embedders.is_some();
        Ok(any.then_some(towers))
    }

    /// All tensors of these parts, in the order of the table.
    ///
    /// # Errors
    /// `Malformed` if a size overflows.
    pub fn slots(&self) -> Result<Vec<TowerSlot>> {
        let mut slots = Vec::new();
        for row in &formats::towers().tensor {
            let Some(layers) = self.layers(row.tower) else { continue };
            if !row.when.iter().all(|condition| self.holds(condition)) {
                continue;
            }
            let layers = if row.hf.contains("{n}") { (0..layers).map(Some).collect() } else { vec![None] };
            for layer in layers {
                let slot = self.slot(row, layer)?;
                if row.clipped.as_deref().is_some_and(|tower| self.holds(&format!("{tower}.clipped"))) {
                    slots.extend(BOUNDS.map(|bound| bound_of(&slot, bound)));
                }
                slots.push(slot);
            }
        }
        Ok(slots)
    }

    /// The tensors of these parts in a checkpoint, in the order of their names as byte strings.
    ///
    /// # Errors
    /// `Malformed` for a missing tensor or a wrong shape, `Unsupported` for a tensor of these parts that no such model has.
    pub fn find(&self, tensors: &[TensorDesc]) -> Result<Vec<TowerTensor>> {
        let table = formats::towers();
        let mut by_name: HashMap<&str, usize> = HashMap::new();
        for (index, tensor) in tensors.iter().enumerate() {
            let bare = table.prefixes.iter().find_map(|prefix| tensor.name.strip_prefix(prefix.as_str()));
            by_name.insert(bare.unwrap_or(&tensor.name), index);
        }
        let mut found = Vec::new();
        for slot in self.slots()? {
            let index = by_name.remove(slot.hf.as_str()).ok_or_else(|| {
                Error::malformed(format!("tensor {}", slot.hf), "missing: the config has such a tower").help(
                    "Is every shard there? A text-only fine-tune has no vision_config and no audio_config.",
                )
            })?;
            check_shape(&slot, &tensors[index])?;
            found.push(TowerTensor { slot, index });
        }
        let unknown = by_name.keys().filter(|name| is_of_towers(name)).min();
        if let Some(name) = unknown {
            return Err(Error::unsupported(format!("tensor {name}"), "no tower of this config has it")
                .expected("the tensors of formats/gemma4-mmproj.tensors.toml", "another name")
                .help("Does config.json belong to this checkpoint?"));
        }
        found.sort_by(|a, b| tensors[a.index].name.cmp(&tensors[b.index].name));
        Ok(found)
    }

    /// Layers of a part; `None` if the model has no such part.
    fn layers(&self, tower: Tower) -> Option<usize> {
        match tower {
            Tower::Vision => self.vision.map(|vision| vision.layers),
            Tower::Audio => self.audio.map(|audio| audio.layers),
            Tower::ImageEmbedder => self.embedders.map(|_| 0),
            Tower::SoundEmbedder => self.embedders?.audio.map(|_| 0),
        }
    }

    fn holds(&self, condition: &str) -> bool {
        match condition {
            "v.standardize" => self.vision.is_some_and(|vision| vision.standardize),
            "v.clipped" => self.vision.is_some_and(|vision| vision.clipped),
            "a.clipped" => self.audio.is_some_and(|audio| audio.clipped),
            _ => unreachable!(
                "formats/gemma4-mmproj.tensors.toml: condition {condition:?}; the table is tested"
            ),
        }
    }

    fn slot(&self, row: &'static TowerRow, layer: Option<usize>) -> Result<TowerSlot> {
        let named =
            |pattern: &str| layer.map_or(pattern.to_owned(), |n| pattern.replace("{n}", &n.to_string()));
        let shape = row.shape.iter().map(|dimension| self.size(dimension)).collect::<Result<_>>()?;
        Ok(TowerSlot {
            role: &row.role,
            layer,
            hf: named(&row.hf),
            gguf: named(&row.gguf),
            shape,
            store: row.store,
            change: row.change,
            tower: row.tower,
        })
    }

    /// Evaluates a dimension of the table: a product of symbols and numbers.
    fn size(&self, expression: &str) -> Result<u64> {
        let (v, a, u) = (self.vision, self.audio, self.embedders);
        let symbol = |name: &str| -> Option<u64> {
            match name {
                "hidden" => Some(self.hidden),
                "v.hidden" => Some(v?.hidden),
                "v.ffn" => Some(v?.ffn),
                "v.attn" => v?.heads.checked_mul(v?.head_dim),
                "v.head_dim" => Some(v?.head_dim),
                "v.patch" => v?.patch.checked_mul(v?.patch)?.checked_mul(3),
                "v.positions" => Some(v?.positions),
                "a.hidden" => Some(a?.hidden),
                "a.ffn" => a?.hidden.checked_mul(4),
                "a.head_dim" => a?.hidden.checked_div(a?.heads),
                "a.conv0" => Some(a?.channels[0]),
                "a.conv1" => Some(a?.channels[1]),
                "a.bins" => Some(FREQUENCIES),
                "a.taps" => Some(a?.taps),
                "a.out" => Some(a?.output),
                "u.hidden" => Some(u?.hidden),
                "u.patch" => u?.patch.checked_mul(u?.patch)?.checked_mul(3),
                "u.positions" => Some(u?.positions),
                "u.audio" => u?.audio,
                number => number.parse().ok(),
            }
        };
        expression
            .split('*')
            .map(symbol)
            .try_fold(1u64, |product, size| product.checked_mul(size?))
            .ok_or_else(|| {
                Error::malformed(
                    "config.json",
                    format!("the size {expression} of a tower does not fit into 64 bits"),
                )
            })
    }
}

/// A bound of a clipped linear: a scalar beside its weight.
fn bound_of(slot: &TowerSlot, bound: &'static str) -> TowerSlot {
    let beside = |name: &str, ending: &str| format!("{}.{bound}", name.strip_suffix(ending).unwrap_or(name));
    TowerSlot {
        role: bound,
        hf: beside(&slot.hf, ".linear.weight"),
        gguf: beside(&slot.gguf, ".weight"),
        shape: vec![1],
        store: TowerType::F32,
        change: None,
        ..slot.clone()
    }
}

/// Whether a name without prefix is of an image or audio part.
fn is_of_towers(name: &str) -> bool {
    ["vision_tower.", "audio_tower.", "embed_vision.", "embed_audio.", "vision_embedder."]
        .iter()
        .any(|start| name.starts_with(start))
}

fn check_shape(slot: &TowerSlot, tensor: &TensorDesc) -> Result<()> {
    if tensor.shape == slot.shape || slot.shape == [1] && tensor.shape.is_empty() {
        return Ok(());
    }
    Err(Error::malformed(format!("tensor {}", tensor.name), "wrong shape for the config")
        .expected(format!("{:?}", slot.shape), format!("{:?}", tensor.shape)))
}

/// An object of `config.json`.
struct Section<'a> {
    name: &'static str,
    fields: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    fn of(json: &'a Value, name: &'static str) -> Result<Option<Section<'a>>> {
        match json.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Section { name, fields })),
            Some(other) => {
                Err(Error::malformed(field(name), "not an object").expected("fields by name", other))
            }
        }
    }

    fn is_unified(&self) -> bool {
        self.fields.get("model_type").and_then(Value::as_str).is_some_and(|kind| kind.contains("unified"))
    }

    fn place(&self, key: &str) -> String {
        field(&format!("{}.{key}", self.name))
    }

    fn count(&self, key: &str) -> Result<u64> {
        let value = self.fields.get(key).unwrap_or(&Value::Null);
        value.as_u64().filter(|count| (1..=u64::from(u32::MAX)).contains(count)).ok_or_else(|| {
            Error::malformed(self.place(key), "not a count").expected("a whole number above 0", value)
        })
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.fields.get(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| {
                Error::malformed(self.place(key), "not a flag").expected("true or false", value)
            }),
        }
    }
}

impl Vision {
    fn of(section: &Section<'_>) -> Result<Vision> {
        Ok(Vision {
            hidden: section.count("hidden_size")?,
            ffn: section.count("intermediate_size")?,
            layers: section.count("num_hidden_layers")? as usize,
            heads: section.count("num_attention_heads")?,
            head_dim: section.count("head_dim")?,
            patch: section.count("patch_size")?,
            positions: section.count("position_embedding_size")?,
            pooling: section.count("pooling_kernel_size")?,
            standardize: section.flag("standardize")?,
            clipped: section.flag("use_clipped_linears")?,
        })
    }
}

impl Audio {
    fn of(section: &Section<'_>) -> Result<Audio> {
        let channels = section.fields.get("subsampling_conv_channels").unwrap_or(&Value::Null);
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
        })
    }
}

impl Embedders {
    fn of(vision: &Section<'_>, audio: Option<&Section<'_>>) -> Result<Embedders> {
        Ok(Embedders {
            hidden: vision.count("mm_embed_dim")?,
            patch: vision.count("model_patch_size")?,
            positions: vision.count("mm_posemb_size")?,
            audio: audio.map(|audio| audio.count("audio_embed_dim")).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use tensor::DType;

    use super::*;

    /// The tensors of a real model: names, shapes and what `convert_hf_to_gguf.py --mmproj` makes of them.
    fn inventory(model: &str) -> Vec<(TensorDesc, String, Vec<u64>, String)> {
        let path = testkit::fixtures(format!("inventories/{model}.tsv"));
        let numbers = |text: &str| -> Vec<u64> {
            let inner = text.trim_matches(['[', ']']);
            inner
                .split(", ")
                .filter(|number| !number.is_empty())
                .map(|number| number.parse().unwrap())
                .collect()
        };
        let text = std::fs::read_to_string(path).unwrap();
        let rows = text.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
        let of_towers = rows.filter(|row| row[3] == "mmproj").map(|row| {
            let desc = TensorDesc { name: row[0].to_owned(), dtype: DType::BF16, shape: numbers(row[1]) };
            (desc, row[4].to_owned(), numbers(row[5]), row[6].to_owned())
        });
        of_towers.collect()
    }

    fn towers(model: &str) -> Towers {
        let json = testkit::json(format!("configs/{model}.json"));
        let config = Config::from_json(&json).unwrap();
        Towers::from_json(&json, &config).unwrap().unwrap()
    }

    #[test]
    fn every_tower_tensor_of_every_model_has_its_name() {
        for (model, count) in [("E2B", 1411), ("E4B", 1411), ("12B", 11), ("26B-A4B", 356), ("31B", 356)] {
            let model = format!("gemma-4-{model}-it");
            let rows = inventory(&model);
            let descs: Vec<_> = rows.iter().map(|(desc, ..)| desc.clone()).collect();
            let found = towers(&model).find(&descs).unwrap();
            assert_eq!((found.len(), rows.len()), (count, count), "{model}");
            for TowerTensor { slot, index } in &found {
                let (desc, gguf, ne, dtype) = &rows[*index];
                assert_eq!(&slot.gguf, gguf, "{}", desc.name);
                let elements = |shape: &[u64]| shape.iter().product::<u64>();
                assert_eq!(elements(&slot.shape), elements(ne), "{}", desc.name);
                assert_eq!(slot.store == TowerType::Output, dtype == "BF16", "{}: {dtype}", desc.name);
            }
        }
    }

    #[test]
    fn missing_and_unknown_tensors_are_named() {
        let towers = towers("gemma-4-31B-it");
        let mut descs: Vec<_> = inventory("gemma-4-31B-it").into_iter().map(|(desc, ..)| desc).collect();
        let gone = descs.remove(40);
        let message = towers.find(&descs).unwrap_err().to_string();
        assert!(message.contains(gone.name.strip_prefix("model.").unwrap()), "{message}");
        descs.push(gone);
        descs.push(TensorDesc { name: "model.vision_tower.extra.weight".into(), ..descs[0].clone() });
        let message = towers.find(&descs).unwrap_err().to_string();
        assert!(message.contains("vision_tower.extra.weight"), "{message}");
        descs.pop();
        descs[3].shape.push(2);
        let message = towers.find(&descs).unwrap_err().to_string();
        assert!(message.contains("wrong shape") && message.contains(&descs[3].name), "{message}");
    }
}
