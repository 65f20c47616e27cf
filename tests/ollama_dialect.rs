//! Files of Ollama's converter: refused where a model is expected, and rewritten by `edit --stock` into the files of llama.cpp's
//! converter. The real Ollama makes one, where it is built; the others are made of our files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gguf::{GgufFile, Metadata, Value};
use quant::Simd;
use tempfile::TempDir;
use tensor::{DType, TensorDesc, TensorSource};
use xtask::oracle::Oracle;
use xtask::oracle::ollama::Ollama;

use crate::faults::edit::Gguf;
use crate::judge_mmproj::soft_tokens;
use crate::pack_ollama::Server;
use crate::support::{Folder, Run, convert, fixture, names, run, text};

/// What Ollama's converter calls a tensor; `N` is a layer.
const OLD_NAMES: [(&str, &str); 8] = [
    ("a.blk.N.ln2.weight", "a.blk.N.layer_pre_norm.weight"),
    ("a.blk.N.attn_post_norm.weight", "a.blk.N.ln2.weight"),
    ("a.blk.N.attn_pre_norm.weight", "a.blk.N.ln1.weight"),
    ("a.blk.N.attn_k_rel.weight", "a.blk.N.linear_pos.weight"),
    ("a.pre_encode.out.weight", "mm.a.fc.weight"),
    ("a.pre_encode.out.bias", "mm.a.fc.bias"),
    ("a.input_projection.weight", "a.pre_encode.out.weight"),
    ("blk.N.ffn_down_exps.scale", "blk.N.ffn_gate_inp.per_expert_scale"),
];

fn stock(file: &Path, out: &Path) -> Run {
    run(["edit", file.to_str().unwrap(), "--stock", "-o", out.to_str().unwrap()])
}

/// Our text model and mmproj file of a checkpoint.
fn pair(checkpoint: &Path, mmproj: &str) -> (TempDir, [PathBuf; 2]) {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("pair");
    convert(checkpoint, &out, &["--type", "bf16", "--mmproj", mmproj]).good();
    let files = ["model-bf16.gguf".to_owned(), format!("mmproj-{mmproj}.gguf")].map(|name| out.join(name));
    (home, files)
}

/// Writes both files as Ollama's converter would, in one.
fn monolith(text: &Path, mmproj: &Path, to: &Path) {
    let (mut all, towers) = (Gguf::read(text), Gguf::read(mmproj));
    for (key, value) in towers.metadata.iter().filter(|(key, _)| key.starts_with("clip.")) {
        let of = key.replacen("clip.", "gemma4.", 1);
        if of.contains(".block_count")
            || of.contains("_length")
            || of.contains("head_count")
            || of.contains("patch_size")
            || of.contains("epsilon")
        {
            all.metadata.insert(of, value.clone());
        }
    }
    all.tensors.extend(towers.tensors);
    for (desc, _) in &mut all.tensors {
        let layer =
            desc.name.split('.').find(|part| part.parse::<u32>().is_ok()).unwrap_or_default().to_owned();
        let named = |pattern: &str| pattern.replace('N', &layer);
        if let Some((_, old)) = OLD_NAMES.iter().find(|(new, _)| named(new) == desc.name) {
            desc.name = named(old);
        }
    }
    let packed = TensorDesc::new("v.clamp_data", DType::F32, [4]).unwrap();
    all.tensors.push((packed, vec![0; 16]));
    split_experts(&mut all);
    as_llama(&mut all.metadata);
    all.write(to);
}

/// Experts with gate and up projections in tensors of their own, as the first versions had them.
fn split_experts(gguf: &mut Gguf) {
    let mut tensors = Vec::new();
    for (desc, bytes) in gguf.tensors.drain(..) {
        if !desc.name.contains("ffn_gate_up_exps") {
            tensors.push((desc, bytes));
            continue;
        }
        let &[experts, rows, cols] = &desc.shape[..] else { panic!("{desc:?}") };
        let halves: Vec<&[u8]> = bytes.chunks_exact(bytes.len() / experts as usize / 2).collect();
        for (half, name) in ["ffn_gate_exps", "ffn_up_exps"].into_iter().enumerate() {
            let name = desc.name.replace("ffn_gate_up_exps", name);
            let of: Vec<u8> = halves.iter().skip(half).step_by(2).copied().flatten().copied().collect();
            tensors.push((TensorDesc::new(name, desc.dtype, [experts, rows / 2, cols]).unwrap(), of));
        }
    }
    gguf.tensors = tensors;
}

/// The tokenizer's keys as Ollama's converter writes them.
fn as_llama(metadata: &mut Metadata) {
    let tokens = metadata.typed::<&[String]>("tokenizer.ggml.tokens").unwrap().unwrap().len();
    metadata.insert("tokenizer.ggml.model", "llama");
    metadata.insert("tokenizer.ggml.pre", "gemma4");
    metadata.insert("tokenizer.ggml.scores", (0..tokens).map(|id| id as f32).collect::<Vec<_>>());
    let types: &[i32] = metadata.typed("tokenizer.ggml.token_type").unwrap().unwrap();
    // visible tokens are special in tokenizer.json, bytes are tokens like others
    let types: Vec<i32> = types
        .iter()
        .map(|kind| match kind {
            4 => 3,
            6 => 1,
            other => *other,
        })
        .collect();
    metadata.insert("tokenizer.ggml.token_type", types);
    metadata.insert("tokenizer.ggml.eos_token_ids", vec![1i32, 106]);
    metadata.remove("tokenizer.ggml.add_space_prefix");
    metadata.insert("general.file_type", 1u32);
}

#[test]
fn the_stock_files_have_the_bytes_of_the_pair() {
    for (checkpoint, types) in [("e2b", "bf16"), ("26b-a4b", "f16")] {
        let (home, [text, mmproj]) = pair(&fixture(checkpoint), types);
        let [file, out] = ["mono.gguf", "out"].map(|name| home.path().join(name));
        monolith(&text, &mmproj, &file);
        let made = stock(&file, &out).good();
        assert!(made.stdout.contains("mmproj-mono.gguf"), "{}", made.stdout);
        for (ours, name) in [(text, "mono.gguf"), (mmproj, "mmproj-mono.gguf")] {
            let [a, b] = [ours, out.join(name)].map(|path| GgufFile::open(path).unwrap());
            let differ = |(key, value): &(&str, &Value)| b.metadata().get(key) != Some(value);
            let differ: Vec<_> = a.metadata().iter().filter(differ).collect();
            assert!(differ.is_empty(), "{checkpoint} {name}: {differ:?}");
            assert_eq!(TensorSource::tensors(&a), TensorSource::tensors(&b));
            assert!(bytes(&a) == bytes(&b), "{checkpoint} {name}");
        }
        run(["verify", out.join("mono.gguf").to_str().unwrap()]).good();
        run(["verify", out.join("mmproj-mono.gguf").to_str().unwrap()]).good();
    }
}

/// All bytes behind the header.
fn bytes(file: &GgufFile) -> Vec<u8> {
    fs::read(file.path()).unwrap()[file.offsets()[0] as usize..].to_vec()
}

/// Without towers, only the tokenizer is another.
#[test]
fn a_tokenizer_that_is_called_llama_is_rewritten() {
    let home = tempfile::tempdir().unwrap();
    let [ours, file, out] = ["ours.gguf", "old.gguf", "new.gguf"].map(|name| home.path().join(name));
    convert(&fixture("31b"), &ours, &["--type", "q4_k_m"]).good();
    let mut gguf = Gguf::read(&ours);
    as_llama(&mut gguf.metadata);
    gguf.set("general.file_type", 15u32);
    gguf.write(&file);
    let refused = convert(&file, &out, &["--type", "q8_0"]);
    assert!(refused.refusal(3).contains("--stock"), "{}", refused.stderr);
    stock(&file, &out).good();
    assert_eq!(names(home.path()).iter().filter(|name| name.ends_with(".gguf")).count(), 3);
    let [a, b] = [&ours, &out].map(|path| GgufFile::open(path).unwrap());
    assert!(bytes(&a) == bytes(&b));
    a.metadata().iter().for_each(|(key, value)| assert_eq!(b.metadata().get(key), Some(value), "{key}"));
    convert(&out, &home.path().join("q8_0.gguf"), &["--type", "q8_0"]).good();

    // without merges nobody knows how a text becomes tokens
    gguf.metadata.remove("tokenizer.ggml.merges");
    gguf.write(&file);
    let refused = stock(&file, &home.path().join("x.gguf"));
    assert!(refused.refusal(3).contains("merges"), "{}", refused.stderr);
    let refused = stock(&ours, &home.path().join("x.gguf"));
    assert!(refused.refusal(3).contains("not in the dialect"), "{}", refused.stderr);
}

/// The real Ollama converts a checkpoint; its stock files have the weights of our conversion, and llama.cpp runs them.
#[test]
fn a_file_that_ollama_made_becomes_the_pair() {
    let (Some(ollama), Some(oracle)) = (Ollama::for_tests(), Oracle::for_tests()) else { return };
    let folder = Folder::of("e2b");
    // Ollama knows the older of the two dialects of a config
    folder.edit("config.json", |json| {
        let config = json["text_config"].as_object_mut().unwrap();
        let layers = config.remove("per_layer_config").unwrap();
        config.insert("global_head_dim".to_owned(), layers["3"]["head_dim"].clone());
    });
    // it takes the types of special tokens from tokenizer.json, llama.cpp's converter from the names in the other file, as published
    folder.edit("tokenizer_config.json", |json| {
        json["extra_special_tokens"] = serde_json::json!([
            "<|tool>",
            "<tool|>",
            "<|think|>",
            "<|turn>",
            "<turn|>",
            "<|image>",
            "<|audio>",
            "<|image|>",
            "<|audio|>",
            "<image|>",
            "<audio|>",
            "<|video|>",
        ]);
    });
    let server = Server::start(&ollama, folder.home());
    fs::write(folder.home().join("Modelfile"), format!("FROM {}\n", folder.path().display())).unwrap();
    server.client(&["create", "tiny", "-f", folder.home().join("Modelfile").to_str().unwrap()]);
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(server.manifest("tiny:latest")).unwrap()).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let model = layers.iter().find(|layer| layer["mediaType"].as_str().unwrap().ends_with("image.model"));
    let digest = model.unwrap()["digest"].as_str().unwrap().replace(':', "-");
    let blob = folder.home().join("store/blobs").join(digest);

    let refused = convert(&blob, &folder.out(), &["--type", "q8_0"]);
    assert!(refused.refusal(3).contains("--stock"), "{}", refused.stderr);
    let [model, mmproj] = ["stock.gguf", "mmproj-stock.gguf"].map(|name| folder.home().join(name));
    let made = stock(&blob, &model).good();
    assert!(made.stderr.contains("no chat template"), "{}", made.stderr);
    let (_home, [our_model, our_mmproj]) = pair(&folder.path(), "bf16");

    // the weights of the text are the same bits, those of towers the same values, up to Ollama's F16 and its softplus
    let [a, b] = [&our_model, &model].map(|path| GgufFile::open(path).unwrap());
    assert_eq!(TensorSource::tensors(&a), TensorSource::tensors(&b));
    assert!(bytes(&a) == bytes(&b));
    same_keys(&a, &b, &["tokenizer.chat_template"]);
    let [a, b] = [&our_mmproj, &mmproj].map(|path| GgufFile::open(path).unwrap());
    same_keys(&a, &b, &[]);
    assert_eq!(a.tensors().len(), b.tensors().len());
    for (index, (ours, theirs)) in a.tensors().iter().zip(b.tensors()).enumerate() {
        assert_eq!((&ours.name, &ours.shape), (&theirs.name, &theirs.shape));
        let [ours, theirs] = [(&a, ours), (&b, theirs)].map(|(file, desc)| values(file, index, desc));
        for (ours, theirs) in ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs) {
            assert!((ours - theirs).abs() <= 6e-8 + 2e-7 * ours.abs(), "{index}: {ours} {theirs}");
        }
    }

    let logits = |model: &Path| {
        let saved = model.with_extension("logits");
        let mut tool = oracle.runner("llama-perplexity");
        tool.args(["-c", "128", "--chunks", "2", "-t", "2", "-f"]).arg(text("eval.txt"));
        ok(tool.arg("--save-all-logits").arg(&saved).arg("-m").arg(model));
        fs::read(saved).unwrap()
    };
    assert!(logits(&our_model) == logits(&model));
    for media in
        [["--image", "golden/multimodal/wide.llama.png"], ["--audio", "golden/multimodal/chirp-3s.wav"]]
    {
        let [ours, theirs] = [&our_mmproj, &mmproj].map(|file| soft_tokens(&oracle, &our_model, file, media));
        let distance = ours.distance(&theirs);
        assert!(distance < 0.01, "{media:?}: {distance}");
    }
}

/// Keys that ours has, with their values; a file of Ollama's knows nothing of `general.*` but the type.
fn same_keys(ours: &GgufFile, theirs: &GgufFile, unknown: &[&str]) {
    let lost = ["general.sampling.", "general.name"];
    for (key, value) in ours.metadata().iter() {
        if unknown.contains(&key) || lost.iter().any(|start| key.starts_with(start)) {
            continue;
        }
        assert_eq!(theirs.metadata().get(key), Some(value), "{key}");
    }
}

fn values(file: &GgufFile, index: usize, desc: &TensorDesc) -> Vec<f32> {
    let mut bytes = vec![0; desc.byte_len() as usize];
    file.read_rows(index, 0, &mut bytes).unwrap();
    let mut values = vec![0.0; desc.elements() as usize];
    quant::decode(Simd::detect(), desc.dtype, &bytes, &mut values);
    values
}

fn ok(tool: &mut Command) {
    let output = tool.output().unwrap_or_else(|e| panic!("{tool:?}: {e}"));
    assert!(output.status.success(), "{tool:?}\n{}", String::from_utf8_lossy(&output.stderr));
}
