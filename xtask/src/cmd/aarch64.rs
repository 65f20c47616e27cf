//! `cargo xtask aarch64`: the program cross-built for aarch64 Linux and run by qemu.
//!
//! The tests of the codecs pass there. Conversions of the tiny checkpoint have the bytes, and greedy text the words, of this
//! machine's program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::tools::{output, run};

const TRIPLE: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const QEMU: [&str; 2] = ["qemu-aarch64-static", "-L"];
/// glibc for aarch64, as Debian installs it.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
const PACKAGES: &str = "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static";

/// One output of each kind of codec, and an mmproj file.
const OUTPUTS: [&str; 2] = ["--type=q4_0,q8_0,q4_k_m,q6_k,iq4_xs,mxfp4_moe,f16", "--mmproj=q8_0"];
/// The file whose text is compared.
const SPEAKS: &str = "model-q4_0.gguf";

/// Build for aarch64 Linux, run the tests of the codecs and conversions in qemu, and compare with this machine's results.
#[derive(clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        for program in [LINKER, QEMU[0]] {
            let found = Command::new(program).arg("--version").output();
            ensure!(
                found.is_ok_and(|found| found.status.success()),
                "{program} is missing. Debian: {PACKAGES}"
            );
        }
        ensure!(Path::new(LIBRARIES).is_dir(), "{LIBRARIES} is missing. Debian: {PACKAGES}");
        run(Command::new("rustup").args(["target", "add", TRIPLE]))?;
        // switches for the features of this machine's processor, and its log of tests, are not for the other one
        let mut tests = cross("test");
        tests.args(["--package", "quant"]).env_remove("GEMMA_CONVERT_AVX512").env_remove(testkit::VARIABLE);
        run(&mut tests)?;
        println!("aarch64: the tests of the codecs pass");

        let theirs = Program { path: built(cross("build"))?, emulated: true };
        let mut native = crate::cargo();
        native.args(["build", "--release"]);
        let ours = Program { path: built(native)?, emulated: false };
        let scratch = tempfile::tempdir()?;
        let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
        let (expected, found) = (ours.converts(&here)?, theirs.converts(&there)?);
        for (name, digest) in &expected {
            let other = found.get(name).with_context(|| format!("aarch64 makes no {name}"))?;
            ensure!(digest == other, "{name} has the SHA-256 {other} on aarch64, {digest} here");
        }
        ensure!(expected.len() == found.len() && expected.len() > 2, "{expected:?}\n{found:?}");
        println!("aarch64: {} files have the same SHA-256", found.len());

        for model in [here.join(SPEAKS), checkpoint()] {
            let (expected, found) = (ours.says(&model)?, theirs.says(&model)?);
            ensure!(expected == found, "{}: {found:?} on aarch64, {expected:?} here", model.display());
        }
        println!("aarch64: `generate` says the same");
        Ok(())
    }
}

fn checkpoint() -> PathBuf {
    crate::root().join("fixtures/checkpoints/e2b")
}

/// A command of cargo for aarch64. Without debug information it takes less time.
fn cross(command: &str) -> Command {
    let mut cargo = crate::cargo();
    cargo.args([command, "--target", TRIPLE, "--config", "profile.dev.debug=false"]);
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", [&QEMU[..], &[LIBRARIES]].concat().join(" "));
    cargo
}

/// Builds the program and says where it is.
fn built(mut cargo: Command) -> Result<PathBuf> {
    cargo.args(["--package", "gemma-convert", "--message-format=json-render-diagnostics"]);
    cargo.stderr(std::process::Stdio::inherit());
    let messages = String::from_utf8(output(&mut cargo)?)?;
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = artifacts.filter_map(|artifact| Some(artifact["executable"].as_str()?.into())).next_back();
    program.context("cargo names no program")
}

/// The program of this machine, or that of aarch64 in qemu.
struct Program {
    path: PathBuf,
    emulated: bool,
}

impl Program {
    fn command(&self) -> Command {
        if !self.emulated {
            return Command::new(&self.path);
        }
        let mut qemu = Command::new(QEMU[0]);
        qemu.args([QEMU[1], LIBRARIES]).arg(&self.path);
        qemu
    }

    /// Converts the tiny checkpoint: names of the files and their SHA-256.
    fn converts(&self, out: &Path) -> Result<BTreeMap<String, String>> {
        output(
            self.command().arg("convert").arg(checkpoint()).args(OUTPUTS).arg("--quiet").arg("-o").arg(out),
        )?;
        let mut digests = BTreeMap::new();
        for entry in fs::read_dir(out)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "gguf") {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                digests.insert(name, base::sha256_file(&path, &|_| ())?.1);
            }
        }
        Ok(digests)
    }

    /// Greedy text.
    fn says(&self, model: &Path) -> Result<String> {
        let mut command = self.command();
        command.arg("generate").arg(model);
        command.args(["-p", "In 1912 the", "-n", "16", "--json", "--quiet"]);
        let document: Value = serde_json::from_slice(&output(&mut command)?)?;
        Ok(document["text"].as_str().context("no text")?.to_owned())
    }
}
