//! The files that a conversion reads besides the weights. Their sizes and times are recorded when the folder is opened,
//! so that a later change is noticed.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use tensor::{Error, Result};

use crate::Checkpoint;

/// The files that are read if they exist. Source: `open.rs`, `shards.rs`, `template.rs`.
const READ: [&str; 10] = [
    "README.md",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Folder of the named templates, `*.jinja`.
const TEMPLATES: &str = "additional_chat_templates";

/// A file that is read besides the weights.
#[derive(Clone, Debug)]
pub struct Companion {
    /// Path relative to the folder, with `/`.
    pub name: String,
    /// Size in bytes.
    pub len: u64,
    modified: Option<SystemTime>,
}

/// The companions that exist in a folder, sorted by name.
pub(crate) fn found(dir: &Path) -> Vec<Companion> {
    let templates = fs::read_dir(dir.join(TEMPLATES)).into_iter().flatten().flatten();
    let templates = templates
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".jinja"))
        .map(|name| format!("{TEMPLATES}/{name}"));
    let mut names: Vec<_> = READ.into_iter().map(str::to_owned).chain(templates).collect();
    names.sort_unstable();
    let companion = |name: String| {
        let meta = fs::metadata(dir.join(&name)).ok().filter(fs::Metadata::is_file)?;
        Some(Companion { name, len: meta.len(), modified: meta.modified().ok() })
    };
    names.into_iter().filter_map(companion).collect()
}

impl Checkpoint {
    /// The files that a conversion reads besides the weights: config, tokenizer, templates, card, index.
    pub fn companions(&self) -> &[Companion] {
        &self.companions
    }

    /// Checks that no companion has been written to since the folder was opened.
    pub(crate) fn check_companions(&self) -> Result<()> {
        self.companions.iter().try_for_each(|file| {
            let path = self.dir().join(&file.name);
            let now = fs::metadata(&path).map_err(|e| Error::io(path.display(), &e))?;
            if now.len() == file.len && now.modified().ok() == file.modified {
                return Ok(());
            }
            Err(Error::malformed(path.display(), "the file was changed while it was being read")
                .expected(format!("{} bytes, not written to", file.len), format!("{} bytes", now.len()))
                .help("wait until the download or the other program has finished, then start again"))
        })
    }
}
