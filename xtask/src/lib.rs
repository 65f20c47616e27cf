//! What the development tools share with the workspace's integration tests: the cache folder and the real
//! llama.cpp in it. The commands themselves live in the binary.

#![allow(clippy::print_stderr, reason = "a long build says what it does")]

use std::path::PathBuf;

use anyhow::{Context, Result};

pub mod broken;
pub mod keys;
pub mod oracle;
pub mod schemas;

/// The folder for what is expensive to make and safe to delete: `$GEMMA_CONVERT_CACHE`, else `gemma-convert`
/// under `$XDG_CACHE_HOME` or `~/.cache`. Outside the clone, so that every clone shares it. May not exist yet.
///
/// # Errors
/// When none of the variables is set.
pub fn cache_dir() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("GEMMA_CONVERT_CACHE")
        .or_else(|| Some(var("XDG_CACHE_HOME")?.join("gemma-convert")))
        .or_else(|| Some(var("HOME")?.join(".cache/gemma-convert")))
        .context("no cache folder: set GEMMA_CONVERT_CACHE, XDG_CACHE_HOME or HOME")
}
