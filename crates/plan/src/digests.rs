//! SHA-256 of tensors in a GGUF's own keys, for files that calibrated quantization wrote: these cannot be reproduced
//! from the checkpoint alone.

use gguf::{Header, Layout};
use tensor::{Result, TensorDesc};

/// The key. Its value is an array of strings, one per tensor of the whole set: name, space, SHA-256 of the tensor's
/// bytes in hex.
pub const TENSOR_DIGESTS: &str = "gemma-convert.tensors.sha256";

/// Placeholder for a SHA-256 in hex, before it is known.
const UNKNOWN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The key's value before the tensors are written: strings of the final length.
pub(crate) fn unknown<'a>(tensors: impl Iterator<Item = &'a TensorDesc>) -> Vec<String> {
    tensors.map(|desc| format!("{} {UNKNOWN}", desc.name)).collect()
}

/// Splits an entry into name and SHA-256.
pub fn digest_of_entry(entry: &str) -> Option<(&str, &str)> {
    entry.split_once(' ').filter(|(_, sha256)| sha256.len() == UNKNOWN.len())
}

/// A header with the digests that `digest` has of tensors, at unchanged length. `None` if it has no such key.
///
/// # Errors
/// Errors of laying out a header.
pub fn with_digests(header: &Header, digest: impl Fn(&str) -> Option<String>) -> Result<Option<Vec<u8>>> {
    let mut header = header.clone();
    let Some(entries) = header.metadata.typed::<&[String]>(TENSOR_DIGESTS)? else { return Ok(None) };
    let filled: Vec<String> = entries
        .iter()
        .map(|entry| match digest_of_entry(entry).and_then(|(name, _)| Some((name, digest(name)?))) {
            Some((name, digest)) => format!("{name} {digest}"),
            None => entry.clone(),
        })
        .collect();
    header.metadata.insert(TENSOR_DIGESTS, filled);
    let tensors = header.tensors.into_iter().map(|placed| placed.desc).collect();
    Ok(Some(Layout::new(&header.metadata, tensors)?.header))
}

/// A header as it is before the tensors are written. `None` if it has no digests.
///
/// # Errors
/// Errors of laying out a header.
pub fn without_digests(header: &Header) -> Result<Option<Vec<u8>>> {
    with_digests(header, |_| Some(UNKNOWN.to_owned()))
}
