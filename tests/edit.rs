//! `edit`: other keys and other parts for finished files. The tensors keep their bytes, what would break the model is refused, and the
//! real programs read the result.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gguf::{GgufFile, GgufSet, Value};
use tempfile::TempDir;
use tensor::TensorSource;
use xtask::oracle::Oracle;

use crate::support::{Run, convert, fixture, names, run, sha256};

/// A folder with `model.gguf`, made from a fixture.
fn made(checkpoint: &str, preset: &str) -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("model.gguf");
    convert(&fixture(checkpoint), &file, &["--type", preset]).good();
    (home, file)
}

fn edit(file: &Path, out: &Path, options: &[&str]) -> Run {
    let fixed = ["edit", file.to_str().unwrap(), "-o", out.to_str().unwrap()];
    run(fixed.iter().chain(options))
}

/// The standard output of a tool, which must succeed.
fn ok(tool: &mut Command) -> String {
    let output = tool.output().unwrap_or_else(|e| panic!("{tool:?}: {e}"));
    assert!(output.status.success(), "{tool:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The bytes of every tensor, by name.
fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let set = GgufSet::open(path).unwrap();
    let read = |(index, desc): (usize, &tensor::TensorDesc)| {
        let mut bytes = vec![0; desc.byte_len() as usize];
        set.read_rows(index, 0, &mut bytes).unwrap();
        (format!("{desc:?}"), bytes)
    };
    set.tensors().iter().enumerate().map(read).collect()
}

#[test]
fn keys_change_and_tensors_do_not() {
    let (home, file) = made("e2b", "q4_0");
    let [out, template] = ["edited.gguf", "chat.jinja"].map(|name| home.path().join(name));
    let text = "{% for m in messages %}<|turn>{{ m.role }}\r\n{{ m.content }}<turn|>{% endfor %}\n";
    fs::write(&template, text).unwrap();
    let before = GgufFile::open(&file).unwrap();
    let options = [
        ["--set", "general.name=A name: with = and é"],
        ["--set", "gemma4.context_length=4096"],
        ["--set", "general.languages=[\"de\", \"fr\"]"],
        ["--set", "general.license=mit"],
        ["--set", "my.own:[u16]=[1,2]"],
        ["--remove", "general.size_label"],
        ["--chat-template", template.to_str().unwrap()],
        ["--json", "--quiet"],
    ];
    let json = edit(&file, &out, options.as_flattened()).good().json();
    assert_eq!(json["changes"].as_array().unwrap().len(), 7);
    assert_eq!(json["changes"][0]["key"], "general.size_label");
    assert_eq!(json["changes"][0]["after"], serde_json::Value::Null);
    assert_eq!(json["artifacts"][0]["outputs"][0]["sha256"], sha256(&out));
    assert_eq!(json["artifacts"][0]["inputs"][0]["sha256"], sha256(&file));

    let mut expected = before.metadata().clone();
    expected.remove("general.size_label");
    expected.insert("general.name", "A name: with = and é");
    expected.insert("gemma4.context_length", 4096u32);
    expected.insert("general.languages", vec!["de".to_owned(), "fr".to_owned()]);
    expected.insert("general.license", "mit");
    expected.insert("my.own", vec![1u16, 2]);
    expected.insert("tokenizer.chat_template", text.replace("\r\n", "\n").as_str());
    let after = GgufFile::open(&out).unwrap();
    assert!(*after.metadata() == expected);
    let of_file = |file: &GgufFile| fs::read(file.path()).unwrap()[file.header_len() as usize..].to_vec();
    assert!(of_file(&before) == of_file(&after));
    assert_eq!(
        names(home.path()),
        ["chat.jinja", "edited.gguf", "edited.gguf.manifest.json", "model.gguf", "model.gguf.manifest.json"]
    );

    // the file is one that verify knows by its manifest and its type
    let model = fixture("e2b");
    let args = ["verify", out.to_str().unwrap(), "--against", file.to_str().unwrap(), "--json"];
    let report = run(args).json();
    let texts = report["findings"].to_string();
    assert!(!texts.contains("another version") && !texts.contains("was changed after"), "{texts}");
    let args = ["verify", out.to_str().unwrap(), "--against", model.to_str().unwrap(), "--json"];
    let report = run(args).json();
    let failures: Vec<_> =
        report["findings"].as_array().unwrap().iter().filter(|f| f["severity"] == "failure").collect();
    let places: Vec<_> = failures.iter().map(|f| f["place"].as_str().unwrap()).collect();
    assert_eq!(places, ["key gemma4.context_length", "key tokenizer.chat_template"], "{failures:#?}");
}

/// Every change that would leave a file whose keys contradict each other, its tensors or its tokenizer.
#[test]
fn a_change_that_breaks_the_model_is_refused() {
    let (home, file) = made("e2b", "q8_0");
    let out = home.path().join("out/edited.gguf");
    let bad = home.path().join("bad.jinja");
    fs::write(&bad, "{% for %}").unwrap();
    let bad = bad.to_str().unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--set", "gemma4.block_count=9"], &["gemma4.", "block_count"]),
        (&["--set", "gemma4.embedding_length=64"], &["gemma4.embedding_length"]),
        (&["--set", "gemma4.attention.head_count=3"], &["gemma4.attention.head_count"]),
        (&["--set", "gemma4.attention.shared_kv_layers=0"], &["gemma4.attention.shared_kv_layers"]),
        (&["--set", "general.architecture=llama"], &["general.architecture"]),
        (&["--set", "tokenizer.ggml.tokens=[\"a\"]"], &["tokenizer.ggml.tokens"]),
        (&["--set", "tokenizer.ggml.token_type=[1,2]"], &["tokenizer.ggml.token_type"]),
        (&["--set", "tokenizer.ggml.eos_token_id=9999999"], &["tokenizer.ggml.eos_token_id"]),
        (&["--set", "tokenizer.ggml.model=llama"], &["tokenizer.ggml.model"]),
        (&["--remove", "tokenizer.ggml.merges"], &["tokenizer.ggml.merges"]),
        (&["--remove", "gemma4.block_count"], &["gemma4.block_count"]),
        (&["--chat-template", bad], &["tokenizer.chat_template"]),
        (&["--set", "gemma4.context_length=many"], &["gemma4.context_length", "u32"]),
        (&["--set", "gemma4.rope.freq_base=nan"], &["gemma4.rope.freq_base", "f32"]),
        (&["--set", "general.languages=de"], &["general.languages", "JSON list of string"]),
        (&["--set", "my.key=1"], &["my.key", "KEY:TYPE=VALUE"]),
        (&["--set", "my.key:u128=1"], &["u128", "u64"]),
        (&["--set", "general.name"], &["KEY=VALUE"]),
        (&["--set", "split.count:u16=2"], &["split.count", "--merge"]),
        (&["--remove", "general.nmae"], &["general.nmae", "no such key"]),
        (&["--set", "general.name=a", "--remove", "general.name"], &["general.name", "twice"]),
        (&["--set", "general.architecture=gemma4"], &["nothing would change"]),
        (&["--set", "general.alignment:u32=48"], &["general.alignment", "power of two"]),
        (&[], &["nothing would change"]),
        (&["--split-max-size", "0"], &["split"]),
        (&["--merge", "--split-max-size", "1MB"], &["--split-max-size"]),
    ];
    for (options, says) in cases {
        let run = edit(&file, &out, options);
        let code = if options.iter().any(|option| option.contains("alignment")) { 3 } else { 2 };
        let error = run.refusal(code);
        says.iter().for_each(|part| assert!(error.contains(part), "{options:?}: {error}"));
        assert!(!out.exists());
    }
    // the same refusals of targets as `convert`
    let name = ["--set", "general.name=x"];
    let error = edit(&file, &file, &[name[0], name[1], "--force"]);
    assert!(error.refusal(3).contains("this is a file of the source"));
    edit(&file, &out, &name).good();
    assert!(edit(&file, &out, &name).refusal(3).contains("--force"));
    edit(&file, &out, &[name[0], name[1], "--force"]).good();
}

/// Parts are kept, merged and made anew, without a change of the tensors.
#[test]
fn parts_are_kept_merged_and_split() {
    let (home, whole) = made("31b", "q8_0");
    let parts = home.path().join("parts");
    convert(&fixture("31b"), &parts, &["--type", "q8_0", "--split-max-size", "2MB"]).good();
    let given: Vec<_> = names(&parts).into_iter().filter(|name| name.ends_with(".gguf")).collect();
    assert!(given.len() > 2);
    // any part names the set
    let middle = parts.join(&given[1]);

    let kept = home.path().join("kept");
    edit(&middle, &kept, &["--set", "general.name=Other"]).good();
    let made: Vec<_> = names(&kept).into_iter().filter(|name| name.ends_with(".gguf")).collect();
    assert_eq!(made, given);
    let set = |folder: &Path, name: &str| match GgufFile::open(folder.join(name))
        .unwrap()
        .metadata()
        .get(gguf::SET)
    {
        Some(Value::Str(set)) => set.clone(),
        other => panic!("{other:?}"),
    };
    for name in &given {
        let [a, b] = [&parts, &kept].map(|folder| GgufFile::open(folder.join(name)).unwrap());
        assert_eq!(TensorSource::tensors(&a), TensorSource::tensors(&b), "{name}");
        assert_ne!(set(&parts, name), set(&kept, name), "{name}: parts of two sets fit together");
    }
    assert!(tensors(&middle) == tensors(&kept.join(&given[0])));

    let merged = home.path().join("merged.gguf");
    edit(&middle, &merged, &["--merge"]).good();
    assert!(fs::read(&merged).unwrap() == fs::read(&whole).unwrap(), "the merged file is another one");

    let again = home.path().join("again/model-q8_0.gguf");
    edit(&whole, &again, &["--split-max-size", "2MB"]).good();
    for name in &given {
        let [a, b] = [&parts, again.parent().unwrap()].map(|folder| {
            let file = GgufFile::open(folder.join(name)).unwrap();
            let mut keys = file.metadata().clone();
            keys.remove(gguf::SET);
            (keys, fs::read(file.path()).unwrap()[file.offsets()[0] as usize..].to_vec())
        });
        assert!(a == b, "{name}");
    }
}

/// Files of other kinds: an mmproj file, a draft model, another alignment.
#[test]
fn other_files_are_edited_too() {
    let home = tempfile::tempdir().unwrap();
    let [mmproj, draft, edited] =
        ["mmproj.gguf", "draft.gguf", "edited.gguf"].map(|name| home.path().join(name));
    convert(&fixture("e2b"), &mmproj, &["--mmproj", "f16"]).good();
    edit(&mmproj, &edited, &["--set", "general.name=Eyes", "--set", "general.alignment:u32=128"]).good();
    let file = GgufFile::open(&edited).unwrap();
    assert!(file.offsets().iter().all(|offset| offset % 128 == 0));
    assert!(tensors(&edited) == tensors(&mmproj));
    let refused = edit(&mmproj, &edited, &["--set", "clip.vision.block_count=7", "--force"]);
    assert!(refused.refusal(2).contains("vision"), "{}", refused.stderr);

    let [assistant, target] = ["e2b-assistant", "e2b"].map(fixture);
    let args = ["draft", "convert", assistant.to_str().unwrap(), "--target", target.to_str().unwrap()];
    run(args.iter().chain(&["--type", "q8_0", "-o", draft.to_str().unwrap()])).good();
    edit(&draft, &edited, &["--set", "general.name=Draft", "--force"]).good();
    assert!(tensors(&edited) == tensors(&draft));
}

/// The real programs read what was edited: the same logits, llama.cpp's merge of our parts, gguf-py's keys.
#[test]
fn the_real_programs_read_it() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let (home, file) = made("e2b", "q4_0");
    let [edited, again, merged] =
        ["edited.gguf", "again.gguf", "merged.gguf"].map(|name| home.path().join(name));
    edit(&file, &edited, &["--set", "general.name=Edited", "--set", "general.alignment:u32=64"]).good();
    let logits = |model: &Path| {
        let saved = model.with_extension("logits");
        let mut tool = oracle.runner("llama-perplexity");
        tool.args(["-c", "128", "--chunks", "2", "-t", "2", "-f"]).arg(crate::support::text("eval.txt"));
        ok(tool.arg("--save-all-logits").arg(&saved).arg("-m").arg(model));
        fs::read(saved).unwrap()
    };
    assert!(logits(&file) == logits(&edited));
    let mut dump = oracle.script("gguf-py/gguf/scripts/gguf_dump.py");
    let out = ok(dump.env("PYTHONPATH", oracle.src.join("gguf-py")).arg("--json").arg(&edited));
    let keys: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(keys["metadata"]["general.name"]["value"], "Edited");

    // parts of llama-gguf-split become the file again, and ours become it by llama-gguf-split
    let mut split = oracle.tool("llama-gguf-split");
    let stock = home.path().join("stock");
    ok(split.args(["--split", "--split-max-size", "2M"]).arg(&file).arg(&stock));
    let first = names(home.path()).into_iter().find(|name| name.starts_with("stock-00001")).unwrap();
    edit(&home.path().join(first), &again, &["--merge"]).good();
    assert!(fs::read(&again).unwrap() == fs::read(&file).unwrap());
    edit(&file, &home.path().join("ours.gguf"), &["--split-max-size", "2MB"]).good();
    let first = names(home.path()).into_iter().find(|name| name.starts_with("ours-00001")).unwrap();
    let mut merge = oracle.tool("llama-gguf-split");
    ok(merge.arg("--merge").arg(home.path().join(first)).arg(&merged));
    assert!(tensors(&merged) == tensors(&file));
}
