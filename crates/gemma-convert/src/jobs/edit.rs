//! Editing: other keys for a finished GGUF, other parts, or the stock files of one of Ollama's. The tensors are copied.

use std::path::{Path, PathBuf};

use base::Progress;
use checkpoint::Checkpoint;
use convert::{HashInput, Options};
use gemma::Stock;
use gguf::{GgufSet, Metadata, Value};
use plan::{ArtifactEntry, Parts, Plan, Shards, byte_size};
use quant::Simd;
use tensor::{Error, Result, TensorSource};
use verify::{Finding, Severity, structure_alone};

use crate::TOOL;
use crate::requests::Destination;

const TEMPLATE: &str = "tokenizer.chat_template";
/// Prefix of the keys that describe the parts of a split.
const SPLIT: &str = "split.";
/// Prefixes of keys that change what is computed.
const OF_MODEL: [&str; 3] = ["gemma4", "tokenizer.ggml.", "clip."];
/// The longest chat template in bytes.
const MAX_TEMPLATE: u64 = 8 << 20;

/// Changes keys of a GGUF (text model, draft model or mmproj file), merges its parts, splits it, or rewrites a file of Ollama's converter.
#[derive(Clone, Debug)]
pub struct Edit {
    /// The file; of a split, any part.
    pub file: PathBuf,
    /// Keys to set, as `KEY=VALUE`, or `KEY:TYPE=VALUE` for a key of another type or one that no Gemma 4 file has.
    pub set: Vec<String>,
    /// Keys to remove.
    pub remove: Vec<String>,
    /// A file with the chat template.
    pub chat_template: Option<PathBuf>,
    /// The most bytes of tensors in a part: `2GB`.
    pub split_max_size: Option<String>,
    /// Writes one file, from the parts of a split.
    pub merge: bool,
    /// Writes a file of Ollama's converter as the text model and the mmproj file of llama.cpp's, without other changes.
    pub stock: bool,
    /// The folder of the outputs, or the name of a `.gguf` file.
    pub out: PathBuf,
    /// Replaces existing outputs.
    pub force: bool,
    /// Flushes outputs to disk before they get their final names.
    pub sync: bool,
}

/// A key that was set, changed or removed.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// Its value before; `None` for a new key.
    pub before: Option<Value>,
    /// Its value after; `None` for a removed key.
    pub after: Option<Value>,
}

/// The result of editing.
#[derive(Clone, Debug)]
pub struct Edited {
    /// The folder of the outputs.
    pub folder: PathBuf,
    /// The changed keys, in the order of the options.
    pub changes: Vec<KeyChange>,
    /// The manifest's entries: inputs and outputs with sizes and SHA-256. The stock files of Ollama's are two.
    pub artifacts: Vec<ArtifactEntry>,
    /// The path of the manifest.
    pub manifest: PathBuf,
}

impl Edit {
    /// An edit without changes yet.
    pub fn new(file: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Edit {
        Edit {
            file: file.into(),
            set: Vec::new(),
            remove: Vec::new(),
            chat_template: None,
            split_max_size: None,
            merge: false,
            stock: false,
            out: out.into(),
            force: false,
            sync: true,
        }
    }

    /// Sets a key: `general.name=My Gemma`.
    #[must_use]
    pub fn set(mut self, setting: impl Into<String>) -> Edit {
        self.set.push(setting.into());
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn remove(mut self, key: impl Into<String>) -> Edit {
        self.remove.push(key.into());
        self
    }

    /// Writes the file with the changes.
    ///
    /// # Errors
    /// `Recipe` for a key that is not there or whose value does not fit, and for a change after which the keys would contradict each
    /// other or the tensors; `Malformed` or `Unsupported` for the file; `Target` for existing outputs or too little free space; `Io`.
    /// After an error, no output has appeared.
    pub fn run(&self, progress: &dyn Progress) -> Result<Edited> {
        let parts = self.parts()?;
        let source = Checkpoint::open_gguf(&self.file)?;
        if self.stock {
            return self.stock(&source, progress);
        }
        let (metadata, changes) = self.edited(source.keys().unwrap_or(&Metadata::new()))?;
        if changes.is_empty() && parts == Parts::Kept {
            return Err(Error::recipe(self.file.display(), "nothing would change").help(
                "‹set› and ‹remove› change keys, ‹chat_template› the template, ‹merge› and ‹split_max_size› the parts.",
            ));
        }
        if !changes.is_empty() {
            self.check(&metadata, &changes)?;
        }
        for change in
            changes.iter().filter(|change| OF_MODEL.iter().any(|start| change.key.starts_with(start)))
        {
            progress.note(&format!(
                "{}: this key decides what the model computes or how it reads text",
                change.key
            ));
        }
        let fingerprint = source.fingerprint()?;
        self.write(&source, changes, progress, |shards, stem| {
            plan::copy((shards, fingerprint), &metadata, parts, stem)
        })
    }

    /// Writes the stock files of a file of Ollama's.
    fn stock(&self, source: &Checkpoint, progress: &dyn Progress) -> Result<Edited> {
        let keys = !self.set.is_empty() || !self.remove.is_empty() || self.chat_template.is_some();
        if keys || self.merge || self.split_max_size.is_some() {
            return Err(Error::recipe("‹stock›", "goes with no other change")
                .help("Edit the text model that it writes."));
        }
        let within = |e: Error| e.within(self.file.display());
        let stock =
            Stock::new(source.keys().unwrap_or(&Metadata::new()), source.tensors()).map_err(within)?;
        stock.notes.iter().for_each(|note| progress.note(note));
        self.write(source, Vec::new(), progress, |shards, stem| plan::plan_stock(&stock, shards, stem))
    }

    /// Executes the plan that `plan_for` makes of the source and the name of the file without `.gguf`.
    fn write(
        &self,
        source: &Checkpoint,
        changes: Vec<KeyChange>,
        progress: &dyn Progress,
        plan_for: impl FnOnce(&Shards<'_>, &str) -> Result<Plan>,
    ) -> Result<Edited> {
        let Destination { folder, file_name } = Destination::new(&self.out);
        let stem = stem(file_name.as_deref().unwrap_or(&source.shards()[0].name)).to_owned();
        let plan = plan_for(&Shards::of(source), &stem)?;
        let options = Options {
            part: None,
            folder: folder.clone(),
            named: file_name,
            force: self.force,
            sync: self.sync,
            hash_input: HashInput::Always,
            simd: Simd::detect(),
            importance: None,
            rounded: Vec::new(),
            groups: Vec::new(),
            depends_on: Vec::new(),
            calibrations: Vec::new(),
            inputs: Vec::new(),
            settings: Vec::new(),
            source: None,
            tool: TOOL.to_owned(),
        };
        let finished = convert::run(source, &plan, &options, progress)?;
        Ok(Edited { folder, changes, artifacts: finished.artifacts, manifest: finished.manifest })
    }

    /// The files to write.
    fn parts(&self) -> Result<Parts> {
        match (&self.split_max_size, self.merge) {
            (Some(_), true) => {
                Err(Error::recipe("‹merge›", "contradicts ‹split_max_size›").help("Give one of the two."))
            }
            (Some(size), false) => byte_size("‹split_max_size›", size).map(Parts::Most),
            (None, true) => Ok(Parts::Merged),
            (None, false) => Ok(Parts::Kept),
        }
    }

    /// The keys after the changes, and the changes. A setting that changes nothing is left out.
    fn edited(&self, source: &Metadata) -> Result<(Metadata, Vec<KeyChange>)> {
        let mut metadata = source.clone();
        for key in &self.remove {
            let key = key.trim();
            refuse_split(key)?;
            metadata.remove(key).ok_or_else(|| {
                Error::recipe(format!("‹remove› {key}"), "the file has no such key")
                    .help("`gemma-convert inspect` lists the keys of a file.")
            })?;
        }
        let mut touched: Vec<String> = self.remove.iter().map(|key| key.trim().to_owned()).collect();
        for setting in &self.set {
            let (key, value) = value_of(setting, source)?;
            refuse_split(&key)?;
            metadata.insert(&key, value);
            touched.push(key);
        }
        if let Some(file) = &self.chat_template {
            metadata.insert(TEMPLATE, template(file)?.as_str());
            touched.push(TEMPLATE.to_owned());
        }
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = touched.iter().find(|key| !seen.insert(key.as_str())) {
            return Err(Error::recipe(format!("key {twice}"), "it is changed twice"));
        }
        let change = |key: String| {
            let (before, after) = (source.get(&key).cloned(), metadata.get(&key).cloned());
            (before != after).then_some(KeyChange { key, before, after })
        };
        let changes = touched.into_iter().filter_map(change).collect();
        Ok((metadata, changes))
    }

    /// Refuses changes after which the file fails a check that it passes now.
    fn check(&self, metadata: &Metadata, changes: &[KeyChange]) -> Result<()> {
        let failures = |set: &GgufSet| -> Result<Vec<Finding>> {
            let (_, findings) = structure_alone(set)?;
            Ok(findings.into_iter().filter(|finding| finding.severity == Severity::Failure).collect())
        };
        let set = GgufSet::open(&self.file)?;
        let before = failures(&set)?;
        let after = failures(&set.with_metadata(metadata.clone()))?;
        let Some(new) = after.into_iter().find(|finding| !before.contains(finding)) else { return Ok(()) };
        let keys: Vec<_> = changes.iter().map(|change| change.key.as_str()).collect();
        let error = Error::recipe(&new.place, new.problem).help(format!(
            "The file is consistent without the change of {}. No output was written.",
            keys.join(", ")
        ));
        Err(match (new.expected, new.found) {
            (Some(expected), Some(found)) => error.expected(expected, found),
            _ => error,
        })
    }
}

/// Key and value of a setting. The type is the one in the setting, else that of the value in the file, else that of the key in other
/// Gemma 4 files.
fn value_of(setting: &str, source: &Metadata) -> Result<(String, Value)> {
    let place = || format!("‹set› {setting}");
    let (key, text) = setting.split_once('=').ok_or_else(|| {
        Error::recipe(place(), "not a setting").expected("KEY=VALUE or KEY:TYPE=VALUE", setting)
    })?;
    let (key, given) = match key.split_once(':') {
        Some((key, kind)) => (key.trim(), Some(kind.trim().to_owned())),
        None => (key.trim(), None),
    };
    let of_file = || source.get(key).map(Value::type_name);
    let known = || gemma::value_type(key, text).map(str::to_owned);
    let kind = given.or_else(of_file).or_else(known).ok_or_else(|| {
        Error::recipe(place(), "neither the file nor any Gemma 4 file has this key, so its type is unknown")
            .expected("KEY:TYPE=VALUE, such as my.key:string=text", setting)
    })?;
    let value = Value::from_text(&kind, text).map_err(|e| e.within(format!("‹set› {key}")))?;
    Ok((key.to_owned(), value))
}

fn refuse_split(key: &str) -> Result<()> {
    if !key.starts_with(SPLIT) {
        return Ok(());
    }
    Err(Error::recipe(
        format!("key {key}"),
        "it describes the parts of a file, and is set when they are written",
    )
    .help("‹merge› and ‹split_max_size› change the parts."))
}

/// The chat template in a file; line ends are those of transformers.
fn template(file: &Path) -> Result<String> {
    let text = base::read_text(file, MAX_TEMPLATE)?;
    if text.trim().is_empty() {
        return Err(Error::malformed(file.display(), "an empty chat template")
            .help(format!("‹remove› {TEMPLATE} removes the template.")));
    }
    Ok(text.replace("\r\n", "\n"))
}

/// The name of a file without `.gguf` and without the number of a part.
fn stem(name: &str) -> &str {
    match gguf::part_of(name) {
        Some((prefix, _)) => prefix,
        None => name.strip_suffix(".gguf").unwrap_or(name),
    }
}
