//! The kind of each GGUF file, by `general.type` and `general.architecture`; the files of one model among others.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use gguf::{GgufFile, Metadata};
use schemars::JsonSchema;
use serde::Serialize;
use tensor::{Error, Result};

use crate::hub_files::{matches_tag, nearest};

/// The use of a file in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OllamaRole {
    /// The text model.
    Text,
    /// The image and audio towers (mmproj).
    Projector,
    /// The draft model for speculative decoding, an assistant.
    Draft,
}

impl OllamaRole {
    /// The kind of file, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            OllamaRole::Text => "text model",
            OllamaRole::Projector => "projector (mmproj)",
            OllamaRole::Draft => "draft model",
        }
    }
}

/// A GGUF file of a model.
#[derive(Debug)]
pub struct OllamaFile {
    /// The use of the file.
    pub role: OllamaRole,
    pub(crate) gguf: GgufFile,
}

impl OllamaFile {
    /// Path of the file.
    pub fn path(&self) -> &Path {
        self.gguf.path()
    }

    /// Size of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.gguf.file_len()
    }

    /// The name without folders.
    pub(crate) fn name(&self) -> String {
        base::file_name(self.path())
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        self.gguf.metadata()
    }
}

/// The files of one model, found and not yet checked.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) text: OllamaFile,
    pub(crate) projector: Option<OllamaFile>,
    pub(crate) draft: Option<OllamaFile>,
}

/// Finds the files of one model. A folder stands for the GGUF files in it; those without a role are left out. Of several text
/// models of a folder, such as a release, the type in `tag` chooses one, and its name chooses among projectors and drafts.
pub(crate) fn find(paths: &[PathBuf], tag: Option<&str>) -> Result<Found> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for path in paths {
        let is_folder = path.is_dir();
        let members = if is_folder { gguf::files_in(path)? } else { vec![path.clone()] };
        for member in members {
            let gguf = GgufFile::open(&member)?;
            let real = fs::canonicalize(&member).map_err(|e| Error::io(member.display(), &e))?;
            match role(gguf.metadata()) {
                Some(role) if seen.insert(real) => files.push(OllamaFile { role, gguf }),
                None if !is_folder => return Err(without_role(&gguf)),
                _ => {}
            }
        }
    }
    let of_tag = |names: &[String]| {
        let mut matching = names.iter().filter(|name| tag.is_some_and(|tag| matches_tag(name, tag)));
        matching.next().filter(|_| matching.next().is_none()).cloned()
    };
    let text = take(&mut files, OllamaRole::Text, paths, of_tag)?.ok_or_else(|| {
        Error::malformed(shown(paths), "no text model in GGUF")
            .expected("a text model, and optionally its projector (mmproj) and draft model", "none")
    })?;
    let model = text.name();
    let of_model = |names: &[String]| nearest(&model, names.iter().map(String::as_str)).map(str::to_owned);
    let projector = take(&mut files, OllamaRole::Projector, paths, of_model)?;
    let draft = take(&mut files, OllamaRole::Draft, paths, of_model)?;
    Ok(Found { text, projector, draft })
}

/// The only file of a role, if there is one. If there are several and a folder holds them all, `choose` chooses one by name.
fn take(
    files: &mut Vec<OllamaFile>,
    role: OllamaRole,
    paths: &[PathBuf],
    choose: impl Fn(&[String]) -> Option<String>,
) -> Result<Option<OllamaFile>> {
    let (mut of_role, rest) = std::mem::take(files).into_iter().partition(|file| file.role == role);
    *files = rest;
    let candidates: &mut Vec<OllamaFile> = &mut of_role;
    if candidates.len() > 1 && candidates.iter().all(|file| !paths.iter().any(|path| path == file.path())) {
        let names: Vec<_> = candidates.iter().map(OllamaFile::name).collect();
        if let Some(chosen) = choose(&names) {
            candidates.retain(|file| file.name() == chosen);
        }
    }
    if candidates.len() > 1 {
        let names: Vec<_> = candidates.iter().map(|file| file.path().display().to_string()).collect();
        return Err(Error::recipe(shown(paths), format!("more than one {}", role.name()))
            .expected("one", format!("{}: {}", names.len(), names.join(", ")))
            .help("A model of Ollama has one of each. Give the type as the tag of the name (NAME:q4_0), or name the files instead of their folder."));
    }
    Ok(candidates.pop())
}

/// The role of a file with these keys. Parts of a split after the first have no keys, and none.
fn role(metadata: &Metadata) -> Option<OllamaRole> {
    let text = |key| metadata.typed::<&str>(key).ok().flatten();
    match (text("general.type"), text("general.architecture")) {
        (Some("mmproj" | "projector"), _) => Some(OllamaRole::Projector),
        (Some("adapter" | "imatrix"), _) => None,
        (_, Some("clip")) => Some(OllamaRole::Projector),
        (_, Some("gemma4-assistant")) => Some(OllamaRole::Draft),
        (_, Some("gemma4")) if metadata.get(base::STORE_KEY).is_none() => Some(OllamaRole::Text),
        _ => None,
    }
}

fn without_role(gguf: &GgufFile) -> Error {
    let value = |key| gguf.metadata().typed::<&str>(key).ok().flatten().unwrap_or("none");
    let found = format!("architecture {}, type {}", value("general.architecture"), value("general.type"));
    let error = Error::unsupported(gguf.path().display(), "not a file of a Gemma 4 model for Ollama")
        .expected("a text model, a projector (mmproj) or a draft model (gemma4-assistant)", found);
    match gguf.metadata().get("split.no") {
        Some(_) => error.help(crate::ollama::check::JOIN),
        None => error,
    }
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}
