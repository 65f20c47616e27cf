//! Conversations with images and sounds: their perplexity is that of transformers, and a GGUF reads them with its mmproj file.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::mmproj::with_overlay;
use crate::support::{Folder, Run, convert, run};

fn golden(name: &str) -> PathBuf {
    testkit::fixtures("golden/multimodal").join(name)
}

/// A copy of the goldens' conversations, of those without sounds if there is no audio tower.
fn conversations(folder: &Folder, with_sounds: bool) -> PathBuf {
    let text = fs::read_to_string(golden("conversations.jsonl")).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| with_sounds || !line.contains("audio")).collect();
    for name in ["wide.png", "tall.png", "square.png", "chirp-1.37s.wav"] {
        fs::copy(golden(name), folder.home().join(name)).unwrap();
    }
    let path = folder.home().join("conversations.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn verify(artifact: &Path, text: &Path, more: &[&str]) -> Run {
    let (artifact, text) = (artifact.to_str().unwrap(), text.to_str().unwrap());
    run([&["verify", artifact, "--text", text, "--score", "answers", "--json"], more].concat())
}

/// Perplexity of each conversation's answers.
#[test]
fn perplexities_are_those_of_transformers() {
    let wanted = testkit::json("golden/multimodal/conversations.json");
    for name in ["e2b", "e2b-stress", "31b", "26b-a4b"] {
        let folder = match name.strip_suffix("-stress") {
            Some(base) => with_overlay(base),
            None => Folder::of(name),
        };
        folder
            .edit("processor_config.json", |config| config["image_processor"]["max_soft_tokens"] = 70.into());
        let text = conversations(&folder, name.starts_with("e2b"));
        let report = verify(&folder.path(), &text, &[]).good().json();
        let documents = report["text"]["documents"].as_array().unwrap();
        let wanted = wanted[name].as_array().unwrap();
        assert_eq!(documents.len(), wanted.len(), "{name}");
        for (document, wanted) in documents.iter().zip(wanted) {
            let losses: Vec<f64> = wanted.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            let mean = losses.iter().sum::<f64>() / losses.len() as f64;
            let found = document["artifact"].as_f64().unwrap().ln();
            assert_eq!(document["tokens"], losses.len(), "{name}");
            assert!((found - mean).abs() < 2e-5, "{name}: {found}, {mean} nats a token");
        }
    }
}

/// A GGUF and its checkpoint read the same soft tokens, prepared as llama.cpp does it, and differ by quantization alone.
#[test]
fn a_gguf_reads_conversations_with_its_mmproj_file() {
    let folder = Folder::of("31b");
    convert(&folder.path(), &folder.out(), &["--type", "bf16", "--type", "q4_0", "--mmproj", "f32"]).good();
    let text = conversations(&folder, false);
    let (checkpoint, mmproj) = (folder.path(), folder.out().join("mmproj-f32.gguf"));
    let kld = |model: &str, mmproj: &Path| {
        let more = ["--against", checkpoint.to_str().unwrap(), "--mmproj", mmproj.to_str().unwrap()];
        let report = verify(&folder.out().join(model), &text, &more).good().json();
        assert_eq!(report["text"]["media"], 3);
        let notes = report["findings"].to_string();
        assert!(notes.contains("prepared and encoded as in llama.cpp, with its quick-GELU"), "{notes}");
        (report["kld"]["mean"].as_f64().unwrap(), notes)
    };
    assert!(kld("model-bf16.gguf", &mmproj).0 < 1e-6);
    let (of_q4_0, notes) = kld("model-q4_0.gguf", &mmproj);
    assert!((1e-4..0.1).contains(&of_q4_0), "{of_q4_0}");
    assert!(!notes.contains("different checkpoints"), "{notes}");

    // other towers, of which the manifest of the mmproj file tells
    let other = with_overlay("31b");
    convert(&other.path(), &other.out(), &["--mmproj", "f32"]).good();
    let (of_others, notes) = kld("model-bf16.gguf", &other.out().join("mmproj-f32.gguf"));
    assert!(of_others > 1e-3, "{of_others}");
    assert!(
        notes.contains("of different checkpoints: their manifests list different model.safetensors"),
        "{notes}"
    );

    // both GGUFs read the artifact's soft tokens
    let [base, artifact] = ["model-bf16.gguf", "model-q4_0.gguf"].map(|name| folder.out().join(name));
    let kld = |artifact: &Path| {
        // all tokens: the vocabulary of the tiny GGUF does not mark the turns of the model
        let [artifact, base] = [artifact, &base].map(|path| path.to_str().unwrap());
        let given = ["verify", artifact, "--against", base, "--mmproj", mmproj.to_str().unwrap(), "--json"];
        let report = run([&given[..], &["--text", text.to_str().unwrap()]].concat()).good().json();
        assert_eq!(report["text"]["media"], 3);
        report["kld"]["mean"].as_f64().unwrap()
    };
    assert!(kld(&base) < 1e-9);
    assert!((1e-4..0.1).contains(&kld(&artifact)), "{}", kld(&artifact));
}

/// A sequence is cut before an image of which the end would be missing.
#[test]
fn an_image_is_whole_or_left_out() {
    let folder = Folder::of("e2b");
    folder.edit("processor_config.json", |config| config["image_processor"]["max_soft_tokens"] = 70.into());
    let text = conversations(&folder, true);
    let documents = |context: &str| {
        let report = run([
            "verify",
            folder.path().to_str().unwrap(),
            "--text",
            text.to_str().unwrap(),
            "--context",
            context,
            "--json",
        ]);
        let report = report.good().json();
        let tokens = |document: &Value| document["tokens"].as_u64().unwrap();
        let tokens: Vec<_> = report["text"]["documents"].as_array().unwrap().iter().map(tokens).collect();
        (tokens, report["text"]["media"].as_u64().unwrap_or(0))
    };
    // all files, the first image of two, and none
    assert_eq!(documents("512").1, 4);
    assert_eq!(documents("100").1, 3);
    let (tokens, media) = documents("20");
    assert_eq!((tokens.len(), media), (4, 0));
    // BOS and the beginning of the user's turn
    assert!(tokens[0] < 10, "{tokens:?}");
}

#[test]
fn what_cannot_be_read_is_refused() {
    let folder = Folder::of("e2b");
    convert(&folder.path(), &folder.out(), &["--type", "bf16", "--mmproj", "f32"]).good();
    let (model, mmproj) = (folder.out().join("model-bf16.gguf"), folder.out().join("mmproj-f32.gguf"));
    let (mmproj, checkpoint) = (mmproj.to_str().unwrap(), folder.path());
    let against = ["--against", checkpoint.to_str().unwrap()];
    conversations(&folder, true);
    let text = folder.home().join("case.jsonl");
    let answer = json!({"role": "assistant", "content": "It is."});
    let file = |part: Value| json!([{"role": "user", "content": [part]}, answer.clone()]).to_string();
    let image = || file(json!({"type": "image", "path": "wide.png"}));
    let cases: [(String, &[&str], i32, &str); 7] = [
        (image(), &[], 2, "--mmproj"),
        (file(json!({"type": "image", "path": "none.png"})), &["--mmproj", mmproj], 3, "none.png"),
        (
            file(json!({"type": "image", "url": "https://example.org/a.png"})),
            &["--mmproj", mmproj],
            2,
            "no local file",
        ),
        (file(json!({"type": "video", "path": "clip.mp4"})), &["--mmproj", mmproj], 3, "frames as images"),
        (
            json!([{"role": "user", "content": "<|image|>"}, answer.clone()]).to_string(),
            &["--mmproj", mmproj],
            3,
            "other places for files",
        ),
        (
            json!([{"role": "user", "content": "Hello"}, answer.clone()]).to_string(),
            &["--mmproj", mmproj],
            2,
            "no conversation names an image",
        ),
        (
            image(),
            &["--mmproj", mmproj, "--text-memory", "10KiB"],
            3,
            "soft tokens of images and sounds take more",
        ),
    ];
    for (line, more, code, word) in cases {
        fs::write(&text, &line).unwrap();
        let run = verify(&model, &text, &[&against[..], more].concat());
        assert!(run.refusal(code).contains(word), "{line}: {}", run.stderr);
    }
    let alone = run(["verify", model.to_str().unwrap(), "--mmproj", mmproj]);
    assert!(alone.refusal(2).contains("no effect"), "{}", alone.stderr);
    // calibration reads text alone
    fs::write(&text, image()).unwrap();
    let out = folder.home().join("imatrix.gguf");
    let [checkpoint, text, out] = [&checkpoint, &text, &out].map(|path| path.to_str().unwrap());
    let run = run(["calibrate", checkpoint, "--text", text, "-o", out]);
    assert!(run.refusal(2).contains("only text is read here"), "{}", run.stderr);
}
