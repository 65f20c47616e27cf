//! What the tests of the command line share: copies of the tiny checkpoints to break, and the binary to run on them.
//!
//! No expectation lives here; helpers panic when a test is set up wrongly.

pub(crate) mod chromium;
pub(crate) mod held;
pub(crate) mod html;
pub(crate) mod refused;
pub(crate) mod reports;
pub(crate) mod slurm;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// A committed tiny checkpoint: `e2b`, `26b-a4b` or `31b`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    testkit::fixtures("checkpoints").join(name)
}

/// A committed text: `calib.txt`, `eval.txt`, …
pub(crate) fn text(name: &str) -> PathBuf {
    testkit::fixtures("text").join(name)
}

/// A checkpoint folder of a test's own, beside a place for its outputs.
pub(crate) struct Folder {
    home: TempDir,
}

impl Folder {
    /// A copy of a fixture.
    pub(crate) fn of(name: &str) -> Folder {
        let folder = Folder { home: tempfile::tempdir().unwrap() };
        fs::create_dir(folder.path()).unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.file(entry.file_name())).unwrap();
        }
        folder
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.home.path().join("checkpoint")
    }

    /// A target folder that does not exist yet.
    pub(crate) fn out(&self) -> PathBuf {
        self.home.path().join("out")
    }

    /// The folder that holds both.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.file(name), bytes).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    /// Changes a JSON file.
    pub(crate) fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut json = json(&self.file(name));
        change(&mut json);
        self.write(name, serde_json::to_vec_pretty(&json).unwrap());
    }

    /// Changes a field of the text model in config.json.
    pub(crate) fn configure(&self, field: &str, value: impl Into<Value>) {
        self.edit("config.json", |config| config["text_config"][field] = value.into());
    }

    pub(crate) fn weights(&self) -> Weights {
        weights(&self.path())
    }

    /// Changes the weights; the file that is written is well-formed again.
    pub(crate) fn reweigh(&self, change: impl FnOnce(&mut Weights)) {
        let mut weights = self.weights();
        change(&mut weights);
        self.write(WEIGHTS, weights.to_bytes());
    }

    /// Changes the header as JSON, and leaves the data as it is.
    pub(crate) fn rehead(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        let bytes = fs::read(self.file(WEIGHTS)).unwrap();
        let (mut header, data) = split(&bytes);
        change(&mut header);
        self.write(WEIGHTS, joined(&header, data));
    }

    /// Cuts the list of tensors into `count` shards of about the same number of them, with an index.
    pub(crate) fn shard_in_order(&self, count: usize) {
        let tensors = self.weights().tensors;
        let each = tensors.len().div_ceil(count);
        let mut map = Map::new();
        self.remove(WEIGHTS);
        let mut shard = Weights::default();
        let mut number = 0;
        for (at, tensor) in tensors.into_iter().enumerate() {
            map.insert(tensor.name.clone(), shard_name(number, count).into());
            shard.tensors.push(tensor);
            if (at + 1) % each == 0 {
                self.write(&shard_name(number, count), std::mem::take(&mut shard).to_bytes());
                number += 1;
            }
        }
        if !shard.tensors.is_empty() {
            self.write(&shard_name(number, count), shard.to_bytes());
        }
        self.write(INDEX, json!({ "metadata": {}, "weight_map": map }).to_string());
    }

    /// Deals the tensors to `count` shards with an index, which can be changed before it is written.
    pub(crate) fn shard(&self, count: usize, change: impl FnOnce(&mut Map<String, Value>)) {
        let mut shards: Vec<Weights> = (0..count).map(|_| Weights::default()).collect();
        let mut map = Map::new();
        for (number, tensor) in self.weights().tensors.into_iter().enumerate() {
            map.insert(tensor.name.clone(), shard_name(number % count, count).into());
            shards[number % count].tensors.push(tensor);
        }
        self.remove(WEIGHTS);
        for (number, shard) in shards.iter().enumerate() {
            self.write(&shard_name(number, count), shard.to_bytes());
        }
        change(&mut map);
        self.write(INDEX, json!({ "metadata": {}, "weight_map": map }).to_string());
    }
}

/// The weights of a folder that has them in one file.
pub(crate) fn weights(folder: &Path) -> Weights {
    Weights::parse(&fs::read(folder.join(WEIGHTS)).unwrap())
}

/// The `__metadata__` of such a folder.
pub(crate) fn metadata(folder: &Path) -> Value {
    metadata_of(&folder.join(WEIGHTS))
}

/// The `__metadata__` of a safetensors file.
pub(crate) fn metadata_of(file: &Path) -> Value {
    split(&fs::read(file).unwrap()).0["__metadata__"].take()
}

/// A JSON file.
pub(crate) fn json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The name of shard `number`, counted from 0.
pub(crate) fn shard_name(number: usize, count: usize) -> String {
    format!("model-{:05}-of-{count:05}.safetensors", number + 1)
}

/// A safetensors file in memory.
#[derive(Default)]
pub(crate) struct Weights {
    pub(crate) tensors: Vec<Tensor>,
}

pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) data: Vec<u8>,
}

impl Weights {
    pub(crate) fn parse(bytes: &[u8]) -> Weights {
        let (header, data) = split(bytes);
        let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__").map(|(name, info)| {
            let at = |i: usize| info["data_offsets"][i].as_u64().unwrap() as usize;
            Tensor {
                name,
                dtype: info["dtype"].as_str().unwrap().to_owned(),
                shape: info["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect(),
                data: data[at(0)..at(1)].to_vec(),
            }
        });
        Weights { tensors: tensors.collect() }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes_with(None)
    }

    /// With `__metadata__`.
    pub(crate) fn to_bytes_with(&self, metadata: Option<&Value>) -> Vec<u8> {
        let (mut header, mut data) = (Map::new(), Vec::new());
        header.extend(metadata.map(|metadata| ("__metadata__".to_owned(), metadata.clone())));
        for Tensor { name, dtype, shape, data: bytes } in &self.tensors {
            let offsets = [data.len(), data.len() + bytes.len()];
            header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
            data.extend_from_slice(bytes);
        }
        joined(&header, &data)
    }

    /// The tensor whose name ends so.
    pub(crate) fn get(&mut self, ending: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name.ends_with(ending)).unwrap()
    }

    pub(crate) fn drop(&mut self, ending: &str) {
        let name = self.get(ending).name.clone();
        self.tensors.retain(|t| t.name != name);
    }

    pub(crate) fn add(&mut self, name: &str, dtype: &str, shape: &[u64], bytes: usize) {
        let (name, dtype) = (name.to_owned(), dtype.to_owned());
        self.tensors.push(Tensor { name, dtype, shape: shape.to_vec(), data: vec![0; bytes] });
    }

    /// The text model alone, which is enough for most tests.
    pub(crate) fn drop_towers(&mut self) {
        self.tensors.retain(|t| t.name.starts_with("model.language_model."));
    }
}

impl Tensor {
    pub(crate) fn values(&self) -> Vec<f32> {
        match self.dtype.as_str() {
            "BF16" => self.data.chunks_exact(2).map(|b| bf16(u16::from_le_bytes([b[0], b[1]]))).collect(),
            "F32" => self.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            other => panic!("{other} is not read here"),
        }
    }

    /// Stores the values in another type: F32, BF16 or F16 (by truncation; good enough for weights).
    pub(crate) fn retype(&mut self, dtype: &str) {
        let values = self.values();
        self.data = values.iter().flat_map(|&value| element(dtype, value)).collect();
        self.dtype = dtype.to_owned();
    }

    /// Puts a value at an element.
    pub(crate) fn poke(&mut self, index: usize, value: f32) {
        let bytes = element(&self.dtype, value);
        let at = index * bytes.len();
        self.data[at..at + bytes.len()].copy_from_slice(&bytes);
    }
}

fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn element(dtype: &str, value: f32) -> Vec<u8> {
    let bits = value.to_bits();
    match dtype {
        "F32" => bits.to_le_bytes().to_vec(),
        "BF16" => ((bits >> 16) as u16).to_le_bytes().to_vec(),
        "F16" => half(bits).to_le_bytes().to_vec(),
        other => panic!("{other} is not written here"),
    }
}

/// IEEE half of a float that is normal there, zero, infinite or NaN; smaller ones become zero.
fn half(bits: u32) -> u16 {
    let sign = (bits >> 16) as u16 & 0x8000;
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
    let mantissa = (bits >> 13) as u16 & 0x3ff;
    sign | match exponent {
        i32::MIN..=0 => 0,
        1..=30 => (exponent as u16) << 10 | mantissa,
        _ if bits & 0x7f_ffff != 0 => 0x7e00,
        _ => 0x7c00,
    }
}

fn split(bytes: &[u8]) -> (Map<String, Value>, &[u8]) {
    let (size, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*size) as usize);
    (serde_json::from_slice(header).unwrap(), data)
}

fn joined(header: &Map<String, Value>, data: &[u8]) -> Vec<u8> {
    let mut json = serde_json::to_vec(header).unwrap();
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes(), json.as_slice(), data].concat()
}

/// How a run of the binary ended.
pub(crate) struct Run {
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(output: std::process::Output) -> Run {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// What was said on stderr, for a run that must have failed with `code` and one message.
    #[track_caller]
    pub(crate) fn refusal(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.errors(), 1, "one message: {}", self.stderr);
        &self.stderr
    }

    #[track_caller]
    pub(crate) fn good(self) -> Run {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    fn errors(&self) -> usize {
        self.stderr.lines().filter(|line| line.starts_with("error: ")).count()
    }
}

/// The binary, with everything of the environment that could change what it says taken away.
pub(crate) fn command(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-convert"));
    command.args(args).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    command
}

/// What a tool of llama.cpp says on stdout and stderr. Its log is written by a thread that may not be done when the tool is, so
/// it is asked again until everything is there, which is recorded; the last time counts.
pub(crate) fn said(tool: &mut Command, whole: impl Fn(&str, &str) -> bool) -> (String, String) {
    let mut last = Default::default();
    for attempt in 0..20 {
        let output = tool.output().unwrap_or_else(|e| panic!("{tool:?}: {e}"));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        last = (text(output.stdout), text(output.stderr));
        if whole(&last.0, &last.1) {
            testkit::retried(&program(tool), attempt);
            return last;
        }
    }
    testkit::retried(&format!("{}, which never said everything", program(tool)), 19);
    last
}

/// The name of a tool.
fn program(tool: &Command) -> String {
    Path::new(tool.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Runs the binary to its end.
pub(crate) fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
    Run::of(command(args).output().unwrap())
}

/// The arguments of a conversion.
pub(crate) fn convert_args(from: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let paths = ["convert", from.to_str().unwrap(), "-o", out.to_str().unwrap()];
    paths.iter().chain(more).map(|&arg| arg.to_owned()).collect()
}

/// Converts a folder.
pub(crate) fn convert(from: &Path, out: &Path, more: &[&str]) -> Run {
    run(convert_args(from, out, more))
}

/// Converts a folder by a recipe.
pub(crate) fn recipe(from: &Path, out: &Path, recipe: &str, more: &[&str]) -> Run {
    convert(from, out, &[&["--recipe", recipe], more].concat())
}

/// The names in a folder, sorted; none if there is no folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// SHA-256 of a file in hexadecimal.
pub(crate) fn sha256(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
