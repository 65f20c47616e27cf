//! A conversion in parts: whatever the number of parts, their order, their machines and their accidents, `join` makes the bytes of the
//! single run, or says what is wrong and leaves the parts.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Folder, Run, command, convert_args, fixture, json, run, sha256};

/// What outputs can be: one file and several, with scales of rows and of tensors, copies of companion files, towers, repacked grids.
const KINDS: [(&str, &[&str]); 7] = [
    ("e2b", &["--type", "q4_0", "--type", "q6_k"]),
    ("e2b", &["--recipe", "q4_0-offload"]),
    ("e2b", &["--recipe", "fp8"]),
    ("e2b", &["--recipe", "sfp8"]),
    ("e2b", &["--type", "q8_0", "--split-max-size", "1MB", "--mmproj", "bf16"]),
    ("26b-a4b", &["--type", "q4_k_m"]),
    ("e2b", &["--recipe", "bf16-safetensors", "--max-shard-size", "3MB"]),
];

fn part(from: &Path, out: &Path, what: &[&str], part: &str) -> Run {
    run(convert_args(from, out, &[what, &["--part", part]].concat()))
}

fn join(folders: &[&Path], more: &[&str]) -> Run {
    let folders = folders.iter().map(|folder| folder.to_str().unwrap());
    run(["join"].into_iter().chain(folders).chain(more.iter().copied()))
}

/// Names and SHA-256 of all files below a folder, but for the manifest.
fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != "manifest.json" {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), sha256(&path));
            }
        }
    }
    found
}

/// The folder `parts-ID` in a target folder.
fn parts_folder(out: &Path) -> PathBuf {
    let mut found = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("parts-")).unwrap()
}

/// A manifest without what parts may differ in: the hosts, and how inputs were hashed.
fn comparable(folder: &Path) -> Value {
    let mut manifest = json(&folder.join("manifest.json"));
    for artifact in manifest["artifacts"].as_array_mut().unwrap() {
        artifact.as_object_mut().unwrap().remove("parts");
        for input in artifact["inputs"].as_array_mut().unwrap() {
            let input = input.as_object_mut().unwrap();
            input.remove("sha256");
            input.remove("ranges");
        }
    }
    manifest
}

#[test]
fn any_number_of_parts_has_the_bytes_of_the_single_run() {
    for (number, (model, what)) in KINDS.into_iter().enumerate() {
        let (from, home) = (fixture(model), tempfile::tempdir().unwrap());
        let single = home.path().join("single");
        run(convert_args(&from, &single, what)).good();
        let expected = files(&single);
        for count in [1, 2, 5].into_iter().skip(number % 2) {
            let out = home.path().join(format!("in-{count}"));
            // not in order
            for index in (1..=count).rev() {
                let made = part(&from, &out, what, &format!("{index}/{count}")).good();
                assert!(made.stdout.contains("in part") || count == 1, "{}", made.stdout);
                let finals = files(&out)
                    .into_keys()
                    .filter(|path| !path.starts_with(parts_folder(&out).file_name().unwrap()));
                assert_eq!(finals.collect::<Vec<_>>(), Vec::<PathBuf>::new(), "no part is a file");
            }
            join(&[&out], &[]).good();
            assert_eq!(files(&out), expected, "{what:?} in {count} parts");
            assert_eq!(comparable(&out), comparable(&single), "{what:?}");
            let manifest = json(&out.join("manifest.json"));
            assert_eq!(manifest["artifacts"][0]["parts"].as_array().unwrap().len(), count);
        }
    }
}

#[test]
fn machines_without_a_common_folder_are_joined() {
    let (from, home, what) = (fixture("e2b"), tempfile::tempdir().unwrap(), ["--type", "q4_0"]);
    let single = home.path().join("single");
    run(convert_args(&from, &single, &what)).good();
    let machines = ["a", "b", "c"].map(|name| home.path().join(name));
    for (number, machine) in (1..).zip(&machines) {
        part(&from, machine, &what, &format!("{number}/3")).good();
    }
    let out = home.path().join("out");
    let [a, b, c] = [0, 1, 2].map(|number| machines[number].as_path());
    join(&[b, c, a], &["-o", out.to_str().unwrap()]).good();
    assert_eq!(files(&out), files(&single));
    // the parts of other folders stay, and the first folder is the default
    join(&[a, b, &parts_folder(c)], &[]).good();
    assert_eq!(files(a), files(&single));
    assert!(parts_folder(b).is_dir() && parts_folder(c).is_dir());
    // verified like the file of a single run
    let file = a.join("model-q4_0.gguf");
    run(["verify".as_ref(), file.as_os_str(), "--against".as_ref(), from.as_os_str()]).good();
}

#[test]
fn what_is_missing_double_or_contradicting_is_named() {
    let (from, home, what) = (fixture("e2b"), tempfile::tempdir().unwrap(), ["--type", "q4_0"]);
    let out = home.path().join("out");
    assert!(join(&[home.path()], &[]).refusal(3).contains("no finished part"));
    part(&from, &out, &what, "2/3").good();
    let refused = join(&[&out], &[]);
    assert!(refused.refusal(3).contains("1/3, 3/3"), "{}", refused.stderr);
    // another number of parts of the same job does not count, nor harm
    part(&from, &out, &what, "1/2").good();
    assert!(join(&[&out], &[]).refusal(3).contains("2/2"));
    // another recipe into the same folder
    part(&from, &out, &["--type", "q8_0"], "1/3").good();
    assert!(join(&[&out], &[]).refusal(3).contains("different jobs"));
    // another checkpoint of the same shape
    let (other, elsewhere) = (Folder::of("e2b"), home.path().join("elsewhere"));
    other.reweigh(|weights| weights.get("layers.0.mlp.up_proj.weight").poke(0, 0.5));
    part(&from, &elsewhere, &what, "1/2").good();
    part(&other.path(), &elsewhere, &what, "2/2").good();
    assert!(join(&[&elsewhere], &[]).refusal(3).contains("different jobs"));
    // an output that exists
    part(&from, &elsewhere, &what, "2/2").good();
    let whole = home.path().join("whole");
    run(convert_args(&from, &whole, &what)).good();
    let job = fs::read_dir(&elsewhere).unwrap().map(|entry| entry.unwrap().path());
    let job = job.filter(|path| path.join("part-1-of-2.json").exists()).collect::<Vec<_>>();
    assert!(join(&[&job[0]], &["-o", whole.to_str().unwrap()]).refusal(3).contains("exists already"));
    join(&[&job[0]], &["-o", whole.to_str().unwrap(), "--force"]).good();
}

#[test]
fn damage_is_found_and_running_the_part_again_mends_it() {
    let (from, home, what) = (fixture("e2b"), tempfile::tempdir().unwrap(), ["--type", "q4_0"]);
    let single = home.path().join("single");
    run(convert_args(&from, &single, &what)).good();
    let damages: [&dyn Fn(&Path); 4] = [
        // a bit of the last tensor
        &|folder| {
            let file =
                OpenOptions::new().read(true).write(true).open(folder.join("model-q4_0.gguf")).unwrap();
            let at = file.metadata().unwrap().len() - 100;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        },
        // truncated in transfer
        &|folder| {
            let file = OpenOptions::new().write(true).open(folder.join("model-q4_0.gguf")).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        },
        &|folder| fs::remove_file(folder.join("model-q4_0.gguf")).unwrap(),
        &|folder| {
            let record = folder.join("part-2-of-2.json");
            let text = fs::read(&record).unwrap();
            fs::write(record, &text[..text.len() / 2]).unwrap();
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let out = home.path().join(format!("out-{number}"));
        for index in 1..=2 {
            part(&from, &out, &what, &format!("{index}/2")).good();
        }
        damage(&parts_folder(&out));
        let refused = join(&[&out], &[]);
        assert!(refused.refusal(3).contains("part"), "{}", refused.stderr);
        assert!(!out.join("model-q4_0.gguf").exists());
        for index in 1..=2 {
            part(&from, &out, &what, &format!("{index}/2")).good();
        }
        join(&[&out], &[]).good();
        assert_eq!(files(&out), files(&single));
    }
}

#[test]
fn the_same_part_may_run_twice_at_once_and_be_killed() {
    let (from, home, what) = (fixture("e2b"), tempfile::tempdir().unwrap(), ["--type", "q6_k"]);
    let (single, out) = (home.path().join("single"), home.path().join("out"));
    run(convert_args(&from, &single, &what)).good();
    let start = |number: u32| {
        let args = convert_args(&from, &out, &[&what[..], &["--part", &format!("{number}/2")]].concat());
        command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut killed = start(1);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(join(&[home.path(), &out], &[]).code != Some(0), "part 2 has never run");
    for child in [start(2), start(1), start(2), start(1)] {
        Run::of(child.wait_with_output().unwrap()).good();
    }
    join(&[&out], &[]).good();
    assert_eq!(files(&out), files(&single));
}

#[test]
fn a_part_of_a_whole_is_refused() {
    let (from, home) = (fixture("e2b"), tempfile::tempdir().unwrap());
    let out = home.path().join("out");
    let text = crate::support::text("calib.txt");
    let measured = ["--recipe", "auto", "--target-size", "4MB", "--text", text.to_str().unwrap()];
    assert!(part(&from, &out, &measured, "1/2").refusal(2).contains("budget"));
    for wrong in ["0/2", "3/2", "2", "auto"] {
        let refused = part(&from, &out, &["--type", "q4_0"], wrong);
        assert!(refused.refusal(2).contains("--part"), "{wrong}: {}", refused.stderr);
    }
    assert!(!out.exists());
}

#[test]
fn plan_shows_what_parts_read_and_write() {
    let planned = run(["plan", fixture("e2b").to_str().unwrap(), "--type", "q4_0", "--parts", "4", "--json"])
        .good()
        .json();
    let parts = planned["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 4);
    let sum = |key: &str| parts.iter().map(|part| part[key].as_u64().unwrap()).sum::<u64>();
    let inputs = planned["inputs"].as_array().unwrap().iter().map(|input| input["bytes"].as_u64().unwrap());
    assert_eq!(sum("input"), inputs.sum::<u64>());
    let tensors = planned["artifacts"][0]["files"][0]["tensors"].as_array().unwrap();
    let stored = tensors.iter().filter(|tensor| tensor["from"].get("checkpoint").is_some());
    assert_eq!(sum("output"), stored.map(|tensor| tensor["bytes"].as_u64().unwrap()).sum::<u64>());
}
