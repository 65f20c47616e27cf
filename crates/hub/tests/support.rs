//! A fake hub, an empty cache, and a record of notes, waits and progress.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Progress, Result, Task, Unit};
use hub::{Hub, HubModel, Settings, Snapshot};
use testkit::hub::{FakeHub, FakeRepo, sha256};

pub(crate) const ID: &str = "google/gemma-4-E2B-it";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const SIZE: usize = 3_000_000;

/// Bytes without a pattern.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut random = testkit::SplitMix64(seed);
    std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(len).collect()
}

/// Small files of a checkpoint, and files that no conversion needs.
pub(crate) fn small_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{\"model_type\": \"gemma4\"}".to_vec()),
        ("tokenizer.json", noise(40_000, 2)),
        ("README.md", b"# A card\n".to_vec()),
        ("LICENSE", b"".to_vec()),
        ("additional_chat_templates/tool use.jinja", b"{{ x }}".to_vec()),
        ("pytorch_model.bin", noise(1000, 3)),
        ("original/consolidated.safetensors", noise(1000, 4)),
        (".gitattributes", b"*.safetensors filter=lfs".to_vec()),
    ]
}

/// Weights in one file, two commits that differ in a byte of it, the first tagged `v1`.
pub(crate) fn repo() -> FakeRepo {
    let first = noise(SIZE, 1);
    let mut second = first.clone();
    second[1000] ^= 1;
    let with = |weights| [small_files(), vec![(WEIGHTS, weights)]].concat();
    FakeRepo::new(ID).commit(with(first)).reference("v1").reference("refs/pr/1").commit(with(second))
}

/// Weights in three shards with an index, beside an unrelated file.
pub(crate) fn sharded() -> FakeRepo {
    let index =
        br#"{"weight_map": {"a": "s-1.safetensors", "b": "s-2.safetensors", "c": "s-3.safetensors"}}"#;
    let shards = [
        ("model.safetensors.index.json", index.to_vec()),
        ("s-1.safetensors", noise(SIZE / 2, 11)),
        ("s-2.safetensors", noise(SIZE / 3, 12)),
        ("s-3.safetensors", noise(SIZE / 4, 13)),
        ("old.safetensors", noise(100, 14)),
    ];
    FakeRepo::new(ID).commit([small_files(), shards.to_vec()].concat())
}

/// A fake hub, an empty cache, and what was waited for.
pub(crate) struct Place {
    pub(crate) hub: FakeHub,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) waits: Arc<Mutex<Vec<f64>>>,
    pub(crate) log: Log,
}

impl Place {
    pub(crate) fn new(repo: FakeRepo) -> Place {
        Place::of(FakeHub::start([repo]))
    }

    pub(crate) fn of(hub: FakeHub) -> Place {
        let folder = tempfile::tempdir().unwrap();
        Place { hub, folder, waits: Arc::default(), log: Log::default() }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings::new(&self.hub.endpoint(), self.folder.path())
    }

    pub(crate) fn client(&self) -> Hub {
        self.client_with(self.settings())
    }

    /// A client that records waits in place of waiting.
    pub(crate) fn client_with(&self, settings: Settings) -> Hub {
        let waits = self.waits.clone();
        Hub::new(settings).unwrap().sleeping(move |wait| waits.lock().unwrap().push(wait.as_secs_f64()))
    }

    pub(crate) fn fetch(&self, model: &str) -> Result<Snapshot> {
        self.client().fetch(&HubModel::parse(model)?, 0, &self.log)
    }

    /// As [`fetch`](Self::fetch), for a server that falls silent.
    pub(crate) fn fetch_impatiently(&self, model: &str) -> Result<Snapshot> {
        let settings = Settings { read_timeout: Duration::from_secs(1), ..self.settings() };
        self.client_with(settings).fetch(&HubModel::parse(model)?, 0, &self.log)
    }

    pub(crate) fn offline(&self, model: &str) -> Result<Snapshot> {
        let settings = Settings { offline: true, ..self.settings() };
        self.client_with(settings).fetch(&HubModel::parse(model)?, 0, &self.log)
    }

    pub(crate) fn waits(&self) -> Vec<f64> {
        self.waits.lock().unwrap().clone()
    }

    /// The folder of the repository in the cache.
    pub(crate) fn repo_folder(&self) -> PathBuf {
        self.folder.path().join("models--google--gemma-4-E2B-it")
    }

    /// Names in `blobs/`, sorted.
    pub(crate) fn blobs(&self) -> Vec<String> {
        names(&self.repo_folder().join("blobs"))
    }

    /// Checks that every complete blob has the hash of its name.
    pub(crate) fn check_blobs(&self) {
        for name in self.blobs().iter().filter(|name| name.len() == 64) {
            let content = std::fs::read(self.repo_folder().join("blobs").join(name)).unwrap();
            assert_eq!(&sha256(&content), name);
        }
    }
}

/// Names in a folder, sorted; none if it is missing.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Notes, and bytes announced and done.
#[derive(Debug, Default)]
pub(crate) struct Log {
    notes: Mutex<Vec<String>>,
    total: AtomicU64,
    done: AtomicU64,
}

impl Log {
    pub(crate) fn notes(&self) -> String {
        self.notes.lock().unwrap().join("\n")
    }

    /// Bytes announced and bytes done, since the last call.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.total.swap(0, Ordering::Relaxed), self.done.swap(0, Ordering::Relaxed))
    }
}

impl Progress for Log {
    fn begin(&self, _: &str, total: u64, _: Unit) -> Box<dyn Task + '_> {
        self.total.fetch_add(total, Ordering::Relaxed);
        Box::new(Done(&self.done))
    }

    fn note(&self, note: &str) {
        self.notes.lock().unwrap().push(note.to_owned());
    }
}

struct Done<'a>(&'a AtomicU64);

impl Task for Done<'_> {
    fn advance(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}
