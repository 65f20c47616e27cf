//! Repositories of the fake hub.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Files of this length or more are large: served by the CDN and named by their SHA-256.
const LARGE: usize = 1 << 20;
/// Endings of the names of files that are large whatever their length.
const LARGE_NAMES: [&str; 4] = [".safetensors", ".bin", ".gguf", "tokenizer.json"];

/// Files of a commit by path.
pub(super) type Files = BTreeMap<String, FakeFile>;

/// A file, and the hashes that the hub tells.
#[derive(Clone, Debug)]
pub(super) struct FakeFile {
    pub(super) content: Arc<[u8]>,
    pub(super) is_large: bool,
    pub(super) sha256: String,
    pub(super) git_sha1: String,
    /// Length of the text that git has in place of a large file.
    pub(super) pointer: Option<usize>,
}

impl FakeFile {
    fn new(name: &str, content: &[u8]) -> FakeFile {
        let ending = |end: &&str| name.ends_with(*end);
        let is_large = content.len() >= LARGE || LARGE_NAMES.iter().any(ending);
        let sha256 = sha256(content);
        let pointer = is_large.then(|| {
            let size = content.len();
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n")
        });
        let git_sha1 = git_sha1(pointer.as_ref().map_or(content, |pointer| pointer.as_bytes()));
        let pointer = pointer.map(|pointer| pointer.len());
        FakeFile { content: content.into(), is_large, sha256, git_sha1, pointer }
    }
}

/// Who may read a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Those with this token; the others learn that it is gated.
    Gated(String),
    /// Those with this token; the others do not learn that it exists.
    Private(String),
}

/// A repository of the fake hub.
#[derive(Clone, Debug)]
pub struct FakeRepo {
    /// `owner/name`.
    pub id: String,
    /// Who may read it.
    pub access: Access,
    pub(super) commits: Vec<(String, Files)>,
    pub(super) refs: BTreeMap<String, String>,
}

impl FakeRepo {
    /// A repository without commits.
    pub fn new(id: &str) -> FakeRepo {
        FakeRepo { id: id.to_owned(), access: Access::Open, commits: Vec::new(), refs: BTreeMap::new() }
    }

    /// Adds a commit with these files, to which `main` then points.
    #[must_use]
    pub fn commit<N: Into<String>>(mut self, files: impl IntoIterator<Item = (N, Vec<u8>)>) -> FakeRepo {
        let file = |(name, content): (N, Vec<u8>)| {
            let name = name.into();
            let file = FakeFile::new(&name, &content);
            (name, file)
        };
        let files = files.into_iter().map(file).collect();
        let commit = git_sha1(format!("{} {}", self.id, self.commits.len()).as_bytes());
        self.refs.insert("main".to_owned(), commit.clone());
        self.commits.push((commit, files));
        self
    }

    /// As [`commit`](Self::commit), with the files of a folder.
    ///
    /// # Panics
    /// If the folder cannot be read.
    #[must_use]
    pub fn commit_folder(self, folder: &Path) -> FakeRepo {
        let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
        let files: Vec<_> = entries
            .filter(|entry| entry.path().is_file())
            .map(|entry| {
                (
                    entry.file_name().into_string().expect("UTF-8"),
                    std::fs::read(entry.path()).expect("a file"),
                )
            })
            .collect();
        self.commit(files)
    }

    /// Adds a branch or a tag at the last commit.
    ///
    /// # Panics
    /// Without a commit.
    #[must_use]
    pub fn reference(mut self, name: &str) -> FakeRepo {
        let (commit, _) = self.commits.last().expect("a commit");
        self.refs.insert(name.to_owned(), commit.clone());
        self
    }

    /// Restricts who may read it.
    #[must_use]
    pub fn access(self, access: Access) -> FakeRepo {
        FakeRepo { access, ..self }
    }

    /// The commits, oldest first.
    pub fn commits(&self) -> Vec<String> {
        self.commits.iter().map(|(commit, _)| commit.clone()).collect()
    }

    /// The commit of a branch, a tag or a commit.
    pub(super) fn resolve(&self, revision: &str) -> Option<&(String, Files)> {
        let commit = self.refs.get(revision).map_or(revision, String::as_str);
        self.commits.iter().find(|(known, _)| known == commit)
    }
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    base::hex(&Sha256::digest(bytes))
}

/// SHA-1 of a git blob, in hexadecimal digits.
pub fn git_sha1(bytes: &[u8]) -> String {
    base::hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}
