//! Prompts with an image or a sound: llama-server and mistral.rs read our text model and mmproj file, and say what ours
//! says.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use xtask::oracle::Oracle;
use xtask::oracle::clients::MISTRAL_RS;

use super::server::Server;
use crate::mmproj::with_overlay;
use crate::support::{self, Folder};

/// The text beside each file. After it the tiny models go on in another way for each of the files.
pub(crate) const TEXT: &str = "Natural resources:";
pub(crate) const TOKENS: &str = "24";

/// Images of three shapes, and a sound.
pub(crate) const IMAGES: [&str; 3] = ["wide.png", "tall.png", "square.png"];
const SOUND: &str = "chirp-3s.wav";

/// The template of the published E2B, which has a place for each part of a message.
const TEMPLATE: &str = "chat-templates/gemma-4-small.2026-07.jinja";

/// Special tokens of such conversations, with the fields of `tokenizer_config.json` in which published models name
/// them.
const SPECIAL: [(&str, &str); 8] = [
    ("sot_token", "<|turn>"),
    ("eot_token", "<turn|>"),
    ("image_token", "<|image|>"),
    ("boi_token", "<|image>"),
    ("eoi_token", "<image|>"),
    ("audio_token", "<|audio|>"),
    ("boa_token", "<|audio>"),
    ("eoa_token", "<audio|>"),
];

/// A tiny checkpoint with the template and the special tokens of published models. Its towers show an exchanged axis or
/// a missing bound.
pub(crate) fn checkpoint(name: &str) -> Folder {
    let folder = with_overlay(name);
    folder.write("chat_template.jinja", testkit::read(TEMPLATE));
    folder.edit("tokenizer_config.json", |config| {
        SPECIAL.iter().for_each(|(field, token)| config[field] = (*token).into());
    });
    folder
}

/// The text model and the mmproj file, which keep the checkpoint's numbers.
pub(crate) fn convert(folder: &Folder) -> [PathBuf; 2] {
    support::convert(&folder.path(), &folder.out(), &["--type", "bf16", "--mmproj", "f32"]).good();
    ["model-bf16.gguf", "mmproj-f32.gguf"].map(|name| folder.out().join(name))
}

/// The folder of the files.
pub(crate) fn media() -> PathBuf {
    testkit::fixtures("golden/multimodal")
}

fn is_sound(file: &str) -> bool {
    file == SOUND
}

/// What our runtime says to the text with a file: an image before it, a sound after it.
pub(crate) fn ours(model: &Path, mmproj: Option<&Path>, file: &str) -> String {
    let (option, prompt) = match is_sound(file) {
        true => ("--audio", format!("{TEXT}<|audio|>")),
        false => ("--image", format!("<|image|>{TEXT}")),
    };
    let file = media().join(file);
    let mut arguments = vec!["generate", model.to_str().unwrap(), "--chat", "-p", &prompt, "-n", TOKENS];
    arguments.extend([option, file.to_str().unwrap(), "--json", "-q"]);
    if let Some(mmproj) = mmproj {
        arguments.extend(["--mmproj", mmproj.to_str().unwrap()]);
    }
    support::run(arguments).good().json()["text"].as_str().unwrap().to_owned()
}

/// The message of the user in the form of OpenAI's API, with the parts in the order of [`ours`]. The type of a part
/// with a sound is not the same everywhere.
fn messages(file: &str, url: &str, sound: &str) -> Value {
    let part = |kind: &str| json!({ "type": kind, kind: { "url": url } });
    let text = json!({ "type": "text", "text": TEXT });
    let content = match is_sound(file) {
        true => [text, part(sound)],
        false => [part("image_url"), text],
    };
    json!([{ "role": "user", "content": content }])
}

/// Not all answers are the same, so that a program that does not see the files does not pass.
#[track_caller]
fn differ(answers: &HashSet<String>) {
    assert!(answers.len() > 2, "{answers:?}");
}

#[test]
fn llama_server_reads_images_and_sounds() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let folder = checkpoint("e2b");
    let [model, mmproj] = convert(&folder);
    let files = format!("{}/", media().display());
    let pair = ["--mmproj", mmproj.to_str().unwrap(), "--media-path", &files, "--jinja"];
    let exact = ["-fa", "off", "-ctk", "f32", "-ctv", "f32"];
    let server = Server::start(&oracle, &model, &[&pair[..], &exact].concat(), &folder.home().join("log"));
    let mut answers = HashSet::new();
    for file in IMAGES.into_iter().chain([SOUND]) {
        let theirs = server.post(
            "/v1/chat/completions",
            &json!({
                "messages": messages(file, &format!("file://{file}"), "input_audio"),
                "chat_template_kwargs": { "enable_thinking": false },
                "max_tokens": TOKENS.parse::<u64>().unwrap(),
                "temperature": 0,
            }),
        );
        let theirs = &theirs["choices"][0]["message"]["content"];
        assert_eq!(theirs, &ours(&model, Some(&mmproj), file), "{file}");
        answers.insert(theirs.to_string());
    }
    differ(&answers);
}

/// The ids that mistral.rs looks for in a prompt, whatever the model's config says.
const MISTRAL_IDS: [(&str, &str, u64); 2] =
    [("<|image|>", "image_token_id", 258_880), ("<|audio|>", "audio_token_id", 258_881)];

/// Gives a tiny checkpoint the ids of [`MISTRAL_IDS`], hence a vocabulary that reaches so far: tokens that nobody
/// writes, with rows of zeros.
fn widen(folder: &Folder) {
    let vocabulary = 1 + MISTRAL_IDS.iter().map(|(.., id)| id).max().unwrap();
    folder.edit("tokenizer.json", |tokenizer| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        for (token, _, id) in MISTRAL_IDS {
            added.iter_mut().find(|entry| entry["content"] == token).unwrap()["id"] = id.into();
        }
        let tokens = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        MISTRAL_IDS.iter().for_each(|(token, _, id)| drop(tokens.insert((*token).to_owned(), (*id).into())));
        let used: HashSet<u64> = tokens.values().map(|id| id.as_u64().unwrap()).collect();
        let free = (0..vocabulary).filter(|id| !used.contains(id));
        tokens.extend(free.map(|id| (format!("<filler{id}>"), Value::from(id))));
    });
    folder.edit("config.json", |config| {
        MISTRAL_IDS.iter().for_each(|(_, field, id)| config[field] = (*id).into());
        let text = &mut config["text_config"];
        text["vocab_size"] = vocabulary.into();
        text["vocab_size_per_layer_input"] = vocabulary.into();
        // of published models; mistral.rs does not read `per_layer_config`
        text["global_head_dim"] = 128.into();
    });
    folder.reweigh(|weights| {
        for name in ["embed_tokens.weight", "embed_tokens_per_layer.weight"] {
            let table = weights.get(name);
            let row = table.data.len() / table.shape[0] as usize;
            table.shape[0] = vocabulary;
            table.data.resize(row * vocabulary as usize, 0);
        }
    });
}

/// One process: a model is loaded once. In f32, so that only the order of sums differs.
const MISTRAL: &str = r#"
import json, sys
from mistralrs import ChatCompletionRequest, ModelDType, Runner, Which
checkpoint, out, tokens, *prompts = sys.argv[1:]
which = Which.GGUF(quantized_model_id=out, quantized_filename="model-bf16.gguf", mmproj_filename="mmproj-f32.gguf",
                   tok_model_id=checkpoint, dtype=ModelDType.F32)
runner = Runner(which=which)
found = []
for prompt in prompts:
    request = ChatCompletionRequest(model="default", messages=json.loads(prompt), max_tokens=int(tokens),
                                    temperature=0.0, top_k=1, enable_thinking=False)
    found.append(runner.send_chat_completion_request(request).choices[0].message.content)
print("\n" + json.dumps(found))
"#;

/// mistral.rs takes the config from the checkpoint, and computes the towers as transformers does: the same text as from
/// the checkpoint itself.
#[test]
fn mistral_rs_reads_images_and_sounds() {
    let Some(mistral) = MISTRAL_RS.for_tests() else { return };
    let folder = checkpoint("e2b");
    widen(&folder);
    convert(&folder);
    let files: Vec<_> = IMAGES.into_iter().chain([SOUND]).collect();
    let prompt = |file: &&str| messages(file, media().join(file).to_str().unwrap(), "audio_url").to_string();
    let mut python = mistral.python("python");
    python.env("MISTRALRS_CPU_KV_F32", "1").args(["-c", MISTRAL]).arg(folder.path()).arg(folder.out());
    let found = super::answer(python.arg(TOKENS).args(files.iter().map(prompt)));
    let mut answers = HashSet::new();
    for (file, theirs) in files.iter().zip(found.as_array().unwrap()) {
        // it may leave out white space at the beginning
        let theirs = theirs.as_str().unwrap().trim_start();
        assert_eq!(theirs, ours(&folder.path(), None, file).trim_start(), "{file}");
        answers.insert(theirs.to_owned());
    }
    differ(&answers);
}
