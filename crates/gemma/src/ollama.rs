//! GGUF files of Ollama's converter as llama.cpp's converter writes them.
//!
//! Ollama puts the text model and its towers into one file, under keys `gemma4.vision.*` and `gemma4.audio.*`, and calls the tokenizer
//! `llama`. [`Stock`] has the same weights as a text model and an mmproj file. The names are in `formats/ollama.toml`.

use std::collections::{BTreeMap, HashSet};

use checkpoint::ModelCard;
use gguf::{Metadata, Value};
use serde_json::json;
use tensor::{DType, Error, Result, TensorDesc};

use crate::formats::{self, TypePolicy};
use crate::keys::{KeySources, MmprojSources, Parameters, metadata, mmproj_metadata};
use crate::model_of_gguf::templates;
use crate::towers::names_tower;
use crate::towers::{MEL_BINS, TowerTensor, TowerType, Towers};
use crate::{Config, Vocabulary, gguf_inventory};

/// The tokenizer that Ollama's converter names.
const MODEL_KEY: &str = "tokenizer.ggml.model";
const SPM: &str = "llama";

/// The files of llama.cpp's converter with the weights of a file of Ollama's.
#[derive(Debug)]
pub struct Stock {
    /// The text model.
    pub text: StockFile,
    /// The mmproj file, if the source has towers.
    pub mmproj: Option<StockFile>,
    /// Tensors of the source that neither has, by index, with reasons.
    pub dropped: Vec<(usize, &'static str)>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Keys and tensors of a file, in its order.
#[derive(Debug)]
pub struct StockFile {
    /// The keys.
    pub metadata: Metadata,
    /// The tensors.
    pub tensors: Vec<StockTensor>,
}

/// A tensor of a file, and its source.
#[derive(Debug)]
pub struct StockTensor {
    /// Name, type and shape.
    pub desc: TensorDesc,
    /// The role by llama.cpp's name.
    pub role: &'static str,
    /// The layer.
    pub layer: Option<usize>,
    /// The index of the tensor in the source.
    pub index: usize,
    /// The index of a second tensor whose experts follow those of the first, one by one.
    pub second: Option<usize>,
}

/// A tensor of the source under its stock name.
#[derive(Clone)]
struct Source {
    desc: TensorDesc,
    index: usize,
    second: Option<usize>,
}

/// Whether a GGUF of a text model is in the dialect of Ollama's converter.
pub fn is_ollama(keys: &Metadata, tensors: &[TensorDesc]) -> bool {
    let text = keys.typed::<&str>("general.architecture").ok().flatten() == Some("gemma4");
    text && (keys.typed::<&str>(MODEL_KEY).ok().flatten() == Some(SPM)
        || tensors.iter().any(|tensor| names_tower(&tensor.name)))
}

impl Stock {
    /// The stock files of a GGUF with these keys and tensors.
    ///
    /// # Errors
    /// `Unsupported` for a file in another dialect, a tokenizer without merges and tensors without a use; `Malformed` for missing keys
    /// and tensors.
    pub fn new(keys: &Metadata, tensors: &[TensorDesc]) -> Result<Stock> {
        if !is_ollama(keys, tensors) {
            return Err(Error::unsupported(
                "key tokenizer.ggml.model",
                "the file is not in the dialect of Ollama's converter",
            )
            .expected(
                "gemma4 with tokenizer.ggml.model = llama, or with towers among its tensors",
                "another GGUF",
            ));
        }
        let (left_out, sources) = renamed(tensors)?;
        let (towers, text): (Vec<_>, Vec<_>) =
            sources.into_iter().partition(|source| names_tower(&source.desc.name));
        let text = fused(text)?;
        let mut notes = Vec::new();
        let vocabulary = vocabulary(keys)?;
        let templates = templates(keys)?;
        if templates.default.is_none() {
            notes.push(
                "the file has no chat template, which Ollama does not need: set it in the text model with `edit` and ‹chat_template›"
                    .to_owned(),
            );
        }
        let descs: Vec<_> = text.iter().map(|source| source.desc.clone()).collect();
        let config = Config::from_metadata(keys, &descs)?;
        let sources = |parameters| KeySources {
            config: &config,
            vocabulary: &vocabulary,
            templates: &templates,
            generation: None,
            card: &NO_CARD,
            names: &NOTHING,
            overrides: &NOTHING,
            parameters,
        };
        let mmproj = match towers.is_empty() {
            true => None,
            false => Some(mmproj(keys, &towers, &sources)?),
        };
        let text = self::text(keys, &config, &text, &sources)?;
        let dropped = left_out.into_iter().map(|index| (index, "repeats other tensors")).collect();
        Ok(Stock { text, mmproj, dropped, notes })
    }
}

static NO_CARD: std::sync::LazyLock<ModelCard> = std::sync::LazyLock::new(ModelCard::default);
static NOTHING: BTreeMap<String, serde_json::Value> = BTreeMap::new();

/// The tensors that are left out, and the others under their stock names.
fn renamed(tensors: &[TensorDesc]) -> Result<(Vec<usize>, Vec<Source>)> {
    let table = formats::ollama();
    let is_old = tensors.iter().any(|tensor| tensor.name == table.marker);
    let (mut left_out, mut sources) = (Vec::new(), Vec::with_capacity(tensors.len()));
    for (index, tensor) in tensors.iter().enumerate() {
        if table.left_out.contains(&tensor.name) {
            left_out.push(index);
            continue;
        }
        let (pattern, layer) = split_layer(&tensor.name);
        let row = table.tensors.iter().find(|[old, _]| *old == pattern);
        let name = match row.filter(|[_, new]| is_old || !names_tower(new)) {
            Some([_, new]) => new.replace("{n}", layer),
            None => tensor.name.clone(),
        };
        sources.push(Source {
            desc: TensorDesc::new(name, tensor.dtype, tensor.shape.clone())?,
            index,
            second: None,
        });
    }
    Ok((left_out, sources))
}

/// A name with `{n}` in the place of the layer, and the layer.
fn split_layer(name: &str) -> (String, &str) {
    let number = |part: &&str| part.bytes().all(|b| b.is_ascii_digit());
    let layer = name.split_once("blk.").and_then(|(_, rest)| rest.split('.').next()).filter(number);
    match layer {
        Some(layer) => (name.replacen(&format!("blk.{layer}."), "blk.{n}.", 1), layer),
        None => (name.to_owned(), ""),
    }
}

/// The tensors with gate and up projections of experts in one: the rows of an expert's gate, then those of its up projection.
fn fused(sources: Vec<Source>) -> Result<Vec<Source>> {
    const GATE: &str = "ffn_gate_exps.";
    const UP: &str = "ffn_up_exps.";
    const BOTH: &str = "ffn_gate_up_exps.";
    let ups: BTreeMap<String, Source> = sources
        .iter()
        .filter(|source| source.desc.name.contains(UP))
        .map(|source| (source.desc.name.replace(UP, GATE), source.clone()))
        .collect();
    let is_up = |source: &Source| source.desc.name.contains(UP);
    let others = sources.into_iter().filter(|source| !is_up(source));
    let one = |gate: Source| {
        let Some(up) = ups.get(&gate.desc.name) else { return Ok(gate) };
        let (TensorDesc { name, dtype, shape }, other) = (&gate.desc, &up.desc);
        let &[experts, rows, cols] = &shape[..] else {
            return Err(Error::malformed(format!("tensor {name}"), "not the weights of experts")
                .expected("three dimensions", shape.len()));
        };
        if (dtype, shape) != (&other.dtype, &other.shape) {
            return Err(Error::unsupported(
                format!("tensor {name}"),
                "gate and up projections of experts differ",
            )
            .expected(format!("{dtype} {shape:?}"), format!("{} {:?}", other.dtype, other.shape)));
        }
        let desc = TensorDesc::new(name.replace(GATE, BOTH), *dtype, [experts, 2 * rows, cols])?;
        Ok(Source { desc, index: gate.index, second: Some(up.index) })
    };
    others.map(one).collect()
}

type Sources<'a> = dyn Fn(Parameters) -> KeySources<'a> + 'a;

fn text(keys: &Metadata, config: &Config, sources: &[Source], with: &Sources<'_>) -> Result<StockFile> {
    let descs: Vec<_> = sources.iter().map(|source| source.desc.clone()).collect();
    let mut found = gguf_inventory(config, &descs)?.text;
    // llama-quantize's order
    found.sort_by(|a, b| (a.slot.layer, &a.slot.gguf).cmp(&(b.slot.layer, &b.slot.gguf)));
    let parameters =
        Parameters::of(found.iter().map(|found| &found.slot.shape[..]), config.experts.unwrap_or(0));
    let tensors = found.iter().map(|found| {
        let fixed = found.slot.type_policy == TypePolicy::F32;
        stock(&sources[found.index], fixed.then_some(DType::F32), found.slot.role, found.slot.layer)
    });
    let tensors: Vec<_> = tensors.collect::<Result<_>>()?;
    let stated: u32 = keys.typed("general.file_type")?.unwrap_or_default();
    let file_type = file_type(tensors.iter().map(|tensor| &tensor.desc)).unwrap_or(stated);
    let metadata = with_names(metadata(&with(parameters), file_type)?, keys);
    Ok(StockFile { metadata, tensors })
}

fn mmproj(keys: &Metadata, sources: &[Source], with: &Sources<'_>) -> Result<StockFile> {
    let descs: Vec<_> = sources.iter().map(|source| source.desc.clone()).collect();
    let clip = clip(keys, &descs);
    let towers = Towers::from_metadata(&clip, &descs)?;
    towers.check_mmproj()?;
    let mut found = towers.find_in_mmproj(&descs)?;
    // the order of the converter: by the names in the checkpoint
    found.sort_by(|a, b| a.slot.hf.cmp(&b.slot.hf));
    let is_matrix = |tensor: &&TowerTensor| tensor.slot.store == TowerType::Output;
    let file_type =
        file_type(found.iter().filter(is_matrix).map(|tensor| &descs[tensor.index])).unwrap_or(F16);
    let tensors = found.iter().map(|TowerTensor { slot, index }| {
        let fixed = match slot.store {
            TowerType::Output => None,
            TowerType::Patch if file_type == F16 => Some(DType::F16),
            TowerType::Patch | TowerType::F32 => Some(DType::F32),
        };
        stock(&sources[*index], fixed, slot.role, slot.layer)
    });
    let tensors: Vec<_> = tensors.collect::<Result<_>>()?;
    let shared = tensors.iter().map(|tensor| tensor.desc.elements()).sum();
    let eps = |part: &str| clip.typed::<f32>(&format!("clip.{part}.attention.layer_norm_epsilon"));
    let from = MmprojSources {
        general: &with(Parameters { shared, ..Parameters::default() }),
        towers: &towers,
        json: &json!({
            "vision_config": { "layer_norm_eps": eps("vision")? },
            "audio_config": { "layer_norm_eps": eps("audio")? },
        }),
        image_processor: Some(&json!({ "image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0] })),
        exact_gelu: false,
    };
    Ok(StockFile { metadata: with_names(mmproj_metadata(&from, file_type)?, keys), tensors })
}

/// The keys of an mmproj file that describe its towers.
fn clip(keys: &Metadata, tensors: &[TensorDesc]) -> Metadata {
    let has = |start: &str| tensors.iter().any(|tensor| tensor.name.starts_with(start));
    let mut clip = Metadata::new();
    clip.insert("general.architecture", formats::mmproj_keys().architecture.as_str());
    clip.insert("clip.has_vision_encoder", has("v."));
    clip.insert("clip.vision.projector_type", "gemma4v");
    if has("a.") {
        clip.insert("clip.has_audio_encoder", true);
        clip.insert("clip.audio.projector_type", "gemma4a");
        clip.insert("clip.audio.num_mel_bins", MEL_BINS as u32);
    }
    for (key, of) in &formats::ollama().clip {
        if let Some(value) = keys.get(of) {
            clip.insert(key, value.clone());
        }
    }
    clip
}

fn stock(
    source: &Source,
    dtype: Option<DType>,
    role: &'static str,
    layer: Option<usize>,
) -> Result<StockTensor> {
    let Source { desc, index, second } = source;
    let desc = TensorDesc::new(&desc.name, dtype.unwrap_or(desc.dtype), desc.shape.clone())?;
    Ok(StockTensor { desc, role, layer, index: *index, second: *second })
}

/// llama.cpp's number of F16.
const F16: u32 = 1;

/// llama.cpp's number of a file whose matrices have mostly one of the types of its converter.
fn file_type<'a>(tensors: impl Iterator<Item = &'a TensorDesc>) -> Option<u32> {
    let mut elements: BTreeMap<DType, u64> = BTreeMap::new();
    for tensor in tensors.filter(|tensor| tensor.shape.len() > 1) {
        *elements.entry(tensor.dtype).or_default() += tensor.elements();
    }
    match elements.into_iter().max_by_key(|(_, count)| *count)?.0 {
        DType::F32 => Some(0),
        DType::F16 => Some(F16),
        DType::Q8_0 => Some(7),
        DType::BF16 => Some(32),
        _ => None,
    }
}

/// The keys, with the `general.*` keys of the source that they lack after the first ones.
fn with_names(metadata: Metadata, source: &Metadata) -> Metadata {
    const FIRST: &str = "general.type";
    const OF_A_FILE: [&str; 3] = ["general.alignment", "general.file_type", "general.quantization_version"];
    let known: HashSet<&str> = metadata.iter().map(|(key, _)| key).collect();
    let missing = source
        .iter()
        .filter(|(key, _)| key.starts_with("general.") && !OF_A_FILE.contains(key) && !known.contains(key));
    let missing: Vec<_> = missing.collect();
    let mut all = Metadata::new();
    for (key, value) in metadata.iter() {
        all.insert(key, value.clone());
        if key == FIRST {
            missing.iter().for_each(|(key, value)| drop(all.insert(*key, (*value).clone())));
        }
    }
    all
}

/// The tokenizer: stock types, and the special tokens that the keys name.
fn vocabulary(keys: &Metadata) -> Result<Vocabulary> {
    let mut vocabulary = crate::model_of_gguf::vocabulary(keys)?;
    if vocabulary.merges.is_empty() {
        return Err(Error::unsupported(
            "key tokenizer.ggml.merges",
            "missing: the tokenizer of a Gemma 4 is one of merges, and scores do not replace them",
        )
        .help("Convert the checkpoint: its tokenizer.json has the merges."));
    }
    if let Some(merge) = vocabulary.merges.iter().find(|merge| merge.matches(' ').count() != 1) {
        return Err(Error::unsupported("key tokenizer.ggml.merges", "a merge of tokens with a space")
            .expected("two tokens, divided by one space", format!("{merge:?}")));
    }
    let types = &formats::vocabulary().types;
    for (token, kind) in vocabulary.tokens.iter().zip(&mut vocabulary.types) {
        if let Some(fixed) = crate::vocabulary::type_by_text(token, *kind == types.normal) {
            *kind = fixed;
        }
    }
    for row in &formats::keys(crate::ModelKind::Text).key {
        let Some(kind) = row.value.strip_suffix("_id") else { continue };
        if let Some(id) = keys.typed::<u32>(&row.key)? {
            vocabulary.special.push((kind, id));
        }
    }
    for kind in ["bos", "eos", "sep"] {
        if let Some(Value::Bool(added)) = keys.get(&format!("tokenizer.ggml.add_{kind}_token")) {
            vocabulary.add.push((kind, *added));
        }
    }
    Ok(vocabulary)
}
