//! `cargo xtask schema`: writes the JSON schemas of `docs/schemas`.
//!
//! They are derived from types of crates that no other tool here needs, so they are a feature of this one, and the command
//! begins itself again with it.

use anyhow::Result;

/// Write the JSON schemas of report, manifest, plan and measurement to docs/schemas.
#[derive(clap::Args)]
pub(crate) struct Args {}

impl Args {
    #[cfg(feature = "schema")]
    pub(crate) fn run(self) -> Result<()> {
        let folder = crate::root().join(xtask::schemas::FOLDER);
        std::fs::create_dir_all(&folder)?;
        for (name, text) in xtask::schemas::all() {
            std::fs::write(folder.join(name), text)?;
        }
        Ok(())
    }

    #[cfg(not(feature = "schema"))]
    pub(crate) fn run(self) -> Result<()> {
        let arguments = ["run", "--quiet", "--package", "xtask", "--features", "schema", "--", "schema"];
        super::tools::run(crate::cargo().args(arguments))
    }
}
