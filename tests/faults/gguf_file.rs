//! A GGUF in one file.

use std::fs;
use std::path::Path;

use gguf::Value;
use tensor::DType;

use super::edit::{Gguf, another, retyped};
use super::{Fault, Good, fault};
use crate::support;

const FILE: &str = "model-q4_0.gguf";

/// A change of the file.
pub(crate) fn gguf(
    file: &'static str,
    name: impl ToString,
    word: impl ToString,
    change: impl Fn(&mut Gguf) + 'static,
) -> Fault {
    fault(name, word, move |folder: &Path| {
        let path = folder.join(file);
        let mut gguf = Gguf::read(&path);
        change(&mut gguf);
        gguf.write(&path);
    })
}

/// A change of the file's bytes.
fn bytes(name: &str, word: &str, change: impl Fn(&mut Vec<u8>) + 'static) -> Fault {
    fault(name, word, move |folder: &Path| {
        let path = folder.join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
    })
}

/// Keys that say what a reader takes a missing key for, in the models here.
const DEFAULTS: [&str; 4] = [
    "gemma4.attention.shared_kv_layers",
    "gemma4.embedding_length_per_layer_input",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_sep_token",
];

/// Each key of the model and of the tokenizer: another value, another type, gone.
pub(crate) fn of_every_key(file: &'static str, good: &Good) -> Vec<Fault> {
    let read = Gguf::read(&good.out().join(file));
    let mut faults = Vec::new();
    for (key, value) in read.metadata.iter() {
        if !key.starts_with("gemma4") && !key.starts_with("tokenizer.") {
            continue;
        }
        let set = |what: &str, value: Value| {
            let to = key.to_owned();
            gguf(file, format!("{key} {what}"), key, move |g| g.set(&to, value.clone()))
        };
        faults.push(set("has another value", another(value)));
        faults.extend(retyped(value).map(|value| set("has another type", value)));
        let is_default = DEFAULTS.contains(&key) && matches!(value, Value::U32(0) | Value::Bool(false));
        if !is_default {
            let gone = key.to_owned();
            faults.push(gguf(file, format!("{key} is gone"), key, move |g| drop(g.metadata.remove(&gone))));
        }
    }
    assert!(faults.len() > 60, "{}", faults.len());
    faults
}

/// Keys that should not be there.
pub(crate) fn of_extra_keys(file: &'static str) -> Vec<Fault> {
    let keys: Vec<(&str, Value)> = vec![
        ("tokenizer.ggml.eot_token_id", 5u32.into()),
        ("tokenizer.ggml.eom_token_id", 5u32.into()),
        ("tokenizer.ggml.fim_pre_token_id", 5u32.into()),
        ("tokenizer.ggml.suppress_tokens", vec![1i32, 7].into()),
        ("tokenizer.ggml.pre", "llama-bpe".into()),
        ("tokenizer.ggml.remove_extra_whitespaces", true.into()),
        ("tokenizer.chat_template.tool_use", "{{ messages }}".into()),
        ("tokenizer.chat_templates", vec!["tool_use".to_owned()].into()),
        ("gemma4.rope.scaling.type", "yarn".into()),
        ("gemma4.rope.scaling.factor", 8f32.into()),
        ("gemma4.attention.causal", false.into()),
        ("gemma4.attn_logit_softcapping", 50f32.into()),
        ("gemma4.vision.block_count", 2u32.into()),
        ("gemma4.expert_weights_scale", 2f32.into()),
        ("adapter.type", "lora".into()),
        ("clip.has_vision_encoder", true.into()),
        ("general.type", "adapter".into()),
        ("general.sampling.temp", 9f32.into()),
        ("general.sampling.xtc_threshold", 0.1f32.into()),
    ];
    let set = |(key, value): (&'static str, Value)| {
        let fault = gguf(file, format!("{key} is new"), key, move |g| g.set(key, value.clone()));
        // what is sampled is not what is computed
        if key.starts_with("general.sampling") { fault.harmless() } else { fault }
    };
    keys.into_iter().map(set).collect()
}

#[rustfmt::skip]
fn of_tokenizer() -> Vec<Fault> {
    let texts = |name: &str, key: &'static str, change: fn(&mut Vec<String>)| gguf(FILE, name, key, move |g| g.texts(key, change));
    const TOKENS: &str = "tokenizer.ggml.tokens";
    const MERGES: &str = "tokenizer.ggml.merges";
    const TEMPLATE: &str = "tokenizer.chat_template";
    vec![
        texts("two tokens exchanged", TOKENS, |t| t.swap(500, 501)),
        texts("a token less", TOKENS, |t| drop(t.pop())),
        texts("the last merge is gone", MERGES, |m| drop(m.pop())),
        texts("the first merge is gone", MERGES, |m| drop(m.remove(0))),
        texts("a merge twice", MERGES, |m| m.insert(9, m[8].clone())),
        texts("merges of nothing", MERGES, |m| m[700] = "qqqq zzzz".into()),
        gguf(FILE, "a sign of the template", TEMPLATE, |g| {
            let text: &str = g.metadata.required(TEMPLATE).unwrap();
            g.set(TEMPLATE, text.replacen("user", "usor", 1).replacen("turn", "tum", 1));
        }),
        gguf(FILE, "the template cut", TEMPLATE, |g| {
            let text: &str = g.metadata.required(TEMPLATE).unwrap();
            g.set(TEMPLATE, text[..text.len() - 20].to_owned());
        }),
    ]
}

#[rustfmt::skip]
fn of_tensors() -> Vec<Fault> {
    const UP: &str = "blk.1.ffn_up.weight";
    const FREQS: &str = "rope_freqs.weight";
    let g = |name: &str, word: &str, change: fn(&mut Gguf)| gguf(FILE, name, word, change);
    vec![
        g("renamed", UP, |g| g.tensor(UP).0.name = "blk.1.ffn_upp.weight".into()),
        g("one too many", "blk.9.ffn_up.weight", |g| {
            let (mut desc, bytes) = g.tensor(UP).clone();
            desc.name = "blk.9.ffn_up.weight".into();
            g.tensors.push((desc, bytes));
        }),
        g("transposed", UP, |g| g.relabel(UP, None, |shape| shape.reverse())),
        g("another type of the same size", UP, |g| g.relabel(UP, Some(DType::IQ4_NL), |_| {})),
        g("a norm of another type of the same size", "blk.1.attn_norm.weight|cannot be read", |g| g.relabel("blk.1.attn_norm.weight", Some(DType::I32), |_| {})),
        g("norm plus one", "blk.1.ffn_norm.weight", |g| g.map("blk.1.ffn_norm.weight", |w| w + 1.0)),
        g("norm times 1.5", "output_norm.weight", |g| g.map("output_norm.weight", |w| w * 1.5)),
        g("scalar", "blk.2.layer_output_scale.weight", |g| g.map("blk.2.layer_output_scale.weight", |w| w * 0.5)),
        g("frequencies of ones", FREQS, |g| g.map(FREQS, |_| 1.0)),
        g("frequencies by a factor", FREQS, |g| g.map(FREQS, |w| w * 8.0)),
        g("a norm with a NaN", "blk.3.attn_norm.weight", |g| g.tensor("blk.3.attn_norm.weight").1[..4].copy_from_slice(&f32::NAN.to_le_bytes())),
        g("a scale that is infinite", UP, |g| g.tensor(UP).1[..2].copy_from_slice(&0x7c00u16.to_le_bytes())),
        g("a scale with another sign", UP, |g| g.tensor(UP).1[1] ^= 0x80),
        g("a tensor of zeros", UP, |g| g.tensor(UP).1.fill(0)),
        g("half of the weights gone", UP, |g| { let bytes = &mut g.tensor(UP).1; let half = bytes.len() / 2; bytes[half..].fill(0) }),
        g("two layers exchanged", UP, |g| {
            let one = g.tensor(UP).1.clone();
            let two = std::mem::replace(&mut g.tensor("blk.2.ffn_up.weight").1, one);
            g.tensor(UP).1 = two;
        }),
        g("rows rotated", "token_embd.weight", |g| { let (desc, bytes) = g.tensor("token_embd.weight"); bytes.rotate_left(desc.row_bytes() as usize) }),
        g("another preset's number", "general.file_type", |g| g.set("general.file_type", 7u32)).harmless(),
        g("K quants' number", "general.file_type", |g| g.set("general.file_type", 15u32)).harmless(),
        g("another alignment", "general.alignment", |g| g.set("general.alignment", 64u32)).harmless(),
    ]
}

/// What no limit of a type can see: rows, blocks and bits of these tensors of matrices.
pub(crate) fn of_few_weights(file: &'static str, names: &[&str]) -> Vec<Fault> {
    let change = |name: &str, what: &str, change: fn(&mut Gguf, &str)| {
        let of = name.to_owned();
        gguf(file, format!("{name}: {what}"), format!("tensor {name}"), move |g| change(g, &of))
    };
    let all = |name: &&str| {
        [
            change(name, "a row times 1.5", |g, name| g.scale_rows(name, 7..8, 1.5)),
            change(name, "a row times 1.05", |g, name| g.scale_rows(name, 7..8, 1.05)),
            change(name, "a row of zeros", |g, name| g.scale_rows(name, 9..10, 0.0)),
            change(name, "a bit", |g, name| *g.tensor(name).1.last_mut().unwrap() ^= 1),
            change(name, "two rows exchanged", |g, name| {
                let (desc, bytes) = g.tensor(name);
                let (one, two) = bytes.split_at_mut(desc.row_bytes() as usize);
                one.swap_with_slice(&mut two[..desc.row_bytes() as usize]);
            }),
            change(name, "the last block of a row is that of the next", |g, name| {
                let (desc, bytes) = g.tensor(name);
                let (row, block) = (desc.row_bytes() as usize, desc.dtype.block_bytes());
                let (at, from) = (31 * row - block, 32 * row - block);
                assert_ne!(bytes[at..at + block], bytes[from..from + block]);
                bytes.copy_within(from..from + block, at);
            }),
        ]
    };
    names.iter().flat_map(all).collect()
}

fn of_bytes(good: &Good) -> Vec<Fault> {
    let file = gguf::GgufFile::open(good.out().join(FILE)).unwrap();
    let gap = file.padding().first().expect("padding").start as usize;
    vec![
        bytes("cut short", "ends before|cut short", |b| b.truncate(b.len() - 100)),
        bytes("bytes at the end", "follow the last tensor", |b| b.extend([7; 100])).harmless(),
        bytes("padding that is not zero", "padding", move |b| b[gap] = 1).harmless(),
        bytes("another magic", "GGUF", |b| b[0] = b'X'),
        bytes("another version", "version", |b| b[4] = 9),
        bytes("a key twice", "twice", |b| {
            let (from, twin) = ("gemma4.attention.key_length", "gemma4.attention.head_count");
            let at = b.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            b[at..at + from.len()].copy_from_slice(twin.as_bytes());
        }),
    ]
}

#[test]
fn every_fault_of_a_plain_file_is_named() {
    let good = Good::converted("31b", FILE, &["--type", "q4_0"]);
    let mut faults = of_every_key(FILE, &good);
    faults.extend(of_extra_keys(FILE));
    faults.extend(of_tokenizer());
    faults.extend(of_tensors());
    faults.extend(of_few_weights(FILE, &["token_embd.weight", "blk.1.ffn_up.weight", "blk.0.attn_k.weight"]));
    faults.extend(of_bytes(&good));
    good.all_are_named(&faults);
}

#[test]
fn every_tensor_is_missed() {
    for (checkpoint, file) in [("e2b", "model-bf16.gguf"), ("26b-a4b", "model-bf16.gguf")] {
        let good = Good::converted(checkpoint, file, &["--type", "bf16"]);
        let tensors = Gguf::read(&good.out().join(file)).tensors;
        let names = tensors.into_iter().map(|(desc, _)| desc.name);
        let names = names.filter(|name| !name.starts_with("blk.") || name.starts_with("blk.1."));
        let missing = |name: String| {
            gguf(file, format!("{name} is missing"), format!("{name}: missing"), move |g| g.drop(&name))
        };
        good.all_are_named(&names.map(missing).collect::<Vec<_>>());
    }
}

#[test]
fn every_fault_of_a_few_weights_is_named() {
    let names = [
        "token_embd.weight",
        "blk.1.ffn_down.weight",
        "per_layer_token_embd.weight",
        "blk.0.inp_gate.weight",
    ];
    for preset in ["q8_0", "q4_k_m", "bf16", "iq4_nl"] {
        let file: &'static str = format!("model-{preset}.gguf").leak();
        let good = Good::converted("e2b", file, &["--type", preset]);
        good.all_are_named(&of_few_weights(file, &names));
    }
    let good = Good::converted("26b-a4b", FILE, &["--type", "q4_0"]);
    const EXPERTS: &str = "blk.1.ffn_down_exps.weight";
    let mut faults = of_few_weights(FILE, &[EXPERTS]);
    faults.push(gguf(FILE, "an expert times 1.3", EXPERTS, |g| {
        let rows = g.tensor(EXPERTS).0.shape[1] as usize;
        g.scale_rows(EXPERTS, 3 * rows..4 * rows, 1.3);
    }));
    good.all_are_named(&faults);
}

/// Error feedback rounds for a text: the bytes cannot be made again, and their digests are in the file.
#[test]
fn every_fault_of_a_calibrated_file_is_named() {
    let file = "model-calibrated-q4_0.gguf";
    let text = support::text("calib.txt");
    let args = ["--recipe", "q4_0-calibrated", "--text", text.to_str().unwrap(), "--chunks", "48"];
    let good = Good::converted("31b", file, &args);
    let mut faults =
        of_few_weights(file, &["token_embd.weight", "blk.1.ffn_up.weight", "blk.0.attn_k.weight"]);
    faults.push(gguf(file, "no digests that can be read", "gemma-convert.tensors.sha256", |g| {
        g.set("gemma-convert.tensors.sha256", 7u32)
    }));
    good.all_are_named(&faults);
}
