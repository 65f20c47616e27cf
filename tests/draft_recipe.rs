//! `[draft]` of a recipe: target and draft in one run, with one manifest.

use std::fs;
use std::path::Path;

use crate::support::{self, fixture, names, run};

fn convert(model: &Path, out: &Path, more: &[&str]) -> support::Run {
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    run([&["convert", model, "-o", out, "--json"], more].concat())
}

/// Each file is that of the command which makes it alone.
#[test]
fn a_recipe_makes_target_and_draft() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("pair.toml");
    let (target, assistant) = (fixture("e2b"), fixture("e2b-assistant"));
    let draft = format!("[draft]\nassistant = {:?}\ntype = \"q8_0\"\n", assistant.to_str().unwrap());
    fs::write(&recipe, format!("types.preset = \"q4_0\"\n{draft}")).unwrap();
    let out = dir.path().join("out");
    let json = convert(&target, &out, &["--recipe", recipe.to_str().unwrap()]).good().json();
    assert_eq!(names(&out), ["draft-q8_0.gguf", "manifest.json", "model-pair-q4_0.gguf"]);
    assert_eq!(json["drafts"][0]["artifacts"][0]["outputs"][0]["name"], "draft-q8_0.gguf");
    let manifest = support::json(&out.join("manifest.json"));
    let entries = manifest["artifacts"].as_array().unwrap();
    let fingerprint = base::hex(&checkpoint::Checkpoint::open(&target).unwrap().fingerprint().unwrap());
    assert_eq!(entries.len(), 2);
    assert_eq!(entries.iter().filter(|entry| entry["target"]["fingerprint"] == fingerprint).count(), 1);
    // the recipe is in the manifest, and with it `verify` finds nothing amiss
    let model = out.join("model-pair-q4_0.gguf");
    run(["verify", model.to_str().unwrap(), "--against", target.to_str().unwrap()]).good();

    let alone = dir.path().join("alone");
    convert(&target, &alone, &["--type", "q4_0"]).good();
    let args = ["draft", "convert", assistant.to_str().unwrap(), "--target", target.to_str().unwrap()];
    run([&args[..], &["--type", "q8_0", "-o", alone.to_str().unwrap()]].concat()).good();
    for (pair, single) in
        [("model-pair-q4_0.gguf", "model-q4_0.gguf"), ("draft-q8_0.gguf", "draft-q8_0.gguf")]
    {
        assert!(fs::read(out.join(pair)).unwrap() == fs::read(alone.join(single)).unwrap(), "{pair}");
    }
}

/// Layers by number or by text; the draft has the type of its target if nothing else is said, and is made once for all.
#[test]
fn a_draft_can_be_cut_out_of_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let text = support::text("calib.txt");
    let by_text = ["--set", "draft.extract=3", "--text", text.to_str().unwrap(), "--chunks", "2"];
    let out = dir.path().join("out");
    let json = convert(&fixture("31b"), &out, &[&["--type", "q4_0"], &by_text[..]].concat()).good().json();
    assert_eq!(names(&out), ["draft-q4_0.gguf", "manifest.json", "model-q4_0.gguf"]);
    assert_eq!(json["drafts"][0]["layers"].as_array().unwrap().len(), 3);
    let out = dir.path().join("two");
    let given =
        ["--type", "q8_0", "--type", "q4_0", "--set", "draft.layers=[0,5]", "--set", "draft.type=bf16"];
    convert(&fixture("31b"), &out, &given).good();
    assert_eq!(names(&out), ["draft-bf16.gguf", "manifest.json", "model-q4_0.gguf", "model-q8_0.gguf"]);
}

#[test]
fn what_is_no_draft_is_refused_before_the_target_is_made() {
    let refused = |code: i32, more: &[&str], says: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let run = convert(&fixture("e2b"), &out, &[&["--type", "q4_0"], more].concat());
        let said = run.refusal(code);
        says.iter().for_each(|says| assert!(said.contains(says), "{says}: {said}"));
        assert!(!out.exists() || names(&out).is_empty(), "{:?}", names(&out));
    };
    let other = format!("draft.assistant={:?}", fixture("26b-a4b-assistant").to_str().unwrap());
    refused(3, &["--set", &other], &["differs from the target's"]);
    refused(2, &["--set", "draft.extract=3"], &["no text to select the layers on"]);
    refused(2, &["--set", "draft.layers=[0,1]"], &["no full-attention layer is left"]);
    refused(2, &["--set", "draft.type=q8_0"], &["[draft]", "one of assistant, extract and layers"]);
    refused(2, &["--set", "draft.extract=3", "--set", "draft.layers=[0]"], &["extract, layers"]);
    refused(2, &["--set", "draft.layers=[3,7]", "--set", "draft.type=q9"], &["q9"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("one.gguf");
    let run = convert(&fixture("e2b"), &file, &["--type", "q4_0", "--set", "draft.layers=[0,1,2,3]"]);
    assert!(run.refusal(2).contains("cannot go into one file"), "{}", run.stderr);
}
