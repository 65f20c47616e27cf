//! Contents of a folder of safetensors other than tensors: scales, `__metadata__` of the shards, the index, and the
//! other files of a model.
//!
//! Configs and tokenizers are compared twice. First as the keys that a GGUF of the folder would have: this names the
//! cause, in whichever dialect the config is written (`keys.rs`). Then as files, with those of the plan: with a binding
//! plan every difference matters, otherwise those that transformers and vLLM obey (`obeyed.rs`). JSON is compared by
//! content. The index is compared with the shards in [`Checkpoint::open`], which refuses a folder whose parts
//! contradict each other.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use checkpoint::{Checkpoint, StoredEncoding};
use gemma::{Config, KeySources, Parameters, Vocabulary};
use gguf::Metadata;
use plan::PlannedFile;
use serde_json::{Map, Value as Json};
use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::expected::Expected;
use crate::obeyed::{file_rule, is_dialect, place};
use crate::{Finding, Severity, Step, values};

/// The largest size of a file other than weights, in bytes; the largest is the tokenizer.
const MAX_COMPANION: u64 = 80 << 20;
const INDEX: &str = "model.safetensors.index.json";
/// The part of a config about the storage of weights, which no GGUF key corresponds to.
const QUANTIZATION: &str = "quantization_config";
/// The key of `__metadata__` by which readers choose a framework and recognise SFP8.
const FORMAT: &str = "format";
/// The device map of an offload set: the device of each module, for accelerate.
const DEVICE_MAP: &str = "device_map.json";
/// The text for a missing value.
const NONE: &str = "none";
/// The most differences that are reported of a file.
const TOLD: usize = 4;

/// The expected contents of a folder, other than tensors.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// The expected scales by the name of the weight.
    pub(crate) scales: HashMap<String, TensorDesc>,
    /// `__metadata__` of each shard.
    pub(crate) metadata: Vec<(String, String)>,
    /// The other files.
    pub(crate) companions: Vec<Companion>,
}

/// A file of a model that has no weights.
#[derive(Clone, Debug)]
pub(crate) struct Companion {
    name: String,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    /// The content of the file at this path.
    Of(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

impl Folder {
    /// Adds a file of a plan for the checkpoint in `base`.
    pub(crate) fn add(&mut self, file: &PlannedFile, base: &Path) {
        if !file.tensors.is_empty() {
            if self.metadata.is_empty() {
                self.metadata = metadata_of(&file.header);
            }
        } else if file.name != INDEX {
            let content = match &file.copy {
                Some(name) => Content::Of(base.join(name)),
                None => Content::Bytes(file.header.clone()),
            };
            self.companions.push(Companion { name: file.name.clone(), content });
        }
    }
}

impl Folder {
    /// The config in the plan.
    pub(crate) fn config(&self) -> Option<Config> {
        let config = self.companions.iter().find(|companion| companion.name == "config.json")?;
        let bytes = match &config.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Of(path) => read(path)?,
        };
        Config::any_from_json(&json(&bytes)?).ok()
    }
}

/// `__metadata__` of a header, without the number of the conversion.
fn metadata_of(header: &[u8]) -> Vec<(String, String)> {
    let json = header.get(8..).and_then(|json| serde_json::from_slice::<Map<String, Json>>(json).ok());
    let pairs = json.and_then(|mut json| serde_json::from_value(json.remove("__metadata__")?).ok());
    let pairs: Map<String, Json> = pairs.unwrap_or_default();
    let pairs = pairs.into_iter().filter(|(key, _)| key != checkpoint::SET);
    pairs.filter_map(|(key, value)| Some((key, value.as_str()?.to_owned()))).collect()
}

/// The keys that a GGUF of the folder would have, except those of the GGUF file itself.
///
/// # Errors
/// The errors of the config and the tokenizer, with the file name.
pub(crate) fn keys(folder: &Checkpoint, config: &Config) -> Result<Metadata> {
    let within = |e: Error| e.within(folder.dir().display());
    let (tokenizer_config, generation) = (folder.tokenizer_config()?, folder.generation_config()?);
    let tokenizer = folder.tokenizer()?;
    let vocabulary = Vocabulary::new(&tokenizer, tokenizer_config.as_ref(), folder.config(), config.vocab)
        .map_err(within)?;
    let sources = KeySources {
        config,
        vocabulary: &vocabulary,
        templates: &folder.chat_templates()?,
        generation: generation.as_ref(),
        card: &folder.model_card()?,
        names: &Default::default(),
        overrides: &Default::default(),
        parameters: Parameters::default(),
    };
    gemma::metadata(&sources, 0).map_err(within)
}

/// Compares the scales, `__metadata__`, index and other files of `found` with the expected ones.
pub(crate) fn compare(found: &Checkpoint, folder: &Folder, expected: &Expected) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, desc) in found.tensors().iter().enumerate() {
        if let (Some(code), Some(scale)) = (found.encoding(index), folder.scales.get(&desc.name)) {
            findings.extend(other_scales(desc, code, scale, expected.binding));
        }
    }
    for shard in found.shards() {
        for (key, value) in &folder.metadata {
            let is = shard.metadata.get(key);
            if is != Some(value) {
                let place = format!("{}: __metadata__ {key}", shard.name);
                findings.push(
                    finding(
                        grave(expected.binding || key == FORMAT),
                        place,
                        "it does not say what is in the shard",
                    )
                    .expected(value, is.map_or("none", String::as_str)),
                );
            }
        }
    }
    findings.extend(index(found));
    findings.extend(device_map(found));
    let same_config = Config::any_from_json(found.config())
        .is_ok_and(|config| Some(config) == expected.artifact_config(folder));
    for companion in &folder.companions {
        findings.extend(companion.compare(found.dir(), expected.binding, same_config));
    }
    let known = |name: &str| folder.companions.iter().any(|companion| companion.name == name);
    findings.extend(strays(found, &known));
    findings
}

/// Compares the device map of an offload set with its shards. A module that is not offloaded may be on any device.
pub(crate) fn device_map(found: &Checkpoint) -> Option<Finding> {
    let failure = |problem: String| Some(finding(Severity::Failure, DEVICE_MAP, problem));
    let is_offloaded =
        |name: &str| name.strip_prefix(plan::OFFLOAD).is_some_and(|rest| rest.starts_with('-'));
    let is_set = found.shards().iter().any(|shard| is_offloaded(&shard.name));
    let bytes = std::fs::read(found.dir().join(DEVICE_MAP)).ok();
    let coded = (0..found.tensors().len()).any(|index| found.encoding(index).is_some());
    let bytes = match (is_set && !coded, bytes) {
        (false, None) => return None,
        (true, None) => {
            return failure("missing: transformers does not know what to leave on the disk".to_owned());
        }
        (false, Some(_)) => {
            let problem = "not a file of the model: transformers takes it for a map of an offload set, which this is not";
            return Some(finding(Severity::Warning, DEVICE_MAP, problem));
        }
        (true, Some(bytes)) => bytes,
    };
    let Ok(Json::Object(map)) = serde_json::from_slice(&bytes) else {
        return failure("not a JSON object of modules and places".to_owned());
    };
    let place = |index: usize| found.location(index).map(|place| &found.shards()[place.shard]);
    let tensors: Vec<(&str, bool)> = found
        .tensors()
        .iter()
        .enumerate()
        .map(|(index, desc)| {
            (desc.name.as_str(), place(index).is_some_and(|shard| is_offloaded(&shard.name)))
        })
        .collect();
    let Json::Object(should) = plan::device_map(&tensors) else { return None };
    for (module, place) in &should {
        let on_disk = place == "disk";
        let Some(is) = map.get(module) else {
            return failure(format!("the module {module} is missing"));
        };
        let stays = is.is_u64() || is.as_str().is_some_and(|is| is != "disk" && is != "meta");
        if on_disk != (is == "disk") || !on_disk && !stays {
            return Some(
                finding(Severity::Failure, DEVICE_MAP, format!("the module {module} is in the wrong place"))
                    .expected(place, is),
            );
        }
    }
    let extra = map.keys().find(|module| !should.contains_key(*module))?;
    failure(format!(
        "{extra:?} is not a module of the model, or contains or is part of another module of the map"
    ))
}

/// Unexpected files: a finding for each that a reader may obey, and one note for the others. Files that a conversion
/// writes are known, and so are those for which `known` is true.
pub(crate) fn strays(found: &Checkpoint, known: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let own = |name: &str| {
        name == INDEX
            || name.ends_with("manifest.json")
            || name == DEVICE_MAP
            || found.shards().iter().any(|shard| shard.name == name)
    };
    let files = found.files().unwrap_or_default();
    let names = files.iter().map(|(name, _)| name.as_str()).filter(|name| !own(name) && !known(name));
    let (mut findings, mut others) = (Vec::new(), Vec::new());
    for name in names {
        let rule = file_rule(name);
        match rule.extra {
            Severity::Note => others.push(name),
            severity => {
                findings.push(finding(severity, name, format!("not a file of the model: {}", rule.does)))
            }
        }
    }
    if let Some((first, more)) = others.split_first() {
        let problem = match more.len() {
            0 => "not a file of the model".to_owned(),
            _ => format!("files that are not of the model: {}", others[..others.len().min(8)].join(", ")),
        };
        findings.push(finding(Severity::Note, first, problem));
    }
    findings
}

fn grave(binding: bool) -> Severity {
    if binding { Severity::Failure } else { Severity::Note }
}

fn finding(severity: Severity, place: impl ToString, problem: impl ToString) -> Finding {
    Finding::new(severity, Step::Structure, place, problem)
}

/// A finding about scales of another type or number.
fn other_scales(
    desc: &TensorDesc,
    code: StoredEncoding,
    scale: &TensorDesc,
    binding: bool,
) -> Option<Finding> {
    let per_row = !scale.shape.is_empty();
    if (code.scale.dtype, code.scale.per_row) == (scale.dtype, per_row) {
        return None;
    }
    let words = |dtype, per_row| format!("{dtype}, one a {}", if per_row { "row" } else { "tensor" });
    let place = format!("tensor {}", desc.name);
    let found = words(code.scale.dtype, code.scale.per_row);
    Some(
        finding(grave(binding), place, "other scales than the recipe gives it")
            .expected(words(scale.dtype, per_row), found),
    )
}

/// Checks that an index exists where it is needed, and its total size.
pub(crate) fn index(found: &Checkpoint) -> Option<Finding> {
    let Some(bytes) = read(&found.dir().join(INDEX)) else {
        let problem = "missing: without it transformers does not find the shards";
        return (found.shards().len() > 1).then(|| finding(Severity::Failure, INDEX, problem));
    };
    let index = json(&bytes)?;
    let said = index.pointer("/metadata/total_size")?.as_u64()?;
    let headers: u64 = found.shards().iter().map(|shard| shard.data_start).sum();
    let is = found.total_len() - headers;
    let problem = "it is not the size of all tensors: the index is of another conversion";
    (said != is).then(|| {
        finding(Severity::Warning, format!("{INDEX}: total_size"), problem)
            .expected(format!("{is} bytes"), format!("{said} bytes"))
    })
}

/// Reads a regular file of at most [`MAX_COMPANION`] bytes.
fn read(path: &Path) -> Option<Vec<u8>> {
    base::read_regular(path, MAX_COMPANION).ok()
}

impl Companion {
    fn compare(&self, dir: &Path, binding: bool, same_config: bool) -> Vec<Finding> {
        let grave = |severity| if binding { Severity::Failure } else { severity };
        let rule = file_rule(&self.name);
        let Some(found) = read(&dir.join(&self.name)) else {
            return vec![finding(grave(rule.missing), &self.name, "missing: it belongs to the model")];
        };
        let should = match &self.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Of(path) => match read(path) {
                Some(bytes) => bytes,
                None => return vec![finding(Severity::Warning, path.display(), "cannot be read")],
            },
        };
        if found == should {
            return Vec::new();
        }
        if let (Some(a), Some(b)) = (json(&should), json(&found)) {
            return self.json(a, b, binding, same_config);
        }
        let text = |bytes: Vec<u8>| gguf::Value::from(String::from_utf8_lossy(&bytes).into_owned());
        let differs = values::difference(&text(should), &text(found));
        let told = |d: values::Difference| {
            finding(grave(rule.differs), &self.name, d.problem).expected(d.expected, d.found)
        };
        differs.map(told).into_iter().collect()
    }

    /// The paths at which two JSON files differ, most severe first.
    fn json(&self, mut should: Json, mut found: Json, binding: bool, same_config: bool) -> Vec<Finding> {
        let mut places = Vec::new();
        normalise(&mut should);
        normalise(&mut found);
        differences(&should, &found, String::new(), &mut places);
        // a plan fixes the content of the file, but not the dialect in which others write it
        let severity = |at: &Place| {
            let free = !binding || is_dialect(&self.name, &at.path);
            if !free || at.path.starts_with(QUANTIZATION) {
                return Severity::Failure;
            }
            let lacking = [&at.should, &at.found].into_iter().any(|side| side == NONE);
            place(&self.name, &at.path, lacking, same_config)
        };
        let mut places: Vec<_> = places.into_iter().map(|place| (severity(&place), place)).collect();
        places.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));
        let rest = places.split_off(places.len().min(TOLD));
        let told = places.into_iter().map(|(severity, Place { path, should, found })| {
            let storage = path.starts_with(QUANTIZATION);
            let problem = if storage { "it does not say how the weights are stored" } else { "it differs" };
            finding(severity, format!("{}: {path}", self.name), problem).expected(should, found)
        });
        let mut findings: Vec<_> = told.collect();
        if let Some((severity, _)) = rest.first() {
            let problem = format!("it differs in {} more places", rest.len());
            findings.push(finding(*severity, &self.name, problem));
        }
        findings
    }
}

/// Unifies equivalent forms: `torch_dtype` and `dtype`, merges as texts and as pairs.
fn normalise(json: &mut Json) {
    match json {
        Json::Object(fields) => {
            if let Some(dtype) = fields.remove("torch_dtype") {
                fields.entry("dtype").or_insert(dtype);
            }
            fields.values_mut().for_each(normalise);
            if let Some(Json::Array(merges)) = fields.get_mut("merges") {
                merges.iter_mut().for_each(joined);
            }
        }
        Json::Array(items) => items.iter_mut().for_each(normalise),
        _ => {}
    }
}

/// Turns a merge given as a pair of texts without spaces into one text.
fn joined(merge: &mut Json) {
    let pair = merge.as_array().filter(|pair| pair.len() == 2);
    let texts = pair.and_then(|pair| Some((pair[0].as_str()?, pair[1].as_str()?)));
    if let Some((a, b)) = texts.filter(|(a, b)| !a.contains(' ') && !b.contains(' ')) {
        *merge = Json::from(format!("{a} {b}"));
    }
}

fn json(bytes: &[u8]) -> Option<Json> {
    serde_json::from_slice(bytes).ok()
}

struct Place {
    path: String,
    should: String,
    found: String,
}

/// Collects the innermost paths at which `a` and `b` differ, such as `text_config.rope_parameters`.
fn differences(a: &Json, b: &Json, path: String, places: &mut Vec<Place>) {
    let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (a, b) {
        (Json::Object(a), Json::Object(b)) => {
            for (key, value) in a {
                differences(value, b.get(key).unwrap_or(&Json::Null), inner(key), places);
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                differences(&Json::Null, value, inner(key), places);
            }
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            for (number, (a, b)) in a.iter().zip(b).enumerate() {
                differences(a, b, inner(&number.to_string()), places);
            }
        }
        _ if a != b => places.push(Place { path, should: shown(a), found: shown(b) }),
        _ => {}
    }
}

/// A short text of a value.
fn shown(value: &Json) -> String {
    match value {
        Json::Null => NONE.to_owned(),
        Json::Array(items) if items.len() > 8 => format!("{} entries", items.len()),
        _ => {
            let text = value.to_string();
            text.char_indices().nth(80).map_or(text.clone(), |(at, _)| format!("{}…", &text[..at]))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_differs_in_its_innermost_places() {
        let a = json!({ "x": 1, "in": { "same": [1, 2], "list": [1, 2], "gone": "a" } });
        let b = json!({ "x": 1, "in": { "same": [1, 2], "list": [1, 3], "new": true } });
        let mut places = Vec::new();
        differences(&a, &b, String::new(), &mut places);
        let told: Vec<_> = places.iter().map(|p| (p.path.as_str(), &*p.should, &*p.found)).collect();
        assert_eq!(told, [("in.list.1", "2", "3"), ("in.gone", "\"a\"", "none"), ("in.new", "none", "true")]);
    }

    #[test]
    fn the_set_of_a_conversion_is_not_asked_for() {
        let json = br#"{"__metadata__":{"format":"pt","set":"1"},"x":{}}"#;
        let header = [&(json.len() as u64).to_le_bytes()[..], json].concat();
        assert_eq!(metadata_of(&header), [("format".to_owned(), "pt".to_owned())]);
    }
}
