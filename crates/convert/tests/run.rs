//! Runs over a tiny checkpoint: outputs are independent of thread count and of other artifacts; a failure leaves
//! nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base::Silent;
use checkpoint::Checkpoint;
use convert::Options;
use gemma::ModelSpec;
use plan::{Recipe, Request, Shards};
use tensor::Result;

const TYPES: [&str; 5] = ["bf16", "q8_0", "q4_0", "q4_k_s", "iq4_xs"];

/// A copy of a tiny checkpoint, whose weights a test can change.
fn copy(to: &Path) -> PathBuf {
    let folder = to.join("checkpoint");
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(testkit::fixtures("checkpoints/31b")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    folder
}

/// Converts on `threads` threads. Returns the content of all files in the output folder, by name.
fn made(from: &Path, out: &Path, types: &[&str], threads: usize) -> Result<BTreeMap<String, Vec<u8>>> {
    let checkpoint = Checkpoint::open(from)?;
    let model = ModelSpec::open(&checkpoint)?;
    let request = |name: &&str| {
        let recipe = Recipe::from_toml(&Recipe::text_of_preset(name), name).unwrap();
        Request::new(*name, recipe, format!("model-{name}"))
    };
    let requests: Vec<Request> = types.iter().map(request).collect();
    let plan = plan::plan(&model, &Shards::of(&checkpoint), &requests)?;
    let options = Options {
        part: None,
        folder: out.to_owned(),
        named: None,
        force: false,
        sync: false,
        hash_input: convert::HashInput::Always,
        simd: quant::Simd::detect(),
        importance: None,
        rounded: Vec::new(),
        groups: Vec::new(),
        depends_on: Vec::new(),
        calibrations: Vec::new(),
        inputs: Vec::new(),
        settings: Vec::new(),
        source: None,
        tool: "test".to_owned(),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| convert::run(&checkpoint, &plan, &options, &Silent))?;
    Ok(contents(out))
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let files = entries.map(|entry| entry.unwrap());
    files.map(|f| (f.file_name().into_string().unwrap(), fs::read(f.path()).unwrap())).collect()
}

#[test]
fn bytes_depend_neither_on_company_nor_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let from = testkit::fixtures("checkpoints/31b");
    let together = made(&from, &dir.path().join("1"), &TYPES, 1).unwrap();
    assert_eq!(together.len(), TYPES.len() + 1, "and a manifest");
    for threads in [2, 7] {
        let out = dir.path().join(threads.to_string());
        assert!(made(&from, &out, &TYPES, threads).unwrap() == together, "{threads} threads");
    }
    for name in TYPES {
        let alone = made(&from, &dir.path().join(name), &[name], 2).unwrap();
        let file = format!("model-{name}.gguf");
        assert!(alone[&file] == together[&file], "{name}");
    }
}

#[test]
fn a_source_that_fails_leaves_no_output() {
    let dir = tempfile::tempdir().unwrap();
    let from = copy(dir.path());
    let weights = from.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    // the very last element of the text model is not a number
    let (last, end) = last_tensor(&bytes);
    bytes[end - 2..end].copy_from_slice(&[0xc0, 0x7f]);
    fs::write(&weights, &bytes).unwrap();
    for threads in [1, 7] {
        let out = dir.path().join("out");
        let error = made(&from, &out, &["q4_0", "q8_0"], threads).unwrap_err();
        assert!(error.to_string().contains(&last), "{last}: {error}");
        assert_eq!(contents(&out), BTreeMap::new());
    }
}

/// The last tensor of the text model in the file, and the end offset of its bytes.
fn last_tensor(file: &[u8]) -> (String, usize) {
    let (size, rest) = file.split_first_chunk::<8>().unwrap();
    let size = u64::from_le_bytes(*size) as usize;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&rest[..size]).unwrap();
    let end = |info: &serde_json::Value| info["data_offsets"][1].as_u64().unwrap_or(0);
    let text = header.into_iter().filter(|(name, _)| name.contains("language_model"));
    let (name, info) = text.max_by_key(|(_, info)| end(info)).unwrap();
    (name, 8 + size + end(&info) as usize)
}
