//! Programs that a command runs. Those of cargo are the ones in `PATH`, or are installed once into the cache folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The folder of installed tools, with `name` in it unless there is one in `PATH`. `version` is the one to install; the
/// newest, if left out.
pub(super) fn install(cache: &Path, name: &str, version: Option<&str>) -> Result<PathBuf> {
    let tools = cache.join("tools");
    let there = Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    let program = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    if !there && !tools.join("bin").join(program).is_file() {
        let mut command = Command::new("cargo");
        command.args(["install", name, "--locked", "--root"]).arg(&tools);
        if let Some(version) = version {
            command.args(["--version", version]);
        }
        // The tool's own dependencies do not belong into the workspace's target folder.
        command.env_remove("CARGO_TARGET_DIR");
        run(&mut command)?;
    }
    Ok(tools)
}

/// Lets the command find what is in the folder of tools; a tool that is in `PATH` goes first.
pub(super) fn find_in(command: &mut Command, tools: &Path) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::split_paths(&path).chain([tools.join("bin")]);
    command.env("PATH", std::env::join_paths(paths)?);
    Ok(())
}

/// Runs a command that has to succeed.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}

/// What a command that has to succeed prints.
pub(super) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
