//! What the program does on both machines: commands in a folder of their own, and a comparison of the files that are then there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cmd::tools::output;

/// Each kind of codec and of output; files that are replaced, folders with other letters, parts, links into a store.
const COMMANDS: &[&[&str]] = &[
    &["convert", "e2b", "--type=q4_0,q8_0,q4_k_m,q6_k,iq4_xs,mxfp4_moe,f16", "--mmproj=q8_0", "-o", "out"],
    &["convert", "e2b", "--type=q4_0", "-o", "out", "--force"],
    &["convert", "e2b", "--recipe=sfp8", "-o", "a folder/où"],
    &["convert", "e2b", "--type=q4_0", "--split-max-size=1MB", "-o", "split"],
    &["convert", "e2b", "--type=q4_0", "--split-max-size=1MB", "-o", "split", "--force"],
    &["convert", "e2b", "--type=q6_k", "--part=1/2", "-o", "parts"],
    &["convert", "e2b", "--type=q6_k", "--part=2/2", "-o", "parts"],
    &["join", "parts"],
    &["edit", "out/model-q8_0.gguf", "--set=general.name=One", "-o", "out/edited.gguf"],
    &["edit", "out/model-q8_0.gguf", "--set=general.name=Two", "-o", "out/edited.gguf", "--force"],
    &["draft", "extract", "e2b", "--layers=0,3", "-o", "extract"],
    &["pack", "ollama", "out/model-q4_0.gguf", "--name=tiny", "--store=store"],
    &["verify", "out/model-q4_0.gguf", "--against=e2b", "--report-json=report.json", "--html=report.html"],
    &[
        "calibrate",
        "e2b",
        "--text=text/eval.txt",
        "--ctx-size=64",
        "--chunks=4",
        KERNEL,
        "-o",
        "imatrix.gguf",
    ],
    &["convert", "e2b", "--type=iq4_xs", "--importance=imatrix.gguf", "-o", "weighted"],
    &["release", "e2b", "--recipe=ggml-org", "--ctx-size=128", "--eval-chunks=2", KERNEL, "-o", "release"],
];

/// The kernel that every machine has.
const KERNEL: &str = "--kernel=f32";

/// Greedy text of a file and of the checkpoint.
const SPEAKS: [&str; 2] = ["out/model-q4_0.gguf", "e2b"];

/// What is read: folders of `fixtures/`, copied.
const INPUTS: [&str; 3] = ["checkpoints/e2b", "checkpoints/e2b-assistant", "text"];

/// Files with times and hosts.
const REPORTS: [&str; 2] = ["report.json", "report.html"];

/// What a program has made: by name the digest of a file, by model the text.
pub(super) struct Made {
    files: BTreeMap<String, String>,
    texts: Vec<String>,
}

impl Made {
    /// Runs the commands with the program that `program` begins a command with, in the empty folder `folder`.
    pub(super) fn by(program: impl Fn() -> Result<Command>, folder: &Path) -> Result<Made> {
        for input in INPUTS.map(Path::new) {
            copy(&crate::root().join("fixtures").join(input), &folder.join(base::file_name(input)))?;
        }
        let said = |arguments: &[&str]| {
            let mut command = program()?;
            output(command.args(arguments).arg("--quiet").current_dir(folder))
        };
        COMMANDS.iter().try_for_each(|arguments| said(arguments).map(drop))?;
        let text = |model: &&str| {
            let answer =
                said(&["generate", model, "--prompt=In 1912 the", "--max-tokens=16", "--json", KERNEL])?;
            let document: Value = serde_json::from_slice(&answer)?;
            Ok(document["text"].as_str().context("no text")?.to_owned())
        };
        let texts = SPEAKS.iter().map(text).collect::<Result<_>>()?;
        let mut files = BTreeMap::new();
        list(folder, "", &mut files)?;
        Ok(Made { files, texts })
    }

    /// Refuses anything that is not what another machine has made.
    pub(super) fn check(&self, there: &Made) -> Result<()> {
        let names = |made: &Made| made.files.keys().cloned().collect::<Vec<_>>();
        ensure!(names(self) == names(there), "files are {:?} there, {:?} here", names(there), names(self));
        for (name, digest) in &self.files {
            let other = &there.files[name];
            ensure!(digest == other, "{name} has the SHA-256 {other} there, {digest} here");
        }
        ensure!(self.texts == there.texts, "text is {:?} there, {:?} here", there.texts, self.texts);
        println!("{} files have the same SHA-256, and `generate` says the same", self.files.len());
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

/// The files below a folder that are to be the same, and their SHA-256.
fn list(folder: &Path, within: &str, files: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let (path, long) = (entry.path(), format!("{within}{name}"));
        if REPORTS.contains(&name.as_str()) || INPUTS.iter().any(|input| input.ends_with(&long)) {
            continue;
        }
        match name.as_str() {
            _ if path.is_dir() => list(&path, &format!("{long}/"), files)?,
            "manifest.json" => _ = files.insert(long, without_hosts(&fs::read(&path)?)?),
            _ => _ = files.insert(long, base::sha256_file(&path, &|_| ())?.1),
        }
    }
    Ok(())
}

/// The digest of a manifest without the machines that made parts.
fn without_hosts(manifest: &[u8]) -> Result<String> {
    let mut manifest: Value = serde_json::from_slice(manifest)?;
    let entries = manifest["artifacts"].as_array_mut().context("a manifest without artifacts")?;
    entries.iter_mut().filter_map(Value::as_object_mut).for_each(|entry| _ = entry.remove("parts"));
    Ok(base::hex(&base::Sha256::of(manifest.to_string().as_bytes())))
}
