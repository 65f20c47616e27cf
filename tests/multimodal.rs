//! Prompts with images and sounds: the tokens that transformers generates, drafts, forms of prompts, and what is refused.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::mmproj::with_overlay;
use crate::support::{Folder, Run, convert, run};

/// A file of the goldens.
fn golden(name: &str) -> String {
    testkit::fixtures("golden/multimodal").join(name).to_str().unwrap().to_owned()
}

/// A prompt of the goldens: message of the user, images and sounds.
const PROMPTS: [(&str, &str, &[&str], &[&str]); 4] = [
    ("image", "Describe the picture: <|image|> What is it?", &["wide.png"], &[]),
    ("audio", "Listen: <|audio|> What is it?", &[], &["chirp-1.37s.wav"]),
    ("two_images", "First <|image|><|image|> and so on.", &["tall.png", "square.png"], &[]),
    ("image_audio", "<|image|> with <|audio|> the end.", &["square.png"], &["chirp-1.37s.wav"]),
];

/// The answer to a conversation of one message, with files.
fn answer(model: &Path, text: &str, images: &[&str], sounds: &[&str], more: &[&str]) -> Run {
    let mut arguments = vec!["generate", model.to_str().unwrap(), "--chat", "-p", text, "-n", "16", "--json"];
    let (images, sounds): (Vec<_>, Vec<_>) =
        (images.iter().map(|name| golden(name)).collect(), sounds.iter().map(|name| golden(name)).collect());
    images.iter().for_each(|path| arguments.extend(["--image", path]));
    sounds.iter().for_each(|path| arguments.extend(["--audio", path]));
    arguments.extend(more);
    run(arguments)
}

fn tokens(run: Run) -> Vec<u64> {
    run.good().json()["tokens"].as_array().unwrap().iter().map(|token| token.as_u64().unwrap()).collect()
}

/// Greedy decoding gives the tokens of transformers, up to an end token: also with a draft model, and with tower tensors that show an
/// exchanged axis or a missing bound.
#[test]
fn answers_are_those_of_transformers() {
    let wanted = testkit::json("golden/multimodal/greedy.json");
    let mut compared = 0;
    for name in ["e2b", "e2b-stress", "31b", "31b-stress", "26b-a4b"] {
        let (base, folder) = match name.strip_suffix("-stress") {
            Some(base) => (base, with_overlay(base)),
            None => (name, Folder::of(name)),
        };
        let assistant = testkit::fixtures(format!("checkpoints/{base}-assistant"));
        let assistant = assistant.to_str().unwrap();
        for (prompt, text, images, sounds) in PROMPTS {
            let Some(wanted) = wanted[name].get(prompt) else { continue };
            let wanted: Vec<u64> = wanted.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
            let budget = ["--image-budget", "70"];
            let alone = tokens(answer(&folder.path(), text, images, sounds, &budget));
            assert!(
                !alone.is_empty() && wanted.starts_with(&alone),
                "{name} {prompt}: {alone:?}, {wanted:?}"
            );
            compared += alone.len();
            if base != "31b" {
                let drafted = answer(
                    &folder.path(),
                    text,
                    images,
                    sounds,
                    &[&budget[..], &["--draft", assistant]].concat(),
                );
                assert_eq!(tokens(drafted), alone, "{name} {prompt} with a draft model");
            }
        }
    }
    assert!(compared > 100, "{compared} tokens were compared");
}

/// A draft model with a KV cache of its own reads the soft tokens too.
#[test]
fn an_extracted_draft_model_reads_images() {
    let folder = Folder::of("e2b");
    let out = folder.out();
    let extract = [
        "draft",
        "extract",
        folder.path().to_str().unwrap(),
        "--layers",
        "0,1,2,3,4,5,6,7",
        "--type",
        "bf16",
    ]
    .map(str::to_owned);
    run(extract.into_iter().chain(["-o".to_owned(), out.to_str().unwrap().to_owned()])).good();
    let draft = out.join("draft-bf16.gguf");
    let (_, text, images, sounds) = PROMPTS[0];
    let alone = tokens(answer(&folder.path(), text, images, sounds, &["--image-budget", "70"]));
    let more = ["--image-budget", "70", "--draft", draft.to_str().unwrap()];
    let drafted = answer(&folder.path(), text, images, sounds, &more).good().json();
    assert_eq!(drafted["tokens"], json!(alone));
    // all layers of the target: its draft tokens are the target's, if it saw the same image
    let counts = &drafted["draft"];
    assert_eq!(counts["accepted"], counts["drafted"], "{counts}");
    assert!(counts["accepted"].as_u64() > Some(0), "{counts}");
}

/// A mark in the text, a part of a message that names the file, and no mark at all are the same prompt.
#[test]
fn places_of_files() {
    let folder = Folder::of("e2b");
    let image = golden("wide.png");
    let prompt = |run: Run| run.good().json()["prompt_tokens"].clone();
    let marked =
        answer(&folder.path(), "<|image|>What is it?", &["wide.png"], &[], &["--image-budget", "70"]);
    let first = answer(&folder.path(), "What is it?", &["wide.png"], &[], &["--image-budget", "70"]);
    let messages = folder.home().join("messages.json");
    let parts = json!([{"role": "user", "content": [{"type": "image", "path": image}, {"type": "text", "text": "What is it?"}]}]);
    std::fs::write(&messages, parts.to_string()).unwrap();
    let named = run([
        "generate",
        folder.path().to_str().unwrap(),
        "--messages",
        messages.to_str().unwrap(),
        "-n",
        "1",
        "--json",
        "--image-budget",
        "70",
    ]);
    let marked = prompt(marked);
    assert_eq!(marked, prompt(first));
    assert_eq!(marked, prompt(named));
    // 60 soft tokens, which have the id of padding
    assert_eq!(marked.as_array().unwrap().iter().filter(|id| **id == 0).count(), 60);
    // a prompt without a chat template begins with BOS
    let plain = run([
        "generate",
        folder.path().to_str().unwrap(),
        "-p",
        "It is",
        "--image",
        &image,
        "-n",
        "1",
        "--json",
    ]);
    assert_eq!(plain.good().json()["prompt_tokens"][0], 2);
}

/// A folder of images as a video: each frame after its time.
#[test]
fn a_folder_of_frames_is_a_video() {
    let folder = Folder::of("e2b");
    let frames = folder.home().join("frames");
    std::fs::create_dir(&frames).unwrap();
    for (number, name) in ["wide.png", "square.png", "tall.png"].iter().enumerate() {
        std::fs::copy(golden(name), frames.join(format!("frame-{number}.png"))).unwrap();
    }
    let video = answer(&folder.path(), "Tell: <|video|>", &[], &[], &["--video", frames.to_str().unwrap()]);
    let ids = video.good().json()["prompt_tokens"].clone();
    // a budget of 70 for each frame
    assert_eq!(ids.as_array().unwrap().iter().filter(|id| **id == 0).count(), 60 + 64 + 60);
}

/// A GGUF with its mmproj file reads images and sounds, and only with it.
#[test]
fn a_gguf_reads_images_with_its_mmproj_file() {
    let (folder, other) = (Folder::of("e2b"), Folder::of("31b"));
    for folder in [&folder, &other] {
        convert(&folder.path(), &folder.out(), &["--type", "bf16", "--mmproj", "f32"]).good();
    }
    let model = folder.out().join("model-bf16.gguf");
    let pair = |mmproj: &PathBuf| {
        let more = ["--mmproj", mmproj.to_str().unwrap()];
        answer(&model, "What is it?", &["wide.llama.png"], &["chirp-1.37s.wav"], &more)
    };
    let ids = pair(&folder.out().join("mmproj-f32.gguf")).good().json()["prompt_tokens"].clone();
    // llama.cpp's size of the image, 78 soft tokens, and a sound of 34
    assert_eq!(ids.as_array().unwrap().iter().filter(|id| **id == 0).count(), 78 + 34);

    let without = answer(&model, "What is it?", &["wide.png"], &[], &[]);
    assert!(without.refusal(2).contains("--mmproj"), "{}", without.stderr);
    // the same width, but no audio tower
    let run = pair(&other.out().join("mmproj-f32.gguf"));
    assert!(run.refusal(3).contains("reads no sounds"), "{}", run.stderr);
    let text = answer(&model, "What is it?", &["wide.png"], &[], &["--mmproj", model.to_str().unwrap()]);
    assert!(text.refusal(3).contains("not an mmproj file"), "{}", text.stderr);
}

#[test]
fn what_cannot_be_read_is_refused() {
    let folder = Folder::of("e2b");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.home().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let whole = std::fs::read(golden("wide.png")).unwrap();
    let sound = std::fs::read(golden("chirp-1.37s.wav")).unwrap();
    let short = |samples: usize| {
        let mut bytes = sound[..44 + 2 * samples].to_vec();
        bytes[4..8].copy_from_slice(&(36 + 2 * samples as u32).to_le_bytes());
        bytes[40..44].copy_from_slice(&(2 * samples as u32).to_le_bytes());
        bytes
    };
    let cases: [(&str, String, i32, &str); 6] = [
        ("--image", file("cut.png", &whole[..whole.len() / 2]), 3, "cut.png"),
        ("--image", file("text.png", b"no image"), 3, "text.png"),
        ("--image", folder.home().join("none.png").to_str().unwrap().to_owned(), 3, "none.png"),
        ("--audio", file("short.wav", &short(159)), 3, "161 samples"),
        ("--audio", file("lies.wav", &sound[..sound.len() / 2]), 3, "lies.wav"),
        ("--video", file("clip.mp4", b"no video"), 3, "clip.mp4"),
    ];
    for (option, path, code, word) in cases {
        let run = answer(&folder.path(), "What is it?", &[], &[], &[option, &path]);
        // without ffmpeg a video is unsupported, whatever is in it
        assert!(run.refusal(code).contains(word), "{option} {path}: {}", run.stderr);
    }
    let marks = answer(&folder.path(), "<|image|> and <|image|>", &["wide.png"], &[], &[]);
    assert!(marks.refusal(2).contains("another number of places"), "{}", marks.stderr);
    assert!(marks.stderr.contains("Give --image FILE for each <|image|>"), "{}", marks.stderr);
    // a mark is a place also where no file is given at all, in a conversation and in a text
    for (mark, option) in [("<|image|>", "--image"), ("<|audio|>", "--audio"), ("<|video|>", "--video")] {
        let text = format!("Tell: {mark}");
        let model = folder.path();
        let plain = run(["generate", model.to_str().unwrap(), "-p", &text, "-n", "1"]);
        for run in [answer(&model, &text, &[], &[], &[]), plain] {
            let help = format!("Give {option} FILE for each {mark}");
            assert!(run.refusal(2).contains(&help), "{}", run.stderr);
        }
    }
    // a mark in a text, beside a part that is the place of its file
    let messages = folder.home().join("messages.json");
    let image = golden("wide.png");
    for content in [
        json!([{"type": "text", "text": "what does <|image|> mean?"}, {"type": "image", "path": image}]),
        json!([{"type": "image", "path": image}, {"type": "text", "text": "and <|audio|>?"}]),
    ] {
        std::fs::write(&messages, json!([{"role": "user", "content": content}]).to_string()).unwrap();
        let model = folder.path();
        let run = run(["generate", model.to_str().unwrap(), "--messages", messages.to_str().unwrap()]);
        assert!(run.refusal(2).contains("a text with the mark of a file"), "{}", run.stderr);
    }
    // an image in the place of a sound
    let kinds = answer(&folder.path(), "Listen: <|audio|>", &["wide.png"], &[], &[]);
    assert!(kinds.refusal(2).contains("Give --audio FILE for each <|audio|>"), "{}", kinds.stderr);
    let nothing = answer(&folder.path(), "What is it?", &[], &[], &["--image-budget", "70"]);
    assert!(nothing.refusal(2).contains("no effect without an image"), "{}", nothing.stderr);
    let budget = answer(&folder.path(), "What is it?", &["wide.png"], &[], &["--image-budget", "100"]);
    assert!(budget.refusal(2).contains("70, 140, 280, 560, 1120"), "{}", budget.stderr);
    let both = answer(
        &folder.path(),
        "What is it?",
        &["wide.png"],
        &[],
        &["--image-preprocess", "transformers", "--image-max-tokens", "100"],
    );
    assert!(both.refusal(2).contains("has no effect"), "{}", both.stderr);

    let text_only = Folder::of("31b");
    text_only.edit("config.json", |config| config["vision_config"] = Value::Null);
    let run = answer(&text_only.path(), "What is it?", &["wide.png"], &[], &[]);
    assert!(run.refusal(3).contains("neither images nor sounds"), "{}", run.stderr);
    let run = answer(&Folder::of("31b").path(), "Listen", &[], &["chirp-1.37s.wav"], &[]);
    assert!(run.refusal(3).contains("reads no sounds"), "{}", run.stderr);
}
