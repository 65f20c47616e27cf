//! What stock tools accept and ignore, or do beside what was asked: here an error (exit 2, with the option or key, and
//! what would be right), or exactly what was asked and nothing else. One row a trap.

#![allow(clippy::print_stdout, reason = "shown only when a test fails: what it was at")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::{Folder, convert, fixture, names, run};
use gguf::GgufFile;
use tensor::{DType, TensorSource};

/// Options for a model that must be refused, and what the message has to say.
type Trap = (&'static str, &'static [&'static str], &'static [&'static str]);

fn all_refused(traps: &[Trap]) {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    for &(model, options, says) in traps {
        println!("{model} {options:?}"); // shown when the test fails
        let model = fixture(model);
        let plan: Vec<_> = ["plan", model.to_str().unwrap()].iter().chain(options).copied().collect();
        for attempt in [run(plan), convert(&model, &out, options)] {
            let message = attempt.refusal(2);
            for &part in says {
                assert!(message.contains(part), "{part:?} is not in {message}");
            }
            assert_eq!(attempt.stdout, "");
        }
        assert!(!out.exists());
    }
}

const Q4_0: &str = "--type=q4_0";
const RULE: &str = "--tensor-type";

#[test]
fn rules_without_effect() {
    all_refused(&[
        ("e2b", &[Q4_0, RULE, "ffn_dwon=q6_k"], &["type rule ffn_dwon=q6_k", "matches no tensor"]),
        // stock's rules are case-sensitive too, and say nothing
        ("e2b", &[Q4_0, RULE, "FFN_DOWN=q6_k"], &["type rule FFN_DOWN=q6_k", "matches no tensor"]),
        ("e2b", &[Q4_0, RULE, r"blk\.8\.=q6_k"], &[r"type rule blk\.8\.=q6_k", "matches no tensor"]),
        (
            "e2b",
            &[Q4_0, RULE, "per_layer_model_proj=q8_0"],
            &["per_layer_model_proj.weight is never quantised"],
        ),
        ("e2b", &[Q4_0, RULE, "_norm=q8_0"], &["has no effect", "_norm.weight is never quantised"]),
        ("e2b", &[Q4_0, RULE, "layer_output_scale=f16"], &["layer_output_scale.weight is never quantised"]),
        ("e2b", &[Q4_0, RULE, "rope_freqs=f16"], &["type rule rope_freqs=f16"]),
        ("26b-a4b", &[Q4_0, RULE, "ffn_gate_inp=q8_0"], &["ffn_gate_inp", "is never quantised"]),
        ("e2b", &[Q4_0, RULE, r"^output\.weight=q8_0"], &["tied to its embedding", "token_embd"]),
        (
            "e2b",
            &[Q4_0, RULE, "ffn_down=q6_k", RULE, r"blk\.0\.ffn_down=q8_0"],
            &[r"type rule blk\.0\.ffn_down=q8_0", "blk.0.ffn_down.weight is decided by an earlier rule"],
        ),
        (
            "e2b",
            &[Q4_0, RULE, "token_embd=q8_0", "--token-embd-type=q6_k"],
            &["token_embd", "q6_k", "is decided by an earlier rule"],
        ),
        ("31b", &[Q4_0, "--per-layer-token-embd-type=q8_0"], &["per_layer_token_embd", "matches no tensor"]),
    ]);
}

#[test]
fn rules_that_cannot_be() {
    all_refused(&[
        ("e2b", &[Q4_0, RULE, r"blk\.0\.proj=q4_k"], &["blk.0.proj.weight", "a multiple of 256, found 32"]),
        (
            "26b-a4b",
            &[Q4_0, RULE, "ffn_down_exps=q6_k"],
            &["blk.0.ffn_down_exps.weight", "of 256, found 128"],
        ),
        ("e2b", &[Q4_0, RULE, "ffn_down=q9_k"], &["type \"q9_k\": no such type", "q6_k, ", "iq4_xs"]),
        ("e2b", &[Q4_0, RULE, "ffn_down=i8"], &["not a type of weights", "found i8"]),
        ("e2b", &[Q4_0, RULE, "ffn_down=q4_k_m"], &["type \"q4_k_m\": no such type"]),
        ("e2b", &[Q4_0, RULE, "ffn_(down=q6_k"], &["type rule ffn_(down=q6_k", "found unclosed group"]),
        ("e2b", &[Q4_0, RULE, "ffn_down"], &["--tensor-type ffn_down", "expected REGEX=TYPE"]),
        ("e2b", &[Q4_0, "--token-embd-type=q9_k"], &["type \"q9_k\": no such type"]),
        ("e2b", &[Q4_0, "--token-embd-type=i8"], &["not a type of weights"]),
        ("e2b", &[Q4_0, "--set=types.token_embd=i8"], &["types.token_embd", "not a type of weights"]),
        (
            "e2b",
            &[Q4_0, "--set=types.per_layer_token_embd=f64"],
            &["types.per_layer_token_embd", "not a type"],
        ),
    ]);
}

#[test]
fn names_that_do_not_exist() {
    all_refused(&[
        ("e2b", &["--type=q4"], &["type \"q4\": no such preset", "q4_0, q4_1", "mxfp4_moe"]),
        (
            "e2b",
            &["--recipe=q9_0"],
            &["recipe \"q9_0\"", "q4_0-offload, q4_0-qat, q4_0-qat-tuned, q4_k_m", "Did you mean q5_0?"],
        ),
        ("e2b", &["--recipe=./absent.toml"], &["./absent.toml", "No such file"]),
        ("e2b", &[Q4_0, "--set=typo=1"], &["unknown field `typo`", "recipes/README.md"]),
        ("e2b", &[Q4_0, "--set=types.tokenembd=q8_0"], &["unknown field `tokenembd`"]),
        ("e2b", &[Q4_0, "--set=unused_kv=dorp"], &["unknown variant `dorp`", "`drop`", "in `unused_kv`"]),
        ("e2b", &[Q4_0, "--set=unused_kv"], &["--set unused_kv", "expected KEY=VALUE"]),
        ("e2b", &[Q4_0, "--set=unused_kv.x=1"], &["unused_kv"]),
        ("e2b", &[Q4_0, "--set=metadata.nmae=x"], &["nmae", "no such field", "name, author"]),
        ("e2b", &[Q4_0, "--set=types.via=f16"], &["`f16`", "`bf16`", "in `types.via`"]),
    ]);
}

#[test]
fn values_that_do_not_fit() {
    all_refused(&[
        (
            "e2b",
            &[Q4_0, "--set=kv.gemma4.context_length=-5"],
            &["gemma4.context_length", "from 0 to 4294967295", "-5"],
        ),
        (
            "e2b",
            &[Q4_0, "--set=kv.gemma4.context_length=4294967296"],
            &["gemma4.context_length", "4294967296"],
        ),
        ("e2b", &[Q4_0, "--set=kv.gemma4.context_length=4096.5"], &["gemma4.context_length", "4096.5"]),
        ("e2b", &[Q4_0, "--set=kv.gemma4.context_length=8k"], &["gemma4.context_length", "\"8k\""]),
        (
            "e2b",
            &[Q4_0, "--set=kv.general.sampling.temp=hot"],
            &["general.sampling.temp", "a number", "\"hot\""],
        ),
        ("e2b", &[Q4_0, "--set=kv.general.sampling.temp=1e39"], &["general.sampling.temp", "a number"]),
        ("e2b", &[Q4_0, "--set=kv.tokenizer.ggml.add_bos_token=yes"], &["add_bos_token", "true or false"]),
        (
            "e2b",
            &[Q4_0, "--set=kv.gemma4.attention.sliding_window_pattern=[1]"],
            &["a list of true and false"],
        ),
        ("e2b", &[Q4_0, "--set=kv.general.name=\"\""], &["general.name", "empty values are not written"]),
        ("e2b", &[Q4_0, "--set=kv.gemma4.contextlength=1"], &["gemma4.contextlength", "no such key"]),
        ("e2b", &[Q4_0, "--set=kv.llama.context_length=1"], &["llama.context_length", "no such key"]),
        ("e2b", &[Q4_0, "--set=metadata.name=5"], &["[metadata] name", "a string", "found 5"]),
        ("e2b", &[Q4_0, "--set=metadata.tags=[1]"], &["[metadata] tags", "a list of strings"]),
        ("e2b", &[Q4_0, "--split-max-size=0"], &["--split-max-size", "found 0"]),
        ("e2b", &[Q4_0, "--split-max-size=2XB"], &["--split-max-size", "found 2XB"]),
    ]);
}

#[test]
fn outputs_in_each_other_s_way() {
    all_refused(&[
        ("e2b", &[Q4_0, Q4_0], &["model-q4_0.gguf", "two outputs have this name"]),
        ("e2b", &[Q4_0, "--type=Q4_0"], &["model-q4_0.gguf", "two outputs have this name"]),
        ("e2b", &[Q4_0, "--recipe=q4_0"], &["model-q4_0.gguf", "two outputs have this name"]),
    ]);
    let folder = Folder::of("e2b");
    let file = folder.home().join("one.gguf");
    let attempt = convert(&folder.path(), &file, &[Q4_0, "--type=q8_0"]);
    let message = attempt.refusal(2);
    assert!(message.contains("-o one.gguf") && message.contains("found 2"), "{message}");
    assert_eq!(names(folder.home()), ["checkpoint"]);
}

#[test]
fn usage() {
    let model = fixture("e2b");
    let model = model.to_str().unwrap();
    for args in [
        &["convert", model, "-o", "x"][..],
        &["convert", model, Q4_0],
        &["convert", model, Q4_0, "-o", "x", "--threads", "many"],
        &["convert", model, Q4_0, "-o", "x", "--tensor-tpye", "a=q8_0"],
        &["inspect"],
        &["quantize", model],
    ] {
        run(args).refusal(2);
    }
    let simd = run(["convert", model, Q4_0, "-o", "x", "--simd", "avx9"]);
    assert!(simd.refusal(2).contains("--simd avx9: no such level on this processor (expected scalar, "));
    let kernel = run(["convert", model, Q4_0, "-o", "x", "--kernel", "f16"]);
    assert!(kernel.refusal(2).contains("--kernel f16: no such kernel on this processor (expected f32"));
}

/// A recipe of the user's own, with the line of what is wrong in it.
#[test]
fn recipe_files() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("mine.toml");
    let model = fixture("e2b");
    let attempt = |text: &str| {
        fs::write(&file, text).unwrap();
        run(["plan", model.to_str().unwrap(), "--recipe", file.to_str().unwrap()])
    };
    for (text, says) in [
        ("types.preset = \"q4_0\"\n[typo]\n", "unknown field `typo`"),
        ("types.preset = q4_0", "line 1"),
        ("purpose = \"none\"", "missing field `types`"),
        ("[types]\npreset = \"q4_0\"\nrules = [{ tensors = \"x\", typ = \"q8_0\" }]", "unknown field `typ`"),
        ("[types]\npreset = \"q4_0\"\nrules = [{ tensors = \"zzz\", type = \"q8_0\" }]", "matches no tensor"),
        (
            "[types]\npreset = \"q4_0\"\nrules = [{ tensors = \"attn_q\", type = \"q8_0\", variants = [\"E2C\"] }]",
            "E2C",
        ),
    ] {
        let attempt = attempt(text);
        let message = attempt.refusal(2);
        assert!(message.contains("mine") && message.contains(says), "{says:?} is not in {message}");
    }
    // a rule for other variants is none for this one, even where it would match nothing
    let rule = "[types]\npreset = \"q4_0\"\n\
        rules = [{ tensors = \"ffn_gate_up_exps\", type = \"q8_0\", variants = [\"26B-A4B\"] }]";
    attempt(rule).good();
    attempt(&rule.replace(", variants = [\"26B-A4B\"]", "")).refusal(2);
}

/// Type and bytes of every tensor of a file.
fn contents(path: &Path) -> BTreeMap<String, (DType, Vec<u8>)> {
    let file = GgufFile::open(path).unwrap();
    let tensors = file.tensors().iter().enumerate().map(|(index, desc)| {
        let mut bytes = vec![0; desc.byte_len() as usize];
        file.read_rows(index, 0, &mut bytes).unwrap();
        (desc.name.clone(), (desc.dtype, bytes))
    });
    tensors.collect()
}

/// What an option changes, as names with their types; all other tensors are the same to the byte.
fn changes(model: &str, preset: &str, option: &[&str]) -> Vec<(String, DType)> {
    let home = tempfile::tempdir().unwrap();
    let [plain, changed] = ["plain.gguf", "changed.gguf"].map(|name| home.path().join(name));
    convert(&fixture(model), &plain, &["--type", preset]).good();
    convert(&fixture(model), &changed, &[&["--type", preset], option].concat()).good();
    let (plain, changed) = (contents(&plain), contents(&changed));
    assert!(plain.keys().eq(changed.keys()));
    let pairs = plain.into_iter().zip(changed);
    pairs.filter(|(a, b)| a != b).map(|(_, (name, (dtype, _)))| (name, dtype)).collect()
}

#[test]
fn each_embedding_has_an_option_of_its_own() {
    let found = changes("e2b", "q4_0", &["--token-embd-type", "q8_0"]);
    assert_eq!(found, [("token_embd.weight".to_owned(), DType::Q8_0)]);
    let found = changes("e2b", "q4_0", &["--per-layer-token-embd-type", "q5_0"]);
    assert_eq!(found, [("per_layer_token_embd.weight".to_owned(), DType::Q5_0)]);
    let found = changes("e2b", "q4_0", &["--set", "types.token_embd=q8_0"]);
    assert_eq!(found, [("token_embd.weight".to_owned(), DType::Q8_0)]);
}

#[test]
fn a_rule_changes_what_it_names_and_nothing_else() {
    // with q4_k_m, llama-quantize would also move the extra bits of other layers
    let layers = |numbers: &[usize], role: &str, dtype| -> Vec<_> {
        numbers.iter().map(|n| (format!("blk.{n}.{role}.weight"), dtype)).collect()
    };
    let found = changes("e2b", "q4_k_m", &[RULE, r"blk\.[03]\.ffn_down=q8_0"]);
    assert_eq!(found, layers(&[0, 3], "ffn_down", DType::Q8_0));
    let found = changes("e2b", "q4_k_m", &[RULE, r"blk\.1\.attn_v=q8_0", RULE, "attn_v=q5_k"]);
    let mut expected = layers(&[0, 1, 2, 3], "attn_v", DType::Q5_K);
    expected[1].1 = DType::Q8_0;
    assert_eq!(found, expected, "the first rule that matches decides");
    let found = changes("26b-a4b", "q8_0", &[RULE, "_exps=mxfp4"]);
    assert!(found.len() == 12 && found.iter().all(|(name, t)| name.contains("_exps.") && *t == DType::MXFP4));
}

/// The same rule without effect in one of several recipes is an error before anything is written.
#[test]
fn a_trap_in_one_recipe_stops_all() {
    let folder = Folder::of("e2b");
    let file = folder.home().join("mine.toml");
    fs::write(&file, "[types]\npreset = \"q8_0\"\nrules = [{ tensors = \"zzz\", type = \"q8_0\" }]").unwrap();
    let attempt = convert(&folder.path(), &folder.out(), &[Q4_0, "--recipe", file.to_str().unwrap()]);
    assert!(attempt.refusal(2).contains("recipe mine"), "{}", attempt.stderr);
    assert!(!folder.out().exists());
}

/// A name that ends in `.gguf` is taken as it is.
#[test]
fn the_name_that_was_asked_for() {
    let folder = Folder::of("31b");
    for name in ["model.gguf", "model.gguf.gguf", "v1.2.gguf"] {
        convert(&folder.path(), &folder.home().join(name), &[Q4_0]).good();
    }
    let manifests = |name: &str| [name.to_owned(), format!("{name}.manifest.json")];
    let mut expected: Vec<_> = ["model.gguf", "model.gguf.gguf", "v1.2.gguf"].map(manifests).concat();
    expected.push("checkpoint".into());
    expected.sort();
    assert_eq!(names(folder.home()), expected);
}

/// Parts of a split are only a model together, and whole.
#[test]
fn split_parts() {
    let folder = Folder::of("e2b");
    let [out, other] = ["out", "other"].map(|name| folder.home().join(name));
    convert(&folder.path(), &out, &[Q4_0, "--split-max-size", "1MB"]).good();
    convert(&fixture("31b"), &other, &[Q4_0, "--split-max-size", "1000000"]).good();
    let parts: Vec<_> = names(&out).into_iter().filter(|name| name.ends_with(".gguf")).collect();
    assert!(parts.len() > 2, "{parts:?}");
    let inspect = |part: &str| run(["inspect", out.join(part).to_str().unwrap()]);
    for part in &parts {
        inspect(part).good();
    }

    let second = out.join(&parts[1]);
    let good = fs::read(&second).unwrap();
    let refused = |bytes: Option<&[u8]>, says: &[&str]| {
        match bytes {
            Some(bytes) => fs::write(&second, bytes).unwrap(),
            None => fs::remove_file(&second).unwrap(),
        }
        for part in [&parts[0], parts.last().unwrap()] {
            let attempt = inspect(part);
            let message = attempt.refusal(3);
            assert!(says.iter().all(|part| message.contains(part)), "{says:?}: {message}");
        }
        fs::write(&second, &good).unwrap();
    };
    let name = parts[1].as_str();
    let len = good.len();
    refused(Some(&good[..len - 100]), &[name, "tensor ", "cut short"]);
    refused(Some(&good[..20]), &[name, "short"]);
    refused(Some(b""), &[name]);
    refused(Some(&vec![0; len]), &[name, "not a GGUF file"]);
    refused(None, &[name, "No such file", "all must lie beside it"]);
    refused(Some(&fs::read(out.join(&parts[0])).unwrap()), &[name, "another set", "found part 1 of"]);
    refused(Some(&fs::read(out.join(&parts[2])).unwrap()), &[name, "another set", "found part 3 of"]);
    let theirs =
        fs::read(other.join(names(&other).iter().find(|n| n.contains("-00002-of-")).unwrap())).unwrap();
    refused(Some(&theirs), &[name, "another set"]);
    inspect(&parts[0]).good();
}
