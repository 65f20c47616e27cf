//! Digests of tensors in a GGUF's own keys: for files that cannot be made again from the checkpoint alone, because error
//! feedback rounded them for a text.

use tensor::TensorDesc;

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

/// Where the digests are in a GGUF header, each with the name of its tensor. Empty if there are none.
pub fn places_of_digests(header: &[u8]) -> Vec<(String, usize)> {
    // the last of the keys: see `build.rs`
    let key = TENSOR_DIGESTS.as_bytes();
    let Some(at) = header.windows(key.len()).rposition(|window| window == key) else { return Vec::new() };
    let number = |at: usize| {
        let bytes = header.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    // the types of the value and of its items
    let mut at = at + key.len() + 8;
    let count = number(at).unwrap_or(0);
    at += 8;
    let mut places = Vec::new();
    for _ in 0..count {
        let Some(len) = number(at) else { break };
        let Some(entry) = header.get(at + 8..at + 8 + len).and_then(|entry| str::from_utf8(entry).ok())
        else {
            break;
        };
        let Some((name, sha256)) = digest_of_entry(entry) else { break };
        places.push((name.to_owned(), at + 8 + len - sha256.len()));
        at += 8 + len;
    }
    places
}
