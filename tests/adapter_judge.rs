//! The real llama.cpp judges GGUF adapters: a model with the adapter beside it predicts what the merged model does. Skipped,
//! with a word, where llama.cpp is not built (`cargo xtask oracle`); `.ci/run` requires it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use xtask::oracle::Oracle;

use crate::adapter_convert::{adapt, changed, golden};
use crate::support::{convert, fixture, run, text};

fn good(tool: &mut Command) {
    let output = tool.output().unwrap_or_else(|e| panic!("{tool:?}: {e}"));
    assert!(output.status.success(), "{tool:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Copies a golden adapter, with a card as PEFT writes it.
fn with_card(home: &Path) -> PathBuf {
    let folder = home.join("plain-e2b");
    fs::create_dir(&folder).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(golden("plain-e2b").join(name), folder.join(name)).unwrap();
    }
    let card = "---\nbase_model: google/gemma-4-E2B-it\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n\
                - base_model:adapter:google/gemma-4-E2B-it\n- lora\n- transformers\nlicense: apache-2.0\n---\n\n# Card\n";
    fs::write(folder.join("README.md"), card).unwrap();
    folder
}

#[test]
fn the_stock_converter_writes_the_same_bytes() {
    let Some(oracle) = Oracle::for_tests().filter(Oracle::can_convert) else { return };
    let home = tempfile::tempdir().unwrap();
    let folder = with_card(home.path());
    for dtype in ["f32", "f16", "bf16", "q8_0"] {
        let [ours, stock] = ["ours", "stock"].map(|name| home.path().join(format!("{name}-{dtype}.gguf")));
        adapt(&folder, &fixture("e2b"), &ours, &["--type", dtype]).good();
        let mut script = oracle.script("convert_lora_to_gguf.py");
        script.arg(&folder).arg("--base").arg(fixture("e2b"));
        script.args(["--outtype", dtype, "--outfile"]).arg(&stock);
        good(&mut script);
        assert!(fs::read(&ours).unwrap() == fs::read(&stock).unwrap(), "{dtype}");
    }
}

/// The KL divergence of llama.cpp's predictions for a base with an adapter from those of the runtime for the merged model.
fn divergence(oracle: &Oracle, base: &Path, adapter: Option<&Path>, merged: &Path) -> f64 {
    let logits = base.with_extension("logits");
    let eval = text("eval.txt");
    let mut tool = oracle.runner("llama-perplexity");
    tool.args(["-c", "128", "--chunks", "2", "-t", "2", "-f"]).arg(&eval).arg("-m").arg(base);
    tool.arg("--save-all-logits").arg(&logits);
    if let Some(adapter) = adapter {
        tool.arg("--lora").arg(adapter);
    }
    good(&mut tool);
    let [merged, logits, eval] = [merged, &logits, &eval].map(|path| path.to_str().unwrap());
    let args =
        ["verify", merged, "--against", logits, "--text", eval, "-c", "128", "--chunks", "2", "--json"];
    run(args).good().json()["kld"]["mean"].as_f64().unwrap()
}

#[test]
fn llama_cpp_computes_with_an_adapter_what_merging_computes() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let home = tempfile::tempdir().unwrap();
    for (name, model, settings) in [
        ("plain-e2b", "e2b", json!({})),
        ("plain-e2b", "e2b", json!({ "use_rslora": true, "alpha_pattern": { "q_proj": 4 } })),
        ("experts-26b-a4b", "26b-a4b", json!({})),
    ] {
        let [base, merged, gguf] =
            ["base.gguf", "merged.gguf", "adapter.gguf"].map(|name| home.path().join(name));
        let folder = changed(name, home.path(), &settings);
        adapt(&folder, &fixture(model), &gguf, &["--force"]).good();
        convert(&fixture(model), &base, &["--type", "f32", "--force"]).good();
        let lora = ["--type", "f32", "--force", "--lora", folder.to_str().unwrap()];
        convert(&fixture(model), &merged, &lora).good();
        let with = divergence(&oracle, &base, Some(&gguf), &merged);
        let without = divergence(&oracle, &base, None, &merged);
        // merged weights are BF16, and saved logits have 16 bits
        assert!(with < 1e-3 && without > 50.0 * with, "{name} {settings}: {with}, without it {without}");
    }
}
