//! `cargo xtask schema`: writes the JSON schemas of `docs/schemas`, derived from the types that the crates serialise.

use anyhow::Result;

/// Write the JSON schemas of report, manifest, plan and measurement to docs/schemas.
#[derive(clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let folder = crate::root().join(xtask::schemas::FOLDER);
        std::fs::create_dir_all(&folder)?;
        for (name, text) in xtask::schemas::all() {
            std::fs::write(folder.join(name), text)?;
        }
        Ok(())
    }
}
