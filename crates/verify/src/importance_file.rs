//! The imatrix that an artifact was quantized with. With it, every block can be quantized again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use imatrix::Importance;
use plan::{FileEntry, ImportanceKeys};
use tensor::Result;

use crate::Provenance;
use crate::artifact::Artifact;

impl Provenance {
    /// Looks for the imatrix that the artifact was made with: the file `given`, else the path in the manifest or the
    /// keys, else the same file name beside the artifact. A file that was not given must match the manifest and the
    /// keys.
    ///
    /// # Errors
    /// The errors of reading `given`.
    pub fn find_importance<'a>(
        &mut self,
        artifact: impl Into<Artifact<'a>>,
        given: Option<&Path>,
    ) -> Result<()> {
        if let Some(path) = given {
            let entries = Importance::read(path)?;
            if self.importance.is_none() {
                self.importance = Some(ImportanceKeys::new(path, &entries));
            }
            self.entries = Some(Arc::new(entries));
            return Ok(());
        }
        let Some(keys) = &self.importance else { return Ok(()) };
        let inputs = self.entry.as_ref().map(|entry| entry.inputs.as_slice()).unwrap_or_default();
        let first = artifact.into().parts().first().map(|part| part.path.clone());
        self.entries = recorded_importance(first.as_deref(), keys, inputs).map(Arc::new);
        Ok(())
    }
}

/// The imatrix that `keys` and `inputs` of a manifest describe, at its path or in the folder of `artifact`.
pub fn recorded_importance(
    artifact: Option<&Path>,
    keys: &ImportanceKeys,
    inputs: &[FileEntry],
) -> Option<Importance> {
    let recorded = inputs.iter().rev().find(|file| file.name.starts_with(keys.file.as_str()));
    let named = PathBuf::from(recorded.map_or(keys.file.as_str(), |file| file.name.as_str()));
    let beside = artifact.and_then(|path| Some(path.with_file_name(named.file_name()?)));
    [Some(named), beside].iter().flatten().find_map(|path| read(path, keys, recorded))
}

/// The imatrix in a file, if it matches `keys` and the manifest's entry.
fn read(path: &Path, keys: &ImportanceKeys, recorded: Option<&FileEntry>) -> Option<Importance> {
    let found = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    if recorded.is_some_and(|file| file.bytes != found.len()) || !Importance::is_one(path) {
        return None;
    }
    if recorded.is_some() && convert::file_entry(path).ok()?.sha256 != recorded?.sha256 {
        return None;
    }
    let entries = Importance::read(path).ok()?;
    let is = ImportanceKeys::new(Path::new(&keys.file), &entries);
    (is.entries == keys.entries && is.chunks == keys.chunks).then_some(entries)
}
