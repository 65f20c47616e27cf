//! The artifacts that paths stand for: files, checkpoint folders, and what a folder of GGUFs holds.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tensor::{Error, Result};

use crate::model::ggufs_in;

/// The artifacts of a set, each once.
#[derive(Debug, Default)]
pub(super) struct SetFiles {
    /// Files and folders of safetensors. The first part that is found stands for a split.
    pub(super) artifacts: Vec<PathBuf>,
    /// The folders of GGUFs.
    pub(super) folders: Vec<PathBuf>,
    /// Paths without links; of a split without the number of the part.
    seen: HashSet<PathBuf>,
}

impl SetFiles {
    /// A folder of GGUFs stands for these and for the checkpoint folders in it.
    ///
    /// # Errors
    /// `Malformed` for a path that does not exist; `Io`.
    pub(super) fn of(paths: &[PathBuf]) -> Result<SetFiles> {
        let mut files = SetFiles::default();
        for path in paths {
            path.metadata().map_err(|e| checkpoint::absent(path, &e))?;
            let ggufs = ggufs_in(path);
            if ggufs.is_empty() {
                files.add(path.clone());
                continue;
            }
            ggufs.into_iter().for_each(|file| files.add(file));
            checkpoints_in(path)?.into_iter().for_each(|folder| files.add(folder));
            files.folders.push(path.clone());
        }
        Ok(files)
    }

    fn add(&mut self, path: PathBuf) {
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        let prefix = path.file_name().and_then(|name| gguf::part_of(name.to_str()?));
        if self.seen.insert(prefix.map_or(real.clone(), |(prefix, _)| real.with_file_name(prefix))) {
            self.artifacts.push(path);
        }
    }
}

/// Whether several artifacts are meant: more than one path, or a folder of GGUFs.
pub(super) fn is_set(paths: &[PathBuf]) -> bool {
    paths.len() != 1 || paths.iter().any(|path| !ggufs_in(path).is_empty())
}

fn checkpoints_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io(folder.display(), &e);
    let entries = folder.read_dir().map_err(io)?.map(|entry| entry.map(|entry| entry.path()).map_err(io));
    let mut folders = entries.collect::<Result<Vec<_>>>()?;
    folders.retain(|path| path.join("config.json").is_file());
    folders.sort();
    Ok(folders)
}
