//! Tensor digests, written into the headers of complete files.

use std::collections::HashMap;
use std::io::{BufReader, Seek};

use base::OutputFile;
use gguf::Header;
use plan::ArtifactEntry;
use rayon::prelude::*;
use tensor::{Error, Result};

use crate::hashed_output::RangeHash;

/// Fills in the digests in the headers of artifacts with calibrated tensors. `outputs` are the complete files of the artifacts, in
/// order; the entries of changed files get their new SHA-256.
///
/// # Errors
/// `Malformed` for a header that is not that of a GGUF, `Io`.
pub(crate) fn fill_in(outputs: &[&OutputFile], artifacts: &mut [ArtifactEntry]) -> Result<()> {
    let mut outputs = outputs.iter();
    for artifact in artifacts {
        let files: Vec<&OutputFile> = outputs.by_ref().take(artifact.outputs.len()).copied().collect();
        if artifact.calibration.is_none() {
            continue;
        }
        let headers = files.iter().map(|file| header(file)).collect::<Result<Vec<_>>>()?;
        let tensors: Vec<_> = files
            .iter()
            .zip(&headers)
            .flat_map(|(file, header)| header.tensors.iter().map(move |tensor| (file, tensor)))
            .collect();
        let digests: HashMap<&str, String> = tensors
            .par_iter()
            .map(|(file, tensor)| {
                Ok((tensor.desc.name.as_str(), sha256(file, tensor.offset, tensor.desc.byte_len())?))
            })
            .collect::<Result<_>>()?;
        for ((file, header), entry) in files.into_iter().zip(&headers).zip(&mut artifact.outputs) {
            if let Some(header) = plan::with_digests(header, |name| digests.get(name).cloned())? {
                file.write_at(&header, 0)?;
                entry.sha256 = sha256(file, 0, entry.bytes)?;
            }
        }
    }
    Ok(())
}

/// Makes the header of a file that a process began to complete what the parts have written. Their checksums tell whether it is.
pub(crate) fn clear(file: &OutputFile) -> Result<()> {
    let cleared = header(file).and_then(|header| plan::without_digests(&header));
    match cleared {
        Ok(Some(header)) => file.write_at(&header, 0),
        _ => Ok(()),
    }
}

fn header(file: &OutputFile) -> Result<Header> {
    let fail = |e: std::io::Error| file.fail(&e);
    let mut from = file.file();
    from.rewind().map_err(fail)?;
    let len = from.metadata().map_err(fail)?.len();
    Header::read(&mut BufReader::new(from), len).map_err(|e: Error| e.within(file.path().display()))
}

/// The SHA-256 of a range of a file in hex.
fn sha256(file: &OutputFile, offset: u64, bytes: u64) -> Result<String> {
    let mut hash = RangeHash::from(offset);
    hash.read_to(file.file(), offset + bytes).map_err(|e| file.fail(&e))?;
    Ok(hash.hex())
}
