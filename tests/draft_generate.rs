//! `generate --draft`: the same text as without, in fewer passes of the model.

use std::path::Path;

use crate::support::{self, fixture, run, said};
use serde_json::Value;

const PROMPT: &str = "Economy - overview: The country exports";

fn generate(model: &Path, more: &[&str]) -> Value {
    let model = model.to_str().unwrap();
    let count: &[&str] = if more.contains(&"-n") { &[] } else { &["-n", "80"] };
    run([&["generate", model, "--json", "-p", PROMPT], count, more].concat()).good().json()
}

fn convert(command: &[&str], from: &Path, out: &Path, more: &[&str]) {
    let (from, out) = (from.to_str().unwrap(), out.to_str().unwrap());
    run([command, &[from, "-o", out], more].concat()).good();
}

/// Beyond the window of sliding layers, for bursts of one, some and more tokens than go through the model at once.
#[test]
fn the_likeliest_tokens_are_those_of_the_model_alone() {
    for name in ["e2b", "26b-a4b"] {
        let (target, draft) = (fixture(name), fixture(&format!("{name}-assistant")));
        let alone = generate(&target, &[]);
        assert!(alone["draft"].is_null());
        for burst in ["1", "3", "9"] {
            let drafted = generate(&target, &["--draft", draft.to_str().unwrap(), "--draft-tokens", burst]);
            assert_eq!(drafted["tokens"], alone["tokens"], "{name}, {burst} at a time");
            assert_eq!(drafted["text"], alone["text"]);
            let count = |key: &str| drafted["draft"][key].as_u64().unwrap();
            let (bursts, drafted, accepted) = (count("bursts"), count("drafted"), count("accepted"));
            // some guesses are taken and some are not; a burst says one token more than it takes
            assert!(accepted >= 20 && accepted < drafted, "{accepted} of {drafted}");
            assert!((75..80).contains(&(bursts + accepted)), "{bursts} bursts, {accepted} taken");
        }
    }
}

#[test]
fn quantised_pairs_work_too() {
    let dir = tempfile::tempdir().unwrap();
    let [model, dense, ordered] =
        ["model", "dense", "ordered"].map(|name| dir.path().join(format!("{name}.gguf")));
    let (target, draft) = (fixture("e2b"), fixture("e2b-assistant"));
    convert(&["convert"], &target, &model, &["--type", "q4_0"]);
    let of = ["draft", "convert", "--target", target.to_str().unwrap()];
    convert(&of, &draft, &dense, &["--type", "q8_0"]);
    convert(&of, &draft, &ordered, &["--type", "q8_0", "--set", "masked_embedding=keep"]);
    let alone = generate(&model, &[]);
    let drafts =
        [&dense, &ordered, &draft].map(|draft| generate(&model, &["--draft", draft.to_str().unwrap()]));
    for drafted in &drafts {
        assert_eq!(drafted["tokens"], alone["tokens"]);
        assert!(drafted["draft"]["accepted"].as_u64().unwrap() > 20, "{}", drafted["draft"]);
    }
    // drawn at random, a seed says it all
    let warm = ["--temperature", "1", "--seed", "5", "--draft", dense.to_str().unwrap()];
    assert_eq!(generate(&model, &warm)["tokens"], generate(&model, &warm)["tokens"]);
    assert_ne!(generate(&model, &warm)["tokens"], alone["tokens"]);
}

/// With keys and values of its own. A model guesses for itself without a miss; bursts end in what it says anyway.
#[test]
fn any_model_of_the_same_tokens_can_guess() {
    let dir = tempfile::tempdir().unwrap();
    let gguf = dir.path().join("31b.gguf");
    convert(&["convert"], &fixture("31b"), &gguf, &["--type", "q8_0"]);
    let target = fixture("e2b");
    let alone = generate(&target, &[]);
    for (draft, burst, sure) in
        [(&gguf, "1", false), (&gguf, "9", false), (&target, "3", true), (&target, "9", true)]
    {
        let drafted = generate(&target, &["--draft", draft.to_str().unwrap(), "--draft-tokens", burst]);
        assert_eq!(drafted["tokens"], alone["tokens"], "{burst} at a time");
        let count = |key: &str| drafted["draft"][key].as_u64().unwrap();
        assert!(count("accepted") > 0);
        assert_eq!(count("accepted") == count("drafted"), sure, "{}", drafted["draft"]);
    }
}

/// The real llama.cpp runs the pair, says the same and takes as many guesses, but for the last burst and the rounding of
/// its keys and values to 16 bits.
#[test]
fn llama_cpp_takes_as_many_guesses() {
    let Some(oracle) = xtask::oracle::Oracle::for_tests() else { return };
    for name in ["e2b", "26b-a4b"] {
        let dir = tempfile::tempdir().unwrap();
        let [model, draft] = ["model", "draft"].map(|file| dir.path().join(format!("{file}.gguf")));
        let target = fixture(name);
        convert(&["convert"], &target, &model, &["--type", "bf16"]);
        let of = ["draft", "convert", "--target", target.to_str().unwrap()];
        convert(&of, &fixture(&format!("{name}-assistant")), &draft, &["--type", "bf16"]);
        let ours = generate(&model, &["--draft", draft.to_str().unwrap(), "--draft-tokens", "3"]);

        let mut tool = oracle.runner("llama-speculative-simple");
        tool.arg("-m").arg(&model).arg("-md").arg(&draft);
        tool.args(["--spec-type", "draft-mtp", "--spec-draft-n-max", "3", "--temp", "0"]);
        tool.args(["-t", "2", "-c", "512", "-n", "80", "-p", PROMPT]);
        let all = format!("{PROMPT}{}", ours["text"].as_str().unwrap());
        let (said, figures) =
            said(&mut tool, |said, figures| said.contains(&all) && figures.contains("n_accept"));
        assert!(said.contains(&all), "{name}: {ours}\n{said}");
        let figure = |name: &str| {
            let (_, rest) = figures.split_once(name).unwrap_or_else(|| panic!("{name}: {figures}"));
            rest.trim_start_matches([' ', '=']).split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        for (key, theirs, most) in [("drafted", figure("n_drafted"), 6), ("accepted", figure("n_accept"), 3)]
        {
            let ours = ours["draft"][key].as_u64().unwrap();
            assert!(ours.abs_diff(theirs) <= most, "{name}: {key} {ours}, of llama.cpp {theirs}");
        }
    }
}

#[test]
fn the_end_comes_where_it_should() {
    let draft = fixture("e2b-assistant");
    let draft = ["--draft", draft.to_str().unwrap(), "--draft-tokens", "5"];
    for count in ["1", "2", "7"] {
        let json = generate(&fixture("e2b"), &[&draft[..], &["-n", count]].concat()[..]);
        assert_eq!(json["tokens"].as_array().unwrap().len().to_string(), count);
    }
    // a token that is said becomes the end of the text
    let folder = support::Folder::of("e2b");
    let free = generate(&folder.path(), &[]);
    folder.edit("config.json", |config| config["eos_token_id"] = free["tokens"][9].clone());
    folder.edit("tokenizer_config.json", |config| config["eos_token"] = Value::Null);
    let ended = generate(&folder.path(), &draft);
    let end = free["tokens"].as_array().unwrap().iter().position(|id| *id == free["tokens"][9]).unwrap();
    assert_eq!(ended["finish"], "stop");
    assert_eq!(ended["tokens"].as_array().unwrap(), &free["tokens"].as_array().unwrap()[..end]);
}

#[test]
fn what_is_no_draft_of_the_model_is_refused() {
    let refused = |model: &str, draft: &str, says: &str| {
        let (model, draft) = (fixture(model), fixture(draft));
        let run = run(["generate", model.to_str().unwrap(), "-p", "a", "--draft", draft.to_str().unwrap()]);
        assert!(run.refusal(3).contains(says), "{}", run.stderr);
    };
    refused("26b-a4b", "e2b-assistant", "key heads of sliding layers");
    refused("e2b-assistant", "e2b-assistant", "a draft model");
    // an ordinary model of other tokens
    let other = support::Folder::of("31b");
    other.edit("tokenizer.json", |tokenizer| {
        let vocab = &mut tokenizer["model"]["vocab"];
        let (a, b) = (vocab["▁t"].take(), vocab["▁("].take());
        (vocab["▁t"], vocab["▁("]) = (b, a);
    });
    let model = fixture("e2b");
    let other = other.path();
    let refusal = run(["generate", model.to_str().unwrap(), "-p", "a", "--draft", other.to_str().unwrap()]);
    assert!(refusal.refusal(3).contains("differs from the target's"), "{}", refusal.stderr);
    let run = run(["generate", model.to_str().unwrap(), "-p", "a", "--draft-tokens", "2"]);
    assert!(run.refusal(2).contains("--draft"), "{}", run.stderr);
}
