//! One file from the hub into its blob: resumed, hashed on the way, renamed when the hash is right.
//!
//! The unfinished file is `blobs/<etag>.gemma-convert.incomplete`; huggingface_hub never continues it, and its
//! `hf cache prune` removes it. The record beside it tells the file apart from that of another version of this tool.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use base::{Error, Progress, Result, Task, keeps, read_regular};
use serde::{Deserialize, Serialize};

use crate::cache::RepoFolder;
use crate::digest::Hasher;
use crate::pull::Pull;
use crate::remote::RemoteModel;
use crate::stream::verify;
use crate::tree::RemoteFile;

const FORMAT: u32 = 1;
const BUFFER: usize = 1 << 20;
const MOST_RECORD: u64 = 64 << 10;
/// One more attempt after a wrong hash: the damage may have been on the way.
const ATTEMPTS: u32 = 2;

/// The record beside an unfinished file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    format_version: u32,
    endpoint: String,
    repository: String,
    commit: String,
    path: String,
    size: u64,
    etag: String,
}

/// The unfinished file of a blob, and the record beside it.
struct Unfinished {
    file: PathBuf,
    record: PathBuf,
}

impl Unfinished {
    fn of(folder: &RepoFolder, file: &RemoteFile) -> Unfinished {
        let name = |ending: &str| folder.blob(&format!("{}.gemma-convert.{ending}", file.etag()));
        Unfinished { file: name("incomplete"), record: name("json") }
    }

    /// The bytes that an earlier run left, if they belong to this file.
    fn length(&self, file: &RemoteFile) -> u64 {
        let record = read_regular(&self.record, MOST_RECORD).ok();
        let record = record.and_then(|json| serde_json::from_slice::<Record>(&json).ok());
        let same = record.is_some_and(|record| {
            (record.format_version, record.size, record.etag.as_str()) == (FORMAT, file.size, file.etag())
        });
        let length =
            fs::symlink_metadata(&self.file).map_or(0, |found| if found.is_file() { found.len() } else { 0 });
        if same && length <= file.size { length } else { 0 }
    }

    fn remove(&self) {
        // a left-over is found again by the next run
        drop(fs::remove_file(&self.file));
        drop(fs::remove_file(&self.record));
    }
}

/// The bytes of a file that an earlier run left.
pub(crate) fn kept_bytes(folder: &RepoFolder, file: &RemoteFile) -> u64 {
    Unfinished::of(folder, file).length(file)
}

/// Reports bytes of one file to the total; a second attempt does not count again.
struct Counter<'a> {
    task: &'a dyn Task,
    counted: u64,
}

impl Counter<'_> {
    fn at(&mut self, position: u64) {
        if position > self.counted {
            self.task.advance(position - self.counted);
            self.counted = position;
        }
    }
}

/// A download into the blob of one file.
pub(crate) struct Download<'a> {
    pub(crate) remote: &'a RemoteModel<'a>,
    pub(crate) folder: &'a RepoFolder,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) task: &'a dyn Task,
    /// Set by another thread that failed.
    pub(crate) stop: &'a AtomicBool,
}

impl Download<'_> {
    /// Downloads `file` into its blob, unless the blob is there.
    pub(crate) fn run(&self, file: &RemoteFile) -> Result<()> {
        let mut counter = Counter { task: self.task, counted: 0 };
        let _lock = self.folder.lock(file, self.progress)?;
        if self.folder.has_blob(file) {
            counter.at(file.size);
            return Ok(());
        }
        let unfinished = Unfinished::of(self.folder, file);
        let place = format!("{}: {}", self.remote.model(), file.path);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let Some((written, hasher)) = self.fill(file, &unfinished, &mut counter)? else { return Ok(()) };
            match verify(file, hasher, &place) {
                Ok(()) => {
                    let blob = self.folder.blob(file.etag());
                    written.sync_all().map_err(|e| Error::write(blob.display(), &e))?;
                    fs::rename(&unfinished.file, &blob).map_err(|e| Error::write(blob.display(), &e))?;
                    drop(fs::remove_file(&unfinished.record));
                    return Ok(());
                }
                Err(error) => {
                    unfinished.remove();
                    self.progress.note(&format!("{place}: {}", error.problem()));
                    last = Some(error);
                }
            }
        }
        last.map_or(Ok(()), Err)
    }

    /// Completes the unfinished file. `None` if another thread failed meanwhile.
    fn fill(
        &self,
        file: &RemoteFile,
        unfinished: &Unfinished,
        counter: &mut Counter<'_>,
    ) -> Result<Option<(File, Hasher)>> {
        let failed = |e: &std::io::Error| {
            let error = Error::write(unfinished.file.display(), e);
            if e.kind() == ErrorKind::StorageFull {
                error.help("What was received is kept. Free some space and run again, or set HF_HUB_CACHE to another disk.")
            } else {
                error
            }
        };
        let start = unfinished.length(file);
        self.write_record(file, unfinished)?;
        let mut target = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(start == 0)
            .open(&unfinished.file)
            .map_err(|e| failed(&e))?;
        let mut hasher = file.hasher();
        let mut buffer = vec![0; BUFFER];
        if start > 0 {
            let percent = start * 100 / file.size.max(1);
            self.progress.note(&format!("{}: continuing at {percent} %", file.path));
            self.rehash(&mut target, start, &mut hasher, &mut buffer, counter)?;
        }
        let _note = keeps(format!("The received part of {} is kept; run again to continue.", file.path));
        let mut pull = Pull::new(self.remote, file, start..file.size, self.progress);
        let mut position = start;
        while position < file.size {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let count = pull.read(&mut buffer)?;
            target.write_all(&buffer[..count]).map_err(|e| failed(&e))?;
            hasher.update(&buffer[..count]);
            position += count as u64;
            counter.at(position);
        }
        Ok(Some((target, hasher)))
    }

    /// Hashes the first `length` bytes again, and stays behind them.
    fn rehash(
        &self,
        target: &mut File,
        length: u64,
        hasher: &mut Hasher,
        buffer: &mut [u8],
        counter: &mut Counter<'_>,
    ) -> Result<()> {
        let mut position = 0;
        let failed = |e: &std::io::Error| Error::io("the received part of a download", e);
        while position < length {
            let most = usize::try_from(length - position).unwrap_or(usize::MAX).min(buffer.len());
            target.read_exact(&mut buffer[..most]).map_err(|e| failed(&e))?;
            hasher.update(&buffer[..most]);
            position += most as u64;
            counter.at(position);
        }
        target.seek(SeekFrom::Start(length)).map_err(|e| failed(&e))?;
        Ok(())
    }

    fn write_record(&self, file: &RemoteFile, unfinished: &Unfinished) -> Result<()> {
        let record = Record {
            format_version: FORMAT,
            endpoint: self.remote.client().settings.endpoint.clone(),
            repository: self.remote.model().id().to_owned(),
            commit: self.remote.commit().to_owned(),
            path: file.path.clone(),
            size: file.size,
            etag: file.etag().to_owned(),
        };
        let json = serde_json::to_string(&record).unwrap_or_default(); // text and numbers are always JSON
        write(&unfinished.record, &json)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| Error::write(path.display(), &e))
}
