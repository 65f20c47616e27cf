//! The real llama.cpp judges: it loads each file, and `llama-perplexity` computes the same logits for it, and so the same
//! perplexity, as for llama.cpp's own. Skipped, with a word, where llama.cpp is not built (`cargo xtask oracle`);
//! `.ci/run` requires it.

use std::path::Path;
use std::process::Command;

use tensor::TensorSource;
use xtask::oracle::Oracle;

fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{text}");
    text
}

fn convert(model: &Path, out: &Path, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-convert"));
    ok(command.arg("convert").arg(model).args(arguments).arg("-o").arg(out));
}

/// What `llama-perplexity` computes for a model: all logits, as it saves them, and the perplexity that they give.
///
/// The number is computed here from the saved logits, because the tool's logger loses its last lines on a busy machine.
fn perplexity(oracle: &Oracle, model: &Path) -> (Vec<u8>, f64) {
    let saved = model.with_extension("logits");
    let mut tool = oracle.runner("llama-perplexity");
    tool.args(["-c", "256", "--chunks", "8", "-t", "2", "-f"]).arg(testkit::fixtures("text/eval.txt"));
    ok(tool.arg("--save-all-logits").arg(&saved).arg("-m").arg(model));
    let bytes = std::fs::read(&saved).unwrap();
    let perplexity = perplexity_of(&bytes);
    (bytes, perplexity)
}

/// The file: magic, n_ctx, n_vocab, n_chunk, tokens; then for every scored position a scale, the smallest log
/// probability and 16-bit steps above it (llama.cpp, tools/perplexity/perplexity.cpp).
fn perplexity_of(file: &[u8]) -> f64 {
    let int = |at: usize| i32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let float = |at: usize| f64::from(f32::from_le_bytes(file[at..at + 4].try_into().unwrap()));
    assert_eq!(&file[..8], b"_logits_");
    let (context, vocab, chunks) = (int(8), int(12), int(16));
    let mut row = 20 + 4 * context * chunks;
    let row_bytes = 2 * (2 * vocab.div_ceil(2) + 4);
    let mut sum = 0.0;
    let mut count = 0;
    for chunk in 0..chunks {
        for position in context / 2..context - 1 {
            let target = int(20 + 4 * (chunk * context + position + 1));
            let step = u16::from_le_bytes(file[row + 8 + 2 * target..][..2].try_into().unwrap());
            sum += float(row) * f64::from(step) + float(row + 4);
            count += 1;
            row += row_bytes;
        }
    }
    assert_eq!(row, file.len());
    (-sum / f64::from(count)).exp()
}

/// Holds the logits of each type against those of llama.cpp's own file. Returns the perplexities; `None` without
/// llama.cpp.
pub(crate) fn compare(checkpoint: &Path, types: &[&str]) -> Option<Vec<f64>> {
    let oracle = Oracle::for_tests()?;
    let dir = tempfile::tempdir().unwrap();
    let options: Vec<_> = types.iter().flat_map(|name| ["--type", name]).collect();
    convert(checkpoint, dir.path(), &options);

    let base = dir.path().join("stock-bf16.gguf");
    let mut script = oracle.script("convert_hf_to_gguf.py");
    ok(script.arg(checkpoint).args(["--outtype", "bf16", "--outfile"]).arg(&base));
    let of_type = |preset: &&str| {
        let stock = dir.path().join(format!("stock-{preset}.gguf"));
        ok(oracle.tool("llama-quantize").arg(&base).arg(&stock).arg(preset.to_uppercase()));
        let (ours, perplexity) = self::perplexity(&oracle, &dir.path().join(format!("model-{preset}.gguf")));
        let place = checkpoint.display();
        assert!(ours == self::perplexity(&oracle, &stock).0, "{place} {preset}: other logits than stock's");
        perplexity
    };
    Some(types.iter().map(of_type).collect())
}

fn of_fixture(checkpoint: &str) {
    let model = testkit::fixtures("checkpoints").join(checkpoint);
    let Some(perplexities) = compare(&model, &["q4_0", "q8_0", "q4_k_m"]) else { return };
    // a model that talks nonsense has a perplexity in the hundreds
    assert!(perplexities.iter().all(|&perplexity| perplexity < 20.0), "{checkpoint}: {perplexities:?}");
}

#[test]
fn per_layer_embeddings_and_shared_kv() {
    of_fixture("e2b");
}

#[test]
fn mixture_of_experts() {
    of_fixture("26b-a4b");
}

/// A split is loaded by its first part, and merged; the parts are those that `llama-gguf-split` makes of the whole file, but for
/// the key that says which belong together.
#[test]
fn split_files() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let dir = tempfile::tempdir().unwrap();
    let ours = dir.path().join("ours");
    let model = testkit::fixtures("checkpoints/31b");
    convert(&model, &ours, &["--type", "q8_0", "--split-max-size", "2MB"]);
    let whole = dir.path().join("model-q8_0.gguf");
    convert(&model, &whole, &["--type", "q8_0"]);

    let stock = dir.path().join("stock");
    std::fs::create_dir(&stock).unwrap();
    let mut split = oracle.tool("llama-gguf-split");
    ok(split.args(["--split", "--split-max-size", "2M"]).arg(&whole).arg(stock.join("model-q8_0")));
    let mut names: Vec<_> = std::fs::read_dir(&stock).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert!(names.len() > 2);
    for name in &names {
        let [a, b] = [&ours, &stock].map(|folder| gguf::GgufFile::open(folder.join(name)).unwrap());
        let mut keys = a.metadata().clone();
        assert!(keys.remove(gguf::SET).is_some(), "{name:?} does not say its set");
        assert!(
            keys == *b.metadata() && TensorSource::tensors(&a) == TensorSource::tensors(&b),
            "{name:?} differs"
        );
        let [a, b] =
            [&a, &b].map(|file| std::fs::read(file.path()).unwrap()[file.offsets()[0] as usize..].to_vec());
        assert!(a == b, "{name:?} differs");
    }
    let merged = dir.path().join("merged.gguf");
    ok(oracle.tool("llama-gguf-split").arg("--merge").arg(ours.join(&names[0])).arg(&merged));
    assert!(perplexity(&oracle, &merged) == perplexity(&oracle, &whole));
    assert!(perplexity(&oracle, &ours.join(&names[0])) == perplexity(&oracle, &whole));
}

/// A finished file passes through `llama-quantize COPY` (which Ollama runs on import) unchanged.
#[test]
fn copies_are_identical() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let dir = tempfile::tempdir().unwrap();
    let [ours, copy] = ["ours.gguf", "copy.gguf"].map(|name| dir.path().join(name));
    for preset in ["bf16", "q4_0", "q3_k_m"] {
        convert(&testkit::fixtures("checkpoints/e2b"), &ours, &["--type", preset, "--force"]);
        ok(oracle.tool("llama-quantize").arg(&ours).arg(&copy).arg("COPY"));
        assert!(std::fs::read(&ours).unwrap() == std::fs::read(&copy).unwrap(), "{preset}");
    }
}
