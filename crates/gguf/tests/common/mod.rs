//! Access to the files in `tests/data`.

use std::path::PathBuf;

pub(crate) fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data", name].iter().collect()
}

pub(crate) fn data(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}
