//! The cache of the hub on disk: the layout that huggingface_hub, transformers, vLLM and llama.cpp read and write.
//!
//! ```text
//! models--owner--name/blobs/<etag>                 the files, named by their hashes
//! models--owner--name/snapshots/<commit>/<path>    relative links to blobs, or the files where links are impossible
//! models--owner--name/refs/<revision>              the commit of a branch or a tag
//! models--owner--name/trees/<commit>.json          the list of files
//! .locks/models--owner--name/<etag>.lock           locked with flock by the one who writes the blob
//! ```
//!
//! Source: "Understand caching" of huggingface_hub's documentation, `file_download.py`, `_tree_cache.py`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use base::{Error, Progress, Result, read_regular};
use hf_hub::{Cache, CacheRepo, Repo};

use crate::model::is_commit;
use crate::tree::{self, RemoteFile};

const MOST_REF: u64 = 64;
const MOST_TREE: u64 = 256 << 20;
const TAG: &str = "CACHEDIR.TAG";
const TAG_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
                        # This file is a cache directory tag: see https://bford.info/cachedir/\n";

/// The part of a cache that belongs to one repository.
pub(crate) struct RepoFolder {
    cache: PathBuf,
    name: String,
    layout: CacheRepo,
}

/// The lock of a blob; dropping it unlocks. `None` where the file system has no locks.
pub(crate) struct BlobLock(#[expect(dead_code, reason = "unlocked when closed")] Option<File>);

impl RepoFolder {
    pub(crate) fn new(cache: &Path, id: &str) -> RepoFolder {
        let repo = Repo::model(id.to_owned());
        let name = repo.folder_name();
        RepoFolder { cache: cache.to_owned(), name, layout: Cache::new(cache.to_owned()).repo(repo) }
    }

    fn path(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.layout.blob_path(etag)
    }

    /// The folder of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout.pointer_path(commit)
    }

    /// Creates the folders.
    pub(crate) fn create(&self) -> Result<()> {
        for folder in [self.path().join("blobs"), self.locks()] {
            make(&folder)?;
        }
        let tag = self.cache.join(TAG);
        if !tag.exists() {
            self.replace(&tag, TAG_TEXT)?;
        }
        Ok(())
    }

    fn locks(&self) -> PathBuf {
        self.cache.join(".locks").join(&self.name)
    }

    /// The commit of a branch or a tag, if it is known.
    pub(crate) fn commit_of(&self, revision: &str) -> Option<String> {
        let bytes = read_regular(&self.path().join("refs").join(revision), MOST_REF).ok()?;
        let commit = String::from_utf8(bytes).ok()?.trim().to_owned();
        is_commit(&commit).then_some(commit)
    }

    /// Records the commit of a branch or a tag.
    pub(crate) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        self.replace(&self.path().join("refs").join(revision), commit)
    }

    /// The files of a commit, if their list is known.
    pub(crate) fn files_of(&self, commit: &str) -> Option<Vec<RemoteFile>> {
        let path = self.tree(commit);
        let json = read_regular(&path, MOST_TREE).ok()?;
        tree::parse_kept(&json, &path.display().to_string())
    }

    /// Records the files of a commit.
    pub(crate) fn set_files(&self, commit: &str, files: &[RemoteFile]) -> Result<()> {
        self.replace(&self.tree(commit), &tree::keep(files))
    }

    fn tree(&self, commit: &str) -> PathBuf {
        self.path().join("trees").join(format!("{commit}.json"))
    }

    /// Replaces a small file that others read without a lock.
    fn replace(&self, path: &Path, text: &str) -> Result<()> {
        if let Some(folder) = path.parent() {
            make(folder)?;
        }
        let beside = beside(path);
        fs::write(&beside, text)
            .and_then(|()| fs::rename(&beside, path))
            .inspect_err(|_| drop(fs::remove_file(&beside)))
            .map_err(|e| Error::write(path.display(), &e))
    }

    /// The path of a file in the snapshot of a commit, if it is there with its size. Links are followed, twice if the
    /// blob is itself a link into a shared store.
    pub(crate) fn present(&self, commit: &str, file: &RemoteFile) -> Option<PathBuf> {
        let path = self.snapshot(commit).join(&file.path);
        let found = fs::metadata(&path).ok()?;
        (found.is_file() && found.len() == file.size).then_some(path)
    }

    /// True if the blob of a file is there with its size.
    pub(crate) fn has_blob(&self, file: &RemoteFile) -> bool {
        fs::metadata(self.blob(file.etag())).is_ok_and(|found| found.is_file() && found.len() == file.size)
    }

    /// Locks a blob. Waits for another process that is writing it, with a note.
    pub(crate) fn lock(&self, file: &RemoteFile, progress: &dyn Progress) -> Result<BlobLock> {
        let path = self.locks().join(format!("{}.lock", file.etag()));
        let failed = |e: &io::Error| Error::write(path.display(), e);
        let lock =
            OpenOptions::new().create(true).read(true).append(true).open(&path).map_err(|e| failed(&e))?;
        let locked = match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                progress.note(&format!("{}: another process downloads it; waiting", file.path));
                lock.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        match locked {
            Ok(()) => Ok(BlobLock(Some(lock))),
            // a network file system without locks: the hash at the end decides
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(BlobLock(None)),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Puts a blob into the snapshot of a commit, by a relative link. Where the file system has no links, the snapshot
    /// gets the file itself.
    pub(crate) fn place(&self, commit: &str, file: &RemoteFile) -> Result<PathBuf> {
        self.place_with(commit, file, base::symlink)
    }

    fn place_with(
        &self,
        commit: &str,
        file: &RemoteFile,
        symlink: impl Fn(&Path, &Path) -> io::Result<()>,
    ) -> Result<PathBuf> {
        if let Some(path) = self.present(commit, file) {
            return Ok(path);
        }
        let path = self.snapshot(commit).join(&file.path);
        if let Some(folder) = path.parent() {
            make(folder)?;
        }
        let depth = file.path.split('/').count();
        let target = Path::new(&"../".repeat(depth + 1)).join("blobs").join(file.etag());
        let beside = beside(&path);
        let linked = symlink(&target, &beside).and_then(|()| fs::rename(&beside, &path));
        if linked.is_err() {
            drop(fs::remove_file(&beside));
            fs::rename(self.blob(file.etag()), &path).map_err(|e| Error::write(path.display(), &e))?;
        }
        Ok(path)
    }
}

/// A name for a temporary in the folder of `path`, unique among processes and threads.
fn beside(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{number}.tmp", std::process::id()));
    path.with_file_name(name)
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| {
        Error::write(folder.display(), &e).help("Set HF_HUB_CACHE to a folder that can be written.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> RemoteFile {
        RemoteFile { path: path.into(), size: 4, blob: "ab".repeat(20), sha256: None, xet: None }
    }

    #[test]
    fn a_snapshot_links_to_blobs_or_has_the_files() {
        let commit = "cd".repeat(20);
        for links in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let repo = RepoFolder::new(folder.path(), "a/b");
            repo.create().unwrap();
            let file = file("sub/config.json");
            fs::write(repo.blob(file.etag()), "1234").unwrap();
            assert!(repo.has_blob(&file) && repo.present(&commit, &file).is_none());
            let path = repo
                .place_with(&commit, &file, |target, link| {
                    if links { base::symlink(target, link) } else { Err(io::ErrorKind::Unsupported.into()) }
                })
                .unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"1234");
            assert_eq!(path.is_symlink(), links);
            assert_eq!(repo.present(&commit, &file).unwrap(), path);
            if links {
                let blob = format!("../../../blobs/{}", file.etag());
                assert_eq!(fs::read_link(&path).unwrap(), Path::new(&blob));
            }
        }
    }

    #[test]
    fn references_are_commits() {
        let folder = tempfile::tempdir().unwrap();
        let repo = RepoFolder::new(folder.path(), "a/b");
        repo.set_commit("refs/pr/1", &"cd".repeat(20)).unwrap();
        let path = folder.path().join("models--a--b/refs/refs/pr/1");
        assert_eq!(fs::read_to_string(&path).unwrap(), "cd".repeat(20));
        assert_eq!(repo.commit_of("refs/pr/1"), Some("cd".repeat(20)));
        fs::write(path, "../../x").unwrap();
        assert_eq!(repo.commit_of("refs/pr/1"), None);
    }
}
