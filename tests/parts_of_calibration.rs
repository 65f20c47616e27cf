//! A calibrated conversion in parts: the recipe says in how many groups the layers are quantized, and `join` makes the bytes of the
//! single run of that recipe from any number of parts, or says what is wrong and leaves the parts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::calibration::link_all;
use crate::parts_of_text::MakePart;
use crate::support::held::{go_on, held};
use crate::support::{Folder, Run, command, convert_args, fixture, json, run, sha256, text};

const FILE: &str = "model-calibrated-q4_0.gguf";

/// Arguments of a calibrated conversion on the fewest tokens that there may be.
fn job(model: &Path, out: &Path, groups: usize, more: &[&str]) -> Vec<String> {
    let (calib, groups) = (text("calib.txt"), format!("calibration.groups={groups}"));
    let text = ["--recipe", "q4_0-calibrated", "--text", calib.to_str().unwrap(), "--chunks", "9"];
    let set = ["--set", "calibration.context=256", "--set", &groups];
    convert_args(model, out, &[&text[..], &set, more].concat())
}

fn part(model: &Path, out: &Path, groups: usize, part: &str) -> Run {
    run(job(model, out, groups, &["--part", part]))
}

fn join(out: &Path) -> Run {
    run(["join", out.to_str().unwrap()])
}

/// The entry of the manifest without what parts may differ in: the hosts, and how inputs were hashed.
fn comparable(folder: &Path) -> Value {
    let mut entry = json(&folder.join("manifest.json"))["artifacts"][0].take();
    for key in ["parts", "inputs"] {
        entry.as_object_mut().unwrap().remove(key);
    }
    entry
}

#[test]
fn any_number_of_parts_has_the_bytes_of_the_single_calibration() {
    // parts without a group, groups that share a part, and as many of both
    let cases: [(&str, usize, &[usize]); 4] =
        [("e2b", 1, &[2]), ("e2b", 2, &[1, 2, 3]), ("e2b", 4, &[3, 4]), ("26b-a4b", 3, &[2])];
    let mut all = Vec::new();
    for (model, groups, counts) in cases {
        let (from, home) = (fixture(model), tempfile::tempdir().unwrap());
        let single = home.path().join("single");
        run(job(&from, &single, groups, &[])).good();
        all.push(sha256(&single.join(FILE)));
        for count in counts {
            let out = home.path().join(format!("in-{count}"));
            for number in (1..=*count).rev() {
                part(&from, &out, groups, &format!("{number}/{count}")).good();
                assert!(!out.join(FILE).exists(), "no part is a file");
            }
            join(&out).good();
            assert_eq!(
                sha256(&out.join(FILE)),
                sha256(&single.join(FILE)),
                "{groups} groups in {count} parts"
            );
            assert_eq!(comparable(&out), comparable(&single));
            assert_eq!(fs::read_dir(&out).unwrap().count(), 2, "the parts are gone");
        }
        if groups == 4 {
            let file = single.join(FILE);
            run(["verify".as_ref(), file.as_os_str(), "--against".as_ref(), from.as_os_str()]).good();
        }
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), cases.len(), "the groups of the recipe decide");
}

/// The folder `parts-ID` in a target folder.
fn parts_folder(out: &Path) -> Option<PathBuf> {
    let mut found = fs::read_dir(out).ok()?.map(|entry| entry.unwrap().path());
    found.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("parts-"))
}

#[test]
fn a_killed_part_goes_on_where_it_was_and_cannot_run_twice_at_once() {
    let (from, home) = (fixture("e2b"), tempfile::tempdir().unwrap());
    let (single, out) = (home.path().join("single"), home.path().join("out"));
    run(job(&from, &single, 2, &[])).good();
    let start = || {
        let mut command = command(job(&from, &out, 2, &["--part", "2/2"]));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let afresh = || {
        let _ = fs::remove_dir_all(&out);
        start()
    };
    let kept = || parts_folder(&out).map(|parts| parts.join("part-2-of-2.calibration"));
    let has = |layer: &str| kept().is_some_and(|kept| kept.join(layer).exists());
    let mut child = held(afresh, || has("blk.6.gguf"));
    assert!(part(&from, &out, 2, "2/2").refusal(3).contains("another run"));
    child.kill().unwrap();
    child.wait().unwrap();
    let (kept, saved) = (kept().unwrap(), home.path().join("saved"));
    let made = || fs::metadata(kept.join("blk.6.gguf")).unwrap().modified().unwrap();
    let before = made();
    link_all(&kept, &saved);
    let from_there = || {
        let _ = fs::remove_dir_all(&out);
        link_all(&saved, &kept);
        start()
    };
    let mut again = held(from_there, || has("blk.7.gguf"));
    assert_eq!(made(), before, "a layer that is made again would be newer");
    go_on(&again);
    assert!(again.wait().unwrap().success());
    assert!(!kept.exists(), "what was kept for later is of no use any more");
    assert!(join(&out).refusal(3).contains("1/2"));
    part(&from, &out, 2, "1/2").good();
    let (parts, finished) = (parts_folder(&out).unwrap(), home.path().join("finished"));
    link_all(&parts, &finished);
    join(&out).good();
    assert_eq!(sha256(&out.join(FILE)), sha256(&single.join(FILE)));
    // as a join leaves the parts that is killed before it renames the file: with the digests of the tensors in its header
    fs::remove_file(out.join(FILE)).unwrap();
    link_all(&finished, &parts);
    join(&out).good();
    assert_eq!(sha256(&out.join(FILE)), sha256(&single.join(FILE)));
}

#[test]
fn parts_of_another_calibration_are_refused_by_what_differs() {
    let (from, home) = (fixture("31b"), tempfile::tempdir().unwrap());
    let others: [(&str, MakePart<'_>); 3] = [
        ("text", &|out| {
            let args = job(&from, out, 2, &["--part", "2/2"]);
            run(args.iter().map(|arg| if arg == "9" { "10" } else { arg.as_str() })).good();
        }),
        ("plan", &|out| drop(part(&from, out, 3, "2/2").good())),
        ("kernel", &|out| {
            part(&from, out, 2, "2/2").good();
            let record = parts_folder(out).unwrap().join("part-2-of-2.json");
            let text = fs::read_to_string(&record).unwrap();
            let at = text.find("\"kernel\": \"").unwrap() + 11;
            fs::write(record, format!("{}another {}", &text[..at], &text[at..])).unwrap();
        }),
    ];
    for (number, (differs, second)) in others.into_iter().enumerate() {
        let out = home.path().join(number.to_string());
        part(&from, &out, 2, "1/2").good();
        second(&out);
        let refused = join(&out);
        let said = refused.refusal(3);
        assert!(said.contains(&format!("different jobs; these differ: {differs} (")), "{said}");
        assert!(!out.join(FILE).exists());
    }
}

#[test]
fn groups_that_the_layers_do_not_make_are_refused() {
    let folder = Folder::of("31b");
    for groups in [0, 7] {
        let refused = run(job(&folder.path(), &folder.out(), groups, &[]));
        assert!(refused.refusal(2).contains("1 to 6"), "{}", refused.stderr);
    }
    let calib = text("calib.txt");
    let args = ["--type", "q4_0", "--set", "calibration.method=ldlq", "--text", calib.to_str().unwrap()];
    let two = [&args[..], &["--type", "q4_k_m", "--part", "1/2"]].concat();
    let refused = run(convert_args(&folder.path(), &folder.out(), &two));
    assert!(refused.refusal(2).contains("several recipes are calibrated"), "{}", refused.stderr);
}
