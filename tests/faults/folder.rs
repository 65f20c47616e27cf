//! Folders of safetensors.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Fault, Good, fault};
use crate::support::{self, INDEX, WEIGHTS, Weights, metadata};

/// A change of a JSON file.
fn edit(file: &'static str, name: impl ToString, word: &str, change: impl Fn(&mut Value) + 'static) -> Fault {
    fault(format!("{file}: {}", name.to_string()), word, move |folder: &Path| {
        let mut json = support::json(&folder.join(file));
        change(&mut json);
        fs::write(folder.join(file), format!("{json:#}\n")).unwrap();
    })
}

fn write(file: &'static str, text: &'static str) -> Fault {
    fault(format!("{file} is new"), file, move |folder: &Path| fs::write(folder.join(file), text).unwrap())
}

fn remove(file: &'static str) -> Fault {
    fault(format!("{file} is gone"), file, move |folder: &Path| fs::remove_file(folder.join(file)).unwrap())
}

fn weights(name: &str, word: &str, change: impl Fn(&mut Weights) + 'static) -> Fault {
    fault(name, word, move |folder: &Path| {
        let format = metadata(folder);
        let mut weights = support::weights(folder);
        change(&mut weights);
        fs::write(folder.join(WEIGHTS), weights.to_bytes_with(Some(&format))).unwrap();
    })
}

/// Another value of the same type; of a list or an object, in its first place.
fn change(value: &mut Value) {
    match value {
        Value::Bool(b) => *b = !*b,
        Value::Number(n) if n.is_u64() => *value = json!(n.as_u64().unwrap() ^ 1),
        Value::Number(n) => *value = json!(n.as_f64().unwrap() * 0.5 + 0.25),
        Value::String(text) => text.push('x'),
        Value::Array(items) if !items.is_empty() => change(&mut items[0]),
        Value::Object(fields) if !fields.is_empty() => change(fields.values_mut().next().unwrap()),
        _ => *value = json!(7),
    }
}

/// Keys that a config may say anything in.
const FREE: [&str; 3] = ["transformers_version", "initializer_range", "use_cache"];

/// Keys that only a mixture of experts has.
const MIXTURE: [&str; 3] = ["moe_intermediate_size", "num_experts", "top_k_experts"];

/// Each key of config.json and of its text_config, changed.
fn of_every_key_of_the_config(good: &Good) -> Vec<Fault> {
    let config = support::json(&good.out().join("config.json"));
    let mut faults = Vec::new();
    for inside in ["", "/text_config"] {
        let fields = config.pointer(inside).and_then(Value::as_object).unwrap();
        // a model without experts says nothing by the sizes of experts
        let says_nothing = |key: &str| MIXTURE.contains(&key) && fields[key].is_null();
        for key in fields.keys().filter(|key| !FREE.contains(&key.as_str()) && !says_nothing(key)) {
            if ["text_config", "vision_config", "audio_config"].contains(&key.as_str()) {
                continue;
            }
            // some sizes make another variant of it, or are refused
            let word = format!("{key}|config.json|variant|gemma4.|shape");
            let pointer = format!("{inside}/{key}");
            faults.push(edit("config.json", pointer.clone(), &word, move |c| {
                change(c.pointer_mut(&pointer).unwrap())
            }));
        }
    }
    assert!(faults.len() > 35, "{}", faults.len());
    faults
}

#[rustfmt::skip]
fn of_the_tokenizer() -> Vec<Fault> {
    const T: &str = "tokenizer.json";
    const C: &str = "tokenizer_config.json";
    let set = |file: &'static str, pointer: &'static str, value: Value| {
        edit(file, pointer, &format!("{file}|tokenizer"), move |json| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            json.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value.clone());
        })
    };
    vec![
        set(T, "/normalizer/content", json!(" ")),
        set(T, "/normalizer", json!({ "type": "NFKC" })),
        set(T, "/pre_tokenizer/behavior", json!("Isolated")),
        set(T, "/pre_tokenizer", json!(null)),
        set(T, "/post_processor", json!(null)),
        set(T, "/decoder", json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true })),
        set(T, "/truncation", json!({ "direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0 })),
        set(T, "/padding", json!({ "strategy": { "Fixed": 512 }, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>" })),
        set(T, "/model/unk_token", json!("<pad>")),
        set(T, "/model/byte_fallback", json!(false)),
        set(T, "/model/ignore_merges", json!(true)),
        set(T, "/model/fuse_unk", json!(false)),
        set(T, "/model/dropout", json!(0.5)),
        edit(T, "an added token is not special", T, |t| t["added_tokens"][2]["special"] = json!(false)),
        edit(T, "an added token strips", T, |t| t["added_tokens"][2]["lstrip"] = json!(true)),
        edit(T, "an added token is gone", "token", |t| drop(t["added_tokens"].as_array_mut().unwrap().pop())),
        edit(T, "two merges exchanged", "merges", |t| t["model"]["merges"].as_array_mut().unwrap().swap(100, 200)),
        edit(T, "a merge less", "merges", |t| drop(t["model"]["merges"].as_array_mut().unwrap().pop())),
        edit(T, "two tokens exchanged", "tokens", |t| {
            let vocab = t["model"]["vocab"].as_object_mut().unwrap();
            let names: Vec<_> = vocab.iter().filter(|(_, id)| [900, 901].contains(&id.as_u64().unwrap())).map(|(name, _)| name.clone()).collect();
            let [a, b] = [0, 1].map(|n| vocab[&names[n]].clone());
            (vocab[&names[0]], vocab[&names[1]]) = (b, a);
        }),
        set(C, "/add_bos_token", json!(false)),
        set(C, "/add_eos_token", json!(true)),
        set(C, "/eos_token", json!("<pad>")),
        set(C, "/bos_token", json!("<eos>")),
        set(C, "/unk_token", json!("<pad>")),
        set(C, "/model_max_length", json!(512)),
        set(C, "/tokenizer_class", json!("LlamaTokenizer")),
        set(C, "/auto_map", json!({ "AutoTokenizer": ["x.T", null] })),
        set(C, "/chat_template", json!("{{ messages }}")),
        set(C, "/padding_side", json!("right")),
        set(C, "/extra_special_tokens", json!({ "x": "<mask>" })),
    ]
}

#[rustfmt::skip]
fn of_other_files() -> Vec<Fault> {
    const G: &str = "generation_config.json";
    vec![
        edit(G, "another end", "eos_token_id", |g| g["eos_token_id"] = json!([1])),
        edit(G, "hotter", "temperature", |g| g["temperature"] = json!(3.0)),
        edit(G, "greedy", "do_sample", |g| g["do_sample"] = json!(!g["do_sample"].as_bool().unwrap_or(false))),
        edit(G, "suppressed", "suppress_tokens", |g| g["suppress_tokens"] = json!([5])),
        edit("processor_config.json", "another mean", "processor_config.json", change),
        edit("config.json", "code of its own", "auto_map", |c| c["auto_map"] = json!({ "AutoModelForCausalLM": "x.M" })),
        edit("config.json", "another rope", "rope|config.json", |c| c["text_config"]["rope_scaling"] = json!({ "rope_type": "yarn", "factor": 4.0 })),
        edit("config.json", "an older window", "config.json|window", |c| c["text_config"]["sliding_window"] = json!(null)),
        edit("config.json", "two layers of another kind", "sliding_window_pattern|variant|shape|per_layer_config", |c| {
            let types = c["text_config"]["layer_types"].as_array_mut().unwrap();
            let last = types.len() - 1;
            types.swap(last, 0);
        }),
        edit("config.json", "tied at the top", "tie_word_embeddings|tied|lm_head", |c| c["tie_word_embeddings"] = json!(false)),
        remove(G), remove("tokenizer_config.json"), remove("tokenizer.json"), remove("processor_config.json"), remove("config.json"),
        fault("chat_template.jinja is gone", "chat_template", |folder: &Path| fs::remove_file(folder.join("chat_template.jinja")).unwrap()),
        fault("a sign of the template", "chat_template", |folder: &Path| {
            let text = fs::read_to_string(folder.join("chat_template.jinja")).unwrap();
            fs::write(folder.join("chat_template.jinja"), text.replacen("user", "usor", 1) + " ").unwrap();
        }),
        write("modeling_gemma4.py", "import os"),
        write("adapter_config.json", "{}"),
        write("special_tokens_map.json", r#"{"eos_token": "<pad>"}"#),
        write("added_tokens.json", r#"{"<x>": 5}"#),
        write("preprocessor_config.json", "{}"),
        write("hf_quant_config.json", "{}"),
        write("pytorch_model.bin", "x").harmless(),
        fault("stray weights", "stray.safetensors", |folder: &Path| _ = fs::copy(folder.join(WEIGHTS), folder.join("stray.safetensors")).unwrap()).harmless(),
        fault("config.json is a list", "config.json", |folder: &Path| fs::write(folder.join("config.json"), "[]").unwrap()),
        fault("generation_config.json is nothing", "generation_config.json", |folder: &Path| fs::write(folder.join(G), "").unwrap()),
    ]
}

#[rustfmt::skip]
fn of_weights(scale: Option<&'static str>) -> Vec<Fault> {
    const UP: &str = "layers.1.mlp.up_proj.weight";
    const NORM: &str = "layers.1.input_layernorm.weight";
    let mut faults = vec![
        weights("a tensor is gone", UP, |w| w.drop(UP)),
        weights("a tensor renamed", UP, |w| w.get(UP).name.push('x')),
        weights("a norm is gone", NORM, |w| w.drop(NORM)),
        weights("one too many", "extra", |w| w.add("model.language_model.extra.weight", "BF16", &[4], 8)),
        weights("a bit", UP, |w| *w.get(UP).data.last_mut().unwrap() ^= 1),
        weights("a bit of the embedding", "embed_tokens.weight", |w| w.get("language_model.embed_tokens.weight").data[777] ^= 1),
        weights("two rows exchanged", UP, |w| {
            let tensor = w.get(UP);
            let row = tensor.data.len() / tensor.shape[0] as usize;
            let (one, two) = tensor.data.split_at_mut(row);
            one.swap_with_slice(&mut two[..row]);
        }),
        weights("zeros", UP, |w| w.get(UP).data.fill(0)),
        weights("transposed", UP, |w| w.get(UP).shape.reverse()),
        weights("norm in F16", NORM, |w| w.get(NORM).dtype = "F16".into()),
        weights("a norm with a NaN", NORM, |w| w.get(NORM).poke(3, f32::NAN)),
        weights("a tower's weight", "vision", |w| w.tensors.iter_mut().find(|t| t.name.contains("vision") && t.shape.len() == 2).unwrap().poke(5, 100.0)),
        weights("a tower's tensor is gone", "vision", |w| {
            let at = w.tensors.iter().position(|t| t.name.contains("vision")).unwrap();
            w.tensors.remove(at);
        }),
        fault("bytes at the end", "bytes", |folder: &Path| {
            let mut bytes = fs::read(folder.join(WEIGHTS)).unwrap();
            bytes.extend([0; 64]);
            fs::write(folder.join(WEIGHTS), bytes).unwrap();
        }),
        fault("cut short", "bytes", |folder: &Path| {
            let bytes = fs::read(folder.join(WEIGHTS)).unwrap();
            fs::write(folder.join(WEIGHTS), &bytes[..bytes.len() - 64]).unwrap();
        }),
        fault("another framework", "__metadata__ format", |folder: &Path| {
            let weights = support::weights(folder).to_bytes_with(Some(&json!({ "format": "tf" })));
            fs::write(folder.join(WEIGHTS), weights).unwrap();
        }),
    ];
    if let Some(scale) = scale {
        faults.push(weights("all scales of a tensor times 2", UP, move |w| {
            let tensor = w.get(&format!("layers.1.mlp.up_proj.{scale}"));
            // the exponents of F32 and BF16
            let (size, of_exponent) = if tensor.dtype == "F32" { (4, 3) } else { (2, 1) };
            tensor.data.chunks_exact_mut(size).for_each(|value| value[of_exponent] ^= 1);
        }));
        faults.push(weights("a scale is gone", "up_proj", move |w| w.drop(&format!("up_proj.{scale}"))));
        faults.push(weights("scales of zeros", "up_proj", move |w| w.get(&format!("layers.1.mlp.up_proj.{scale}")).data.fill(0)));
        faults.push(weights("a scale doubled", UP, move |w| {
            let data = &mut w.get(&format!("layers.1.mlp.up_proj.{scale}")).data;
            let end = data.len();
            data[end - 1] ^= 1;
        }));
    }
    faults
}

#[test]
fn every_fault_of_config_tokenizer_and_other_files_is_named() {
    let good = Good::converted("31b", "", &["--recipe", "bf16-safetensors"]);
    let mut faults = of_every_key_of_the_config(&good);
    faults.extend(of_the_tokenizer());
    faults.extend(of_other_files());
    good.all_are_named(&faults);
}

#[test]
fn every_fault_of_weights_and_scales_is_named() {
    for (recipe, scale) in
        [("bf16-safetensors", None), ("fp8", Some("weight_scale")), ("sfp8", Some("weight.sfp_scale"))]
    {
        let good = Good::converted("31b", "", &["--recipe", recipe]);
        let mut faults = of_weights(scale);
        if recipe == "fp8" {
            faults.push(edit("config.json", "another method", "quantization_config|GPTQ", |c| {
                c["quantization_config"]["quant_method"] = json!("gptq")
            }));
            faults.push(edit("config.json", "no scheme", "quantiz|type|scale|BF16", |c| {
                drop(c.as_object_mut().unwrap().remove("quantization_config"))
            }));
        }
        good.all_are_named(&faults);
    }
}

#[test]
fn every_fault_of_a_device_map_is_named() {
    const MAP: &str = "device_map.json";
    let offload = ["--recipe", "bf16-safetensors", "--set", "output.offload=[\"per-layer\"]"];
    let good = Good::converted("e2b", "", &offload);
    let map = |name: &str, change: fn(&mut serde_json::Map<String, Value>)| {
        edit(MAP, name, MAP, move |json| change(json.as_object_mut().unwrap()))
    };
    good.all_are_named(&[
        remove(MAP),
        fault("nothing in it", MAP, |folder: &Path| fs::write(folder.join(MAP), "{").unwrap()),
        fault("a list", MAP, |folder: &Path| fs::write(folder.join(MAP), "[1]").unwrap()),
        map("empty", |map| map.clear()),
        map("everything stays", |map| map.values_mut().for_each(|place| *place = json!("cpu"))),
        map("everything goes", |map| map.values_mut().for_each(|place| *place = json!("disk"))),
        map("meta", |map| *map.values_mut().find(|place| *place == "cpu").unwrap() = json!("meta")),
        map("an ancestor", |map| drop(map.insert(String::new(), json!("cpu")))),
        map("an unknown module", |map| drop(map.insert("foo".to_owned(), json!("cpu")))),
        map("no head", |map| drop(map.remove("lm_head").unwrap())),
    ]);
    let plain = Good::converted("31b", "", &["--recipe", "bf16-safetensors"]);
    plain.all_are_named(&[write(MAP, "{\"\": \"disk\"}").harmless()]);
}

#[test]
fn every_fault_of_shards_and_their_index_is_named() {
    let good = Good::converted("31b", "", &["--recipe", "bf16-safetensors", "--max-shard-size", "3MB"]);
    let shards: Vec<_> =
        support::names(&good.out()).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
    let [a, b] = [0, 1].map(|n| shards[n].clone());
    let (c, d, gone) = (a.clone(), b.clone(), b.clone());
    let faults = [
        fault("two shards exchanged", "shard|index|tensor", move |folder: &Path| {
            fs::rename(folder.join(&a), folder.join("x")).unwrap();
            fs::rename(folder.join(&b), folder.join(&a)).unwrap();
            fs::rename(folder.join("x"), folder.join(&b)).unwrap();
        }),
        fault("one shard twice", "shard|index|tensor", move |folder: &Path| {
            fs::copy(folder.join(&c), folder.join(&d)).unwrap();
        }),
        fault("a shard is gone", "missing", move |folder: &Path| {
            fs::remove_file(folder.join(&gone)).unwrap()
        }),
        fault("the index is gone", INDEX, |folder: &Path| fs::remove_file(folder.join(INDEX)).unwrap()),
        edit(INDEX, "another size", "total_size", |i| i["metadata"]["total_size"] = json!(5)).harmless(),
        edit(INDEX, "an entry is gone", "index", |i| {
            let map = i["weight_map"].as_object_mut().unwrap();
            let name = map.keys().next().unwrap().clone();
            map.remove(&name);
        }),
        edit(INDEX, "an entry of another shard", "index|shard", |i| {
            let map = i["weight_map"].as_object_mut().unwrap();
            let last = map.values().next_back().unwrap().clone();
            *map.values_mut().next().unwrap() = last;
        }),
        edit(INDEX, "an entry too many", "index|nothing", |i| {
            i["weight_map"]["nothing.weight"] =
                i["weight_map"].as_object().unwrap().values().next().unwrap().clone()
        }),
    ];
    good.all_are_named(&faults);
}
