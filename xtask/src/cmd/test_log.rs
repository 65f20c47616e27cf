//! `cargo xtask test-log`: what a run of the tests covered.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Says which vector levels and kernels a run of the tests had, which tests it skipped, and how often it tried again.
///
/// The tests write the file where GEMMA_CONVERT_TEST_LOG names one; it may hold several runs.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file.
    file: PathBuf,
}

impl Args {
    pub(crate) fn run(&self) -> Result<()> {
        let log = testkit::Log::read(&self.file).with_context(|| self.file.display().to_string())?;
        println!("tests: {log}");
        Ok(())
    }
}
