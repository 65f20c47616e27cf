//! Names and spellings: the same options in every command, those of llama.cpp and Hugging Face, and what a mistyped name is
//! taken for.

use crate::support::{Folder, command, convert, fixture, run, sha256};

/// Arguments of every command that end well.
fn commands() -> Vec<Vec<String>> {
    let model = fixture("31b").display().to_string();
    let of = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect();
    vec![
        of(&["inspect", &model]),
        of(&["plan", &model, "--type", "q4_0"]),
        of(&["generate", &model, "-p", "The", "-n", "1"]),
        of(&["verify", &model]),
        of(&["recipes", &model]),
        of(&["types"]),
        of(&["completions", "bash"]),
        of(&["man"]),
    ]
}

#[test]
fn every_command_takes_the_common_options() {
    for args in commands() {
        for options in [&["-q", "-t", "1"][..], &["--quiet", "--threads", "1", "--json"]] {
            let run = run(args.iter().map(String::as_str).chain(options.iter().copied()));
            assert!(matches!(run.code, Some(0 | 1)), "{args:?} {options:?}: {:?} {}", run.code, run.stderr);
            assert!(!run.stderr.contains("note: "), "{args:?}: {}", run.stderr);
            if options.contains(&"--json") {
                assert!(run.json().is_object(), "{args:?}");
            }
        }
    }
}

/// One document on stdout, whatever happens.
#[test]
fn every_document_has_a_schema() {
    let model = fixture("31b").display().to_string();
    for (args, code) in [
        (vec!["types"], 0),
        (vec!["inspect", &model], 0),
        (vec!["inspect", "/nowhere"], 3),
        (vec!["plan", &model, "--type", "tomato"], 2),
        (vec!["plan", &model, "--tomato"], 2),
        (vec!["tomato"], 2),
    ] {
        let run = run(args.iter().copied().chain(["--json"]));
        assert_eq!(run.code, Some(code), "{args:?}: {}", run.stderr);
        let json = run.json();
        assert_eq!(json["schema"], 1, "{args:?}");
        assert_eq!(json["error"].is_object(), code != 0, "{args:?}");
        if code != 0 {
            assert_eq!(json["error"]["exit_code"], code, "{args:?}");
        }
    }
}

#[test]
fn spellings_of_llama_cpp_are_understood() {
    let folder = Folder::of("31b");
    let model = fixture("31b").display().to_string();
    let ours = folder.home().join("ours.gguf");
    convert(&fixture("31b"), &ours, &["--type", "q4_k_m"]).good();
    for (number, args) in [
        vec!["convert", &model, "--outtype", "q4_k_m", "--outfile"],
        vec!["convert", "-m", &model, "--type", "Q4_K_M", "-o"],
        vec!["convert", "--model", &model, "--type", "q4_k", "-t", "1", "-o"],
        vec!["convert", &model, "--recipe", "Q4_K_M", "-o"],
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.home().join(format!("{number}.gguf"));
        run(args.into_iter().chain([out.to_str().unwrap()])).good();
        assert_eq!(sha256(&out), sha256(&ours), "{number}");
    }
    let said = |args: &[&str]| run([&["generate", "-q"], args].concat()).good().stdout;
    let ours = said(&[&model, "--prompt", "The sea", "--max-tokens", "5", "--context", "64"]);
    assert_eq!(said(&["-m", &model, "-p", "The sea", "-n", "5", "-c", "64"]), ours);
    assert_eq!(
        said(&["-m", &model, "-p", "The sea", "--n-predict", "5", "--ctx-size", "64", "--temp", "0"]),
        ours
    );
}

#[test]
fn a_recipe_may_be_named_as_a_type_and_a_type_as_a_recipe() {
    let folder = Folder::of("31b");
    for (number, args) in
        [["--recipe", "q5_k_m"], ["--type", "Q4_0-Offload"], ["--recipe", "FP8"]].iter().enumerate()
    {
        convert(&fixture("31b"), &folder.home().join(number.to_string()), args).good();
    }
}

#[test]
fn a_mistyped_name_is_guessed() {
    let model = fixture("31b").display().to_string();
    for (option, name, meant) in [
        ("--type", "q4km", "q4_k_m"),
        ("--type", "q80", "q8_0"),
        ("--recipe", "q4_0-calibrate", "q4_0-calibrated"),
        ("--recipe", "bf16-safetensor", "bf16-safetensors"),
    ] {
        let run = run(["plan", &model, option, name]);
        let said = run.refusal(2);
        assert!(said.contains(&format!("Did you mean {meant}?")), "{option} {name}: {said}");
    }
    let run = run(["plan", &model, "--type", "tomato"]);
    assert!(!run.refusal(2).contains("Did you mean"), "{}", run.stderr);
}

#[test]
fn lists_have_what_there_is() {
    let model = fixture("e2b").display().to_string();
    let types = run(["types", "--json"]).good().json();
    let names: Vec<&str> =
        types["types"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"q4_0") && names.contains(&"iq4_xs"), "{names:?}");
    let sizes = run(["types", &model, "--json"]).good().json();
    for row in sizes["types"].as_array().unwrap() {
        let plan = run(["plan", &model, "--type", row["name"].as_str().unwrap(), "--json"]).good().json();
        assert_eq!(row["bytes"], plan["artifacts"][0]["files"][0]["bytes"], "{row}");
    }
    let recipes = run(["recipes", &model]).good().stdout;
    for name in ["q4_0", "auto", "fp8", "q4_0-offload"] {
        assert!(
            recipes.lines().any(|line| line.split_whitespace().next() == Some(name)),
            "{name}: {recipes}"
        );
    }
}

#[test]
fn packagers_get_completions_a_manual_and_a_version() {
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef gemma-convert"), ("fish", "complete -c gemma-convert")]
    {
        let script = run(["completions", shell]).good().stdout;
        assert!(script.contains(word) && script.contains("sensitivity"), "{shell}");
    }
    let page = run(["man"]).good().stdout;
    assert!(page.starts_with(".ie") || page.contains(".TH gemma-convert"), "{}", &page[..200]);
    for word in ["convert", "verify", "tensor\\-type"] {
        assert!(page.contains(word), "{word}");
    }
    let short = command(["-V"]).output().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(String::from_utf8(short.stdout).unwrap(), format!("gemma-convert {version}\n"));
    let long = run(["--version"]).good().stdout;
    for word in [version, "commit", "codecs: ", "matrix products: "] {
        assert!(long.contains(word), "{word}: {long}");
    }
}
