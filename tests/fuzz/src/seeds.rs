//! Good files of each kind, to begin with: from the fixtures, or as small as they can be.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

use checkpoint::ModelCard;
use gemma::{KeySources, ModelSpec};
use gguf::{Layout, Metadata};
use imatrix::{Entry, Importance};
use plan::{Recipe, Request, Shards};
use serde_json::{Value, json};
use tensor::{DType, Result, TensorDesc};

use super::{checkpoint, fixtures};

/// The seeds of a target.
///
/// # Panics
/// For a target that there is not, and without fixtures.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "gguf" => ggufs(),
        "safetensors" => shards().into_iter().map(|(_, bytes)| bytes).chain([coded_shard()]).collect(),
        "index" => vec![
            bytes(
                &json!({"metadata": {"total_size": 64}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}),
            ),
            bytes(&json!({"weight_map": {"a": "a.safetensors"}})),
        ],
        "config" => configs(),
        "tokenizer" => vec![read("checkpoints/31b/tokenizer.json"), small_tokenizer()],
        "importance" => importances(),
        "recipe" => recipes(),
        "manifest" => vec![a_manifest()],
        "template" => templates(),
        "card" => cards(),
        "logits" => vec![logits(4, 3, 1), logits(6, 7, 2)],
        "image" => {
            [".png", ".jpg", ".webp"].iter().flat_map(|ending| files("golden/media", ending)).collect()
        }
        "sound" => [".flac", ".ogg", ".mp3", ".wav"]
            .iter()
            .flat_map(|ending| files("golden/media", ending))
            .collect(),
        "litertlm" => bundles(),
        other => panic!("no target {other}"),
    }
}

/// A bundle, and its sections that are small.
fn bundles() -> Vec<Vec<u8>> {
    let packed = read("golden/litertlm/base.wi2.litertlm.gz");
    let mut file = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut file).expect("a bundle");
    let bundle = litert::Bundle::read(&file).expect("a bundle");
    let small =
        bundle.sections.iter().map(|section| section.range.start as usize..section.range.end as usize);
    let small = small.filter(|range| range.len() < 100_000).map(|range| file[range].to_vec());
    small.chain([file.clone()]).collect()
}

fn read(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).expect("a fixture")
}

fn files(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(fixtures().join(folder)).expect("a folder of fixtures");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(ending));
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a fixture")).collect()
}

fn bytes(json: &Value) -> Vec<u8> {
    json.to_string().into_bytes()
}

/// The keys of a model with a card.
pub(crate) fn keys(model: &ModelSpec, card: &ModelCard) -> Result<Metadata> {
    let none = BTreeMap::new();
    let sources = KeySources {
        config: &model.config,
        vocabulary: &model.vocabulary,
        templates: &model.templates,
        generation: model.generation.as_ref(),
        card,
        names: &none,
        overrides: &none,
        parameters: Default::default(),
    };
    gemma::metadata(&sources, 0)
}

/// Headers of the tiny models, whole and without their vocabulary.
fn ggufs() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for name in ["e2b", "26b-a4b", "31b"] {
        let checkpoint = checkpoint(name);
        let model = ModelSpec::open(&checkpoint).expect("a good model");
        let recipe = Recipe::from_toml(&Recipe::text_of_preset("q4_0"), "q4_0").expect("a good recipe");
        let request = Request::new("q4_0", recipe, "model");
        let plan = plan::plan(&model, &Shards::of(&checkpoint), &[request]).expect("a good plan");
        seeds.push(plan.artifacts[0].files[0].header.clone());
        let mut few = keys(&model, &ModelCard::default()).expect("good keys");
        let long: Vec<String> =
            few.iter().map(|(key, _)| key.to_owned()).filter(|key| key.contains(".ggml.")).collect();
        for key in long {
            few.remove(&key);
        }
        seeds.push(Layout::new(&few, Vec::new()).expect("a good header").header);
    }
    seeds
}

fn shard(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut shard = (header.len() as u64).to_le_bytes().to_vec();
    shard.extend(header.as_bytes());
    shard.extend(vec![0x3c; data]);
    shard
}

/// Two small shards.
pub(crate) fn shards() -> [(&'static str, Vec<u8>); 2] {
    let a = json!({"__metadata__": {"format": "pt"}, "a": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]}});
    let b = json!({
        "b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "c": {"dtype": "U8", "shape": [], "data_offsets": [16, 17]},
    });
    [("a.safetensors", shard(&a, 16)), ("b.safetensors", shard(&b, 17))]
}

/// One with weights that are stored as 8-bit floats.
fn coded_shard() -> Vec<u8> {
    let header = json!({
        "model.layers.0.mlp.up_proj.weight": {"dtype": "F8_E4M3", "shape": [2, 8], "data_offsets": [0, 16]},
        "model.layers.0.mlp.up_proj.weight_scale": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [16, 20]},
    });
    shard(&header, 20)
}

fn configs() -> Vec<Vec<u8>> {
    let mut seeds = files("configs", ".json");
    for name in ["e2b", "26b-a4b", "31b", "e2b-assistant"] {
        seeds.push(read(&format!("checkpoints/{name}/config.json")));
    }
    seeds
}

fn small_tokenizer() -> Vec<u8> {
    let mut whole: Value = serde_json::from_slice(&read("checkpoints/31b/tokenizer.json")).expect("JSON");
    whole["added_tokens"] = json!([{"id": 0, "content": "<pad>", "special": true}, {"id": 2, "content": "<bos>", "special": true}]);
    whole["model"]["vocab"] =
        json!({"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6, "<0x0A>": 7});
    whole["model"]["merges"] = json!([["a", "b"]]);
    bytes(&whole)
}

fn importances() -> Vec<Vec<u8>> {
    let mut importance = Importance::new(vec!["text.txt".to_owned()], 2, 512);
    for (name, counts) in [("blk.0.attn_q.weight", vec![3]), ("blk.0.ffn_down_exps.weight", vec![1, 0])] {
        importance.insert(name, Entry::new(vec![1.0, 2.0, 0.5, 0.0], counts).expect("a good entry"));
    }
    let mut dat = Vec::new();
    let text = |dat: &mut Vec<u8>, text: &str| {
        dat.extend((text.len() as i32).to_le_bytes());
        dat.extend(text.as_bytes());
    };
    dat.extend(1i32.to_le_bytes());
    text(&mut dat, "blk.0.attn_q.weight");
    for number in [2i32, 2] {
        dat.extend(number.to_le_bytes());
    }
    for value in [1.5f32, 0.25] {
        dat.extend(value.to_le_bytes());
    }
    dat.extend(2i32.to_le_bytes());
    text(&mut dat, "text.txt");
    // A GGUF that is not one of importance.
    let tensor = TensorDesc::new("a.in_sum2", DType::F32, [1]).expect("a good tensor");
    let other = Layout::new(&Metadata::new(), vec![tensor]).expect("a good header");
    vec![importance.to_bytes().expect("good importance"), dat, other.header]
}

fn recipes() -> Vec<Vec<u8>> {
    let folder = fixtures().with_file_name("recipes");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).expect("the recipes").map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a recipe")).collect()
}

fn a_manifest() -> Vec<u8> {
    let file = json!({"name": "model.gguf", "bytes": 10, "sha256": "0".repeat(64)});
    bytes(&json!({"artifacts": [{
        "recipe": "q4_0", "settings": {"preset": "q4_0"}, "tool": "gemma-convert 0.1.0", "plan_sha256": "0".repeat(64),
        "calibration": {"texts": [file], "tokens": 1, "sequences": 1, "tensors": {}},
        "repacked": [{"tensor": "a", "blocks": 1, "exact": 1, "near": 0}],
        "inputs": [file], "outputs": [file]
    }]}))
}

fn templates() -> Vec<Vec<u8>> {
    let mut seeds = files("chat-templates", ".jinja");
    seeds.push(read("checkpoints/31b/chat_template.jinja"));
    let small = [
        "{% for m in messages %}{{ m.role ~ ': ' ~ m.content | trim }}\n{% endfor %}",
        "{% macro f(x, n=2) %}{{ x * n }}{{ caller() }}{% endmacro %}{% call f('a') %}b{% endcall %}",
        "{% set ns = namespace(a=[1], b='x') %}{% for i in range(3) %}{% set ns.a = ns.a + [i] %}{% endfor %}{{ ns.a | tojson(indent=2) }}",
        "{{ 'a,b'.split(',')[::-1] | join('-') | replace('a', 'c') | indent(4) | upper }}{{ '%5d' | format(3) }}",
        "{% for m in messages | selectattr('role', 'equalto', 'user') %}{{ loop.index }}{{ m | items | list }}{% else %}n{% endfor %}",
    ];
    seeds.extend(small.map(|text| text.as_bytes().to_vec()));
    seeds
}

fn cards() -> Vec<Vec<u8>> {
    let cases: Value = serde_json::from_slice(&read("golden/keys/cases.json")).expect("JSON");
    let cards = cases.as_array().into_iter().flatten().filter_map(|case| case["files"]["README.md"].as_str());
    let mut seeds: Vec<Vec<u8>> = cards.map(|card| card.as_bytes().to_vec()).collect();
    seeds.push(b"---\na: &x [1, 2]\nb: *x\nc: |\n  text\nd: {e: ~, f: 2020-01-01}\n---\n# Title\n".to_vec());
    seeds
}

/// A file of `chunks` of `context` tokens.
fn logits(context: i32, vocab: i32, chunks: i32) -> Vec<u8> {
    let mut file = b"_logits_".to_vec();
    for number in [context, vocab, chunks] {
        file.extend(number.to_le_bytes());
    }
    for token in 0..context * chunks {
        file.extend((token % vocab).to_le_bytes());
    }
    let rows = chunks * (context - 1 - context / 2);
    let row = 2 * ((vocab + 1) / 2 * 2 + 4);
    file.extend(vec![0; (rows * row) as usize]);
    file
}
