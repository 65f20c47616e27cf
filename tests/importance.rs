//! Importance files, against those of the real llama.cpp: `llama-imatrix` makes and merges them, `llama-quantize` rounds
//! by them; our bytes are theirs. Skipped, with a word, where llama.cpp is not built; what needs no judge comes last.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{self, Run, convert, fixture, run, text};
use imatrix::{Entry, Importance};
use tempfile::TempDir;
use xtask::oracle::Oracle;

/// Presets that differ in what importance means for them: for types (q4_0, iq4_nl, iq4_xs) and for each search.
const PRESETS: [&str; 11] =
    ["q4_0", "q5_0", "q4_1", "q5_1", "q4_k_m", "q5_k_m", "iq4_nl", "iq4_xs", "q6_k", "q3_k_m", "q2_k"];

/// Chunks of the calibration text, each of so many tokens.
const CHUNKS: u32 = 4;
const CHUNK: &str = "128";

/// A folder with what llama.cpp makes of a checkpoint.
struct Stock {
    oracle: Oracle,
    dir: TempDir,
}

fn ok(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

impl Stock {
    /// A BF16 file of the checkpoint (by our own converter, which `tests/bytes.rs` holds to llama.cpp's).
    fn of(checkpoint: &str) -> Option<Stock> {
        let oracle = Oracle::for_tests()?;
        let stock = Stock { oracle, dir: tempfile::tempdir().unwrap() };
        convert(&fixture(checkpoint), &stock.file("bf16.gguf"), &["--type", "bf16"]).good();
        Some(stock)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What `llama-imatrix` makes of some chunks of a text.
    fn imatrix(&self, name: &str, text: &Path, first: u32, chunks: u32, more: &[&str]) -> PathBuf {
        let out = self.file(name);
        let mut tool = self.oracle.runner("llama-imatrix");
        tool.args(["-c", CHUNK, "-t", "2", "--no-ppl", "--chunks", &chunks.to_string()]);
        tool.args(["--chunk", &first.to_string(), "-m"]).arg(self.file("bf16.gguf"));
        ok(tool.arg("-f").arg(text).arg("-o").arg(&out).args(more));
        out
    }

    /// The bytes of `llama-quantize --imatrix`.
    fn quantized(&self, preset: &str, importance: &Path) -> Vec<u8> {
        let out = self.file("stock.gguf");
        let mut tool = self.oracle.tool("llama-quantize");
        tool.arg("--imatrix").arg(importance).arg(self.file("bf16.gguf")).arg(&out);
        ok(tool.arg(preset.to_uppercase()));
        fs::read(out).unwrap()
    }
}

fn arguments<'a>(presets: &[&'a str], importance: &'a Path) -> Vec<&'a str> {
    let presets = presets.iter().flat_map(|preset| ["--type", preset]);
    presets.chain(["--importance", importance.to_str().unwrap()]).collect()
}

/// Each preset gives the bytes of llama-quantize, whose file importance went through our reader and writer unchanged; and
/// `verify` knows what such a file should be, with its manifest and without.
fn compare(checkpoint: &str) {
    let Some(stock) = Stock::of(checkpoint) else { return };
    let file = stock.imatrix("importance.gguf", &text("calib.txt"), 0, CHUNKS, &[]);
    let read = Importance::read(&file).unwrap();
    assert_eq!((read.chunks, read.chunk_size), (CHUNKS, Some(CHUNK.parse().unwrap())));
    assert!(
        read.to_bytes().unwrap() == fs::read(&file).unwrap(),
        "our writer's bytes are not llama-imatrix's"
    );

    let out = stock.file("ours");
    convert(&fixture(checkpoint), &out, &arguments(&PRESETS, &file)).good();
    for preset in PRESETS {
        let ours = fs::read(out.join(format!("model-{preset}.gguf"))).unwrap();
        assert!(ours == stock.quantized(preset, &file), "{checkpoint} {preset}");
    }

    // in a file of importance that we complete, every expert has weights
    let mut ours = read.clone();
    ours.fill_unseen();
    let completed = stock.file("completed.gguf");
    ours.write(&completed).unwrap();
    let model = stock.file("completed-q4_0.gguf");
    convert(&fixture(checkpoint), &model, &arguments(&["q4_0"], &completed)).good();
    assert!(fs::read(&model).unwrap() == stock.quantized("q4_0", &completed), "{checkpoint} completed");

    let manifest = support::json(&stock.file("completed-q4_0.gguf.manifest.json"));
    let entry = &manifest["artifacts"][0];
    assert_eq!(entry["importance"]["file"], completed.to_str().unwrap());
    let inputs = entry["inputs"].as_array().unwrap();
    assert_eq!(inputs.last().unwrap()["sha256"], support::sha256(&completed));
    for manifest in [true, false] {
        let verified = run([
            "verify",
            model.to_str().unwrap(),
            "--against",
            fixture(checkpoint).to_str().unwrap(),
            "--json",
        ]);
        let report = verified.good().json();
        let wrong = report["findings"].as_array().unwrap().iter().filter(|f| f["severity"] != "note");
        assert_eq!(wrong.count(), 0, "{checkpoint}, manifest: {manifest}: {report:#}");
        let _ = fs::remove_file(stock.file("completed-q4_0.gguf.manifest.json"));
    }
}

#[test]
fn per_layer_embeddings_and_shared_kv() {
    compare("e2b");
}

#[test]
fn mixture_of_experts() {
    compare("26b-a4b");
}

#[test]
fn dense() {
    compare("31b");
}

/// The per-layer table has importance in files of our own, a column each of all layers, by which llama-quantize rounds it
/// to the same bytes; without, to others.
#[test]
fn the_per_layer_table_is_rounded_by_importance_of_its_own() {
    const TABLE: &str = "per_layer_token_embd";
    let Some(stock) = Stock::of("e2b") else { return };
    let (with, without) = (stock.file("importance.gguf"), stock.file("without.gguf"));
    let (model, calib) = (fixture("e2b"), text("calib.txt"));
    let args = ["calibrate", model.to_str().unwrap(), "--text", calib.to_str().unwrap(), "-c", CHUNK];
    run([&args[..], &["--chunks", &CHUNKS.to_string(), "-o", with.to_str().unwrap()]].concat()).good();
    let all = Importance::read(&with).unwrap();
    let entry = all.get("per_layer_token_embd.weight").unwrap();
    let seen = all.get("blk.0.proj.weight").unwrap();
    // 8 layers of 32
    assert_eq!((entry.cols(), entry.counts()), (256, seen.counts()));
    let mut others = Importance::new(all.datasets.clone(), all.chunks, all.chunk_size.unwrap());
    for (name, entry) in all.iter().filter(|(name, _)| !name.starts_with(TABLE)) {
        others.insert(name, entry.clone());
    }
    others.write(&without).unwrap();

    for dtype in ["q4_0", "q5_0", "iq4_nl", "q6_k"] {
        let ours = |importance: &Path| {
            let out = stock.file("ours.gguf");
            let table = format!("types.{TABLE}={dtype}");
            let args = [&arguments(&["q4_0"], importance)[..], &["--set", &table, "--force"]].concat();
            convert(&model, &out, &args).good();
            fs::read(&out).unwrap()
        };
        let (steered, out) = (ours(&with), stock.file("stock.gguf"));
        let mut tool = stock.oracle.tool("llama-quantize");
        tool.arg("--imatrix").arg(&with).args(["--tensor-type", &format!("{TABLE}={dtype}")]);
        ok(tool.arg(stock.file("bf16.gguf")).arg(&out).arg("Q4_0"));
        assert!(steered == fs::read(&out).unwrap(), "{dtype}");
        assert!(steered != ours(&without), "{dtype}");
    }
}

/// Types that importance does not steer, and those that are not quantised, are what llama-quantize makes too.
#[test]
fn presets_without_use_for_importance_say_so_and_agree() {
    let Some(stock) = Stock::of("e2b") else { return };
    let file = stock.imatrix("importance.gguf", &text("calib.txt"), 0, 2, &[]);
    for preset in ["q8_0", "f16"] {
        let out = stock.file(&format!("{preset}.gguf"));
        let made = convert(&fixture("e2b"), &out, &arguments(&[preset], &file)).good();
        assert!(made.stderr.contains("changes no weight"), "{}", made.stderr);
        assert!(fs::read(&out).unwrap() == stock.quantized(preset, &file), "{preset}");
    }
}

/// The older form gives the weights of the new one, up to its rounding of the means; and llama-quantize's bytes.
#[test]
fn an_older_file_says_the_same() {
    let Some(stock) = Stock::of("26b-a4b") else { return };
    let new = stock.imatrix("importance.gguf", &text("calib.txt"), 0, CHUNKS, &[]);
    let old = stock.imatrix("importance.dat", &text("calib.txt"), 0, CHUNKS, &["--output-format", "dat"]);
    let [new, read] = [&new, &old].map(|path| Importance::read(path).unwrap());
    assert_eq!((new.len(), new.chunks, &new.datasets), (read.len(), read.chunks, &read.datasets));
    for ((name, new), (same, old)) in new.iter().zip(read.iter()) {
        assert_eq!(name, same);
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * a.abs();
        assert!(new.weights().iter().zip(&old.weights()).all(close), "{name}");
    }
    let out = stock.file("ours.gguf");
    convert(&fixture("26b-a4b"), &out, &arguments(&["q4_k_m"], &old)).good();
    assert!(fs::read(out).unwrap() == stock.quantized("q4_k_m", &old));
}

/// Files of two parts of a job, on one machine or two, are one: llama-imatrix's merge is ours, byte for byte.
#[test]
fn halves_merge_as_in_llama_imatrix() {
    let Some(stock) = Stock::of("26b-a4b") else { return };
    let second_text = stock.file("more.txt");
    fs::copy(text("calib.txt"), &second_text).unwrap();
    let half = CHUNKS / 2;
    let first = stock.imatrix("first.gguf", &text("calib.txt"), 0, half, &[]);
    let second = stock.imatrix("second.gguf", &second_text, half, half, &[]);
    let merged = stock.file("merged.gguf");
    let mut tool = stock.oracle.tool("llama-imatrix");
    tool.args(["-c", CHUNK, "-m"]).arg(stock.file("bf16.gguf"));
    ok(tool.arg("--in-file").arg(&first).arg("--in-file").arg(&second).arg("-o").arg(&merged));

    let mut ours = Importance::read(&first).unwrap();
    ours.merge(Importance::read(&second).unwrap()).unwrap();
    assert_eq!((ours.chunks, ours.datasets.len()), (CHUNKS, 2));
    assert!(ours.to_bytes().unwrap() == fs::read(&merged).unwrap());

    // and llama-imatrix takes what we have written
    let ours_file = stock.file("ours.gguf");
    ours.write(&ours_file).unwrap();
    let mut tool = stock.oracle.tool("llama-imatrix");
    tool.args(["-c", CHUNK, "-m"]).arg(stock.file("bf16.gguf"));
    ok(tool.arg("--in-file").arg(&ours_file).arg("-o").arg(stock.file("again.gguf")));
    assert!(fs::read(stock.file("again.gguf")).unwrap() == fs::read(&merged).unwrap());
}

/// Importance of the tiny E2B's attention: `change` makes something of it.
fn with(change: impl FnOnce(&mut Importance)) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("importance.gguf");
    let plan = planned(&["--type", "q4_0", "--json"]).good().json();
    let mut importance = Importance::new(vec!["some.txt".to_owned()], 2, 8);
    for tensor in plan["artifacts"][0]["files"][0]["tensors"].as_array().unwrap() {
        if tensor["role"] == "attn_q" {
            let cols = tensor["shape"][1].as_u64().unwrap() as usize;
            let sums = (1..=cols).map(|col| col as f32).collect();
            importance.insert(tensor["tensor"].as_str().unwrap(), Entry::new(sums, vec![16]).unwrap());
        }
    }
    change(&mut importance);
    importance.write(&path).unwrap();
    (dir, path)
}

/// What `plan` of the tiny E2B says.
fn planned(more: &[&str]) -> Run {
    let model = fixture("e2b");
    run([&["plan", model.to_str().unwrap()][..], more].concat())
}

fn refusal(importance: &Path, preset: &str) -> String {
    planned(&arguments(&[preset], importance)).refusal(3).to_owned()
}

#[test]
fn importance_of_another_model_is_refused() {
    let entry = |cols, count| Entry::new(vec![1.0; cols], vec![count]).unwrap();
    let (_dir, path) = with(|i| drop(i.insert("blk.0.attn_q.weight", entry(7, 1))));
    let said = refusal(&path, "q4_0");
    assert!(said.contains("importance.gguf: entry blk.0.attn_q.weight: sums: of another shape"), "{said}");
    assert!(said.contains("columns, found 1 × 7 columns"), "{said}");

    let (_dir, path) = with(|i| {
        *i = Importance::new(vec![], 1, 8);
        i.insert("model.layers.0.q_proj.weight", entry(7, 1));
    });
    let said = refusal(&path, "q4_0");
    assert!(
        said.contains("no entry names a tensor of this model")
            && said.contains("model.layers.0.q_proj.weight"),
        "{said}"
    );
}

#[test]
fn importance_that_says_nothing_is_refused() {
    let (_dir, path) = with(|i| {
        let cols = i.get("blk.1.attn_q.weight").unwrap().cols();
        i.insert("blk.1.attn_q.weight", Entry::new(vec![0.0; cols], vec![16]).unwrap());
    });
    let said = refusal(&path, "q4_0");
    assert!(said.contains("entry blk.1.attn_q.weight: matrix 0: all its sums are 0"), "{said}");
    let shown = run(["inspect", path.to_str().unwrap()]).good().stdout;
    assert!(shown.contains("all sums are 0 in 1 entries, such as blk.1.attn_q.weight"), "{shown}");
}

#[test]
fn what_is_no_importance_is_refused() {
    let missing = refusal(Path::new("no/such.gguf"), "q4_0");
    assert!(missing.contains("no/such.gguf"), "{missing}");
    let said = refusal(&fixture("e2b").join("config.json"), "q4_0");
    assert!(said.contains("config.json: header: an impossible number of entries"), "{said}");
}

#[test]
fn safetensors_have_no_use_for_importance() {
    let (_dir, path) = with(|_| ());
    let planned = planned(&["--recipe", "sfp8", "--importance", path.to_str().unwrap()]);
    assert!(planned.refusal(2).contains("has no effect on safetensors"));
}

#[test]
fn what_importance_does_not_cover_is_noted() {
    let (_dir, path) =
        with(|i| drop(i.insert("blk.99.attn_q.weight", Entry::new(vec![1.0], vec![1]).unwrap())));
    let text = planned(&arguments(&["q4_0"], &path)).good().stdout;
    assert!(text.contains("1 entries of") && text.contains("such as blk.99.attn_q.weight"), "{text}");
    assert!(text.contains("quantised without importance") && text.contains("ffn_gate"), "{text}");
}

#[test]
fn inspect_shows_coverage_and_outliers() {
    let (_dir, path) = with(|i| {
        let mut sums = vec![1.0; 400];
        sums[3] = 301.0;
        i.insert(
            "blk.0.ffn_down_exps.weight",
            Entry::new([sums, vec![0.0; 400]].concat(), vec![16, 0]).unwrap(),
        );
        i.fill_unseen();
    });
    let json = run(["inspect", path.to_str().unwrap(), "--json"]).good().json();
    assert_eq!(
        (&json["kind"], &json["chunks"], &json["datasets"][0]),
        (&"importance".into(), &2.into(), &"some.txt".into())
    );
    let entries = json["entries"].as_array().unwrap();
    let experts = entries.iter().find(|e| e["tensor"] == "blk.0.ffn_down_exps.weight").unwrap();
    assert_eq!(experts["counts"], serde_json::json!([16, 1]));
    assert_eq!((&experts["unseen"], &experts["filled"]), (&serde_json::json!([1]), &serde_json::json!([1])));
    assert_eq!(experts["peak"], 301.0 / 16.0 / (700.0 / 16.0 / 400.0));
    assert_eq!(experts["top_share"], 304.0 / 700.0);
    let text = run(["inspect", path.to_str().unwrap(), "--tensors"]).good().stdout;
    assert!(text.contains("\n1 of ") && text.contains(" got no token; 1 of these have the mean"), "{text}");
}

/// A text that is changed while it is read is named, in every job that reads one.
#[test]
fn shortened_conversations_are_noted() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).display().to_string();
    let (model, talk, out) = (fixture("31b").display().to_string(), path("talk.jsonl"), path("out.gguf"));
    let line = |text: &str| {
        format!(r#"[{{"role": "user", "content": "{text}"}}, {{"role": "assistant", "content": "Yes."}}]"#)
    };
    std::fs::write(&talk, format!("{}\n{}\n", line("Hi"), line(&"Is it so? ".repeat(40)))).unwrap();
    let job = run(["calibrate", &model, "--text", &talk, "--context", "64", "-o", &out]).good();
    let note = "note: --text: 1 of 2 conversations are longer than 64 tokens";
    assert!(job.stderr.contains(note), "{}", job.stderr);
    let job = run(["draft", "measure", &model, "--target", &model, "--text", &talk, "-c", "64"]);
    assert!(job.stderr.contains("note: --text: 1 of 2 conversations"), "{}", job.stderr);
}
