//! The real transformers, compressed-tensors and llama.cpp's converter judge the safetensors: they load each folder, their
//! logits are those of the checkpoint, their scales and codes are ours. Skipped, with a word, where llama.cpp and its
//! Python are not built (`cargo xtask oracle`); `.ci/run` requires them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{self, WEIGHTS, convert, fixture};
use gguf::GgufSet;
use serde_json::Value;
use tensor::TensorSource;
use xtask::oracle::Oracle;

const MODELS: [&str; 3] = ["e2b", "31b", "26b-a4b"];

/// Prints one JSON line. Arguments: the checkpoint, then folders made of it. Of each folder: what transformers missed or did
/// not expect, the largest difference of its logits from the checkpoint's, and the mean KL divergence; or its refusal.
const LOAD: &str = r#"
import json, sys, torch
from transformers import AutoModelForCausalLM
ids = (torch.arange(3, 203).reshape(1, -1) * 7919) % 2000 + 3
def logits(path):
    model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    with torch.no_grad():
        return model(ids).logits[0].double(), sorted(k for v in info.values() for k in v), type(model).__name__
base = logits(sys.argv[1])[0]
found = []
for path in sys.argv[2:]:
    try:
        mine, strange, kind = logits(path)
    except ValueError as e:
        found.append({"refused": str(e)})
        continue
    p, q = torch.log_softmax(base, -1), torch.log_softmax(mine, -1)
    found.append({"class": kind, "strange": strange, "difference": (base - mine).abs().max().item(),
                  "kld": (p.exp() * (p - q)).sum(-1).mean().item()})
print(json.dumps(found))
"#;

/// Prints how many weights of the second file have the codes and scales that compressed-tensors gives those of the first, and
/// the names of those that have not.
const CODES: &str = r#"
import json, sys, torch
from safetensors.torch import load_file
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils.helpers import calculate_qparams
args = QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True)
source, mine = load_file(sys.argv[1]), load_file(sys.argv[2])
good, bad = 0, []
for name in (n[:-6] for n in mine if n.endswith(".weight_scale")):
    x = source[name]
    scale, _ = calculate_qparams(x.amin(1, keepdim=True), x.amax(1, keepdim=True), args)
    codes = quantize(x=x, scale=scale, zero_point=None, args=args, dtype=torch.float8_e4m3fn)
    same = torch.equal(scale, mine[name + "_scale"]) and torch.equal(codes.view(torch.uint8), mine[name].view(torch.uint8))
    good, bad = (good + 1, bad) if same else (good, bad + [name])
print(json.dumps([good, bad]))
"#;

/// Prints a JSON line for each folder of an offload set: what `from_pretrained` with its `device_map.json` says, the largest
/// difference of the logits from those of the folder loaded whole, whether the greedy texts are the same, the devices, and
/// how many files accelerate wrote of its own. Arguments: a folder for such files, then the sets.
const OFFLOADED: &str = r#"
import json, os, sys, torch
from transformers import AutoModelForCausalLM
ids = (torch.arange(3, 203).reshape(1, -1) * 7919) % 2000 + 3
found = []
for path in sys.argv[2:]:
    whole = AutoModelForCausalLM.from_pretrained(path)
    places = json.load(open(os.path.join(path, "device_map.json")))
    apart, info = AutoModelForCausalLM.from_pretrained(
        path, device_map=places, offload_folder=sys.argv[1], output_loading_info=True)
    meta = sorted(n for n, p in apart.named_parameters() if p.device.type == "meta")
    with torch.no_grad():
        difference = (whole(ids).logits - apart(ids).logits).abs().max().item()
        texts = [m.generate(ids[:, :16], max_new_tokens=8, do_sample=False).tolist() for m in (whole, apart)]
    found.append({"strange": sorted(k for v in info.values() for k in v), "difference": difference,
                  "same": texts[0] == texts[1], "map": apart.hf_device_map == places, "on disk": meta,
                  "written": sorted(os.listdir(sys.argv[1])) if os.path.isdir(sys.argv[1]) else []})
print(json.dumps(found))
"#;

fn python(oracle: &Oracle, script: &str, arguments: &[&Path]) -> Value {
    let mut command = Command::new(&oracle.python);
    let output = command.args(["-c", script]).args(arguments).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{stderr}");
    serde_json::from_str(stdout.lines().last().unwrap_or_default())
        .unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"))
}

/// The oracle with everything that loads FP8. Where the oracle is required, so is this.
fn fp8_oracle() -> Option<Oracle> {
    oracle_that(Oracle::can_load_fp8, "compressed-tensors")
}

fn oracle_that(can: impl Fn(&Oracle) -> bool, package: &str) -> Option<Oracle> {
    let oracle = Oracle::for_tests()?;
    let why = format!("no transformers with {package} was found; `cargo xtask oracle` installs them");
    testkit::Need::Oracle.found(Some(oracle).filter(can), &why)
}

#[test]
fn transformers_loads_what_is_written() {
    let Some(oracle) = fp8_oracle() else { return };
    let home = tempfile::tempdir().unwrap();
    for name in MODELS {
        let make = |to: &str, args: &[&str]| {
            let out = home.path().join(format!("{name}-{to}"));
            convert(&fixture(name), &out, args).good();
            out
        };
        let shards = make("shards", &["--recipe", "bf16-safetensors", "--max-shard-size", "3MB"]);
        let text = make("text", &["--recipe", "bf16-safetensors", "--text-only"]);
        let fp8 = make("fp8", &["--recipe", "fp8", "--max-shard-size", "3MB"]);
        let sfp8 = make("sfp8", &["--recipe", "sfp8"]);
        let base = fixture(name);
        let apart = make(
            "apart",
            &["--recipe", "bf16-safetensors", "--set", "output.offload=['per-layer', 'experts']"],
        );
        let found = python(&oracle, LOAD, &[&base, &shards, &text, &apart, &fp8, &sfp8]);
        let whole = "Gemma4ForConditionalGeneration";
        for (number, class) in [whole, "Gemma4ForCausalLM", whole].iter().enumerate() {
            let found = &found[number];
            assert_eq!(found["class"], *class, "{name}");
            assert_eq!(found["strange"].as_array().unwrap().len(), 0, "{name}: {}", found["strange"]);
            assert_eq!(found["difference"], 0.0, "{name}: the same weights give the same logits");
        }
        let fp8 = &found[3];
        assert_eq!(fp8["strange"].as_array().unwrap().len(), 0, "{name}: {}", fp8["strange"]);
        let kld = fp8["kld"].as_f64().unwrap();
        assert!(kld > 0.0 && kld < 0.05, "{name}: {kld}");
        let refused =
            found[4]["refused"].as_str().unwrap_or_else(|| panic!("{name}: takes codes for weights"));
        assert!(refused.contains("quantization config"), "{refused}");
    }
}

/// transformers with accelerate loads an offload set by its `device_map.json`: what is offloaded stays in our files, none are
/// written of it, and logits and text are those of the model loaded whole.
#[test]
fn accelerate_reads_what_is_offloaded_in_place() {
    let Some(oracle) = oracle_that(Oracle::can_offload, "accelerate") else { return };
    let home = tempfile::tempdir().unwrap();
    let cases: [(&str, &str, &[&str], usize, &str); 4] = [
        ("e2b", "per-layer", &[], 12, "model.language_model.embed_tokens_per_layer.weight"),
        ("e2b", "per-layer", &["--text-only"], 8, "model.embed_tokens_per_layer.weight"),
        ("26b-a4b", "experts", &["--max-shard-size", "1MB"], 78, ".experts."),
        ("26b-a4b", "experts", &["--text-only"], 76, ".experts."),
    ];
    let folders: Vec<_> = (0..cases.len()).map(|number| home.path().join(number.to_string())).collect();
    for ((name, class, more, keys, _), out) in cases.iter().zip(&folders) {
        let offload = format!("output.offload=[{class:?}]");
        convert(
            &fixture(name),
            out,
            &[&["--recipe", "bf16-safetensors", "--set", offload.as_str()], *more].concat(),
        )
        .good();
        assert_eq!(support::json(&out.join("device_map.json")).as_object().unwrap().len(), *keys, "{name}");
    }
    let own = home.path().join("own");
    let arguments: Vec<&Path> =
        [own.as_path()].into_iter().chain(folders.iter().map(|f| f.as_path())).collect();
    let found = python(&oracle, OFFLOADED, &arguments);
    for (number, (name, _, more, _, offloaded)) in cases.iter().enumerate() {
        let found = &found[number];
        assert_eq!(found["strange"], serde_json::json!([]), "{name} {more:?}");
        assert_eq!(found["difference"], 0.0, "{name} {more:?}");
        assert_eq!(found["same"], true, "{name} {more:?}");
        assert_eq!(found["map"], true, "{name} {more:?}");
        assert_eq!(found["written"], serde_json::json!([]), "{name} {more:?}");
        let apart = found["on disk"].as_array().unwrap();
        assert!(apart.iter().any(|name| name.as_str().unwrap().contains(offloaded)), "{name}: {apart:?}");
    }
}

#[test]
fn codes_and_scales_are_those_of_compressed_tensors() {
    let Some(oracle) = fp8_oracle() else { return };
    let home = tempfile::tempdir().unwrap();
    for (name, weights) in MODELS.iter().zip([48, 41, 41]) {
        let out = home.path().join(name);
        convert(&fixture(name), &out, &["--recipe", "fp8"]).good();
        let found = python(&oracle, CODES, &[&fixture(name).join(WEIGHTS), &out.join(WEIGHTS)]);
        assert_eq!(found, serde_json::json!([weights, []]), "{name}");
    }
}

/// llama.cpp's converter reads the FP8 folder too, and gets the same numbers as we do.
#[test]
fn llama_cpp_reads_fp8_as_we_do() {
    let Some(oracle) = fp8_oracle() else { return };
    let home = tempfile::tempdir().unwrap();
    for name in MODELS {
        let fp8 = home.path().join(name);
        convert(&fixture(name), &fp8, &["--recipe", "fp8"]).good();
        let [ours, stock] = ["ours", "stock"].map(|who| home.path().join(format!("{name}-{who}.gguf")));
        convert(&fp8, &ours, &["--type", "bf16"]).good();
        let mut command = oracle.script("convert_hf_to_gguf.py");
        let run = command.arg(&fp8).args(["--outtype", "bf16", "--outfile"]).arg(&stock).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let [ours, stock] = [ours, stock].map(|path| GgufSet::open(path).unwrap());
        assert_eq!(ours.tensors().len(), stock.tensors().len());
        for (index, desc) in ours.tensors().iter().enumerate() {
            let there = stock.tensors().iter().position(|t| t == desc);
            let there = there.unwrap_or_else(|| panic!("{name}: {desc:?}"));
            let [mut a, mut b] = [0, 0].map(|_| vec![0; desc.byte_len() as usize]);
            ours.read_rows(index, 0, &mut a).unwrap();
            stock.read_rows(there, 0, &mut b).unwrap();
            assert!(a == b, "{name}: {}", desc.name);
        }
        fs::remove_dir_all(&fp8).unwrap();
    }
}

/// Stock llama.cpp loads a model whose per-layer table is a part of its own, and computes the same with it.
#[test]
fn llama_cpp_loads_what_is_offloaded() {
    let Some(oracle) = fp8_oracle() else { return };
    let home = tempfile::tempdir().unwrap();
    let [whole, apart] = ["whole", "apart"].map(|name| home.path().join(name));
    convert(&fixture("e2b"), &whole, &["--type", "q4_0"]).good();
    convert(&fixture("e2b"), &apart, &["--recipe", "q4_0-offload"]).good();
    let files = [whole.join("model-q4_0.gguf"), apart.join("model-offload-q4_0-00001-of-00002.gguf")];
    let [a, b] = files.map(|model| {
        let saved = model.with_extension("logits");
        let mut tool = oracle.runner("llama-perplexity");
        tool.args(["-c", "256", "--chunks", "2", "-t", "2", "-f"]).arg(fixture("../text/eval.txt"));
        let run = tool.arg("--save-all-logits").arg(&saved).arg("-m").arg(model).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        fs::read(saved).unwrap()
    });
    assert!(a == b && !a.is_empty());
}
