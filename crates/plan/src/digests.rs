//! Digests of tensors in a GGUF's own keys: for files that cannot be made again from the checkpoint alone, because error
//! feedback rounded them for a text.

use std::collections::HashMap;

use gguf::{Header, Layout};
use tensor::{Result, TensorDesc};

use crate::artifact::PlannedFile;

/// The key: an array of texts, for each tensor of the whole set its name, a space, and the SHA-256 of its bytes in hex.
pub const TENSOR_DIGESTS: &str = "gemma-convert.tensors.sha256";

/// A SHA-256 in hex before it is known.
const UNKNOWN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The value of the key before the tensors are written: texts of the length that they will have.
pub(crate) fn unknown<'a>(tensors: impl Iterator<Item = &'a TensorDesc>) -> Vec<String> {
    tensors.map(|desc| format!("{} {UNKNOWN}", desc.name)).collect()
}

/// The name and the SHA-256 of an entry.
pub fn digest_of_entry(entry: &str) -> Option<(&str, &str)> {
    entry.split_once(' ').filter(|(_, sha256)| sha256.len() == UNKNOWN.len())
}

/// The header of a planned file with the digests of these tensors in it, as long as before. `None` if it asks for none.
///
/// # Errors
/// What reading and laying out a header refuse.
pub fn with_digests(file: &PlannedFile, digests: &HashMap<&str, String>) -> Result<Option<Vec<u8>>> {
    let mut header = Header::read(&mut file.header.as_slice(), file.bytes)?;
    let Some(entries) = header.metadata.typed::<&[String]>(TENSOR_DIGESTS)? else { return Ok(None) };
    let filled: Vec<String> = entries
        .iter()
        .map(|entry| match digest_of_entry(entry).and_then(|(name, _)| Some((name, digests.get(name)?))) {
            Some((name, digest)) => format!("{name} {digest}"),
            None => entry.clone(),
        })
        .collect();
    header.metadata.insert(TENSOR_DIGESTS, filled);
    let tensors = header.tensors.into_iter().map(|placed| placed.desc).collect();
    Ok(Some(Layout::new(&header.metadata, tensors)?.header))
}
