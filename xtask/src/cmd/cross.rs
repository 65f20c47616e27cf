//! `cargo xtask aarch64` and `cargo xtask windows`: the program built for another target and run by an emulator.
//!
//! Tests of some crates pass there. A list of commands makes the files there, and greedy text has the words, that this
//! machine's program makes and says.

mod commands;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use commands::Made;
use serde_json::Value;

use super::tools::{output, run};

/// A target that this machine builds for and emulates.
pub(super) struct Target {
    name: &'static str,
    triple: &'static str,
    linker: &'static str,
    /// Precedes the program in a command. The first word is the emulator.
    emulator: &'static [&'static str],
    /// Packages of Debian with compiler and emulator.
    packages: &'static str,
    /// Crates whose tests run there: those in which processors or systems differ.
    tested: &'static [&'static str],
}

const AARCH64: Target = Target {
    name: "aarch64",
    triple: "aarch64-unknown-linux-gnu",
    linker: "aarch64-linux-gnu-gcc",
    emulator: &["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"],
    packages: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static",
    tested: &["quant"],
};

const WINDOWS: Target = Target {
    name: "windows",
    triple: "x86_64-pc-windows-gnu",
    linker: "x86_64-w64-mingw32-gcc",
    emulator: &["wine"],
    packages: "gcc-mingw-w64-x86-64 wine64 wine",
    tested: &["base"],
};

/// Build for aarch64 Linux, run tests and conversions in qemu, and compare with this machine's results.
#[derive(clap::Args)]
pub(crate) struct Aarch64 {}

impl Aarch64 {
    pub(crate) fn run(self) -> Result<()> {
        AARCH64.check()
    }
}

/// Build for Windows, run tests and conversions in wine, and compare with this machine's results.
#[derive(clap::Args)]
pub(crate) struct Windows {}

impl Windows {
    pub(crate) fn run(self) -> Result<()> {
        WINDOWS.check()
    }
}

impl Target {
    /// The target of this triple, with everything there that it needs.
    pub(super) fn ready(triple: &str) -> Result<&'static Target> {
        let targets = [&AARCH64, &WINDOWS];
        let target = targets.into_iter().find(|target| target.triple == triple).with_context(|| {
            format!("{triple} is not built here: {} are", targets.map(|target| target.triple).join(" and "))
        })?;
        target.prepare()?;
        Ok(target)
    }

    fn prepare(&self) -> Result<()> {
        for program in [self.linker, self.emulator[0]] {
            let found = self.environment(&mut Command::new(program))?.arg("--version").output();
            ensure!(
                found.is_ok_and(|found| found.status.success()),
                "{program} is missing. Debian: apt-get install {}",
                self.packages
            );
        }
        run(Command::new("rustup").args(["target", "add", self.triple]))?;
        if self.emulator == WINDOWS.emulator {
            self.complete_wine()?;
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.prepare()?;
        // switches for the features of this machine's processor, and its log of tests, are not for the other one
        let mut tests = self.cargo("test")?;
        tests.args(self.tested.iter().flat_map(|name| ["--package", name]));
        run(tests.env_remove("GEMMA_CONVERT_AVX512").env_remove(testkit::VARIABLE))?;
        println!("{}: the tests of {} pass", self.name, self.tested.join(", "));

        let mut native = crate::cargo();
        native.args(["build", "--release"]);
        let (ours, theirs) = (built(native)?, built(self.cargo("build")?)?);
        let scratch = tempfile::tempdir()?;
        let folders = [scratch.path().join("here"), scratch.path().join("there")];
        folders.iter().try_for_each(fs::create_dir)?;
        let here = Made::by(|| Ok(Command::new(&ours)), &folders[0])?;
        here.check(&Made::by(|| self.emulated(&theirs), &folders[1])?)
    }

    /// Makes the library with the random numbers of Rust's standard library, which Debian's wine lacks.
    fn complete_wine(&self) -> Result<()> {
        const SOURCE: &str = "#include <windows.h>\n\
            BOOLEAN WINAPI SystemFunction036(PVOID bytes, ULONG count);\n\
            BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T count) { return SystemFunction036(bytes, count); }\n";
        run(self.environment(Command::new("wineboot").arg("--init"))?)?;
        let library = wine()?.join("drive_c/windows/system32/bcryptprimitives.dll");
        if !library.exists() {
            let folder = tempfile::tempdir()?;
            let source = folder.path().join("random.c");
            fs::write(&source, SOURCE)?;
            let mut compiler = Command::new(self.linker);
            run(compiler.arg("-shared").arg(source).arg("-ladvapi32").arg("-o").arg(library))?;
        }
        Ok(())
    }

    /// A command that runs a program of the target.
    pub(super) fn emulated(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(self.emulator[0]);
        self.environment(command.args(&self.emulator[1..]).arg(program))?;
        Ok(command)
    }

    /// A command of cargo for the target. Without debug information it takes less time.
    pub(super) fn cargo(&self, command: &str) -> Result<Command> {
        let mut cargo = crate::cargo();
        cargo.args([command, "--target", self.triple]);
        cargo.args(["--config", "profile.dev.debug=false"]);
        let variable =
            |name: &str| format!("CARGO_TARGET_{}_{name}", self.triple.to_uppercase().replace('-', "_"));
        cargo.env(variable("LINKER"), self.linker).env(variable("RUNNER"), self.emulator.join(" "));
        self.environment(&mut cargo)?;
        Ok(cargo)
    }

    /// Variables of the emulator: wine has a folder with the files of a Windows, and messages of its own.
    pub(super) fn environment<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        command.env("WINEPREFIX", wine()?);
        Ok(command.env("WINEDEBUG", "-all").env("WINEDLLOVERRIDES", "mscoree,mshtml="))
    }
}

/// The folder with the files of wine's Windows.
fn wine() -> Result<PathBuf> {
    Ok(xtask::cache_dir()?.join("wine"))
}

/// Builds the program and says where it is.
fn built(mut cargo: Command) -> Result<PathBuf> {
    cargo.args(["--package", "gemma-convert", "--message-format=json-render-diagnostics"]);
    cargo.stderr(Stdio::inherit());
    let messages = String::from_utf8(output(&mut cargo)?)?;
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = artifacts.filter_map(|artifact| Some(artifact["executable"].as_str()?.into())).next_back();
    program.context("cargo names no program")
}
