//! What is done with bytes of others: each kind of file is read as the program reads it, and used a little.
//!
//! Nothing may panic, hang or take more memory than a small machine has, whatever the bytes. Errors are good. The fuzz
//! targets and the test `untrusted` of the main workspace run these.

mod seeds;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use checkpoint::{Checkpoint, ModelCard};
use eval::LogitsFile;
use gemma::{Config, ModelSpec, Vocabulary};
use gguf::Header;
use imatrix::Importance;
use litert::{Bundle, LlmMetadata, Model, SectionType, Source};
use media::{AudioPreprocess, Image, ImagePreprocess, PATCH_SIDE, SAMPLE_RATE, Sound};
use plan::{Manifest, Recipe, Request, Shards};
use serde_json::{Value, json};
use tempfile::TempDir;
use tensor::{Result, TensorDesc, TensorSource};
use text::{Chat, ChatTemplate, Tokenizer};

pub use seeds::seeds;

/// What a target does with the bytes of a file.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 14] = [
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("index", index),
    ("config", config),
    ("tokenizer", tokenizer),
    ("importance", importance),
    ("recipe", recipe),
    ("manifest", manifest),
    ("template", template),
    ("card", card),
    ("logits", logits),
    ("image", image),
    ("sound", sound),
    ("litertlm", litertlm),
];

/// Writes the seeds of a target into the folder that `FUZZ_SEEDS` names, for libFuzzer to begin with.
pub fn write_seeds(target: &str) {
    let Some(folder) = std::env::var_os("FUZZ_SEEDS").map(PathBuf::from) else { return };
    fs::create_dir_all(&folder).expect("a folder for seeds");
    for (number, seed) in seeds(target).iter().enumerate() {
        fs::write(folder.join(format!("seed-{number}")), seed).expect("a seed");
    }
}

/// The fixtures of the repository.
fn fixtures() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = here.ancestors().map(|folder| folder.join("fixtures")).find(|folder| folder.is_dir());
    found.expect("the repository's fixtures")
}

fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(fixtures().join("checkpoints").join(name)).expect("a good checkpoint")
}

/// A folder in memory, where there is such a place.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Folder(made.expect("a folder"))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// A folder with the config of a tiny checkpoint.
    fn with_config() -> Folder {
        let folder = Folder::new();
        let config = fs::read(fixtures().join("checkpoints/31b/config.json")).expect("a fixture");
        folder.write("config.json", &config);
        folder
    }
}

thread_local! {
    static EMPTY: Folder = Folder::new();
    static CONFIGURED: Folder = Folder::with_config();
    static INDEXED: Folder = {
        let folder = Folder::with_config();
        for (name, bytes) in seeds::shards() {
            folder.write(name, &bytes);
        }
        folder
    };
    static TOKENIZED: Folder = {
        let folder = Folder::with_config();
        folder.write("model.safetensors", &seeds::shards()[0].1);
        folder
    };
}

/// Reads the message of an error: it may show what was found.
fn told<T>(result: Result<T>) -> Option<T> {
    result.map_err(|error| error.to_string()).ok()
}

fn use_tokenizer(tokenizer: &Tokenizer) {
    const TEXT: &str = "Hello  wörld,\n\n😀 <bos><start_of_turn>1234\t\u{7f}";
    for special in [false, true] {
        if let Some(ids) = told(tokenizer.encode(TEXT, special, special)) {
            tokenizer.decode(&ids);
        }
    }
    tokenizer.decode(&[0, 1, u32::MAX]);
}

/// The header of a GGUF, and the model that its keys describe.
pub fn gguf(bytes: &[u8]) {
    let mut rest = bytes;
    told(Header::read(&mut rest, bytes.len() as u64));
    // As if all tensors were there.
    let mut rest = bytes;
    let Some(header) = told(Header::read(&mut rest, 1 << 40)) else { return };
    let tensors: Vec<TensorDesc> = header.tensors.iter().map(|tensor| tensor.desc.clone()).collect();
    for config in [Config::from_metadata, Config::draft_from_metadata] {
        if let Some(config) = told(config(&header.metadata, &tensors)) {
            use_config(&config);
            told(gemma::gguf_inventory(&config, &tensors));
        }
    }
    if let Some(tokenizer) = told(Tokenizer::from_metadata(&header.metadata)) {
        use_tokenizer(&tokenizer);
    }
}

/// A bundle of LiteRT-LM, or one of its sections.
pub fn litertlm(bytes: &[u8]) {
    let file = bytes.to_vec();
    if let Some(bundle) = told(Bundle::read(&file)) {
        for section in &bundle.sections {
            let part = told(bundle.part(&file, section)).expect("a section within the file");
            match section.content {
                SectionType::MODEL => {
                    drop(told(Model::read(&part).and_then(|model| litert::constants(&model))))
                }
                SectionType::METADATA if part.len() < 1 << 16 => {
                    let mut bytes = vec![0; part.len() as usize];
                    told(part.read_at(0, &mut bytes).and_then(|()| LlmMetadata::read(&bytes)));
                }
                _ => {}
            }
        }
        return;
    }
    told(Model::read(&file).and_then(|model| litert::constants(&model)));
    told(LlmMetadata::read(bytes));
    told(litert::unpack_tokenizer(bytes));
}

/// A shard.
pub fn safetensors(bytes: &[u8]) {
    CONFIGURED.with(|folder| {
        folder.write("model.safetensors", bytes);
        use_weights(folder);
    });
}

/// `model.safetensors.index.json`, beside two good shards.
pub fn index(bytes: &[u8]) {
    INDEXED.with(|folder| {
        folder.write("model.safetensors.index.json", bytes);
        use_weights(folder);
    });
}

fn use_weights(folder: &Folder) {
    let Some(checkpoint) = told(Checkpoint::open(folder.0.path())) else { return };
    for (number, desc) in checkpoint.tensors().iter().enumerate() {
        let bytes = desc.row_bytes();
        if desc.rows() > 0 && bytes < 1 << 20 {
            told(checkpoint.read_rows(number, desc.rows() - 1, &mut vec![0; bytes as usize]));
        }
    }
    told(checkpoint.fingerprint());
}

fn use_config(config: &Config) {
    for layer in (0..config.layers()).take(1000) {
        config.head_dim_of(layer);
        config.kv_heads_of(layer);
        config.ffn_of(layer);
        config.shares_kv(layer);
    }
    config.rope_freqs();
    config.variant();
}

/// `config.json`, held against the tensors of a tiny checkpoint.
pub fn config(bytes: &[u8]) {
    static TENSORS: LazyLock<Vec<TensorDesc>> = LazyLock::new(|| checkpoint("e2b").tensors().to_vec());
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else { return };
    gemma::is_assistant(&json);
    for config in [Config::from_json, Config::draft_from_json] {
        if let Some(config) = told(config(&json)) {
            use_config(&config);
            told(gemma::inventory(&config, &TENSORS, &|_| "file".to_owned()));
        }
    }
}

/// `tokenizer.json`.
pub fn tokenizer(bytes: &[u8]) {
    TOKENIZED.with(|folder| {
        folder.write("tokenizer.json", bytes);
        let Some(checkpoint) = told(Checkpoint::open(folder.0.path())) else { return };
        if let Some(tokenizer) = told(Tokenizer::from_checkpoint(&checkpoint)) {
            use_tokenizer(&tokenizer);
        }
        if let Some(tokenizer) = told(checkpoint.tokenizer()) {
            told(Vocabulary::new(&tokenizer, None, checkpoint.config(), 512));
        }
    });
}

/// A file of importance, of either form.
pub fn importance(bytes: &[u8]) {
    EMPTY.with(|folder| {
        let path = folder.write("importance", bytes);
        Importance::is_one(&path);
        let Some(mut importance) = told(Importance::read(&path)) else { return };
        for (_, entry) in importance.iter() {
            entry.statistics();
        }
        importance.fill_unseen();
        told(importance.to_bytes());
    });
}

/// A recipe, and what is planned by it.
pub fn recipe(bytes: &[u8]) {
    static MODEL: LazyLock<(Checkpoint, ModelSpec)> = LazyLock::new(|| {
        let checkpoint = checkpoint("e2b");
        let model = ModelSpec::open(&checkpoint).expect("a good model");
        (checkpoint, model)
    });
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some(recipe) = told(Recipe::from_toml(text, "recipe")) else { return };
    let (checkpoint, model) = &*MODEL;
    told(plan::plan(model, &Shards::of(checkpoint), &[Request::new("recipe", recipe, "model")]));
}

/// `manifest.json`.
pub fn manifest(bytes: &[u8]) {
    let Some(mut manifest) = told(Manifest::parse(bytes)) else { return };
    let again = serde_json::to_vec(&manifest).expect("a manifest is JSON");
    assert_eq!(Manifest::parse(&again).expect("its own form"), manifest);
    manifest.entry_of("model.gguf");
    manifest.forget(["model.gguf"]);
}

/// A chat template, with a conversation that has everything.
pub fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some(template) = told(ChatTemplate::new(text)) else { return };
    let messages = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": [{"type": "text", "text": "How warm is it in Nice?"}, {"type": "image"}]}),
        json!({"role": "assistant", "content": null, "tool_calls": [
            {"type": "function", "id": "1", "function": {"name": "weather", "arguments": {"place": "Nice", "days": 2}}}
        ]}),
        json!({"role": "tool", "tool_call_id": "1", "name": "weather", "content": "{\"degrees\": 24.5}"}),
        json!({"role": "assistant", "reasoning": "Warm.", "content": "24.5 degrees."}),
    ];
    let tools = [
        json!({"type": "function", "function": {"name": "weather", "description": "Tells", "parameters": {
            "type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer"}}, "required": ["place"]
        }}}),
    ];
    told(template.render(&Chat {
        messages: &messages,
        tools: &tools,
        add_generation_prompt: true,
        bos_token: "<bos>",
        ..Chat::default()
    }));
}

/// The model card, and the keys that it becomes.
pub fn card(bytes: &[u8]) {
    static MODEL: LazyLock<ModelSpec> =
        LazyLock::new(|| ModelSpec::open(&checkpoint("31b")).expect("a good model"));
    EMPTY.with(|folder| {
        let Some(card) = told(ModelCard::read(&folder.write("README.md", bytes))) else { return };
        told(seeds::keys(&MODEL, &card));
    });
}

/// llama-perplexity's base logits.
pub fn logits(bytes: &[u8]) {
    EMPTY.with(|folder| {
        let path = folder.write("logits", bytes);
        LogitsFile::is_one(&path);
        if let Some(file) = told(LogitsFile::open(&path)) {
            file.sequences(2);
        }
    });
}

/// A PNG, JPEG or WebP file.
pub fn image(bytes: &[u8]) {
    let Some(image) = told(Image::decode(bytes, "image")) else { return };
    // What follows depends on the size alone; large ones only take time.
    if image.width() * image.height() > 1 << 16 {
        return;
    }
    for rule in [ImagePreprocess::Transformers { budget: 70 }, ImagePreprocess::LLAMA_CPP] {
        if let Some(patches) = told(rule.patches(&image, PATCH_SIDE)) {
            assert_eq!(patches.values.len(), patches.columns * patches.rows * patches.patch_len());
        }
    }
}

/// A WAV, FLAC, MP3 or Ogg/Vorbis file.
pub fn sound(bytes: &[u8]) {
    let Some(sound) = told(Sound::decode(bytes.to_vec(), "sound")) else { return };
    assert!(sound.samples.iter().all(|sample| sample.is_finite()));
    let second = &sound.samples[..sound.samples.len().min(SAMPLE_RATE as usize)];
    for rule in [AudioPreprocess::Transformers, AudioPreprocess::LlamaCpp] {
        if let Some(windows) = told(rule.windows(second)) {
            assert!(windows.windows.iter().all(|mel| mel.values.iter().all(|value| value.is_finite())));
        }
    }
}
