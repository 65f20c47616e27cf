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
    for name in ["q4_0", "auto", "fp8", "q4_0-offload", "ggml-org", "litertlm-int4"] {
        assert!(
            recipes.lines().any(|line| line.split_whitespace().next() == Some(name)),
            "{name}: {recipes}"
        );
    }
    let recipes = run(["recipes", "--json"]).good().json();
    let of_bundles: Vec<_> =
        recipes["bundle_recipes"].as_array().unwrap().iter().map(|recipe| &recipe["name"]).collect();
    assert_eq!(of_bundles, ["litertlm-int2", "litertlm-int4", "litertlm-int4-search", "litertlm-int8"]);
    let of_releases = recipes["release_recipes"].as_array().unwrap();
    assert!(of_releases.iter().any(|recipe| recipe["name"] == "default"), "{recipes}");
    assert!(
        recipes["recipes"].as_array().unwrap().iter().all(|recipe| recipe["name"] != "default"),
        "{recipes}"
    );
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

/// Outputs that nothing makes, files that are no model, sizes without a unit, limits of figures that are not measured: refused
/// before the work, with what to give instead.
#[test]
fn mistakes_are_refused_before_the_work() {
    let model = fixture("e2b").display().to_string();
    let weights = fixture("e2b").join("model.safetensors").display().to_string();
    let config = fixture("e2b").join("config.json").display().to_string();
    for (args, code, says) in [
        (vec!["convert", &model, "--type", "q4_0", "-o", "-"], 2, "do not go to stdout"),
        (vec!["convert", &model, "--type", "q4_0", "-o", "model.bin"], 2, "Give a folder"),
        (vec!["plan", &model, "--type", "q4_0", "-o", "model.safetensors"], 2, "Give a folder"),
        (vec!["inspect", "no-one/gemma-4-E2B-it", "--offline"], 3, "offline"),
        (vec!["convert", "no-one/gemma-4-E2B-it", "--type", "q4_0", "-o", "out", "--offline"], 3, "offline"),
        (vec!["generate", "no-one/gemma-4-E2B-it", "-p", "The", "--offline"], 3, "offline"),
        (vec!["verify", &weights], 3, "Give the folder: "),
        (vec!["inspect", &weights], 3, "Give the folder: "),
        (vec!["generate", &config, "-p", "The"], 3, "Give the folder: "),
        (vec!["plan", &model, "--type", "q4_0", "--memory", "2"], 2, "a unit, such as 2GiB"),
        (vec!["verify", &model, "--text-memory", "1"], 2, "a unit, such as 2GiB"),
        (vec!["verify", &model, "--max-kld", "0.1"], 2, "error: --max-kld: a limit"),
        (vec!["verify", &model, "--against", &model, "--min-top1", "0.9"], 2, "with --text"),
        (
            vec!["verify", &model, "--against", &model, "--min-top1", "2"],
            2,
            "error: --min-top1: no such limit",
        ),
        (vec!["plan", &model, "--recipe", "auto", "--target-size", "much"], 2, "error: --target-size"),
        (vec!["plan", &model, "--type", "q4_0", "--split-max-size", "much"], 2, "error: --split-max-size"),
    ] {
        let run = run(args.iter().copied());
        assert!(run.refusal(code).contains(says), "{args:?}: {}", run.stderr);
    }
}

#[test]
fn help_has_examples_that_parse() {
    let help = run(["--help"]).good().stdout.clone();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split_whitespace().next()
        })
        .collect();
    assert!(commands.len() >= 12, "{commands:?}");
    for name in commands.into_iter().filter(|name| *name != "help") {
        let help = run([name, "--help"]).good().stdout.clone();
        let examples: Vec<&str> =
            help.lines().filter_map(|line| line.strip_prefix("  gemma-convert ")).collect();
        assert!(examples.len() >= 2 || name == "man", "{name}: {help}");
        for example in examples {
            // text in quotes is one argument; files are not there, but the arguments are understood
            let command = example.split(" > ").next().unwrap();
            let quoted = command.split('"').enumerate();
            let words = quoted.flat_map(|(number, part)| match number % 2 {
                0 => part.split_whitespace().collect(),
                _ => vec![part],
            });
            let attempt = run(words);
            assert!(!attempt.stderr.contains("Usage:"), "{example}: {}", attempt.stderr);
        }
    }
}

#[test]
fn a_plan_has_its_summary_first() {
    let model = fixture("e2b").display().to_string();
    let short = run(["plan", &model, "--type", "q4_0"]).good().stdout.clone();
    let full = run(["plan", &model, "--type", "q4_0", "--tensors"]).good().stdout.clone();
    assert!(short.contains("recipe q4_0: ") && short.contains(" bits per weight"), "{short}");
    assert!(!short.contains("blk.0.attn_q.weight"), "{short}");
    assert!(full.find("recipe q4_0: ").unwrap() < full.find("blk.0.attn_q.weight").unwrap());
}

/// Mistakes that a newcomer made: each error names the remedy.
#[test]
fn mistakes_have_a_remedy() {
    let home = tempfile::tempdir().unwrap();
    let model = fixture("31b").display().to_string();
    let out = home.path().join("out").display().to_string();
    let file = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let none = file("none.json", "[]");
    let strange = file("strange.json", r#"[{"role": "human", "content": "Hi"}]"#);
    let plain = file("plain.json", r#"["Hi"]"#);
    let torn = file("torn.json", "{");
    for (args, expected) in [
        (&["convert", &model, "-o", &out][..], &["--recipe <NAME|FILE>", "--type <PRESET>"][..]),
        (&["convert", &model, "--type", "q4_0", "-o", "/dev/null"], &["-o /dev/null", "Give a folder"]),
        (&["plan", &model, "--type", "q4_0", "--memory", "-5"], &["--memory", "not a size", "-5"]),
        (&["generate", &model, "--messages", &none], &["--messages", "without a message"]),
        (
            &["generate", &model, "--messages", &strange],
            &["message 1", "unknown role", "user, assistant", "human"],
        ),
        (&["generate", &model, "--messages", &plain], &["message 1", "it has no role"]),
        (&["generate", &model, "--messages", &torn], &["torn.json", "list of messages"]),
    ] {
        let run = run(args);
        assert_eq!(run.code, Some(2), "{args:?}: {}", run.stderr);
        expected.iter().for_each(|part| assert!(run.stderr.contains(part), "{args:?}: {}", run.stderr));
    }
    // a list of types, as of several options
    let run = run(["plan", &model, "--type", "q4_0,q8_0", "--json"]).good();
    assert_eq!(run.json()["artifacts"].as_array().unwrap().len(), 2);
}

#[test]
fn an_error_of_usage_has_the_fields_of_other_errors() {
    let run = run(["convert", "here", "--typ", "q4_0", "-o", "out", "--json"]);
    let error = &run.json()["error"];
    assert_eq!((run.code, error["fault"].as_str()), (Some(2), Some("usage")));
    assert_eq!(error["place"], "--typ");
    assert!(error["problem"].as_str().unwrap().contains("unexpected argument"), "{error}");
    assert!(error["help"].as_str().unwrap().contains("--type"), "{error}");
    let missing = self::run(["convert", "here", "--json"]).json();
    assert!(missing["error"]["problem"].as_str().unwrap().contains("--out <OUT>"), "{missing}");
}

/// Each line of a conversation is checked, as other texts are.
#[test]
fn a_conversation_that_is_not_utf_8_is_refused_as_input() {
    use std::io::Write;
    let model = fixture("31b").display().to_string();
    let mut child = command(["generate", &model, "--chat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a\xff\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("stdin") && stderr.contains("UTF-8"), "{stderr}");
}

/// `--skip-existing --force` keeps complete artifacts and replaces the others.
#[test]
fn skipping_and_replacing_go_together() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let types = ["--type", "q4_0,q8_0"];
    convert(&fixture("31b"), &out, &types).good();
    let (kept, cut) = (out.join("model-q4_0.gguf"), out.join("model-q8_0.gguf"));
    let (sums, written) =
        ([&kept, &cut].map(|file| sha256(file)), kept.metadata().unwrap().modified().unwrap());
    std::fs::File::options().write(true).open(&cut).unwrap().set_len(1000).unwrap();
    let run = convert(&fixture("31b"), &out, &[&types[..], &["--skip-existing", "--force"]].concat()).good();
    assert!(run.stdout.contains("skipped, because they exist: q4_0"), "{}", run.stdout);
    assert_eq!([&kept, &cut].map(|file| sha256(file)), sums);
    assert_eq!(kept.metadata().unwrap().modified().unwrap(), written);
}
