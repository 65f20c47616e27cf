//! The memory plan: what stock llama.cpp says that it takes, what our runtime takes, what fits.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::support::{self, Folder, Run, command, convert, fixture, run};
use checkpoint::Checkpoint;
use footprint::{Conditions, Engine, KvLayers, kv_cache};
use gemma::{Config, ModelSpec};
use plan::{Recipe, Request, Shards, plan};
use serde_json::{Map, Value, json};
use tensor::{DType, TensorDesc};
use xtask::oracle::Oracle;

/// What llama.cpp b0.3.36 prints for the published configs, for full and for sliding layers: cells, layers, MiB.
/// `stock_says_what_the_table_says` runs it again for three of the sizes.
#[rustfmt::skip]
const STOCK: [(&str, u64, &str, Printed, Printed); 17] = [
    ("E2B",       300, "f16",  (   512,  3, "3.00"),     ( 512, 12, "6.00")),
    ("E2B",      1100, "f16",  (  1280,  3, "7.50"),     (1024, 12, "12.00")),
    ("E2B",      8192, "f16",  (  8192,  3, "48.00"),    (1024, 12, "12.00")),
    ("E2B",      8192, "q8_0", (  8192,  3, "25.50"),    (1024, 12, "6.38")),
    ("E2B",     32768, "q4_0", ( 32768,  3, "54.00"),    (1024, 12, "3.38")),
    ("E2B",    131072, "f32",  (131072,  3, "1536.00"),  (1024, 12, "24.00")),
    ("E4B",      8192, "f16",  (  8192,  4, "128.00"),   (1024, 20, "40.00")),
    ("E4B",    131072, "f16",  (131072,  4, "2048.00"),  (1024, 20, "40.00")),
    ("12B",      5000, "f16",  (  5120,  8, "80.00"),    (1536, 40, "480.00")),
    ("12B",     32768, "q4_0", ( 32768,  8, "144.00"),   (1536, 40, "135.00")),
    ("26B-A4B",  1100, "f16",  (  1280,  5, "25.00"),    (1280, 25, "250.00")),
    ("26B-A4B",  8192, "q8_0", (  8192,  5, "85.00"),    (1536, 25, "159.38")),
    ("26B-A4B", 131072, "f16", (131072,  5, "2560.00"),  (1536, 25, "300.00")),
    ("31B",       300, "f16",  (   512, 10, "40.00"),    ( 512, 50, "400.00")),
    ("31B",      1100, "q5_1", (  1280, 10, "37.50"),    (1280, 50, "375.00")),
    ("31B",      8192, "bf16", (  8192, 10, "640.00"),   (1536, 50, "1200.00")),
    ("31B",    131072, "f16",  (131072, 10, "10240.00"), (1536, 50, "1200.00")),
];

/// Cells, layers and MiB with two digits.
type Printed = (u64, u64, &'static str);

fn dtype(name: &str) -> DType {
    name.parse().unwrap()
}

fn published(size: &str) -> Value {
    support::json(&testkit::fixtures(format!("configs/gemma-4-{size}-it.json")))
}

/// `cells, layers, MiB` of the layers of a kind, as llama.cpp prints them.
fn print(all: &[KvLayers], kind: &str) -> (u64, u64, String) {
    let layers = all.iter().find(|layers| layers.kind == kind).unwrap();
    (layers.cells, layers.layers, format!("{:.2}", layers.bytes as f64 / f64::from(1 << 20)))
}

fn forecast(config: &Config, context: u64, kv_type: &str) -> [(u64, u64, String); 2] {
    let conditions = Conditions::new(config, context, dtype(kv_type)).unwrap();
    let all = kv_cache(config, Engine::LlamaCpp, conditions);
    ["full", "sliding"].map(|kind| print(&all, kind))
}

#[test]
fn keys_and_values_take_what_stock_has_printed() {
    for (size, context, kv_type, full, sliding) in STOCK {
        let config = Config::from_json(&published(size)).unwrap();
        let expected = [full, sliding].map(|(cells, layers, mib)| (cells, layers, mib.to_owned()));
        assert_eq!(forecast(&config, context, kv_type), expected, "{size} at {context} in {kv_type}");
    }
}

#[test]
fn shared_layers_have_none_and_the_runtime_keeps_a_window() {
    let config = Config::from_json(&published("E2B")).unwrap();
    let conditions = Conditions { batch: 1, ..Conditions::new(&config, 4096, DType::F16).unwrap() };
    let layers = |kind, layers, cells, bytes| KvLayers { kind, layers, cells, bytes };
    // f32 keys and values of one head of 256 in sliding layers, of 512 in full ones
    let expected = [
        layers("sliding", 12, 512, 12 * 512 * 256 * 2 * 4),
        layers("full", 3, 4096, 3 * 4096 * 512 * 2 * 4),
        layers("shared", 20, 0, 0),
    ];
    assert_eq!(kv_cache(&config, Engine::Runtime, conditions), expected);
}

/// Starts stock on a file and stops it as soon as it has said what its caches take, which it does before it reads
/// weights.
fn stock(oracle: &Oracle, file: &Path, context: u64, kv_type: &str) -> [(u64, u64, String); 2] {
    let mut child = oracle
        .runner("llama-completion")
        .args(["-no-cnv", "-v", "-p", "x", "-n", "1", "-ctk", kv_type, "-ctv", kv_type, "-c"])
        .arg(context.to_string())
        .arg("-m")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // "… llama_kv_cache: size =   48.00 MiB (  8192 cells,   3 layers,  1/1 seqs), K (f16): …"
    let sizes = lines.map_while(Result::ok).filter_map(|line| {
        let (mib, rest) = line.split_once("llama_kv_cache: size =")?.1.split_once("MiB (")?;
        let (cells, rest) = rest.split_once("cells,")?;
        let number = |text: &str| text.trim().parse().unwrap();
        Some((number(cells), number(rest.split_once("layers")?.0), mib.trim().to_owned()))
    });
    let sizes: Vec<_> = sizes.take(2).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    sizes.try_into().expect("the sizes of two caches")
}

#[test]
fn keys_and_values_of_tiny_models_take_what_stock_says() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let home = tempfile::tempdir().unwrap();
    for name in ["e2b", "26b-a4b", "31b"] {
        let out = home.path().join(name);
        convert(&fixture(name), &out, &["--type", "q4_0"]).good();
        let config = Config::from_json(&support::json(&fixture(name).join("config.json"))).unwrap();
        for (context, kv_type) in [(100, "f32"), (2000, "q8_0")] {
            let found = stock(&oracle, &out.join("model-q4_0.gguf"), context, kv_type);
            assert_eq!(forecast(&config, context, kv_type), found, "{name} at {context} in {kv_type}");
        }
    }
}

#[test]
fn stock_says_what_the_table_says() {
    let Some(oracle) = Oracle::for_tests() else { return };
    for size in ["E2B", "26B-A4B", "31B"] {
        let folder = full_size(size);
        let file = folder.home().join("hollow.gguf");
        hollow(&folder.path(), &file);
        for (_, context, kv_type, full, sliding) in STOCK.into_iter().filter(|row| row.0 == size) {
            let expected = [full, sliding].map(|(cells, layers, mib)| (cells, layers, mib.to_owned()));
            assert_eq!(stock(&oracle, &file, context, kv_type), expected, "{size} at {context} in {kv_type}");
        }
    }
}

/// A checkpoint with a published config and the tensors of a published size, all of them holes: they take no room on
/// the disk. Its tokenizer is a tiny one with unused tokens up to the full number.
pub(crate) fn full_size(size: &str) -> Folder {
    let folder = Folder::of("e2b");
    folder.edit("config.json", |config| *config = published(size));
    folder.edit("tokenizer.json", |tokenizer| {
        let tokens = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        (tokens.len()..262_144).for_each(|id| drop(tokens.insert(format!("<more{id}>"), id.into())));
    });
    let rows = fs::read_to_string(testkit::fixtures(format!("inventories/gemma-4-{size}-it.tsv"))).unwrap();
    let (mut header, mut end) = (Map::new(), 0);
    for row in rows.lines().filter(|row| !row.starts_with('#')) {
        let cells: Vec<_> = row.split('\t').collect();
        let shape: Vec<u64> = serde_json::from_str(cells[1]).unwrap();
        let desc = TensorDesc::new(cells[0], dtype(cells[2]), shape).unwrap();
        let offsets = [end, end + desc.byte_len()];
        end = offsets[1];
        let dtype = cells[2].to_uppercase();
        header.insert(desc.name, json!({ "dtype": dtype, "shape": desc.shape, "data_offsets": offsets }));
    }
    let mut json = serde_json::to_vec(&header).unwrap();
    json.resize(json.len().next_multiple_of(8), b' ');
    holes(&folder.file(support::WEIGHTS), &[&(json.len() as u64).to_le_bytes()[..], &json].concat(), end);
    folder
}

/// The Q4_0 GGUF of a checkpoint: its header, and holes.
fn hollow(checkpoint: &Path, out: &Path) {
    let checkpoint = Checkpoint::open(checkpoint).unwrap();
    let model = ModelSpec::open(&checkpoint).unwrap();
    let recipe = Recipe::from_toml(&Recipe::text_of_preset("q4_0"), "q4_0").unwrap();
    let request = Request::new("q4_0", recipe, "model");
    let plan = plan(&model, &Shards::of(&checkpoint), &[request]).unwrap();
    let file = &plan.artifacts[0].files[0];
    holes(out, &file.header, file.bytes - file.header.len() as u64);
}

fn holes(path: &Path, header: &[u8], len: u64) {
    let mut file = fs::File::create(path).unwrap();
    file.write_all(header).unwrap();
    file.set_len(header.len() as u64 + len).unwrap();
}

/// `plan` of a folder.
pub(crate) fn memory(folder: &Path, options: &[&str]) -> Run {
    run([&["plan", folder.to_str().unwrap()], options].concat())
}

/// MiB of the "compute buffer" that `llama-server -np 1` of the same version prints. Its allocator follows no formula.
const WORKING: [(&str, [(&str, f64); 2]); 5] = [
    ("E2B", [("8192", 118.52), ("131072", 238.52)]),
    ("E4B", [("8192", 121.02), ("131072", 241.02)]),
    ("12B", [("8192", 138.02), ("131072", 258.02)]),
    ("26B-A4B", [("8192", 105.52), ("131072", 225.52)]),
    ("31B", [("8192", 183.02), ("131072", 303.02)]),
];

#[test]
fn working_buffers_are_within_a_tenth_of_what_stock_has_printed() {
    for (size, rows) in WORKING {
        let folder = full_size(size);
        for (context, mib) in rows {
            let plan =
                memory(&folder.path(), &["--type", "q4_0", "--context", context, "--json"]).good().json();
            let need = &plan["memory"][0]["needs"][0];
            assert_eq!(need["engine"], "llama.cpp");
            let ratio = need["working"].as_f64().unwrap() / f64::from(1 << 20) / mib;
            assert!((0.9..=1.1).contains(&ratio), "{size} at {context}: {need}");
        }
    }
}

/// What has to be in memory of Google's own Q4_0 file of E2B less its per-layer table: 1.31 GiB, and 5,040 bytes a token
/// of the rest, of which this preset makes 7,350 (q6_k).
#[test]
fn e2b_fits_into_two_gib_when_its_table_is_on_disk() {
    let folder = full_size("E2B");
    let options = ["--memory", "2GiB", "--context", "8192", "--kv-type", "f16", "--json"];
    let offloaded =
        memory(&folder.path(), &[&["--recipe", "q4_0-offload"], &options[..]].concat()).good().json();
    let plan = &offloaded["memory"][0];
    assert_eq!(plan["weights"]["offloaded"][0]["bytes_per_token"], 35 * 210);
    let resident = plan["weights"]["resident"].as_f64().unwrap();
    assert!((resident / f64::from(1 << 30) - 1.31).abs() < 0.005, "{resident}");
    assert_eq!(plan["verdict"]["fits"], true);
    assert!(plan["verdict"]["largest_context"].as_u64().unwrap() >= 8192);

    let whole = memory(&folder.path(), &[&["--recipe", "q4_0"], &options[..]].concat());
    assert_eq!(whole.code, Some(1), "{}", whole.stderr);
    let verdict = &whole.json()["memory"][0]["verdict"];
    assert_eq!((&verdict["fits"], &verdict["largest_context"]), (&json!(false), &Value::Null));
    let recipes = verdict["recipes"].as_array().unwrap();
    assert!(recipes.iter().map(|r| r["bits_per_weight"].as_f64().unwrap()).is_sorted_by(|a, b| a >= b));
    let best = recipes.iter().find(|recipe| recipe["fits"] == true).unwrap();
    assert_eq!(best["recipe"], "q4_0-offload");

    let text = memory(&folder.path(), &["--recipe", "q4_0-offload", "--memory", "1GiB"]);
    assert_eq!(text.code, Some(1), "{}", text.stderr);
    assert!(text.stdout.contains("The smallest recipe is q4_0-offload"), "{}", text.stdout);
}

#[test]
fn what_no_run_could_be_asked_for_is_refused() {
    let model = fixture("e2b");
    for (options, says) in [
        (["--context", "0"], "1 to 131072 tokens"),
        (["--context", "131073"], "1 to 131072 tokens"),
        (["--kv-type", "q6_k"], "f32, f16, bf16, q8_0"),
        (["--kv-type", "f61"], "no such type"),
        (["--memory", "much"], "such as 2GB"),
        (["--memory", "2"], "a unit, such as 2GiB"),
    ] {
        let run = memory(&model, &[&["--type", "q4_0"], &options[..]].concat());
        assert!(run.refusal(2).contains(says), "{options:?}: {}", run.stderr);
    }
}

/// The largest resident set of a run, as long as it was looked at.
fn peak(mut run: std::process::Command) -> u64 {
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")?.trim().parse().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(child.wait().unwrap().success());
    peak
}

/// What `generate` took of the synthetic E2B in Q4_0 (docs/BENCHMARKS.md), with two threads: tokens in all, of them at most
/// so many at a time, peak RSS in KiB.
const TAKEN: [(u64, u64, u64); 4] =
    [(3, 2, 1_503_632), (454, 326, 1_552_832), (2_038, 512, 1_623_896), (4_026, 512, 1_667_876)];

#[test]
fn the_forecast_for_e2b_is_within_a_tenth_of_what_it_took() {
    let folder = full_size("E2B");
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let mut model = ModelSpec::open(&checkpoint).unwrap();
    let recipe = Recipe::from_toml(&Recipe::text_of_preset("q4_0"), "q4_0").unwrap();
    let request = Request::new("q4_0", recipe, "model");
    let plan = plan(&model, &Shards::of(&checkpoint), &[request]).unwrap();
    // the merges of the tokenizer that was there
    model.vocabulary.merges.resize(514_906, String::new());
    for (context, batch, kib) in TAKEN {
        let conditions =
            Conditions { batch, threads: 2, ..Conditions::new(&model.config, context, DType::F16).unwrap() };
        let need = &footprint::memory(&model, &plan.artifacts[0], conditions).needs[1];
        assert_eq!(need.engine, Engine::Runtime);
        let ratio = need.peak_rss as f64 / (kib * 1024) as f64;
        assert!((0.9..=1.1).contains(&ratio), "{context} tokens: {ratio}, {need:?}");
    }
}

/// Tiny models, where little things weigh more.
#[test]
#[cfg(target_os = "linux")]
fn the_forecast_of_the_runtime_is_near_what_it_takes() {
    let home = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(testkit::fixtures("text/eval.txt")).unwrap();
    let prompt = home.path().join("prompt.txt");
    fs::write(&prompt, &text[..800]).unwrap();
    for name in ["e2b", "26b-a4b", "31b"] {
        let checkpoint = Checkpoint::open(fixture(name)).unwrap();
        let model = ModelSpec::open(&checkpoint).unwrap();
        let tokenizer = text::Tokenizer::from_checkpoint(&checkpoint).unwrap();
        let tokens = tokenizer.encode(&text[..800], true, false).unwrap().len() as u64;
        let recipe =
            Recipe::from_toml("types.scheme = 'bf16'\noutput.format = 'safetensors'", "bf16").unwrap();
        let request = Request::new("bf16", recipe, "model");
        let plan = plan(&model, &Shards::of(&checkpoint), &[request]).unwrap();
        let conditions = Conditions {
            batch: tokens,
            threads: 2,
            ..Conditions::new(&model.config, tokens + 64, DType::F16).unwrap()
        };
        let forecast = footprint::memory(&model, &plan.artifacts[0], conditions).needs[0].peak_rss;

        let folder = fixture(name);
        let args =
            ["generate", folder.to_str().unwrap(), "--prompt-file", prompt.to_str().unwrap(), "-n", "64"];
        let mut run = command(args);
        run.env("RAYON_NUM_THREADS", "2");
        let found = peak(run);
        let ratio = forecast as f64 / found as f64;
        assert!((0.8..=1.25).contains(&ratio), "{name}: {forecast} bytes forecast, {found} found");
    }
}
