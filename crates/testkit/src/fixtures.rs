//! Where fixtures are, and how they are read.

use std::path::{Path, PathBuf};

/// The root of the repository: the folder that holds `fixtures/`.
///
/// The search starts at the package whose tests run, so that a test binary still works after the repository has moved.
///
/// # Panics
/// Where no folder above holds `fixtures/`.
pub fn root() -> PathBuf {
    let start = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| std::env::current_dir().expect("a current directory"), PathBuf::from);
    let found = start.ancestors().find(|folder| folder.join("fixtures").is_dir());
    found.unwrap_or_else(|| panic!("no folder above {} holds fixtures/", start.display())).to_owned()
}

/// A file or folder below `fixtures/`.
pub fn fixtures(below: impl AsRef<Path>) -> PathBuf {
    root().join("fixtures").join(below)
}

/// The bytes of a file below `fixtures/`.
///
/// # Panics
/// When it cannot be read.
#[track_caller]
pub fn read(below: impl AsRef<Path>) -> Vec<u8> {
    let path = fixtures(below);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A JSON file below `fixtures/`.
///
/// # Panics
/// When it cannot be read or is no JSON.
#[track_caller]
pub fn json(below: impl AsRef<Path>) -> serde_json::Value {
    let bytes = read(&below);
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", below.as_ref().display()))
}

/// Little-endian f32 values, as goldens store them.
///
/// # Panics
/// When the bytes are not a whole number of values.
#[track_caller]
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, rest) = bytes.as_chunks();
    assert!(rest.is_empty(), "{} bytes are no f32 values", bytes.len());
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_that_of_the_workspace() {
        assert!(root().join("crates/testkit/Cargo.toml").is_file());
        assert!(json("checkpoints/e2b/config.json")["text_config"].is_object());
    }

    #[test]
    fn floats_are_little_endian() {
        assert_eq!(floats(&[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]), [1.0, -2.0]);
    }
}
