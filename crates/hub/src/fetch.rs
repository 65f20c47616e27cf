//! The needed files of a model, in the cache.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base::{Error, Progress, Result, Silent, Task, Unit, read_regular};

use crate::cache::RepoFolder;
use crate::download::{Download, kept_bytes};
use crate::model::{HubModel, is_commit};
use crate::needed::{self, CONFIG, INDEX, SINGLE, TEMPLATES};
use crate::remote::RemoteModel;
use crate::tree::RemoteFile;

/// Files that are downloaded at the same time; each is one sequential transfer.
const CONNECTIONS: usize = 4;
const MOST_INDEX: u64 = 256 << 20;

/// The needed files of a model in the cache: all of them, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder, for programs that read a checkpoint.
    pub folder: PathBuf,
    /// The id as the hub writes it.
    pub id: String,
    /// The revision that was asked for.
    pub revision: String,
    /// The commit.
    pub commit: String,
    /// The hub.
    pub endpoint: String,
    /// Paths of the needed files in the folder, sorted.
    pub files: Vec<String>,
}

/// Passes notes on, and shows no progress: for the index, whose size is not worth a bar.
struct NotesOnly<'a>(&'a dyn Progress);

impl Progress for NotesOnly<'_> {
    fn begin(&self, _: &str, _: u64, _: Unit) -> Box<dyn Task + '_> {
        Box::new(Silent)
    }

    fn note(&self, note: &str) {
        self.0.note(note);
    }
}

impl RemoteModel<'_> {
    /// Downloads the needed files that the cache lacks. `reserve` bytes stay free on the disk.
    ///
    /// # Errors
    /// `Target` for a cache that cannot be written and for insufficient disk space; `Malformed` for bytes with another
    /// hash than the hub's list; those of the network, after all retries.
    pub fn fetch(&self, reserve: u64, progress: &dyn Progress) -> Result<Snapshot> {
        let (folder, index) = self.prepare(progress)?;
        let mut files: Vec<_> = self.companions().chain(self.weights(index.as_deref())?).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        self.fetch_files(&folder, &files, reserve, progress)?;
        folder.set_commit(self.model().revision(), self.commit())?;
        let files = files.into_iter().map(|file| file.path.clone()).collect();
        Ok(self.snapshot(&folder, files))
    }

    /// The folder of the model in the cache, and the content of the index of the shards, if there is one.
    pub(crate) fn prepare(&self, progress: &dyn Progress) -> Result<(RepoFolder, Option<Vec<u8>>)> {
        let folder = RepoFolder::new(&self.client().settings.cache, self.model().id());
        folder.create()?;
        folder.set_files(self.commit(), self.files())?;
        let index = match self.index() {
            Some(file) => {
                self.fetch_files(&folder, &[file], 0, &NotesOnly(progress))?;
                Some(read_regular(&folder.snapshot(self.commit()).join(INDEX), MOST_INDEX)?)
            }
            None => None,
        };
        Ok((folder, index))
    }

    pub(crate) fn snapshot(&self, folder: &RepoFolder, files: Vec<String>) -> Snapshot {
        Snapshot {
            folder: folder.snapshot(self.commit()),
            id: self.model().id().to_owned(),
            revision: self.model().revision().to_owned(),
            commit: self.commit().to_owned(),
            endpoint: self.client().settings.endpoint.clone(),
            files,
        }
    }

    pub(crate) fn fetch_files(
        &self,
        folder: &RepoFolder,
        files: &[&RemoteFile],
        reserve: u64,
        progress: &dyn Progress,
    ) -> Result<()> {
        let missing = |file: &&&RemoteFile| folder.present(self.commit(), file).is_none();
        let missing: Vec<&RemoteFile> = files.iter().filter(missing).copied().collect();
        // a blob may be there from another commit
        let (there, mut wanted): (Vec<_>, Vec<_>) = missing.iter().partition(|file| folder.has_blob(file));
        for file in there {
            folder.place(self.commit(), file)?;
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let kept: u64 = wanted.iter().map(|file| kept_bytes(folder, file)).sum();
        let total = wanted.iter().fold(0, |sum: u64, file| sum.saturating_add(file.size));
        check_space(&self.client().settings.cache, total.saturating_sub(kept).saturating_add(reserve))?;

        wanted.sort_by_key(|file| std::cmp::Reverse(file.size));
        let task = progress.begin(self.model().id(), total, Unit::Bytes);
        let (next, stop, failed) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
        let download = Download { remote: self, folder, progress, task: &*task, stop: &stop };
        let work = || {
            while let Some(file) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                let done = download.run(file);
                if stop.load(Ordering::Relaxed) && done.is_ok() {
                    return;
                }
                if let Err(error) = done.and_then(|()| folder.place(self.commit(), file)) {
                    stop.store(true, Ordering::Relaxed);
                    let mut failed = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    failed.get_or_insert(error);
                    return;
                }
            }
        };
        // downloads wait for the network: they are no load for the caller's pool
        std::thread::scope(|scope| {
            for _ in 1..CONNECTIONS.min(wanted.len()) {
                scope.spawn(work);
            }
            work();
        });
        failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

fn check_space(cache: &Path, needed: u64) -> Result<()> {
    // if the free space is unknown, the writes themselves will fail
    if let Some(free) = base::free_space(cache)
        && free < needed
    {
        return Err(Error::target(cache.display(), "the disk is too full for the download")
            .expected(format!("{needed} bytes free"), free)
            .help("Free some space, or set HF_HUB_CACHE to a folder on another disk."));
    }
    Ok(())
}

/// The needed files of a model in the cache, without the network.
pub(crate) fn cached(cache: &Path, endpoint: &str, model: &HubModel) -> Result<Snapshot> {
    let folder = RepoFolder::new(cache, model.id());
    let revision = model.revision();
    let commit = if is_commit(revision) { Some(revision.to_owned()) } else { folder.commit_of(revision) };
    let lacks = |what: &str| {
        Error::missing(format!("{model}: {what} in the cache {}", cache.display()))
            .help("The hub is not asked in offline mode. Run once without it (and without HF_HUB_OFFLINE) to download.")
    };
    let commit =
        commit.filter(|commit| folder.snapshot(commit).is_dir()).ok_or_else(|| lacks("the model"))?;
    let snapshot = folder.snapshot(&commit);
    let index = snapshot.join(INDEX);
    let index = if index.is_file() { Some(read_regular(&index, MOST_INDEX)?) } else { None };
    let files = match folder.files_of(&commit) {
        Some(files) => {
            let listed = files.iter().any(|file| file.path == INDEX);
            if listed && index.is_none() {
                return Err(lacks(INDEX));
            }
            let weights = needed::weights(&files, index.as_deref(), &model.to_string())?;
            let companions = files.iter().filter(|file| needed::is_companion(&file.path));
            let needed: Vec<_> = companions.chain(weights).collect();
            if let Some(file) = needed.iter().find(|file| folder.present(&commit, file).is_none()) {
                return Err(lacks(&file.path));
            }
            needed.into_iter().map(|file| file.path.clone()).collect()
        }
        // A folder of an older program: without a list, the index alone says which shards belong to it.
        None => unlisted(&snapshot, index.as_deref(), model).map_err(|name| lacks(&name))?,
    };
    let mut files: Vec<String> = files;
    files.sort();
    Ok(Snapshot {
        folder: snapshot,
        id: model.id().to_owned(),
        revision: revision.to_owned(),
        commit,
        endpoint: endpoint.to_owned(),
        files,
    })
}

/// The needed files of a snapshot whose list is unknown; `Err` has the name of a missing one.
fn unlisted(snapshot: &Path, index: Option<&[u8]>, model: &HubModel) -> Result<Vec<String>, String> {
    if !snapshot.join(CONFIG).is_file() {
        return Err(CONFIG.to_owned());
    }
    let names = |inside: &'static str| {
        let entries = std::fs::read_dir(snapshot.join(inside)).into_iter().flatten().flatten();
        entries.filter_map(move |entry| Some(format!("{inside}{}", entry.file_name().to_str()?)))
    };
    let there = ["", TEMPLATES].into_iter().flat_map(names).filter(|name| snapshot.join(name).is_file());
    let there: Vec<String> = there.collect();
    let file = |path: &String| RemoteFile {
        path: path.clone(),
        size: 0,
        blob: String::new(),
        sha256: None,
        xet: None,
    };
    let files: Vec<_> = there.iter().map(file).collect();
    let weights = needed::weights(&files, index, &model.to_string())
        .map_err(|e| e.expected_found().map_or(SINGLE.to_owned(), |(_, shard)| shard.to_owned()))?;
    let companions = there.iter().filter(|name| needed::is_companion(name)).cloned();
    Ok(companions.chain(weights.into_iter().map(|file| file.path.clone())).collect())
}
