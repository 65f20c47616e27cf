//! The image and audio parts of a model: their config, and their tensors by role, with names in an mmproj file.
//!
//! E2B, E4B, 26B-A4B and 31B have an image tower, E2B and E4B an audio tower too. The 12B has none: patches of images and samples of
//! sounds are embedded directly ([`Embedders`]). The table is `formats/gemma4-mmproj.tensors.toml`. Every tensor under the names
//! of these parts is in it, or is an error.

mod change;
mod config;
mod from_mmproj;
mod view;

use std::collections::HashMap;

use serde_json::Value;
use tensor::{Error, Result, TensorDesc};

use self::config::Section;
use crate::config::{Config, ModelKind};
use crate::formats::{self, TowerRow};
use crate::inventory::{check_floats, check_shape};

pub use change::{TowerChange, softplus};
pub use config::{Audio, Embedders, Vision};
pub use from_mmproj::GELU_KEY;
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

/// Mel bins of the audio tower.
pub(crate) const MEL_BINS: u64 = 128;

/// Frequencies that are left of the mel bins after two convolutions of stride 2.
const FREQUENCIES: u64 = MEL_BINS / 4;

/// A tensor of an image or audio part.
#[derive(Clone, Debug)]
pub struct TowerSlot {
    /// The role by llama.cpp's name. With the layer it is unique in a tower, bounds excepted.
    pub role: &'static str,
    /// Of a bound of a clipped linear, whose role is `input_min`, `input_max`, `output_min` or `output_max`: the role of the linear.
    pub of: Option<&'static str>,
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
    /// Whether an mmproj file can be made: llama.cpp knows none without an image tower.
    pub fn reads_images(&self) -> bool {
        self.vision.is_some() || self.embedders.is_some()
    }

    /// Whether sounds become soft tokens.
    pub fn reads_sounds(&self) -> bool {
        self.audio.is_some() || self.embedders.as_ref().is_some_and(|embedders| embedders.audio.is_some())
    }

    /// Reads `vision_config` and `audio_config`. `None` for a model without either.
    ///
    /// # Errors
    /// `Malformed` for a missing or mistyped field, `Unsupported` for a value that no tower of a Gemma 4 has.
    pub fn from_json(json: &Value, text: &Config) -> Result<Option<Towers>> {
        let unified = text.kind == ModelKind::Unified;
        let section = |name| Section::of(json, name, unified);
        let (vision, audio) = (section("vision_config")?, section("audio_config")?);
        let unified = unified || [&vision, &audio].into_iter().flatten().any(Section::is_unified);
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
    /// `Malformed` for a missing tensor or a wrong shape, `Unsupported` for a tensor of these parts that no such model has, and for
    /// elements other than F32, F16 or BF16.
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
            check_shape(&slot.shape, &tensors[index])?;
            check_floats(&tensors[index])?;
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
            of: None,
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
        of: Some(slot.role),
        hf: beside(&slot.hf, ".linear.weight"),
        gguf: beside(&slot.gguf, ".weight"),
        shape: vec![1],
        store: TowerType::F32,
        change: None,
        ..slot.clone()
    }
}

/// Whether a name in a GGUF is that of a tensor of an image or audio tower.
pub fn names_tower(gguf: &str) -> bool {
    ["v.", "a.", "mm."].iter().any(|start| gguf.starts_with(start))
}

/// Whether a name without prefix is of an image or audio part.
fn is_of_towers(name: &str) -> bool {
    ["vision_tower.", "audio_tower.", "embed_vision.", "embed_audio.", "vision_embedder."]
        .iter()
        .any(|start| name.starts_with(start))
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

    /// A tensor is found by its part, role and layer, and a bound by those of its linear.
    #[test]
    fn roles_are_unique() {
        for model in ["E2B", "12B", "31B"] {
            let slots = towers(&format!("gemma-4-{model}-it")).slots().unwrap();
            let mut seen = std::collections::HashSet::new();
            for slot in &slots {
                assert!(seen.insert((slot.tower, slot.role, slot.of, slot.layer)), "{model}: {}", slot.hf);
                assert_eq!(slot.of.is_some(), BOUNDS.contains(&slot.role), "{}", slot.hf);
            }
        }
    }

    #[test]
    fn values_that_change_the_formulas_are_refused() {
        let json = testkit::json("configs/gemma-4-E2B-it.json");
        let config = Config::from_json(&json).unwrap();
        let changes = [
            ("vision_config", "hidden_activation", "silu".into()),
            ("vision_config", "num_key_value_heads", 4.into()),
            ("vision_config", "attention_bias", true.into()),
            ("vision_config", "rope_parameters", serde_json::json!({"rope_type": "proportional"})),
            ("audio_config", "hidden_act", "gelu".into()),
            ("audio_config", "attention_chunk_size", 16.into()),
            ("audio_config", "attention_context_left", 12.into()),
            ("audio_config", "attention_context_right", 1.into()),
            ("audio_config", "gradient_clipping", 100.into()),
        ];
        for (section, key, value) in changes {
            let mut changed = json.clone();
            changed[section][key] = value;
            let error = Towers::from_json(&changed, &config).unwrap_err();
            assert_eq!(error.fault(), tensor::Fault::Unsupported, "{error}");
            assert!(error.place().contains(section), "{error}");
        }
        let mut defaults = json.clone();
        // an E2B has the sizes of the classes
        defaults["vision_config"] = serde_json::json!({"use_clipped_linears": true});
        defaults["audio_config"] = serde_json::json!({});
        assert_eq!(
            Towers::from_json(&defaults, &config).unwrap(),
            Towers::from_json(&json, &config).unwrap()
        );
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
