//! Checkpoints as people have them: saved from inside a wrapper, with experts one by one, padded, in the hub's cache … Each
//! gives the same bytes as the form in which transformers saves the model, and a note says what was done. What stays refused
//! is in `refused.rs`. A new form is a new row.

mod channels;
mod experts;
mod files;
mod names;
mod refused;
mod tables;

use std::collections::HashMap;
use std::path::Path;

use crate::support::{Folder, WEIGHTS, convert, fixture, recipe, run, sha256};
use serde_json::Value;

pub(crate) const ALL: &[&str] = &["e2b", "26b-a4b", "31b"];

/// One form of a checkpoint.
pub(crate) struct Form {
    what: &'static str,
    bases: &'static [&'static str],
    /// All of this is in the notes.
    says: &'static [&'static str],
    make: fn(&Folder),
}

pub(crate) fn form(
    what: &'static str,
    bases: &'static [&'static str],
    says: &'static [&'static str],
    make: fn(&Folder),
) -> Form {
    Form { what, bases, says, make }
}

/// What is made of the fixtures themselves.
#[derive(Default)]
pub(crate) struct Clean {
    made: HashMap<&'static str, Made>,
}

impl Clean {
    pub(crate) fn of(&mut self, base: &'static str) -> Made {
        let make = || {
            let home = tempfile::tempdir().unwrap();
            let (made, said) = made(&fixture(base), home.path());
            assert_eq!(of_the_checkpoint(&said).count(), 0, "{base}: {said}");
            assert_eq!(made.safetensors, sha256(&fixture(base).join(WEIGHTS)));
            made
        };
        self.made.entry(base).or_insert_with(make).clone()
    }
}

/// Notes about the checkpoint, not about the GGUF that is made of it.
pub(crate) fn of_the_checkpoint(said: &str) -> impl Iterator<Item = &str> {
    const OF_GGUF: [&str; 2] = ["K/V tensors", "llama.cpp takes apart"];
    let notes = said.lines().filter(|line| line.starts_with("note: "));
    notes.filter(|note| !OF_GGUF.iter().any(|of_gguf| note.contains(of_gguf)))
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    pub(crate) gguf: String,
    pub(crate) safetensors: String,
    pub(crate) tokens: Value,
}

pub(crate) fn made(model: &Path, out: &Path) -> (Made, String) {
    let gguf = convert(model, &out.join("q4_0.gguf"), &["--type", "q4_0"]).good();
    recipe(model, &out.join("safetensors"), "bf16-safetensors", &[]).good();
    let generate = [
        "--json",
        "generate",
        model.to_str().unwrap(),
        "--prompt",
        "The sea",
        "-n",
        "4",
        "--temperature",
        "0",
    ];
    let generate = run(generate).good();
    let made = Made {
        gguf: sha256(&out.join("q4_0.gguf")),
        safetensors: sha256(&out.join("safetensors").join(WEIGHTS)),
        tokens: generate.json()["tokens"].take(),
    };
    for note in of_the_checkpoint(&gguf.stderr) {
        assert!(generate.stderr.contains(note), "generate does not say {note}: {}", generate.stderr);
    }
    (made, gguf.stderr)
}

pub(crate) fn all_the_same(forms: &[Form]) {
    let mut clean = Clean::default();
    for form in forms {
        for base in form.bases {
            #[allow(clippy::print_stdout, reason = "shown only when the test fails: what it was at")]
            {
                println!("{}, {base}", form.what);
            }
            let folder = Folder::of(base);
            (form.make)(&folder);
            same(&folder, &clean.of(base), form.says);
        }
    }
}

/// What is made of `folder` is `clean`, and every command says what was done.
pub(crate) fn same(folder: &Folder, clean: &Made, says: &[&str]) {
    let path = folder.path();
    let model = path.to_str().unwrap();
    let (made, said) = made(&path, folder.home());
    let inspected = run(["--json", "inspect", model]).good().json();
    let planned = run(["--json", "plan", model, "--type", "q4_0"]).good().json();
    for part in says {
        assert!(said.contains(part), "convert: {part:?} is not in {said}");
        for json in [&inspected["notes"], &planned["notes"]] {
            assert!(json.to_string().contains(part), "{part:?} is not in {json}");
        }
    }
    assert_eq!(&made, clean);
    let text = run(["inspect", model]).good().stdout;
    assert_eq!(text.matches("note: ").count(), inspected["notes"].as_array().unwrap().len());
}

pub(crate) fn rename(folder: &Folder, to: fn(&str) -> String) {
    folder.reweigh(|w| w.tensors.iter_mut().for_each(|tensor| tensor.name = to(&tensor.name)));
}
