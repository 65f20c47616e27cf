//! The needed files of a model, with the headers of its weights in place of the weights: for a plan.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use base::{Error, Progress, Result};

use crate::fetch::Snapshot;
use crate::remote::RemoteModel;
use crate::tree::RemoteFile;

impl RemoteModel<'_> {
    /// As [`fetch`](Self::fetch), but of weights that the cache lacks only the headers are downloaded. They are files of the right size in
    /// `folder`, with zeros for the weights, beside links to the other files. If the cache has all weights, the result is the folder
    /// of the cache.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch) and [`safetensors_header`](Self::safetensors_header); `Target` for a folder that cannot be written.
    pub fn fetch_headers(&self, folder: &Path, progress: &dyn Progress) -> Result<Snapshot> {
        let (cache, index) = self.prepare(progress)?;
        let weights = self.weights(index.as_deref())?;
        let companions: Vec<_> = self.companions().collect();
        self.fetch_files(&cache, &companions, 0, progress)?;
        cache.set_commit(self.model().revision(), self.commit())?;
        let mut files: Vec<_> = companions.iter().chain(&weights).map(|file| file.path.clone()).collect();
        files.sort();
        let snapshot = self.snapshot(&cache, files);
        let lacks = |file: &&&RemoteFile| cache.present(self.commit(), file).is_none();
        if !weights.iter().any(|file| lacks(&file)) {
            return Ok(snapshot);
        }
        for file in companions.into_iter().chain(weights) {
            let path = folder.join(&file.path);
            let failed = |e: &std::io::Error| Error::write(path.display(), e);
            path.parent().map_or(Ok(()), fs::create_dir_all).map_err(|e| failed(&e))?;
            match cache.present(self.commit(), file) {
                Some(there) => base::symlink(&there, &path).map_err(|e| failed(&e))?,
                None => {
                    let header = self.safetensors_header(file, progress)?;
                    let write = |mut out: File| out.write_all(&header).and_then(|()| out.set_len(file.size));
                    File::create(&path).and_then(write).map_err(|e| failed(&e))?;
                }
            }
        }
        Ok(Snapshot { folder: folder.to_owned(), ..snapshot })
    }
}
