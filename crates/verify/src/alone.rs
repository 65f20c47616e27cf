//! Checks of an artifact without its checkpoint: whether it is consistent.
//!
//! Its tensors are those of its own config, its keys do not contradict each other, the tokenizer round-trips texts, and
//! the chat template renders. The values of the weights cannot be checked without a base; `alone_weights.rs` finds
//! weights that are damaged on their own.

use std::collections::BTreeMap;

use checkpoint::Checkpoint;
use gemma::towers::Towers;
use gemma::{Config, ModelKind, ModelSpec, is_known_key, is_known_mmproj_key};
use gguf::{GgufSet, Metadata};
use plan::{Preset, preset_names};
use serde_json::json;
use tensor::{DType, Result, TensorDesc, TensorSource};
use text::{Chat, ChatTemplate, Tokenizer};

use crate::artifact::{Artifact, is_mmproj};
use crate::provenance::ORDERED;
use crate::unread::unread;
use crate::{Finding, Severity, Step, Structure, folder};

use Severity::{Failure, Warning};

/// Texts that a tokenizer must round-trip: scripts, runs of spaces and of line ends, characters of several code points,
/// bytes that no token covers, text that looks like a token.
const SAMPLES: &[&str] = &[
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces,\ttab\n\nand lines\r\n",
    "Größe, naïve, Ελληνικά, русский, العربية, हिन्दी, 日本語, 한국어",
    "👩‍👩‍👧‍👦 🇪🇺 e\u{301} \u{10ffff} \u{1}",
    "fn main() { println!(\"{}\", 1 << 3); } // <b>&amp;</b> 0x1F_600",
];
/// llama.cpp's token types.
const TYPES: std::ops::RangeInclusive<i32> = 1..=6;
/// Prefixes of keys that a reader of the model may obey.
const OBEYED: [&str; 4] = ["gemma4", "tokenizer.", "adapter.", "clip."];

/// Checks structure, keys and tokenizer of an artifact against each other.
///
/// # Errors
/// `Io`.
pub fn structure_alone<'a>(artifact: impl Into<Artifact<'a>>) -> Result<(Structure, Vec<Finding>)> {
    let artifact = artifact.into();
    let mut findings = Vec::new();
    let good = match artifact {
        Artifact::Gguf(set) => {
            findings.extend(unread(set)?);
            if is_mmproj(set) { of_mmproj(set, &mut findings) } else { of_gguf(set, &mut findings) }
        }
        Artifact::Folder(folder) => of_folder(folder, &mut findings),
    };
    let (keys, tensors) = match good {
        Ok(counts) => counts,
        Err(error) if error.fault() == tensor::Fault::Io => return Err(error),
        Err(error) => {
            findings.push(Finding::from(&error));
            (0, 0)
        }
    };
    Ok((Structure { plan: "its own keys".to_owned(), keys, tensors, hashed: 0 }, findings))
}

fn finding(severity: Severity, place: impl ToString, problem: impl ToString) -> Finding {
    Finding::new(severity, Step::Structure, place, problem)
}

/// The numbers of recognised keys and tensors.
fn of_gguf(set: &GgufSet, findings: &mut Vec<Finding>) -> Result<(u64, u64)> {
    let metadata = set.metadata();
    let config = Config::any_from_metadata(metadata, set.tensors())?;
    let kind = config.kind;
    findings.extend(unknown_keys(metadata, &|key| is_known_key(kind, key)));
    findings.extend(vocabulary(metadata, &config));
    findings.extend(file_type(metadata, set.tensors()));
    match Tokenizer::from_metadata(metadata) {
        Ok(tokenizer) => findings.extend(round_trip(&tokenizer)),
        Err(error) => findings.push(Finding::from(&error)),
    }
    if let Some(template) = metadata.typed::<&str>("tokenizer.chat_template")? {
        findings.extend(renders("key tokenizer.chat_template", template));
    }
    for (index, desc) in set.tensors().iter().enumerate().filter(|(_, desc)| integers(desc)) {
        findings.extend(permutation(set, index, desc)?);
    }
    findings.extend(strange(set));
    let inventory = gemma::gguf_inventory(&config, set.tensors())?;
    Ok((metadata.len() as u64, inventory.text.len() as u64))
}

/// The numbers of recognised keys and tensors of an mmproj file.
fn of_mmproj(set: &GgufSet, findings: &mut Vec<Finding>) -> Result<(u64, u64)> {
    let metadata = set.metadata();
    findings.extend(unknown_keys(metadata, &is_known_mmproj_key));
    findings.extend(strange(set));
    let towers = Towers::from_metadata(metadata, set.tensors())?;
    let found = towers.find_in_mmproj(set.tensors())?;
    Ok((metadata.len() as u64, found.len() as u64))
}

/// Warnings about keys that a reader of the model may obey, and no such file has.
fn unknown_keys(metadata: &Metadata, is_known: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let unknown = |key: &&str| OBEYED.iter().any(|start| key.starts_with(start)) && !is_known(key);
    let problem = "no Gemma 4 file has this key: a reader may obey it";
    let keys = metadata.iter().map(|(key, _)| key).filter(unknown);
    keys.map(|key| finding(Warning, format!("key {key}"), problem)).collect()
}

/// Whether a tensor holds the integers of an ordered embedding.
fn integers(desc: &TensorDesc) -> bool {
    desc.dtype == DType::I64 && desc.name.starts_with(ORDERED)
}

/// The first tensor that cannot be read as weights.
fn strange(set: &GgufSet) -> Option<Finding> {
    let strange = |desc: &&TensorDesc| !quant::can_encode(desc.dtype) && !integers(desc);
    let strange = set.tensors().iter().find(strange)?;
    let problem = "its elements cannot be read as weights";
    let found = finding(Failure, format!("tensor {}", strange.name), problem);
    Some(found.expected("a float or a quantised type of GGUF", strange.dtype))
}

fn of_folder(checkpoint: &Checkpoint, findings: &mut Vec<Finding>) -> Result<(u64, u64)> {
    findings.extend(folder::index(checkpoint));
    findings.extend(folder::device_map(checkpoint));
    findings.extend(folder::strays(checkpoint, &|name| plan::is_companion(name)));
    let model = ModelSpec::open_any(checkpoint)?;
    match Tokenizer::from_checkpoint(checkpoint) {
        Ok(tokenizer) => findings.extend(round_trip(&tokenizer)),
        Err(error) => findings.push(Finding::from(&error)),
    }
    if let Some(template) = &model.templates.default {
        findings.extend(renders("chat template", template));
    }
    let keys = folder::keys(checkpoint, &model.config)?;
    Ok((keys.len() as u64, model.inventory.text.len() as u64))
}

/// Checks the arrays and ids of the tokenizer against the number of tokens, and that number against the embedding.
fn vocabulary(metadata: &Metadata, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut failure = |key: &str, problem: &str, expected: String, found: String| {
        findings
            .push(finding(Failure, format!("key tokenizer.ggml.{key}"), problem).expected(expected, found));
    };
    let typed = |key: &str| format!("tokenizer.ggml.{key}");
    let tokens = match metadata.required::<&[String]>(&typed("tokens")) {
        Ok(tokens) => tokens,
        Err(error) => return vec![Finding::from(&error)],
    };
    let count = tokens.len();
    if count as u64 != config.vocab {
        let problem = "the number of tokens is not that of the rows of the embedding";
        failure("tokens", problem, format!("{} tokens", config.vocab), count.to_string());
    }
    let types = metadata.typed::<&[i32]>(&typed("token_type")).ok().flatten();
    if let Some((id, kind)) = (0..).zip(types.unwrap_or_default()).find(|(_, kind)| !TYPES.contains(kind)) {
        failure("token_type", &format!("token {id} has an unknown type"), "1 to 6".into(), kind.to_string());
    }
    for (key, len) in [
        ("scores", metadata.typed::<&[f32]>(&typed("scores")).ok().flatten().map(<[f32]>::len)),
        ("token_type", types.map(<[i32]>::len)),
    ] {
        if let Some(len) = len.filter(|&len| len != count) {
            failure(key, "not one entry per token", format!("{count} entries"), len.to_string());
        }
    }
    let ids =
        metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id"));
    for (key, value) in ids {
        let id = match value {
            gguf::Value::U32(id) => Some(*id as usize),
            _ => None,
        };
        if id.is_none_or(|id| id >= count) {
            let key = &key["tokenizer.ggml.".len()..];
            failure(
                key,
                "there is no such token",
                format!("an id below {count}"),
                crate::values::show(value),
            );
        }
    }
    findings
}

/// The first text that the tokenizer does not round-trip.
fn round_trip(tokenizer: &Tokenizer) -> Option<Finding> {
    for sample in SAMPLES {
        let place = "tokenizer";
        let back = match tokenizer.encode(sample, false, false) {
            Ok(ids) => tokenizer.decode(&ids),
            Err(error) => return Some(Finding::from(&error)),
        };
        if back != *sample {
            let problem = "a text changes when it is tokenized and decoded";
            return Some(
                finding(Failure, place, problem).expected(format!("{sample:?}"), format!("{back:?}")),
            );
        }
    }
    None
}

/// Checks that a template renders a conversation with all of the user's messages.
fn renders(place: &str, template: &str) -> Option<Finding> {
    let messages = [
        json!({ "role": "user", "content": "Hello." }),
        json!({ "role": "assistant", "content": "Hello!" }),
        json!({ "role": "user", "content": "Who are you?" }),
    ];
    let chat =
        Chat { messages: &messages, add_generation_prompt: true, bos_token: "<bos>", ..Chat::default() };
    let said = match ChatTemplate::new(template).and_then(|template| template.render(&chat)) {
        Ok(said) => said,
        Err(error) => {
            return Some(finding(Failure, place, format!("{}: {}", error.place(), error.problem())));
        }
    };
    let lost = ["Hello.", "Who are you?"].iter().find(|part| !said.contains(**part))?;
    let problem = format!("the rendered conversation lacks a message of the user: {lost:?}");
    Some(finding(Warning, place, problem))
}

/// Checks that an integer tensor is a permutation of `0..len`, as the token order of an ordered embedding is.
fn permutation(set: &GgufSet, index: usize, desc: &TensorDesc) -> Result<Option<Finding>> {
    let mut bytes = vec![0; desc.byte_len() as usize];
    set.read_rows(index, 0, &mut bytes)?;
    let mut seen = vec![false; bytes.len() / 8];
    for number in bytes.as_chunks::<8>().0 {
        let number = i64::from_le_bytes(*number);
        match usize::try_from(number).ok().and_then(|at| seen.get_mut(at)) {
            Some(seen) if !*seen => *seen = true,
            _ => {
                let problem = format!(
                    "not a permutation: {number} occurs twice, or is not an index of its {} items",
                    seen.len()
                );
                return Ok(Some(finding(Failure, format!("tensor {}", desc.name), problem)));
            }
        }
    }
    Ok(None)
}

/// Compares the type of most weights with that of the preset in `general.file_type`.
///
/// Calibrated files are skipped: their recipes choose types of their own.
pub(crate) fn file_type(metadata: &Metadata, tensors: &[TensorDesc]) -> Option<Finding> {
    if metadata.get(plan::CALIBRATION).is_some() {
        return None;
    }
    let number = metadata.typed::<u32>("general.file_type").ok()??;
    let preset = preset_names().filter_map(|name| Preset::named(name).ok());
    let preset = preset.into_iter().find(|preset| preset.file_type == number)?;
    let mut weights: BTreeMap<String, u64> = BTreeMap::new();
    let in_layers = |desc: &&TensorDesc| desc.name.starts_with("blk.") && desc.shape.len() > 1;
    for desc in tensors.iter().filter(in_layers) {
        *weights.entry(desc.dtype.to_string()).or_default() += desc.elements();
    }
    let (most, _) = weights.into_iter().max_by_key(|(_, count)| *count)?;
    let says = preset.name.to_uppercase();
    // `Q4_K_M` is mostly `Q4_K`; `IQ2_M` is mostly `IQ2_S`; MXFP4 is for experts alone
    let family = |name: &str| name.split('_').next().map(str::to_uppercase);
    let fits = says.starts_with(&most.to_uppercase())
        || (says.starts_with("IQ") && family(&says) == family(&most))
        || says.starts_with("MXFP4");
    let problem = "it names a preset with other types than the tensors have";
    (!fits).then(|| {
        finding(Warning, "key general.file_type", problem)
            .expected(format!("a preset of {most}"), format!("{number} ({})", preset.name))
    })
}

/// Whether the config is that of a draft model, which makes no predictions without its target.
pub fn is_draft<'a>(artifact: impl Into<Artifact<'a>>) -> bool {
    match artifact.into() {
        Artifact::Gguf(set) => Config::any_from_metadata(set.metadata(), set.tensors())
            .is_ok_and(|config| config.kind == ModelKind::Draft),
        Artifact::Folder(folder) => gemma::is_assistant(folder.config()),
    }
}
