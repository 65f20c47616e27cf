//! The program of a release: the release profile, stripped, without a path of this machine in it. With it the pages that the
//! program prints.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::archive::Entry;
use super::elf::Glibc;
use super::release::Release;
use super::wheel;
use crate::cmd::cross::Target;
use crate::cmd::tools::output;

/// For the compiler when it makes the program, and not for the libraries, which are those of `cargo build --release`.
pub(super) const STRIP: [&str; 2] = ["-C", "strip=symbols"];

/// How the program is made.
pub(super) struct Build {
    /// The target folder of cargo.
    pub(super) target_dir: PathBuf,
    pub(super) triple: String,
    /// The version of glibc to link for, in place of this machine's.
    pub(super) glibc: Option<Glibc>,
    /// The target, if another machine's.
    pub(super) cross: Option<&'static Target>,
    epoch: u64,
}

impl Build {
    pub(super) fn new(
        release: &Release,
        glibc: Option<Glibc>,
        cross: Option<&'static Target>,
    ) -> Result<Build> {
        let metadata = output(crate::cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
        let metadata: Value = serde_json::from_slice(&metadata)?;
        let target_dir = metadata["target_directory"].as_str().context("cargo metadata: no target folder")?;
        Ok(Build {
            target_dir: target_dir.into(),
            triple: release.triple.clone(),
            glibc,
            cross,
            epoch: release.epoch,
        })
    }

    /// Builds the program and says where it is.
    pub(super) fn program(&self) -> Result<PathBuf> {
        if self.glibc.is_some() {
            // zig comes with maturin: a wheel without pages, whose program is taken
            let folder = tempfile::tempdir()?;
            wheel::make(self, &[], &[], folder.path())?;
            return Ok(self.target_dir.join(&self.triple).join("release/gemma-convert"));
        }
        let mut native = crate::cargo();
        native.arg("rustc");
        let mut cargo = self.cross.map_or(Ok(native), |target| target.cargo("rustc"))?;
        cargo.args(["--release", "--locked", "--package", "gemma-convert", "--bin", "gemma-convert"]);
        cargo.args(["--message-format=json-render-diagnostics", "--"]).args(STRIP).stderr(Stdio::inherit());
        self.configure(&mut cargo);
        let messages = cargo.output().with_context(|| format!("cannot run {cargo:?}"))?;
        ensure!(messages.status.success(), "{cargo:?} failed");
        let messages = String::from_utf8(messages.stdout)?;
        let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let program =
            artifacts.filter_map(|artifact| Some(artifact["executable"].as_str()?.into())).next_back();
        program.context("cargo names no program")
    }

    /// A command that runs a program of the target.
    pub(super) fn command(&self, program: &Path) -> Result<Command> {
        self.cross.map_or_else(|| Ok(Command::new(program)), |target| target.emulated(program))
    }

    /// The environment of a command that compiles. Flags of the environment win.
    pub(super) fn configure(&self, command: &mut Command) {
        let given = ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"];
        if given.iter().all(|name| std::env::var_os(name).is_none())
            && let Some(home) = cargo_home()
        {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(home);
            flag.push("=/cargo");
            command.env("CARGO_ENCODED_RUSTFLAGS", flag);
        }
        command.env("CARGO_TARGET_DIR", &self.target_dir).env("SOURCE_DATE_EPOCH", self.epoch.to_string());
    }
}

/// The folder with the sources of dependencies.
fn cargo_home() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    var("CARGO_HOME").or_else(|| Some(var("HOME")?.join(".cargo")))
}

/// Refuses a file that names the folders of cargo or the repository: its bytes would be this machine's alone.
pub(super) fn check_paths(name: &dyn fmt::Display, file: &[u8]) -> Result<()> {
    for folder in cargo_home().into_iter().chain([crate::root()]) {
        let text = format!("{}/", folder.display());
        let Some(at) = find(file, text.as_bytes()) else { continue };
        let rest = &file[at..];
        let end = rest.iter().position(|byte| !byte.is_ascii_graphic()).unwrap_or(rest.len()).min(160);
        bail!("{name} holds a path of this machine: {}", String::from_utf8_lossy(&rest[..end]));
    }
    Ok(())
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// What the program prints for packagers.
#[derive(Clone)]
pub(super) struct Page {
    pub(super) entry: Entry,
    /// Its place below the prefix of an installation, where that is not for its user to choose.
    pub(super) installed: Option<&'static str>,
}

/// Arguments, the place in the archive, the place in an installation.
const PAGES: &[(&[&str], &str, Option<&str>)] = &[
    (&["man"], "man/gemma-convert.1", Some("share/man/man1/gemma-convert.1")),
    (
        &["completions", "bash"],
        "completions/gemma-convert.bash",
        Some("share/bash-completion/completions/gemma-convert"),
    ),
    (&["completions", "zsh"], "completions/_gemma-convert", Some("share/zsh/site-functions/_gemma-convert")),
    (
        &["completions", "fish"],
        "completions/gemma-convert.fish",
        Some("share/fish/vendor_completions.d/gemma-convert.fish"),
    ),
    (&["completions", "elvish"], "completions/gemma-convert.elv", None),
    (&["completions", "powershell"], "completions/_gemma-convert.ps1", None),
];

/// The manual page and the completion scripts.
pub(super) fn pages(build: &Build, program: &Path) -> Result<Vec<Page>> {
    let page = |(arguments, path, installed): &(&[&str], &str, Option<&'static str>)| {
        let text = output(build.command(program)?.args(*arguments))?;
        Ok(Page { entry: Entry::file(*path, text), installed: *installed })
    };
    PAGES.iter().map(page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_this_machine_is_found() {
        let root = crate::root();
        check_paths(&"x", b"\0/cargo/registry/src/x.rs\0/rustc/abc/library").unwrap();
        let program = format!("\0{}/crates/x.rs\0", root.display());
        let message = check_paths(&"x", program.as_bytes()).unwrap_err().to_string();
        assert!(message.ends_with("/crates/x.rs"), "{message}");
    }
}
