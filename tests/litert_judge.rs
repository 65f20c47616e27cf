//! LiteRT-LM, the runtime of phones and desktops, on a CPU: it runs the bundles of `convert`. Skipped where it is not installed
//! (`cargo xtask oracle --clients`); CI requires it.
//!
//! It keeps a cache of weights beside a bundle, by name, time and size, so that each bundle here has a name of its own.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use xtask::oracle::clients::{Installed, LITERT_LM};

use crate::clients::{answer, ours};
use crate::litert::Files;
use crate::support::{WEIGHTS, Weights};

const PROMPT: &str = "The country has a population of";

/// What the bundles of the exporter, of the checkpoint and of the second one, say to the prompt, in tokens of the text:
/// litert-lm 0.18.1 on them.
const OF_BASE: [u32; 12] = [1066, 821, 315, 1425, 1821, 1821, 1821, 472, 1653, 998, 378, 829];
const OF_TUNED: [u32; 12] = [1477, 1114, 902, 1419, 1497, 812, 1813, 1394, 851, 1930, 0, 1292];

/// Prints for each bundle and prompt the greedy text of so many tokens, and the tokens of the prompt and of the text.
const SAYS: &str = r#"
import json, sys, litert_lm
litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
prompts, count, *files = sys.argv[1:]
sampler = litert_lm.SamplerConfig(top_k=1, temperature=0.0)
options = dict(apply_prompt_template=False, sampler_config=sampler, max_output_tokens=int(count))
found = []
for file in files:
    with litert_lm.Engine(file, backend=litert_lm.Backend.CPU(thread_count=1)) as engine:
        for prompt in json.loads(prompts):
            with engine.create_session(**options) as session:
                session.run_prefill([prompt])
                text = session.run_decode().texts[0]
                found.append([text, engine.tokenize(prompt), engine.tokenize(text)])
print(json.dumps(found))
"#;

/// Prints the signatures of the models in these ranges of the bundle, and what the embedder makes of each token.
const READS: &str = r#"
import json, sys, numpy
from ai_edge_litert.interpreter import Interpreter
data, ranges = open(sys.argv[1], "rb").read(), json.loads(sys.argv[2])
models = [Interpreter(model_content=data[begin:end]) for begin, end in ranges]
names = [sorted(model.get_signature_list()) for model in models]
embed = models[1].get_signature_runner("decode_embedder")
rows = [embed(token_ids=numpy.array([[id]], dtype=numpy.int32))["embeddings"].ravel().tolist() for id in range(int(sys.argv[3]))]
print(json.dumps([names, rows]))
"#;

/// Prints what the template of the bundle makes of each conversation.
const RENDERS: &str = r#"
import json, sys, litert_lm
litert_lm.set_min_log_severity(litert_lm.LogSeverity.FATAL)
file, conversations = sys.argv[1:]
found = []
with litert_lm.Engine(file, backend=litert_lm.Backend.CPU(thread_count=1), max_num_tokens=64) as engine:
    defaults = dict(bos_token="<bos>", tools=[], add_generation_prompt=False)
    for context in json.loads(conversations):
        with engine.create_conversation(extra_context=defaults | context) as conversation:
            found.append(conversation.render_message_to_string("Hi"))
print(json.dumps(found))
"#;

/// What the runtime says to the prompts.
pub(crate) fn says(runtime: &Installed, prompts: &[&str], count: usize, files: &[PathBuf]) -> Vec<Value> {
    let (prompts, count) = (json!(prompts).to_string(), count.to_string());
    let said = answer(runtime.python("python").args(["-c", SAYS, &prompts, &count]).args(files));
    said.as_array().unwrap().clone()
}

fn tokens(said: &Value) -> Vec<u64> {
    said[2].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn litert_lm_says_the_same_of_a_converted_bundle_and_of_the_exporters() {
    let Some(runtime) = LITERT_LM.for_tests() else { return };
    let files = Files::new("mixed48");
    files.convert("base", "tuned.litertlm", &[]).good();
    let bundles = ["base.litertlm", "tuned.litertlm"].map(|name| files.path(name));
    for (said, expected) in says(&runtime, &[PROMPT], 24, &bundles).iter().zip([OF_BASE, OF_TUNED]) {
        assert_eq!(tokens(said)[..12], expected.map(u64::from), "{said}");
    }
}

/// The graph was recorded at a quarter and at half of the widths.
#[test]
fn litert_lm_runs_the_graph_of_a_skeleton() {
    let Some(runtime) = LITERT_LM.for_tests() else { return };
    let files = Files::new("mixed48");
    for (checkpoint, name) in [("base", "new-base.litertlm"), ("tuned", "new-tuned.litertlm")] {
        files.fill("tiny", checkpoint, name, &["--recipe", "litertlm-int4"]).good();
    }
    let bundles = ["new-base.litertlm", "new-tuned.litertlm"].map(|name| files.path(name));
    for (said, expected) in says(&runtime, &[PROMPT], 24, &bundles).iter().zip([OF_BASE, OF_TUNED]) {
        assert_eq!(tokens(said)[..12], expected.map(u64::from), "{said}");
    }
}

/// Types that the bundle did not have, and blocks of zeros, with whose scales of 0 the exporter's own bundle does not load.
#[test]
fn litert_lm_loads_other_types_and_blocks_of_zeros() {
    let Some(runtime) = LITERT_LM.for_tests() else { return };
    let (two, blocks) = (Files::new("wi2"), Files::new("mixed48_b32"));
    let cases: [(&Files, &str, &[&str]); 4] = [
        (&two, "int2.litertlm", &["--bundle-types", "keep"]),
        (&two, "int4.litertlm", &["--recipe", "litertlm-int4"]),
        (&two, "int8.litertlm", &["--recipe", "litertlm-int8"]),
        (&blocks, "blocks.litertlm", &[]),
    ];
    let bundles = cases.map(|(files, name, options)| {
        files.convert("base", name, options).good();
        files.path(name)
    });
    let said = says(&runtime, &[PROMPT], 24, &bundles);
    for (said, (_, name, _)) in said.iter().zip(cases) {
        assert!(tokens(said).len() > 4, "{name}: {said}");
    }
    // 4 bits of two kinds, and 8: near to each other, and to the exporter's 4 bits
    assert_eq!(tokens(&said[1])[..12], OF_TUNED.map(u64::from));
}

/// A fine-tune whose weights are multiples of a power of two, from −7 to 7: four bits keep all of them, so that the bundle has the weights
/// of the checkpoint.
fn on_a_grid(files: &Files) {
    let path = files.path("tuned").join(WEIGHTS);
    let mut weights = Weights::parse(&fs::read(&path).unwrap());
    for tensor in weights.tensors.iter_mut().filter(|tensor| tensor.shape.len() == 2) {
        let cols = tensor.shape[1] as usize;
        let mut values = tensor.values();
        for row in values.chunks_exact_mut(cols) {
            let largest = row.iter().fold(0f32, |most, x| most.max(x.abs()));
            if largest == 0.0 {
                continue;
            }
            let step = (largest / 7.0).log2().ceil().exp2();
            let at = row.iter().position(|x| x.abs() == largest).unwrap();
            let sign = row[at].signum();
            row.iter_mut().for_each(|x| *x = (*x / step).round() * step);
            row[at] = 7.0 * step * sign;
        }
        tensor.data = values.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect();
    }
    fs::write(path, weights.to_bytes()).unwrap();
}

/// The runtime rounds activations to 8 bits, and the random weights of the tiny model make tokens nearly as likely as each other: after a
/// few prompts the first token differs. By chance one of 2,048 would be the same.
#[test]
fn litert_lm_says_what_we_say_of_the_same_weights() {
    const PROMPTS: [&str; 12] = [
        PROMPT,
        "In 1912 the",
        "Natural resources:",
        "The river",
        "It exports copper",
        "Chile",
        "Spanish is spoken",
        "The capital city is",
        "Climate",
        "There are many",
        "Military branches",
        "Roads: total",
    ];
    let Some(runtime) = LITERT_LM.for_tests() else { return };
    let files = Files::new("mixed48");
    on_a_grid(&files);
    let recipe = files.path("int4.toml");
    fs::write(&recipe, "types.default = \"int4\"\n").unwrap();
    files.convert("base", "int4.litertlm", &["--recipe", recipe.to_str().unwrap()]).good();
    let said = says(&runtime, &PROMPTS, 1, &[files.path("int4.litertlm")]);
    let mut same = 0;
    for (prompt, said) in PROMPTS.into_iter().zip(&said) {
        let own = ours(&files.path("tuned"), prompt, 1);
        let ids = own["prompt_tokens"].as_array().unwrap();
        assert_eq!(said[1].as_array().unwrap(), &ids[1..], "{prompt}");
        same += usize::from(said[0].as_str().unwrap().trim() == own["text"].as_str().unwrap().trim());
    }
    assert!(same >= 9, "the same first token after {same} of {} prompts", PROMPTS.len());
}

#[test]
fn the_interpreter_reads_the_models_and_their_weights() {
    let Some(runtime) = LITERT_LM.for_tests() else { return };
    let files = Files::new("mixed48");
    on_a_grid(&files);
    files.convert("base", "tuned.litertlm", &[]).good();
    let bundle = files.path("tuned.litertlm");
    let sections = &testkit::json("golden/litertlm/expected.json")["recipes"]["mixed48"]["tuned"]["sections"];
    let ranges: Vec<_> = sections.as_array().unwrap()[3..]
        .iter()
        .map(|section| [&section["begin"], &section["end"]])
        .collect();
    const ROWS: usize = 64;
    let script = ["-c", READS, bundle.to_str().unwrap(), &json!(ranges).to_string(), &ROWS.to_string()]
        .map(str::to_owned);
    let read = answer(runtime.python("python").args(script));
    let names = json!([
        ["decode", "prefill_16"],
        ["decode_embedder", "prefill_embedder_16"],
        ["decode_per_layer_embedder", "prefill_per_layer_embedder_16"]
    ]);
    assert_eq!(read[0], names);
    let mut weights = Weights::parse(&fs::read(files.path("tuned").join(WEIGHTS)).unwrap());
    let table = weights.get("embed_tokens.weight").values();
    for (row, values) in read[1].as_array().unwrap().iter().zip(table.chunks_exact(64)) {
        // the graph multiplies by the square root of the width
        let expected: Vec<f64> = values.iter().map(|x| f64::from(x * 8.0)).collect();
        let found: Vec<f64> = row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert_eq!(found, expected);
    }
}

/// The template of Gemma 4, edited as `bundle_template.rs` does, against what transformers renders. Three conversations differ: transformers
/// moves thoughts to another field first, and the runtime writes 1e-07 with all zeros.
#[test]
fn litert_lm_renders_the_template_of_a_new_bundle() {
    let Some(runtime) = LITERT_LM.for_tests() else { return };
    let files = Files::new("mixed48");
    let template = testkit::read("chat-templates/gemma-4-small.2026-07.jinja");
    fs::write(files.path("base").join("chat_template.jinja"), template).unwrap();
    files.fill("same", "base", "chat.litertlm", &["--recipe", "litertlm-int4"]).good();
    let conversations = testkit::json("chat-templates/conversations.json");
    let expected = testkit::json("chat-templates/rendered/gemma-4-small.2026-07.json");
    let texts: Vec<_> = expected.as_object().unwrap().iter().filter(|(_, text)| text.is_string()).collect();
    let asked: Vec<_> = texts.iter().map(|(title, _)| &conversations[title.as_str()]).collect();
    let bundle = files.path("chat.litertlm");
    let script = ["-c", RENDERS, bundle.to_str().unwrap(), &json!(asked).to_string()].map(str::to_owned);
    let rendered = answer(runtime.python("python").args(script));
    let pairs = texts.iter().zip(rendered.as_array().unwrap());
    let others: Vec<_> =
        pairs.filter(|((_, text), said)| *text != *said).map(|((title, _), _)| title.as_str()).collect();
    assert_eq!(others, ["thoughts of earlier turns", "tools", "tool call waiting"]);
}
