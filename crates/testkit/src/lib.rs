//! For tests only: where fixtures are, and what else the tests of several crates share.

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
