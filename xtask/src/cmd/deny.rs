//! `cargo xtask deny`: licences, sources, duplicates and security advisories of all dependencies (`deny.toml`).
//!
//! cargo-deny is installed into the cache folder if it is nowhere. Advisories are a database in a git repository: where the
//! network does not reach it, everything else is checked and a line says that advisories were not.

use std::process::Command;

use anyhow::{Result, bail};

use super::tools;

/// The version to install. Another minor version may read `deny.toml` in another way.
const VERSION: &str = "0.20.2";

/// The variable that, set to `require`, makes the run fail where advisories cannot be fetched.
const NETWORK: &str = "GEMMA_CONVERT_NETWORK";

/// Check licences, sources, duplicates and security advisories of the dependencies.
#[derive(clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let tools = tools::install(&xtask::cache_dir()?, "cargo-deny", Some(VERSION))?;
        let deny = || -> Result<Command> {
            let mut command = Command::new("cargo");
            tools::find_in(&mut command, &tools)?;
            command.current_dir(crate::root()).arg("deny");
            Ok(command)
        };
        let fetched = tools::run(deny()?.args(["fetch", "db"]));
        let mut check = deny()?;
        check.arg("check");
        if fetched.is_err() {
            if std::env::var_os(NETWORK).is_some_and(|value| value == "require") {
                bail!("the database of security advisories could not be fetched");
            }
            check.args(["bans", "licenses", "sources"]);
        }
        tools::run(&mut check)?;
        println!("deny: bans, licences and sources checked");
        match fetched {
            Ok(()) => println!("deny: advisories checked"),
            Err(_) => println!("deny: advisories NOT CHECKED: their database could not be fetched"),
        }
        Ok(())
    }
}
