//! What was made works: unpacked and installed as users do, each program converts the tiny checkpoint to the bytes that
//! README.md promises.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::hub::{FakeHub, FakeRepo};
use xtask::oracle::clients;

use super::archive::Entry;
use super::build::{self, Build};
use super::{Made, action, licences, wheel};
use crate::cmd::tools::{output, run as run_command};

/// Checks archive, wheel and, for this machine, the action that installs the archive. `content` is what the archive has to
/// hold.
pub(super) fn run(build: &Build, made: &Made, content: &[Entry]) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let folder = unpack(made, scratch.path())?;
    compare(&folder, content)?;
    let listing = fs::read_to_string(folder.join(licences::CRATES))?;
    ensure!(listing.lines().any(|line| line.starts_with("rayon ")), "{} is incomplete", licences::CRATES);
    let digest = promised()?;
    converts(build, &folder.join(made.release.program()), &digest, scratch.path())?;
    println!("archive: unpacked; it converts to the digest of README.md");
    if let Some(wheel) = &made.wheel {
        check_wheel(build, made, wheel, &digest, scratch.path())?;
    }
    if build.cross.is_some() {
        return Ok(());
    }
    action::check(made, scratch.path())?;
    println!("action: installs the archive, converts and verifies");
    Ok(())
}

/// Compares the checksum and unpacks, both with the programs of users.
fn unpack(made: &Made, scratch: &Path) -> Result<PathBuf> {
    let dist = made.archive.parent().context("an archive without a folder")?;
    let name = made.release.archive();
    let line = fs::read_to_string(dist.join(format!("{name}.sha256")))?;
    let (_, digest) = base::sha256(fs::File::open(&made.archive)?, &|_| ())?;
    ensure!(line == format!("{digest}  {name}\n"), "the checksum is of another archive");
    let mut unpacker = if name.ends_with(".zip") {
        let mut python = Command::new("python3");
        python.args(["-m", "zipfile", "-e"]).arg(&made.archive).arg(scratch);
        python
    } else {
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&made.archive);
        tar
    };
    run_command(unpacker.current_dir(scratch))?;
    Ok(scratch.join(made.release.name()))
}

/// The folder holds these files, whole, and no others.
fn compare(folder: &Path, content: &[Entry]) -> Result<()> {
    for Entry { path, bytes, .. } in content {
        let found = fs::read(folder.join(path)).with_context(|| format!("the archive holds no {path}"))?;
        ensure!(found == *bytes, "{path} differs");
        ensure!(!found.is_empty(), "{path} is empty");
    }
    let man = fs::read_to_string(folder.join("man/gemma-convert.1"))?;
    ensure!(man.contains(".TH gemma-convert"), "man/gemma-convert.1 is no manual page");
    let completions = fs::read_dir(folder.join("completions"))?.count();
    ensure!(completions == 5, "completions of {completions} shells");
    Ok(())
}

/// The digest of the Q4_0 file in the first example of README.md.
fn promised() -> Result<String> {
    let readme = fs::read_to_string(crate::root().join("README.md"))?;
    let line = readme.lines().find(|line| line.starts_with("out/model-q4_0.gguf "));
    let digest = line.and_then(|line| line.split_whitespace().last()).context("README.md has no digest")?;
    Ok(digest.to_owned())
}

/// The program converts the tiny checkpoint, away from the repository and with an empty environment.
fn converts(build: &Build, program: &Path, digest: &str, scratch: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(scratch)?;
    let mut program = build.command(program)?;
    program.env_clear().env("HOME", folder.path()).current_dir(folder.path());
    if let Some(target) = build.cross {
        target.environment(&mut program)?;
    }
    program.arg("convert").arg(crate::root().join("fixtures/checkpoints/e2b"));
    program.args(["--recipe", "q4_0", "-o", "out", "--quiet"]);
    output(&mut program)?;
    let made = folder.path().join("out/model-q4_0.gguf");
    let (_, found) = base::sha256(fs::File::open(&made).context("no output")?, &|_| ())?;
    ensure!(found == digest, "{program:?} made {found}, README.md promises {digest}");
    Ok(())
}

/// The program makes the official set of the tiny model from a hub: an empty cache, and nothing but a home folder.
fn releases(mut program: Command, scratch: &Path) -> Result<()> {
    const ID: &str = "google/gemma-4-E2B-it";
    let repo = |id: String, name| {
        FakeRepo::new(&id).commit_folder(&crate::root().join("fixtures/checkpoints").join(name))
    };
    let hub = FakeHub::start([repo(ID.into(), "e2b"), repo(format!("{ID}-assistant"), "e2b-assistant")]);
    let folder = tempfile::tempdir_in(scratch)?;
    program.env_clear().env("HOME", folder.path()).env("HF_ENDPOINT", hub.endpoint());
    program.args([
        "release",
        ID,
        "-o",
        "out",
        "--recipe",
        "ggml-org",
        "-c",
        "128",
        "--eval-chunks",
        "2",
        "-q",
    ]);
    output(program.current_dir(folder.path()))?;
    let mut sums = Command::new("sha256sum");
    let listed = output(sums.args(["--check", "SHA256SUMS"]).current_dir(folder.path().join("out")))?;
    for name in ["gemma-4-E2B-it-Q4_0", "mmproj-gemma-4-E2B-it-Q8_0", "mtp-gemma-4-E2B-it-Q8_0"] {
        let line = format!("{name}.gguf: OK");
        ensure!(String::from_utf8_lossy(&listed).contains(&line), "SHA256SUMS does not list {name}.gguf");
    }
    Ok(())
}

/// Installs the wheel with pip in a fresh environment, and runs it out of the wheel with uv; both without a network.
fn check_wheel(build: &Build, made: &Made, wheel: &Path, digest: &str, scratch: &Path) -> Result<()> {
    if let (Some(needed), Some(tagged)) = (made.glibc, wheel::tagged_glibc(wheel)) {
        ensure!(needed <= tagged, "the wheel is tagged for glibc {tagged}, the program needs {needed}");
    }
    let unzipped = scratch.join("wheel");
    output(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(&unzipped))?;
    let mut folders = vec![unzipped];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                build::check_paths(&path.display(), &fs::read(&path)?)?;
            }
        }
    }

    let venv = scratch.join("venv");
    output(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let pip = || Command::new(venv.join("bin/pip"));
    output(pip().args(["install", "--quiet", "--no-index", "--no-deps"]).arg(wheel))?;
    converts(build, &venv.join("bin/gemma-convert"), digest, scratch)?;
    releases(Command::new(venv.join("bin/gemma-convert")), scratch)?;
    for place in ["share/man/man1/gemma-convert.1", "share/bash-completion/completions/gemma-convert"] {
        ensure!(venv.join(place).is_file(), "the wheel installs no {place}");
    }
    let shown = String::from_utf8(output(pip().args(["show", "--files", "gemma-convert"]))?)?;
    for file in ["LICENSE", licences::CRATES] {
        ensure!(shown.contains(&format!("licenses/{file}")), "the wheel installs no {file}:\n{shown}");
    }
    println!("wheel: pip installs it; it converts to the digest of README.md and makes a release");

    let mut uvx = clients::PACKAGERS.install()?.python("uv");
    uvx.args(["tool", "run", "--offline", "--no-config", "--cache-dir"]).arg(scratch.join("uv"));
    uvx.arg("--from").arg(wheel).args(["gemma-convert", "--version"]).current_dir(scratch);
    let version = String::from_utf8(output(uvx.env("HOME", scratch))?)?;
    ensure!(version.contains(&made.release.version), "uvx runs {version}");
    println!("wheel: uvx runs it");
    Ok(())
}
