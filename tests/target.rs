//! The place to write to: full, not writable, taken. Exit 3, and what was there before is as it was.
//! What is wrong with a checkpoint belongs in `bad_input.rs`, what an interrupted run leaves in `crash.rs`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Folder, Run, command, convert, convert_args, fixture, names, run, sha256};
use serde_json::Value;

const Q4_0: &[&str] = &["--type", "q4_0"];

/// Runs a shell script that may mount file systems, which vanish with it. `$@` is the tool with `args`, `$1` the disk.
/// `None` where the machine allows no mounts to anybody.
fn with_mounts(script: &str, disk: &Path, args: &[String]) -> Option<Run> {
    let tool = command(args);
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let way = ways.into_iter().find(|way| {
        let mut probe = Command::new("unshare");
        probe.args(*way).args(["sh", "-c", "mount -t tmpfs none \"$0\" 2>/dev/null"]).arg(disk);
        probe.status().is_ok_and(|status| status.success())
    });
    let Some(way) = way else {
        testkit::Need::Mounts.missing("nothing can be mounted here: full disks are not tested");
        return None;
    };
    let mut shell = Command::new("unshare");
    shell.args(way).args(["sh", "-c", script]).arg(disk).arg(tool.get_program()).args(tool.get_args());
    Some(Run::of(shell.output().unwrap()))
}

/// An output folder on a file system of its own.
fn disk(folder: &Folder) -> (std::path::PathBuf, std::path::PathBuf) {
    let disk = folder.home().join("disk");
    fs::create_dir(&disk).unwrap();
    let out = disk.join("out");
    (disk, out)
}

#[test]
fn a_disk_too_small() {
    let folder = Folder::of("31b");
    let (disk, out) = disk(&folder);
    let script =
        "mount -t tmpfs -o size=1m none \"$0\" || exit 99; \"$@\"; code=$?; ls -A \"$0/out\"; exit $code";
    let Some(run) = with_mounts(script, &disk, &convert_args(&folder.path(), &out, Q4_0)) else { return };
    let message = run.refusal(3);
    assert!(message.contains("too full (expected ") && message.contains(out.to_str().unwrap()), "{message}");
    assert_eq!(run.stdout, "", "left behind");
}

/// The output fits, its manifest does not: then there is neither.
#[test]
fn a_disk_without_room_for_the_manifest() {
    let folder = Folder::of("31b");
    let (disk, out) = disk(&folder);
    let model = folder.path();
    let plan = run(["--json", "plan", model.to_str().unwrap(), "--type", "q4_0"]).good().json();
    let size = plan["artifacts"][0]["files"][0]["bytes"].as_u64().unwrap().next_multiple_of(4096);
    let script = format!(
        "mount -t tmpfs -o size={size} none \"$0\" || exit 99; \"$@\"; code=$?; ls -A \"$0/out\"; exit $code"
    );
    let Some(run) = with_mounts(&script, &disk, &convert_args(&model, &out, Q4_0)) else { return };
    let message = run.refusal(3);
    assert!(message.contains("out/manifest.json: No space left"), "{message}");
    assert_eq!(run.stdout, "", "left behind");
}

/// There was room when the run began; then somebody else took it.
#[test]
fn a_disk_that_becomes_full() {
    let folder = Folder::of("e2b");
    let (disk, out) = disk(&folder);
    let script = "mount -t tmpfs -o size=40m none \"$0\" || exit 99
        (until [ -e \"$0/out/model-q6_k.gguf.partial\" ]; do :; done; cat /dev/zero > \"$0/filler\" 2>/dev/null) &
        \"$@\"; code=$?; kill $! 2>/dev/null; ls -A \"$0/out\"; exit $code";
    let types = ["q4_k_m", "q2_k", "q3_k_m", "iq4_xs", "q5_k_m", "q6_k"].map(|t| ["--type", t]).concat();
    let slow = ["--threads", "1", "--simd", "scalar", "--quiet"];
    let args = convert_args(&folder.path(), &out, &[types, slow.to_vec()].concat());
    let Some(run) = with_mounts(script, &disk, &args) else { return };
    let message = run.refusal(3);
    assert!(message.contains("found a full disk") && message.contains("out/model-"), "{message}");
    assert_eq!(run.stdout, "", "left behind");
}

#[test]
fn places_that_cannot_be_written() {
    let folder = Folder::of("31b");
    fs::write(folder.home().join("file"), "x").unwrap();
    for (out, problem) in [
        (folder.home().join("file/below"), "file/below: "),
        (folder.home().join("file"), "file: "),
        ("/proc/gemma-convert".into(), "/proc/gemma-convert: "),
    ] {
        let message = convert(&folder.path(), &out, Q4_0).refusal(3).to_owned();
        assert!(message.contains(problem), "{message}");
    }
    assert_eq!(fs::read(folder.home().join("file")).unwrap(), b"x");

    let (disk, out) = disk(&folder);
    let script =
        "mount -t tmpfs -o size=40m none \"$0\" && mkdir \"$0/out\" && mount -o remount,ro \"$0\" || exit 99
        \"$@\"; code=$?; ls -A \"$0/out\"; exit $code";
    let Some(run) = with_mounts(script, &disk, &convert_args(&folder.path(), &out, Q4_0)) else { return };
    let message = run.refusal(3);
    assert!(message.contains("Read-only file system"), "{message}");
    assert_eq!(run.stdout, "");
}

/// A name that is taken by a folder is no file to replace, and none of the other outputs is made.
#[test]
fn a_folder_of_the_output_s_name() {
    let folder = Folder::of("31b");
    let taken = folder.out().join("model-q8_0.gguf");
    fs::create_dir_all(&taken).unwrap();
    let attempt = convert(&folder.path(), &folder.out(), &["--type", "q4_0", "--type", "q8_0", "--force"]);
    let message = attempt.refusal(3);
    assert!(message.contains(taken.to_str().unwrap()) && message.contains("a folder"), "{message}");
    assert_eq!(names(&folder.out()), ["model-q8_0.gguf"]);
}

#[test]
fn outputs_that_exist() {
    let folder = Folder::of("31b");
    let (from, out) = (folder.path(), folder.out());
    let file = out.join("model-q4_0.gguf");
    convert(&from, &out, Q4_0).good();
    let good = sha256(&file);
    let manifest = fs::read(out.join("manifest.json")).unwrap();
    let written = fs::metadata(&file).unwrap().modified().unwrap();

    let refused = |more: &[&str], says: &str| {
        let attempt = convert(&from, &out, &[Q4_0, more].concat());
        let message = attempt.refusal(3);
        let says = [file.to_str().unwrap(), "exists already", "--force", says];
        assert!(says.iter().all(|part| message.contains(part)), "{message}");
        assert_eq!(fs::read(out.join("manifest.json")).unwrap(), manifest);
        assert_eq!(names(&out), ["manifest.json", "model-q4_0.gguf"]);
    };
    refused(&[], "It is complete and was made by this very plan");
    refused(&["--set", "metadata.name=Other"], "It was made by another plan");
    // of several outputs, the one that exists keeps all from being made
    refused(&["--type", "q8_0"], "It is complete and was made by this very plan");
    assert_eq!(sha256(&file), good);
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written);

    fs::write(&file, "damaged").unwrap();
    refused(&[], "its size has changed since");
    assert_eq!(fs::read(&file).unwrap(), b"damaged");
    convert(&from, &out, &[Q4_0, &["--force"]].concat()).good();
    assert_eq!(sha256(&file), good);
    assert_eq!(fs::read(out.join("manifest.json")).unwrap(), manifest, "one entry, not two");

    fs::remove_file(out.join("manifest.json")).unwrap();
    let message = convert(&from, &out, Q4_0).refusal(3).to_owned();
    assert!(message.contains("No manifest says what it is"), "{message}");
}

/// A failed run with --force does not cost the file that was to be replaced.
#[test]
fn a_failed_run_keeps_what_it_should_replace() {
    let folder = Folder::of("31b");
    convert(&folder.path(), &folder.out(), Q4_0).good();
    let file = folder.out().join("model-q4_0.gguf");
    let (good, manifest) = (sha256(&file), fs::read(folder.out().join("manifest.json")).unwrap());
    folder.reweigh(|w| w.get("layers.5.mlp.up_proj.weight").poke(3, f32::NAN));
    convert(&folder.path(), &folder.out(), &[Q4_0, &["--force"]].concat()).refusal(3);
    assert_eq!(sha256(&file), good);
    assert_eq!(fs::read(folder.out().join("manifest.json")).unwrap(), manifest);
    assert_eq!(names(&folder.out()), ["manifest.json", "model-q4_0.gguf"]);
}

/// Somebody else's manifest.json is not overwritten, not even with --force.
#[test]
fn a_manifest_of_another_tool() {
    let folder = Folder::of("31b");
    fs::create_dir(folder.out()).unwrap();
    let theirs = folder.out().join("manifest.json");
    fs::write(&theirs, "{\"name\": \"a web app\"}").unwrap();
    let attempt = convert(&folder.path(), &folder.out(), &["--type", "q4_0", "--force"]);
    let message = attempt.refusal(3);
    assert!(message.contains("manifest.json: not a manifest of gemma-convert"), "{message}");
    assert_eq!(fs::read(&theirs).unwrap(), b"{\"name\": \"a web app\"}");
    assert_eq!(names(&folder.out()), ["manifest.json"]);
    // a file that is asked for by name has a manifest of its own, and needs no other
    convert(&folder.path(), &folder.out().join("own.gguf"), Q4_0).good();
    assert_eq!(names(&folder.out()), ["manifest.json", "own.gguf", "own.gguf.manifest.json"]);
}

#[test]
fn the_document_of_a_target_s_error() {
    let folder = Folder::of("31b");
    convert(&folder.path(), &folder.out(), Q4_0).good();
    let again = [vec!["--json".to_owned()], convert_args(&folder.path(), &folder.out(), Q4_0)].concat();
    let again = run(again);
    again.refusal(3);
    let error: Value = again.json()["error"].take();
    assert_eq!(error["fault"], "target");
    assert_eq!(error["place"], folder.out().join("model-q4_0.gguf").to_str().unwrap());
    assert_eq!(error["exit_code"], 3);
}

/// A plan is made without looking at the target.
#[test]
fn a_plan_writes_nothing() {
    let folder = Folder::of("31b");
    let (model, out) = (fixture("31b"), folder.out());
    run(["plan", model.to_str().unwrap(), "--type", "q4_0", "-o", out.to_str().unwrap()]).good();
    assert!(!out.exists());
}
