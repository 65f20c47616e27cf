//! Importance matrices and sensitivities in parts: `join` makes the bytes of the single run from any number of parts, or says what is
//! wrong and leaves the parts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{Folder, Run, command, convert, fixture, run, sha256, text};

/// Arguments of a job. 24 chunks are six batches; sensitivities want 256 tokens.
fn job(name: &str, model: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let calib = text("calib.txt");
    let (model, calib, out) = (model.to_str().unwrap(), calib.to_str().unwrap(), out.to_str().unwrap());
    let chunks = if name == "sensitivity" { "1" } else { "24" };
    let args = [name, model, "--text", calib, "-c", "256", "--chunks", chunks, "-o", out];
    args.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
}

fn part(name: &str, model: &Path, out: &Path, part: &str) -> Run {
    run(job(name, model, out, &["--part", part]))
}

fn join(targets: &[&Path], more: &[&str]) -> Run {
    let targets = targets.iter().map(|target| target.to_str().unwrap());
    run(["join"].into_iter().chain(targets).chain(more.iter().copied()))
}

/// The folder `parts-ID` in a folder.
fn parts_folder(folder: &Path) -> PathBuf {
    let mut found = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.is_dir()).unwrap()
}

#[test]
fn any_number_of_parts_has_the_bytes_of_the_single_importance_matrix() {
    for model in ["e2b", "26b-a4b", "31b"] {
        let (from, home) = (fixture(model), tempfile::tempdir().unwrap());
        let single = home.path().join("single.gguf");
        run(job("calibrate", &from, &single, &[])).good();
        // 8: more than there are batches
        for count in [1, 2, 5, 8] {
            let out = home.path().join(format!("in-{count}")).join("imatrix.gguf");
            for number in (1..=count).rev() {
                // the memory does not matter either
                let memory = if number % 2 == 0 { "2GiB" } else { "64KiB" };
                let which = format!("{number}/{count}");
                let made = run(job("calibrate", &from, &out, &["--part", &which, "--text-memory", memory]));
                assert!(made.good().stdout.contains("join"));
                assert!(!out.exists(), "no part is a file");
            }
            let joined = join(&[&out], &[]).good();
            assert!(joined.stdout.contains(&format!("{count} parts joined")), "{}", joined.stdout);
            assert_eq!(sha256(&out), sha256(&single), "{model} in {count} parts");
            let left = fs::read_dir(out.parent().unwrap()).unwrap().count();
            assert_eq!(left, 1, "the parts are gone");
        }
    }
}

/// Where AMX is the default, f32 gives other sums.
#[test]
fn parts_take_a_kernel_that_all_machines_have() {
    let (from, home) = (fixture("e2b"), tempfile::tempdir().unwrap());
    let [single, default, out] =
        ["single.gguf", "default.gguf", "out/imatrix.gguf"].map(|name| home.path().join(name));
    run(job("calibrate", &from, &single, &["--kernel", "f32"])).good();
    run(job("calibrate", &from, &default, &[])).good();
    for number in ["1/2", "2/2"] {
        run(job("calibrate", &from, &out, &["--kernel", "F32", "--part", number])).good();
    }
    join(&[&out], &[]).good();
    assert_eq!(sha256(&out), sha256(&single));
    let is_default = runtime::Kernel::detect() == runtime::Kernel::F32;
    assert_eq!(sha256(&default) == sha256(&single), is_default);
}

#[test]
fn any_number_of_parts_has_the_bytes_of_the_single_sensitivities() {
    for model in ["e2b", "26b-a4b"] {
        let (from, home) = (fixture(model), tempfile::tempdir().unwrap());
        let single = home.path().join("single.json");
        run(job("sensitivity", &from, &single, &[])).good();
        for count in [1, 3] {
            let out = home.path().join(format!("in-{count}")).join("sensitivity.json");
            for number in 1..=count {
                part("sensitivity", &from, &out, &format!("{number}/{count}")).good();
            }
            join(&[&out], &[]).good();
            assert_eq!(fs::read_to_string(&out).unwrap(), fs::read_to_string(&single).unwrap(), "{model}");
        }
    }
}

#[test]
fn parts_of_a_gguf_on_machines_of_their_own_are_joined() {
    let home = tempfile::tempdir().unwrap();
    let (from, single) = (home.path().join("model.gguf"), home.path().join("single.gguf"));
    convert(&fixture("e2b"), &from, &["--type", "q8_0"]).good();
    run(job("calibrate", &from, &single, &[])).good();
    let machines = ["a", "b", "c"].map(|name| home.path().join(name));
    for (number, machine) in (1..).zip(&machines) {
        part("calibrate", &from, &machine.join("imatrix.gguf"), &format!("{number}/3")).good();
    }
    let [a, b, c] = [0, 1, 2].map(|number| machines[number].as_path());
    join(&[b, c, a], &["-o", home.path().join("out").to_str().unwrap()]).good();
    assert_eq!(sha256(&home.path().join("out/imatrix.gguf")), sha256(&single));
    assert!([a, b, c].iter().all(|machine| parts_folder(machine).is_dir()), "they stay");
}

/// Makes a part with this output.
pub(crate) type MakePart<'a> = &'a dyn Fn(&Path);

#[test]
fn parts_of_another_job_are_refused_by_what_differs() {
    let (from, home) = (fixture("e2b"), tempfile::tempdir().unwrap());
    let other = Folder::of("e2b");
    other.reweigh(|weights| weights.get("layers.0.mlp.up_proj.weight").poke(0, 0.5));
    let others: [(&str, MakePart<'_>); 4] = [
        ("checkpoint", &|out| drop(part("calibrate", &other.path(), out, "2/2").good())),
        ("text", &|out| {
            let args = job("calibrate", &from, out, &["--part", "2/2"]);
            run(args.iter().map(|arg| if arg == "24" { "20" } else { arg.as_str() })).good();
        }),
        ("kernel", &|out| {
            part("calibrate", &from, out, "2/2").good();
            let record = parts_folder(out.parent().unwrap()).join("part-2-of-2.json");
            let text = fs::read_to_string(&record).unwrap();
            let at = text.find("\"kernel\": \"").unwrap() + 11;
            fs::write(record, format!("{}another {}", &text[..at], &text[at..])).unwrap();
        }),
        ("kind of job", &|out| drop(part("sensitivity", &from, out, "2/2").good())),
    ];
    for (number, (differs, second)) in others.into_iter().enumerate() {
        let folder = home.path().join(number.to_string());
        let out = folder.join("imatrix.gguf");
        part("calibrate", &from, &out, "1/2").good();
        second(&out);
        let refused = join(&[&folder], &[]);
        let said = refused.refusal(3);
        assert!(said.contains(&format!("different jobs; these differ: {differs} (")), "{said}");
        assert!(!out.exists());
    }
}

#[test]
fn what_is_missing_damaged_or_in_the_way_is_named() {
    let (from, home) = (fixture("e2b"), tempfile::tempdir().unwrap());
    let out = home.path().join("imatrix.gguf");
    part("calibrate", &from, &out, "2/3").good();
    assert!(join(&[&out], &[]).refusal(3).contains("parts 1/3, 3/3 are missing"));
    for number in [1, 3] {
        part("calibrate", &from, &out, &format!("{number}/3")).good();
    }
    let sums = parts_folder(home.path()).join("part-2-of-3.sums");
    let mut bytes = fs::read(&sums).unwrap();
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    fs::write(&sums, &bytes).unwrap();
    assert!(join(&[&out], &[]).refusal(3).contains("part-2-of-3.sums"));
    assert!(!out.exists());
    part("calibrate", &from, &out, "2/3").good();
    fs::write(&out, "something else").unwrap();
    assert!(join(&[&out], &[]).refusal(3).contains("exists already"));
    assert!(part("calibrate", &from, &out, "2/3").refusal(3).contains("exists already"));
    join(&[&out], &["--force"]).good();

    let merge = job("calibrate", &from, &home.path().join("new.gguf"), &["--part", "1/2", "--merge"]);
    let out = out.to_str().unwrap().to_owned();
    assert!(run(merge.into_iter().chain([out])).refusal(2).contains("--part"));
}

#[test]
fn the_same_part_may_run_twice_at_once_and_be_killed() {
    let (from, home) = (fixture("e2b"), tempfile::tempdir().unwrap());
    for (name, file) in [("calibrate", "imatrix.gguf"), ("sensitivity", "sensitivity.json")] {
        let (single, out) = (home.path().join(format!("single-{file}")), home.path().join(name).join(file));
        run(job(name, &from, &single, &[])).good();
        let start = |number: u32| {
            let args = job(name, &from, &out, &["--part", &format!("{number}/2")]);
            command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut killed = start(1);
        killed.kill().unwrap();
        killed.wait().unwrap();
        for child in [start(2), start(1), start(2), start(1)] {
            Run::of(child.wait_with_output().unwrap()).good();
        }
        join(&[&out], &[]).good();
        assert_eq!(sha256(&out), sha256(&single), "{name}");
    }
}
