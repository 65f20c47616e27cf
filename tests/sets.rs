//! Files that go together: parts of a split, shards with their config, the outputs of several recipes. All of them are there or
//! none, whichever change of names fails; and nothing opens what a killed run has left of two conversions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{Folder, Run, command, convert, convert_args, names, run, sha256};

/// What is made first, what replaces it, and what is opened then.
struct Set {
    old: &'static [&'static str],
    new: &'static [&'static str],
    opened: &'static str,
}

const SETS: [Set; 6] = [
    Set {
        old: &["--type", "q4_0", "--split-max-size", "1MB"],
        new: &["--type", "q4_0", "--split-max-size", "1MB"],
        opened: "model-q4_0-00001-of-00004.gguf",
    },
    Set {
        old: &["--recipe", "bf16-safetensors", "--max-shard-size", "3MB"],
        new: &["--recipe", "bf16-safetensors", "--max-shard-size", "3MB"],
        opened: "",
    },
    // new weights do not go with the old config
    Set { old: &["--recipe", "bf16-safetensors"], new: &["--recipe", "fp8"], opened: "" },
    Set { old: &["--recipe", "fp8"], new: &["--recipe", "bf16-safetensors"], opened: "" },
    // several artifacts of one run: the one that is opened is whole in any case
    Set {
        old: &["--type", "q4_0", "--type", "q8_0"],
        new: &["--type", "q4_0", "--type", "q8_0"],
        opened: "model-q8_0.gguf",
    },
    // some of the outputs are there already
    Set {
        old: &["--type", "q4_0"],
        new: &["--type", "q8_0", "--type", "q4_0", "--type", "bf16"],
        opened: "model-q4_0.gguf",
    },
];

/// A library that makes changes of names fail. `None` where no C compiler is.
fn shim() -> Option<&'static Path> {
    static SHIM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        let source = testkit::root().join("tests/support/rename.c");
        let shim = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rename-{}.so", std::process::id()));
        let made = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&shim, &source]).status();
        let made = made.is_ok_and(|status| status.success());
        testkit::Need::Compiler.found(made.then_some(shim), "no C compiler: failing renames are not tested")
    };
    SHIM.get_or_init(make).as_deref()
}

/// A conversion that replaces what is there, with the shim told to do something at a change of names.
fn replace(shim: &Path, from: &Path, out: &Path, args: &[&str], told: &[(&str, String)]) -> Run {
    let mut command = command(convert_args(from, out, &[args, &["--force", "--quiet"]].concat()));
    command.env("LD_PRELOAD", shim).envs(told.iter().map(|(key, value)| (key, value)));
    Run::of(command.output().unwrap())
}

/// Every file of a folder, by its digest.
fn digests(folder: &Path) -> BTreeMap<String, String> {
    names(folder).into_iter().map(|name| (name.clone(), sha256(&folder.join(name)))).collect()
}

/// Another model of the same shapes.
fn fine_tune(folder: &Folder) {
    folder.reweigh(|weights| {
        for tensor in &mut weights.tensors {
            tensor.data.iter_mut().step_by(6).for_each(|byte| *byte ^= 8);
        }
    });
}

/// The two checkpoints.
fn models() -> (Folder, Folder) {
    let (base, tuned) = (Folder::of("31b"), Folder::of("31b"));
    fine_tune(&tuned);
    (base, tuned)
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

#[test]
fn a_failing_change_of_names_puts_everything_back() {
    let Some(shim) = shim() else { return };
    let (base, tuned) = models();
    for (number, Set { old, new, .. }) in SETS.iter().enumerate() {
        let first = base.home().join(format!("first-{number}"));
        convert(&base.path(), &first, old).good();
        let before = digests(&first);
        // file systems without hard links: one set is enough
        for without_links in [false, true].into_iter().take(1 + usize::from(number == 0)) {
            let mut failed = 0;
            for at in 1.. {
                let out = base.home().join("out");
                copy(&first, &out);
                let told =
                    [("RENAME_FAIL", at.to_string()), ("LINK_FAIL", u8::from(without_links).to_string())];
                let run = replace(shim, &tuned.path(), &out, new, &told);
                if run.code == Some(0) {
                    break;
                }
                run.refusal(3);
                assert_eq!(digests(&out), before, "{new:?}: rename {at}");
                failed += 1;
            }
            assert!(failed >= 4, "{failed} changes of names");
        }
    }
}

#[test]
fn a_run_that_is_killed_between_names_leaves_no_model_of_two_conversions() {
    let Some(shim) = shim() else { return };
    let (base, tuned) = models();
    for (number, Set { old, new, opened }) in SETS.iter().enumerate() {
        let [first, second] = ["first", "second"].map(|name| base.home().join(format!("{name}-{number}")));
        convert(&base.path(), &first, old).good();
        convert(&tuned.path(), &second, new).good();
        let (before, after) = (digests(&first), digests(&second));
        let mut killed = 0;
        for at in 1.. {
            let out = base.home().join("out");
            copy(&first, &out);
            let attempt = replace(shim, &tuned.path(), &out, new, &[("RENAME_KILL", at.to_string())]);
            if attempt.code == Some(0) {
                break;
            }
            killed += 1;
            assert_eq!(attempt.code, None);
            let opened = out.join(opened);
            let seen = run(["inspect", opened.to_str().unwrap()]);
            if seen.code == Some(0) {
                let mut there = digests(&out);
                there.retain(|name, _| !name.contains("manifest") && !name.ends_with(".partial"));
                let of = |set: &BTreeMap<String, String>| {
                    there.iter().all(|(name, digest)| set.get(name).is_none_or(|found| found == digest))
                };
                // artifacts of several recipes are models by themselves
                let alone = opened.is_file() && !opened.to_string_lossy().contains("-of-");
                assert!(alone || of(&before) || of(&after), "{new:?}: rename {at}: {there:?}");
            } else {
                seen.refusal(3);
            }
            // the next run makes everything, and takes away what was left
            convert(&tuned.path(), &out, &[*new, &["--force"]].concat()).good();
            assert_eq!(digests(&out), after, "{new:?}: rename {at}");
        }
        assert!(killed >= 4, "{killed} changes of names");
    }
}

/// Files of two conversions that somebody has put together.
#[test]
fn a_mix_is_refused() {
    let (base, tuned) = models();
    for Set { new, opened, .. } in &SETS[..2] {
        let [first, second] = ["first", "second"].map(|name| base.home().join(name));
        convert(&base.path(), &first, new).good();
        convert(&tuned.path(), &second, new).good();
        let mixable = |name: &String| name.contains("-of-");
        let parts: Vec<_> = names(&first).into_iter().filter(mixable).collect();
        assert!(parts.len() > 2, "{parts:?}");
        for part in &parts {
            let out = base.home().join("mixed");
            copy(&first, &out);
            fs::copy(second.join(part), out.join(part)).unwrap();
            for args in [&["inspect"][..], &["generate", "-n", "1", "-p", "a"]] {
                let opened = out.join(opened);
                let refused = run([args, &[opened.to_str().unwrap()]].concat());
                let message = refused.refusal(3);
                assert!(message.contains("of another conversion"), "{message}");
            }
        }
        [first, second].iter().for_each(|folder| fs::remove_dir_all(folder).unwrap());
    }
}

/// A run that fails for another reason keeps the entries of the files that it did not replace.
#[test]
fn the_manifest_keeps_what_stayed() {
    let Some(shim) = shim() else { return };
    let (base, tuned) = models();
    let out = base.out();
    convert(&base.path(), &out, &["--type", "q8_0"]).good();
    convert(&base.path(), &out, &["--type", "q4_0", "--split-max-size", "1MB"]).good();
    let before = fs::read(out.join("manifest.json")).unwrap();
    let args = ["--type", "q4_0", "--split-max-size", "1MB"];
    replace(shim, &tuned.path(), &out, &args, &[("RENAME_FAIL", "4".to_owned())]).refusal(3);
    assert_eq!(fs::read(out.join("manifest.json")).unwrap(), before);
    // a new file beside those that stay
    let told = [("RENAME_FAIL", "1".to_owned())];
    replace(shim, &tuned.path(), &out, &["--type", "q5_0"], &told).refusal(3);
    assert_eq!(fs::read(out.join("manifest.json")).unwrap(), before);
    assert!(!out.join("model-q5_0.gguf").exists());
}
