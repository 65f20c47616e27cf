//! The memory plan with an image and a sound: what llama.cpp takes for the towers, what is counted, what is refused.

use std::path::PathBuf;

use checkpoint::Checkpoint;
use footprint::{Conditions, Engine, Media};
use gemma::ModelSpec;
use gemma::towers::Towers;
use plan::{Plan, Recipe, Request, Shards, plan};
use serde_json::Value;
use tensor::DType;

use crate::memory::{full_size, memory};
use crate::support::{Folder, fixture};

/// MiB by which the peak RSS of `llama-mtmd-cli -c 1024` (E2B: 4096) `--no-warmup --no-repack` has grown from the
/// loaded model to the encoded input, of images that it does not resize and of sounds: size, soft tokens, seconds,
/// MiB.
const GROWN: [(&str, u64, u64, f64); 8] = [
    ("E2B", 280, 0, 149.2),
    ("E2B", 560, 0, 308.3),
    ("E2B", 1120, 0, 585.4),
    ("E2B", 0, 30, 120.3),
    ("E2B", 0, 60, 121.3),
    ("31B", 280, 0, 210.0),
    ("12B", 280, 0, 42.2),
    ("12B", 0, 30, 32.2),
];

/// Tensor bytes of an mmproj file in BF16, with padding.
const TOWERS: [(&str, u64); 5] = [
    ("E2B", 986_749_056),
    ("E4B", 991_467_648),
    ("12B", 175_113_216),
    ("26B-A4B", 1_194_805_440),
    ("31B", 1_200_703_680),
];

#[test]
fn buffers_for_images_and_sounds_are_within_a_tenth_of_what_stock_took() {
    for size in ["E2B", "31B", "12B"] {
        let folder = full_size(size);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let model = ModelSpec::open(&checkpoint).unwrap();
        let plan = text_and_towers(&checkpoint, &model);
        for (_, image, seconds, mib) in GROWN.into_iter().filter(|row| row.0 == size) {
            let conditions = Conditions::new(&model.config, 8192, DType::F16).unwrap();
            let with = conditions.with_media(&model.config, media(&model, &plan, image, seconds)).unwrap();
            let need = &footprint::memory(&model, &plan.artifacts[0], with).needs[0];
            assert_eq!(need.engine, Engine::LlamaCpp);
            let ratio = need.media as f64 / f64::from(1 << 20) / mib;
            assert!((0.9..=1.1).contains(&ratio), "{size}, {image} soft tokens, {seconds} s: {ratio}");
        }
    }
}

/// What `generate` took of the synthetic E2B in Q4_0 and its mmproj file, with two threads and the prompt "x": soft
/// tokens of the image, memory of its own (without mapped weights) in KiB.
const TAKEN: [(u64, u64); 2] = [(70, 179_104), (280, 279_700)];

#[test]
fn the_forecast_of_the_runtime_is_within_a_tenth_of_what_it_took() {
    let folder = full_size("E2B");
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let mut model = ModelSpec::open(&checkpoint).unwrap();
    let plan = text_and_towers(&checkpoint, &model);
    // the merges of the tokenizer that was there
    model.vocabulary.merges.resize(514_906, String::new());
    for (image, kib) in TAKEN {
        let conditions = Conditions::new(&model.config, image + 8, DType::F16).unwrap();
        let conditions = Conditions { threads: 2, ..conditions };
        let with = conditions.with_media(&model.config, media(&model, &plan, image, 0)).unwrap();
        let need = &footprint::memory(&model, &plan.artifacts[0], with).needs[1];
        assert_eq!(need.engine, Engine::Runtime);
        let ratio = (need.peak_rss - need.mapped) as f64 / (kib * 1024) as f64;
        assert!((0.9..=1.1).contains(&ratio), "{image} soft tokens: {ratio}, {need:?}");
    }
}

/// A text model in Q4_0 and its mmproj file in BF16.
fn text_and_towers(checkpoint: &Checkpoint, model: &ModelSpec) -> Plan {
    let text = Recipe::from_toml(&Recipe::text_of_preset("q4_0"), "q4_0").unwrap();
    let towers = Recipe::from_toml(Recipe::embedded_text("mmproj-bf16").unwrap(), "mmproj-bf16").unwrap();
    let requests = [Request::new("q4_0", text, "model"), Request::new("mmproj-bf16", towers, "mmproj")];
    plan(model, &Shards::of(checkpoint), &requests).unwrap()
}

fn media(model: &ModelSpec, plan: &Plan, image: u64, seconds: u64) -> Media {
    let towers = Towers::from_json(&model.json, &model.config).unwrap().unwrap();
    Media::new(&towers, Some(&plan.artifacts[1]), image, seconds)
}

fn only(run: &Value) -> &Value {
    let [only] = &run["memory"].as_array().unwrap()[..] else { panic!("{}", run["memory"]) };
    only
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn towers_are_resident_with_an_mmproj_file() {
    for (size, bytes) in TOWERS {
        let folder = full_size(size);
        let planned = |options: &[&str]| {
            memory(&folder.path(), &[&["--type", "q4_0", "--json"], options].concat()).good().json()
        };
        let (alone, along) = (planned(&[]), planned(&["--mmproj", "bf16"]));
        let (alone, along) = (only(&alone), only(&along));
        assert_eq!(
            (&alone["mmproj"], &along["mmproj"]),
            (&Value::Null, &Value::from("mmproj-bf16")),
            "{size}"
        );
        assert_eq!(along["weights"]["towers"], bytes, "{size}");
        assert_eq!(alone["weights"]["towers"], 0, "{size}");
        let resident = |memory: &Value| number(&memory["weights"]["resident"]);
        assert_eq!(resident(along), resident(alone) + bytes, "{size}");
        let seconds = if ["26B-A4B", "31B"].contains(&size) { 0 } else { 30 };
        let media = &along["media"];
        let tokens = 282 + if seconds > 0 { 25 * seconds + 2 } else { 0 };
        let found = ["image", "seconds", "sound", "context"].map(|name| number(&media[name]));
        assert_eq!(found, [280, seconds, 25 * seconds, tokens], "{size}");
        // llama.cpp has all of it in its process, gemma-convert reads the towers from the file
        let [stock, ours] = &along["needs"].as_array().unwrap()[..] else { panic!("{along}") };
        let field = |need: &Value, name: &str| number(&need[name]);
        let without = &alone["needs"][0];
        assert_eq!(field(stock, "mapped"), field(without, "mapped"), "{size}");
        assert_eq!(field(stock, "total"), field(without, "total") + bytes + field(stock, "media"), "{size}");
        assert_eq!(field(ours, "mapped") + field(ours, "cached"), resident(along), "{size}");
        assert!(field(ours, "cached") >= bytes, "{size}");
        assert_eq!(field(ours, "towers"), 0, "{size}");
        assert!(
            field(ours, "media") > 0 && field(ours, "total") > field(&alone["needs"][1], "total"),
            "{size}"
        );
    }
}

/// The per-layer table stays on the disk, the towers do not.
#[test]
fn an_offload_plan_has_the_towers_in_its_resident_part() {
    let folder = full_size("E2B");
    let options = ["--recipe", "q4_0-offload", "--mmproj", "bf16", "--context", "8192"];
    let run = |more: &[&str]| memory(&folder.path(), &[&options, more].concat());
    let json = run(&["--json"]).good().json();
    let weights = &only(&json)["weights"];
    assert_eq!(weights["offloaded"][0]["bytes"], 1_926_758_400u64);
    assert_eq!(weights["towers"], 986_749_056);
    let text = run(&[]).good().stdout;
    let said = "bytes, 986,749,056 of them image and audio towers";
    assert!(text.contains("resident: 2,393,690,380 ") && text.contains(said), "{text}");
    assert!(
        text.contains(
            "an image of 280 soft tokens and 30 seconds of sound (750 soft tokens), by mmproj-bf16"
        ),
        "{text}"
    );
    // the text model alone fits into 2 GiB, with the towers it does not
    let limited = run(&["--memory", "2GiB", "--json"]);
    assert_eq!(limited.code, Some(1), "{}", limited.stderr);
    let verdict = &only(&limited.json())["verdict"].clone();
    assert_eq!(verdict["largest_context"], Value::Null);
    let recipes = verdict["recipes"].as_array().unwrap();
    assert!(recipes.iter().all(|recipe| number(&recipe["needed"]) > 986_749_056), "{verdict}");
}

/// Every text model is estimated with every mmproj file; safetensors have towers of their own, which count when they
/// are asked for.
#[test]
fn each_pair_is_an_estimate_of_its_own() {
    let model = fixture("e2b");
    let planned = |options: &[&str]| memory(&model, &[options, &["--json"]].concat()).good().json();
    let plan = planned(&["--type", "q4_0,q8_0", "--mmproj", "bf16,q8_0", "--recipe", "bf16-safetensors"]);
    let pairs: Vec<_> = plan["memory"].as_array().unwrap().iter().collect();
    let pairs: Vec<_> =
        pairs.iter().map(|one| (one["recipe"].as_str().unwrap(), one["mmproj"].as_str())).collect();
    for pair in [
        ("q4_0", Some("mmproj-bf16")),
        ("q4_0", Some("mmproj-q8_0")),
        ("q8_0", Some("mmproj-bf16")),
        ("q8_0", Some("mmproj-q8_0")),
        ("bf16-safetensors", None),
    ] {
        assert_eq!(pairs.iter().filter(|found| **found == pair).count(), 1, "{pair:?} in {pairs:?}");
    }
    assert_eq!(pairs.len(), 5, "{pairs:?}");

    let idle = planned(&["--recipe", "bf16-safetensors"]);
    let read = planned(&["--recipe", "bf16-safetensors", "--image-budget", "280", "--audio-seconds", "5"]);
    let (idle, read) = (&only(&idle)["weights"], &only(&read)["weights"]);
    assert_eq!(idle["towers"], 0);
    assert!(number(&read["towers"]) > 900_000);
    assert_eq!(number(&idle["idle"]), number(&read["idle"]) + number(&read["towers"]));
}

#[test]
fn an_image_is_one_batch_where_its_soft_tokens_see_each_other() {
    for (name, batch) in [("31b", 1120), ("26b-a4b", 1120), ("e2b", 512)] {
        let options = ["--type", "q4_0", "--mmproj", "f16", "--image-budget", "1120"];
        let run = |more: &[&str]| memory(&fixture(name), &[&options, more].concat()).good();
        assert_eq!(only(&run(&["--json"]).json())["batch"], batch, "{name}");
        let text = run(&[]).stdout;
        assert_eq!(text.contains("llama.cpp needs --ubatch-size 1120"), batch > 512, "{name}: {text}");
    }
}

#[test]
fn more_soft_tokens_and_seconds_need_more() {
    let needed = |options: &[&str]| {
        let all = [&["--type", "q4_0", "--mmproj", "bf16", "--json"], options].concat();
        let plan = memory(&fixture("e2b"), &all).good().json();
        let needs = only(&plan)["needs"].as_array().unwrap();
        needs.iter().map(|need| number(&need["media"])).collect::<Vec<_>>()
    };
    let images = ["70", "140", "280", "560", "1120"];
    let images = images.map(|budget| needed(&["--image-budget", budget, "--audio-seconds", "0"]));
    assert!(images.is_sorted_by(|a, b| a.iter().zip(b).all(|(a, b)| a < b)), "{images:?}");
    let sounds = ["0", "1", "30", "60"].map(|seconds| needed(&["--audio-seconds", seconds])[0]);
    assert!(sounds.is_sorted_by(|a, b| a < b), "{sounds:?}");
}

/// A setting of the estimate that changes nothing is a mistake.
#[test]
fn settings_without_effect_are_refused() {
    let settings: [&[&str]; 5] = [
        &["--memory", "2GiB"],
        &["--context", "512"],
        &["--kv-type", "f16"],
        &["--image-budget", "280"],
        &["--audio-seconds", "3"],
    ];
    for name in ["e2b", "31b"] {
        for setting in settings {
            for alone in [["--mmproj", "bf16"], ["--recipe", "mmproj-q8_0"]] {
                let run = memory(&fixture(name), &[&alone, setting].concat());
                let said = run.refusal(2).to_owned();
                assert!(
                    said.contains(setting[0]) && said.contains("no effect without a text model"),
                    "{said}"
                );
            }
        }
    }
    let no_towers = Folder::of("e2b");
    no_towers.edit("config.json", |config| {
        config["vision_config"] = Value::Null;
        config["audio_config"] = Value::Null;
    });
    no_towers.reweigh(|weights| weights.drop_towers());
    let cases: [(PathBuf, &[&str], &str); 6] = [
        (fixture("e2b"), &["--type", "q4_0", "--image-budget", "280"], "--image-budget: has no effect"),
        (fixture("e2b"), &["--type", "q4_0", "--audio-seconds", "3"], "--audio-seconds: has no effect"),
        (
            fixture("31b"),
            &["--type", "q4_0", "--mmproj", "f16", "--audio-seconds", "3"],
            "--audio-seconds: has no effect",
        ),
        (
            fixture("e2b"),
            &["--recipe", "bf16-safetensors", "--text-only", "--image-budget", "70"],
            "--image-budget: has no effect",
        ),
        (no_towers.path(), &["--recipe", "fp8", "--image-budget", "70"], "--image-budget: has no effect"),
        (fixture("e2b"), &["--recipe", "fp8", "--kv-type", "q8_0"], "--kv-type: has no effect"),
    ];
    for (folder, options, says) in cases {
        let said = memory(&folder, options).refusal(2).to_owned();
        assert!(said.contains(says), "{options:?}: {said}");
    }
    // no sound is what such a model gets anyway
    memory(&fixture("31b"), &["--type", "q4_0", "--mmproj", "f16", "--audio-seconds", "0"]).good();
}

#[test]
fn impossible_images_and_sounds_are_refused() {
    let cases: [(&[&str], &str); 5] = [
        (&["--image-budget", "300"], "70, 140, 280, 560, 1120"),
        (&["--image-budget", "0"], "70, 140, 280, 560, 1120"),
        (&["--audio-seconds", "3601"], "at most 3600"),
        (&["--audio-seconds", "18446744073709551615"], "at most 3600"),
        (&["--context", "1034"], "more than 1034 tokens"),
    ];
    for (options, says) in cases {
        let all = [&["--type", "q4_0", "--mmproj", "bf16"], options].concat();
        let said = memory(&fixture("e2b"), &all).refusal(2).to_owned();
        assert!(said.contains(says), "{options:?}: {said}");
    }
    memory(&fixture("e2b"), &["--type", "q4_0", "--mmproj", "bf16", "--context", "1035"]).good();
}

/// Defaults refuse nothing: a model that has no room for them is planned without.
#[test]
fn a_model_of_a_short_context_is_planned_with_its_towers_alone() {
    let folder = Folder::of("e2b");
    folder.edit("config.json", |config| config["text_config"]["max_position_embeddings"] = 512.into());
    let options = ["--type", "q4_0", "--mmproj", "bf16"];
    let plan = memory(&folder.path(), &[&options[..], &["--json"]].concat()).good().json();
    let estimate = only(&plan);
    assert_eq!([&estimate["media"]["context"], &estimate["context"]].map(number), [0, 512]);
    assert!(number(&estimate["weights"]["towers"]) > 1_000_000);
    assert!(memory(&folder.path(), &options).good().stdout.contains("with no image and no sound"));
    let said = memory(&folder.path(), &[&options[..], &["--audio-seconds", "30"]].concat());
    assert!(said.refusal(2).contains("--context: no room"), "{}", said.stderr);
}
