//! `generate`: the same text from a checkpoint and from the file made of it, and the text that llama.cpp generates.
//! The forward pass itself is held against transformers in the crate `runtime`, sampling against its distribution
//! where it is done.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{self, said};
use xtask::oracle::Oracle;

const PROMPT: &str = "The capital of the country is";

fn checkpoint(name: &str) -> PathBuf {
    testkit::fixtures("checkpoints").join(name)
}

fn tool(arguments: &[&str], model: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-convert"));
    command.arg(arguments[0]).arg(model).args(&arguments[1..]).output().unwrap()
}

fn generate(model: &Path, more: &[&str]) -> serde_json::Value {
    let tokens = if more.contains(&"-n") { &[][..] } else { &["-n", "40"] };
    generate_alone(model, &[&["-p", PROMPT], tokens, more].concat())
}

fn generate_alone(model: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = tool(&[&["generate", "--json", "-q"], arguments].concat(), model);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn convert(name: &str, preset: &str, out: &Path) {
    let output = tool(&["convert", "--type", preset, "-o", out.to_str().unwrap()], &checkpoint(name));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A copy of a checkpoint whose tokenizer_config.json names the markers of its chat template, as the published ones do.
fn names_its_markers(from: &Path, to: &Path) -> PathBuf {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let path = to.join("tokenizer_config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["extra_special_tokens"] =
        serde_json::json!(["<|turn>", "<turn|>", "<|think|>", "<|tool>", "<tool|>"]);
    std::fs::write(&path, json.to_string()).unwrap();
    to.to_owned()
}

#[test]
fn checkpoint_and_file_say_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["e2b", "26b-a4b", "31b"] {
        let [bf16, q8_0] = ["bf16", "q8_0"].map(|preset| dir.path().join(format!("{name}-{preset}.gguf")));
        convert(name, "bf16", &bf16);
        convert(name, "q8_0", &q8_0);
        let from_checkpoint = generate(&checkpoint(name), &[]);
        let from_file = generate(&bf16, &[]);
        assert_eq!(from_checkpoint["tokens"], from_file["tokens"], "{name}");
        assert_eq!(from_checkpoint["text"], from_file["text"], "{name}");
        assert_eq!(from_file["tokens"].as_array().unwrap().len(), 40, "{name}");
        // 8 bits rarely change what is likeliest: the beginning is the same
        let tokens = |json: &serde_json::Value| json["tokens"].as_array().unwrap()[..4].to_vec();
        assert_eq!(tokens(&generate(&q8_0, &[])), tokens(&from_file), "{name}");
        // the template puts more around the prompt, from either source: where the file types its markers as such
        let named = names_its_markers(&checkpoint(name), &dir.path().join(name));
        let file = dir.path().join(format!("{name}-named.gguf"));
        let made = tool(&["convert", "--type", "bf16", "-o", file.to_str().unwrap()], &named);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let [a, b] = [named, file].map(|model| generate(&model, &["--chat"]));
        assert_eq!(a["prompt_tokens"], b["prompt_tokens"], "{name}");
        assert!(
            a["prompt_tokens"].as_array().unwrap().len()
                > from_file["prompt_tokens"].as_array().unwrap().len()
        );
    }
}

#[test]
fn llama_cpp_says_the_same() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let dir = tempfile::tempdir().unwrap();
    for name in ["e2b", "26b-a4b", "31b"] {
        let model = dir.path().join(format!("{name}.gguf"));
        convert(name, "bf16", &model);
        let mut command = oracle.runner("llama-completion");
        command.args(["-no-cnv", "--temp", "0", "-n", "40", "-t", "2", "-p", PROMPT, "-m"]).arg(&model);
        let ours = format!("{PROMPT}{}", generate(&model, &[])["text"].as_str().unwrap());
        let (theirs, _) = said(&mut command, |theirs, _| theirs.trim() == ours.trim());
        assert_eq!(theirs.trim(), ours.trim(), "{name}");
    }
}

#[test]
fn a_seed_says_what_is_drawn() {
    let model = checkpoint("31b");
    let greedy = generate(&model, &[]);
    let drawn = |more: &[&str]| generate(&model, &[&["--temperature", "1.5"], more].concat());
    let first = drawn(&["--seed", "1"]);
    assert_eq!(first["sampling"]["seed"], 1);
    assert_eq!(drawn(&["--seed", "1"])["tokens"], first["tokens"]);
    assert_ne!(drawn(&["--seed", "2"])["tokens"], first["tokens"]);
    assert_ne!(first["tokens"], greedy["tokens"]);
    // with one token to choose from there is no chance
    for narrow in [["--top-k", "1"], ["--top-p", "0"], ["--min-p", "1"]] {
        assert_eq!(drawn(&narrow)["tokens"], greedy["tokens"], "{narrow:?}");
    }
    assert_eq!(
        greedy["sampling"],
        serde_json::json!({ "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0 })
    );
}

/// An option of sampling implies sampling; `--sample` takes the values of the model's file; a new seed each time is named.
#[test]
fn sampling_follows_from_its_options_or_from_the_file() {
    let model = checkpoint("31b");
    let sampling = |more: &[&str]| generate(&model, more)["sampling"].clone();
    let top_k = sampling(&["--top-k", "5", "--seed", "3"]);
    assert_eq!(
        top_k,
        serde_json::json!({ "temperature": 1.0, "top_k": 5, "top_p": 1.0, "min_p": 0.0, "seed": 3 })
    );
    let seeds: Vec<_> = (0..3).map(|_| sampling(&["--top-k", "5"])["seed"].as_u64().unwrap()).collect();
    assert!(seeds[0] != seeds[1] || seeds[1] != seeds[2], "{seeds:?}");

    let folder = support::Folder::of("31b");
    folder.write(
        "generation_config.json",
        r#"{"do_sample": true, "temperature": 0.7, "top_k": 64, "top_p": 0.95}"#,
    );
    let file = folder.home().join("model.gguf");
    support::convert(&folder.path(), &file, &["--type", "q8_0"]).good();
    for model in [folder.path(), file] {
        let found = generate(&model, &["--sample", "--seed", "1", "--top-p", "0.5"])["sampling"].clone();
        assert!((found["temperature"].as_f64().unwrap() - 0.7).abs() < 1e-6, "{found}");
        assert_eq!((&found["top_k"], &found["top_p"], &found["seed"]), (&64.into(), &0.5.into(), &1.into()));
    }
}

#[test]
fn a_stop_text_ends_the_text_before_it() {
    let model = checkpoint("31b");
    let whole = generate(&model, &["-n", "24"])["text"].as_str().unwrap().to_owned();
    let at = whole.char_indices().nth(whole.chars().count() / 2).unwrap().0;
    let stop: String = whole[at..].chars().take(3).collect();
    let json = generate(&model, &["-n", "24", "--stop", &stop]);
    let end = whole.find(&stop).unwrap();
    assert_eq!((json["text"].as_str().unwrap(), json["finish"].as_str()), (&whole[..end], Some("stop")));
    let shown = tool(&["generate", "-p", PROMPT, "-q", "-n", "24", "--stop", &stop], &model);
    assert_eq!(
        String::from_utf8_lossy(&shown.stdout).trim_end_matches('\n'),
        whole[..end].trim_end_matches('\n')
    );
}

/// A conversation from a file, and line by line from stdin: the second answer is that of the whole conversation.
#[test]
fn conversations_come_from_a_file_or_from_stdin() {
    let folder = support::Folder::of("e2b");
    let home = folder.home();
    let template = std::fs::read(testkit::fixtures("chat-templates/gemma-4-large.2026-07.jinja")).unwrap();
    folder.write("chat_template.jinja", template);
    let model = folder.path();
    let messages = |list: &serde_json::Value| {
        let file = home.join("messages.json");
        std::fs::write(&file, list.to_string()).unwrap();
        generate_alone(&model, &["--messages", file.to_str().unwrap(), "-n", "8"])["text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut list = serde_json::json!([{"role": "user", "content": "Why?"}]);
    let first = messages(&list);
    assert_eq!(generate_alone(&model, &["--chat", "-p", "Why?", "-n", "8"])["text"], *first);
    list.as_array_mut().unwrap().extend([
        serde_json::json!({"role": "assistant", "content": first}),
        serde_json::json!({"role": "user", "content": "And then?"}),
    ]);
    let second = messages(&list);

    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-convert"));
    command.arg("generate").arg(&model).args(["--chat", "-q", "-n", "8"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"Why?\n\nWhat is <|image|>?\nAnd then?\n").unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(said, format!("{first}\n{second}\n"));
}

#[test]
fn what_a_template_does_not_read_is_said() {
    let model = checkpoint("e2b");
    let dir = tempfile::tempdir().unwrap();
    let tools = dir.path().join("tools.json");
    std::fs::write(&tools, r#"[{"type": "function", "function": {"name": "now", "parameters": {}}}]"#)
        .unwrap();
    let args = [
        "generate",
        "--chat",
        "-p",
        "Why?",
        "-n",
        "1",
        "--tools",
        tools.to_str().unwrap(),
        "--thinking",
        "on",
    ];
    let run = tool(&args, &model);
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{said}");
    for option in ["--tools", "--thinking"] {
        assert!(said.contains(&format!("note: {option} has no effect")), "{said}");
    }
}

#[test]
fn a_prompt_comes_from_anywhere() {
    let model = checkpoint("31b");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, format!("{PROMPT}\n")).unwrap();
    let expected = generate(&model, &["-n", "4"]);
    let same = |output: Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["prompt_tokens"], expected["prompt_tokens"]);
        assert_eq!(json["tokens"], expected["tokens"]);
    };
    same(tool(&["generate", "--json", "-n", "4", "--prompt-file", file.to_str().unwrap()], &model));
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-convert"));
    command.arg("generate").arg(&model).args(["--json", "-n", "4", "-p", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(PROMPT.as_bytes()).unwrap();
    same(child.wait_with_output().unwrap());
}

#[test]
fn it_says_why_it_stops() {
    let model = checkpoint("e2b");
    let prompt = generate(&model, &["-n", "1"])["prompt_tokens"].as_array().unwrap().len();
    let run = |more: &[&str]| {
        let json = generate_alone(&model, &[&["-p", PROMPT], more].concat());
        (json["finish"].clone(), json["tokens"].as_array().unwrap().len())
    };
    assert_eq!(run(&["-n", "3"]), ("length".into(), 3));
    assert_eq!(run(&["--context", &(prompt + 5).to_string()]), ("context".into(), 5));
    assert_eq!(run(&["-n", "5", "--context", &(prompt + 5).to_string()]), ("length".into(), 5));
    // the tiny models never end a text, so the fourth token they say becomes the end
    let folder = support::Folder::of("e2b");
    let free = generate(&folder.path(), &["-n", "8"]);
    folder.edit("config.json", |config| config["eos_token_id"] = free["tokens"][3].clone());
    folder.edit("tokenizer_config.json", |config| config["eos_token"] = serde_json::Value::Null);
    let ended = generate(&folder.path(), &["-n", "8"]);
    assert_eq!((&ended["finish"], &free["finish"]), (&"stop".into(), &"length".into()));
    assert_eq!(ended["tokens"].as_array().unwrap(), &free["tokens"].as_array().unwrap()[..3]);
    let (ended, free) = (ended["text"].as_str().unwrap(), free["text"].as_str().unwrap());
    assert!(free.starts_with(ended) && ended.len() < free.len(), "{ended:?} {free:?}");
}

#[test]
fn a_chat_has_a_system_prompt_and_thoughts() {
    let folder = support::Folder::of("e2b");
    let templates = testkit::fixtures("chat-templates");
    let template = std::fs::read(templates.join("gemma-4-large.2026-07.jinja")).unwrap();
    folder.write("chat_template.jinja", template);
    let checkpoint = checkpoint::Checkpoint::open(folder.path()).unwrap();
    let tokenizer = text::Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let prompt = |more: &[&str]| {
        let json = generate_alone(&folder.path(), &[&["--chat", "-p", "Why?", "-n", "1"], more].concat());
        let ids: Vec<u32> = serde_json::from_value(json["prompt_tokens"].clone()).unwrap();
        tokenizer.decode(&ids)
    };
    let user = "<|turn>user\nWhy?<turn|>\n<|turn>model\n";
    let silent = "<|channel>thought\n<channel|>";
    assert_eq!(prompt(&[]), format!("<bos>{user}{silent}"));
    assert_eq!(prompt(&["--thinking", "off"]), format!("<bos>{user}{silent}"));
    assert_eq!(prompt(&["--thinking", "on"]), format!("<bos><|turn>system\n<|think|>\n<turn|>\n{user}"));
    let system = prompt(&["--system", "Be brief."]);
    assert_eq!(system, format!("<bos><|turn>system\nBe brief.<turn|>\n{user}{silent}"));
}

#[test]
fn what_cannot_be_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |model: &Path, more: &[&str], code: i32, says: &str| {
        let output = tool(&[&["generate", "-p", PROMPT], more].concat(), model);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(message.contains(says) && !message.contains("panicked"), "{message}");
        assert!(output.stdout.is_empty());
    };
    let file = dir.path().join("model.gguf");
    convert("31b", "q4_0", &file);
    let tools = dir.path().join("tools.json");
    std::fs::write(&tools, "{").unwrap();
    refused(&checkpoint("31b"), &["--chat", "--tools", tools.to_str().unwrap()], 2, "tools.json");
    refused(&checkpoint("31b"), &["--tools", tools.to_str().unwrap()], 2, "--chat");
    let model = checkpoint("31b");
    let odd = dir.path().join("odd.txt");
    std::fs::write(&odd, b"a\n\xFFb").unwrap();
    for (more, says) in [
        (&["--system", "Be brief."][..], "--chat"),
        (&["--thinking", "on"], "--chat"),
        (&["--chat", "--thinking", "maybe"], "--thinking"),
        (&["--prompt-file", "a.txt"], "--prompt-file"),
        (&["--temperature=-1"], "not 0 or more"),
        (&["--temperature", "inf"], "not 0 or more"),
        (&["--temperature", "1", "--top-p", "1.5"], "not between 0 and 1"),
        (&["-n", "0"], "--max-tokens: nothing to do"),
        (&["-n", "9999999"], "--context: a prompt of"),
        (&["--context", "3"], "--context: a prompt of"),
        (&["--context", "9999999"], "--context: longer than the model's"),
    ] {
        refused(&model, more, 2, says);
    }
    let output = tool(&["generate", "--prompt-file", odd.to_str().unwrap()], &model);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3));
    assert!(message.contains("odd.txt: line 2: not UTF-8"), "{message}");
    refused(&dir.path().join("absent.gguf"), &[], 3, "absent.gguf");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    refused(&file, &[], 3, "model.gguf");
}

/// One token is one read of the per-layer table, wherever the table is.
#[test]
fn the_per_layer_table_is_read_row_by_row() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["convert", "--recipe", "q4_0-offload", "-o", dir.path().to_str().unwrap()];
    assert!(tool(&args, &checkpoint("e2b")).status.success());
    convert("e2b", "q4_0", &dir.path().join("whole.gguf"));
    let mut parts: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    parts.retain(|path| path.to_str().unwrap().contains("-of-"));
    parts.sort();
    assert_eq!(parts.len(), 2);
    let [whole, apart] = [&dir.path().join("whole.gguf"), &parts[0]].map(|model| generate(model, &[]));
    assert_eq!(whole["tokens"], apart["tokens"]);
    let ids = |key: &str| apart[key].as_array().unwrap().clone();
    let (prompt, mut said) = (ids("prompt_tokens"), ids("tokens"));
    // the last token is said and not read
    said.pop();
    let read: std::collections::BTreeSet<_> =
        prompt.iter().chain(&said).map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(apart["offload"]["rows_read"], read.len());
    assert_eq!(apart["offload"], whole["offload"]);
    assert!(generate(&checkpoint("31b"), &[])["offload"].is_null());
}
