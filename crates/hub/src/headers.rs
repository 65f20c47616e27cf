//! The needed files of a model, with the headers of its weights in place of the weights: for a plan.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use base::{Error, Progress, Result};
use serde_json::{Map, Value};

use crate::fetch::Snapshot;
use crate::remote::RemoteModel;
use crate::tree::RemoteFile;

/// Wanted tensors with no more than so many bytes between them are read together.
const GAP: u64 = 64 << 10;

impl RemoteModel<'_> {
    /// As [`fetch`](Self::fetch), but of weights that the cache lacks only the headers are downloaded, and the tensors whose names
    /// `is_wanted` accepts. They are files of the right size in `folder`, with zeros for the other tensors, beside links to the
    /// other files. If the cache has all weights, the result is the folder of the cache.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch) and [`safetensors_header`](Self::safetensors_header); `Target` for a folder that cannot be written.
    pub fn fetch_headers(
        &self,
        folder: &Path,
        is_wanted: &dyn Fn(&str) -> bool,
        progress: &dyn Progress,
    ) -> Result<Snapshot> {
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
                    let mut out = File::create(&path).map_err(|e| failed(&e))?;
                    out.write_all(&header).and_then(|()| out.set_len(file.size)).map_err(|e| failed(&e))?;
                    for Range { start, end } in ranges(&header, file.size, is_wanted) {
                        let bytes = self.read_range(file, start, end - start, progress)?;
                        let sought = out.seek(SeekFrom::Start(start));
                        sought.and_then(|_| out.write_all(&bytes)).map_err(|e| failed(&e))?;
                    }
                }
            }
        }
        Ok(Snapshot { folder: folder.to_owned(), ..snapshot })
    }
}

/// The ranges of a safetensors file of `size` bytes that contain the wanted tensors. Of a damaged header, whose fault its reader
/// names, there may be none.
fn ranges(header: &[u8], size: u64, is_wanted: &dyn Fn(&str) -> bool) -> Vec<Range<u64>> {
    let tensors: Map<String, Value> =
        header.get(8..).and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
    let place = |tensor: &Value| {
        let [start, end] =
            [0, 1].map(|end| tensor["data_offsets"][end].as_u64()?.checked_add(header.len() as u64));
        Some(start?..end?).filter(|range| range.start < range.end && range.end <= size)
    };
    let wanted = tensors.iter().filter(|(name, _)| is_wanted(name));
    let mut places: Vec<_> = wanted.filter_map(|(_, tensor)| place(tensor)).collect();
    places.sort_by_key(|range| range.start);
    places.into_iter().fold(Vec::new(), |mut ranges: Vec<Range<u64>>, range| {
        match ranges.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP) => last.end = last.end.max(range.end),
            _ => ranges.push(range),
        }
        ranges
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_tensors_are_read_together() {
        let place = |from: u64, to: u64| serde_json::json!({ "data_offsets": [from, to] });
        let json = serde_json::json!({
            "__metadata__": { "format": "pt" }, "a.shape": place(0, 16), "a": place(16, 1000), "b.shape": place(1000, 1016),
            "c": place(1016, 900_000), "c.shape": place(900_000, 900_016), "d.shape": place(900_016, 2_000_000),
        });
        let header = [&[0; 8][..], json.to_string().as_bytes()].concat();
        let start = header.len() as u64;
        let found = |size| ranges(&header, size, &|name| name.ends_with(".shape"));
        assert_eq!(
            found(start + 900_016),
            [start..start + 1016, start + 900_000..start + 900_016],
            "d is not in the file"
        );
        assert_eq!(ranges(b"damaged header", 99, &|_| true), []);
    }
}
