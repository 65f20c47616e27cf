//! Other runtimes load what we write and say what ours says: node-llama-cpp a GGUF; mlx-lm and mistral.rs a folder of
//! safetensors.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use xtask::oracle::clients::{MISTRAL_RS, MLX, NODE_LLAMA_CPP};

use super::PROMPTS;
use crate::support::{self, convert, fixture, names};

const MODELS: [&str; 3] = ["e2b", "31b", "26b-a4b"];

const NODE: &str = r#"
const { getLlama, LlamaCompletion, LlamaLogLevel } = await import("node-llama-cpp");
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 1 });
const [prompts, ...files] = process.argv.slice(1);
const found = [];
for (const modelPath of files) {
  const model = await llama.loadModel({ modelPath });
  const texts = [];
  for (const prompt of JSON.parse(prompts)) {
    const context = await model.createContext({ contextSize: 256 });
    const completion = new LlamaCompletion({ contextSequence: context.getSequence() });
    const text = await completion.generateCompletion(prompt, { maxTokens: 32, temperature: 0 });
    texts.push([[...model.tokenize(prompt)], text]);
    await context.dispose();
  }
  found.push(texts);
  await model.dispose();
}
console.log(JSON.stringify(found));
process.exit(0);
"#;

#[test]
fn node_llama_cpp_says_what_we_say() {
    let Some(node) = NODE_LLAMA_CPP.for_tests() else { return };
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("split");
    convert(&fixture("e2b"), home.path(), &["--type", "q4_0", "--recipe", "q4_0-offload"]).good();
    convert(&fixture("e2b"), &out, &["--recipe", "browser", "--split-max-size", "1MB"]).good();
    let first = names(&out).into_iter().find(|name| name.contains("-00001-of-")).unwrap();
    let files = [
        home.path().join("model-q4_0.gguf"),
        home.path().join("model-offload-q4_0-00001-of-00002.gguf"),
        out.join(first),
    ];
    let found = super::answer(node.node(NODE).arg(json!(PROMPTS).to_string()).args(&files));
    for (number, file) in files.iter().enumerate() {
        for (prompt, found) in PROMPTS.iter().zip(found[number].as_array().unwrap()) {
            let ours = super::ours(file, prompt, 32);
            // its tokenizer is asked for the text alone, without the token that begins one
            let ids = ours["prompt_tokens"].as_array().unwrap();
            assert_eq!(found[0].as_array().unwrap(), &ids[1..], "{file:?} {prompt}");
            assert_eq!(
                found[1].as_str().unwrap().trim_end(),
                ours["text"].as_str().unwrap().trim_end(),
                "{file:?}"
            );
        }
    }
}

/// Folders of the checkpoints' own numbers.
fn folders(home: &Path) -> Vec<PathBuf> {
    let made = MODELS.iter().map(|name| {
        let out = home.join(name);
        convert(&fixture(name), &out, &["--recipe", "bf16-safetensors"]).good();
        out
    });
    made.collect()
}

/// The ids that each says after the first prompt are those that ours says.
fn same(folders: &[PathBuf], found: &Value) {
    for (number, folder) in folders.iter().enumerate() {
        let ours = super::ours(folder, PROMPTS[0], 24);
        assert_eq!(found[number], ours["text"], "{folder:?}");
    }
}

/// In f32: mlx multiplies experts on a processor in no other type.
const MLX_TEXT: &str = r#"
import json, sys
import mlx.core as mx
mx.set_default_device(mx.cpu)
from mlx_lm import generate, load
found = []
for path in sys.argv[2:]:
    model, tokenizer = load(path)
    model.set_dtype(mx.float32)
    found.append(generate(model, tokenizer, prompt=sys.argv[1], max_tokens=24))
print(json.dumps(found))
"#;

#[test]
fn mlx_lm_says_what_we_say() {
    let Some(mlx) = MLX.for_tests() else { return };
    let home = tempfile::tempdir().unwrap();
    let folders = folders(home.path());
    for folder in &folders {
        // mlx-lm 0.32 takes the size of the vocabulary from the top level alone, else that of the real models
        let config = folder.join("config.json");
        let mut json = support::json(&config);
        json["vocab_size"] = json["text_config"]["vocab_size"].clone();
        fs::write(config, json.to_string()).unwrap();
    }
    let found = super::answer(mlx.python("python").args(["-c", MLX_TEXT, PROMPTS[0]]).args(&folders));
    same(&folders, &found);
}

const MISTRAL_TEXT: &str = r#"
import json, sys
from mistralrs import CompletionRequest, ModelDType, MultimodalArchitecture, Runner, Which
which = Which.MultimodalPlain(model_id=sys.argv[2], arch=MultimodalArchitecture.Gemma4, dtype=ModelDType.F32)
request = CompletionRequest(model="default", prompt=sys.argv[1], max_tokens=24, temperature=0.0, top_k=1)
text = Runner(which=which).send_completion_request(request).choices[0].text
print("\n" + json.dumps(text))
"#;

#[test]
fn mistral_rs_says_what_we_say() {
    let Some(mistral) = MISTRAL_RS.for_tests() else { return };
    let home = tempfile::tempdir().unwrap();
    let folders = folders(home.path());
    // a process each: it keeps what it has loaded
    let text = |folder: &PathBuf| {
        let mut python = mistral.python("python");
        python.env("MISTRALRS_CPU_KV_F32", "1").args(["-c", MISTRAL_TEXT, PROMPTS[0]]).arg(folder);
        super::answer(&mut python)
    };
    same(&folders, &folders.iter().map(text).collect());
}
