//! Names of models: a path of this machine, or a repository of the hub at a revision.
//!
//! The rule of a MODEL argument, in this order:
//!
//! 1. `hf://owner/name` and `hf://owner/name@revision` name a repository.
//! 2. A path that exists is a path, even if it looks like an id.
//! 3. `owner/name` and `owner/name@revision` name a repository, unless they end like a file (`.gguf`, `.safetensors` …).
//! 4. Everything else is a path.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use base::{Error, Result, is_hex, is_plain_name, is_repository_id, visible_line};

/// The revision of a model without one.
pub const MAIN: &str = "main";
const SCHEME: &str = "hf://";
const MOST_REVISION: usize = 255;
const FILE_ENDINGS: [&str; 8] =
    [".gguf", ".safetensors", ".json", ".toml", ".txt", ".imatrix", ".dat", ".bin"];

/// A repository of the hub at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    id: String,
    revision: String,
    /// True if the text could also have been meant as a path, which does not exist.
    may_be_path: bool,
}

impl HubModel {
    /// The model `id` (`owner/name`) at `revision`: a branch, a tag or a commit.
    ///
    /// # Errors
    /// `Recipe` for an id or a revision that the hub does not permit.
    pub fn new(id: &str, revision: &str) -> Result<HubModel> {
        if !is_repository_id(id) {
            return Err(Error::recipe(visible_line(id), "not an id of a model on the hub")
                .help("An id has the form owner/name, of letters, digits, '-', '_' and '.'."));
        }
        if !is_revision(revision) {
            return Err(Error::recipe(visible_line(id), "not a revision")
                .expected("a branch, a tag or a commit", format!("\"{}\"", visible_line(revision))));
        }
        Ok(HubModel { id: id.to_owned(), revision: revision.to_owned(), may_be_path: false })
    }

    /// Parses `owner/name` or `owner/name@revision`, with or without `hf://` before it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn parse(text: &str) -> Result<HubModel> {
        let text = text.strip_prefix(SCHEME).unwrap_or(text);
        let (id, revision) = text.split_once('@').unwrap_or((text, MAIN));
        HubModel::new(id, revision)
    }

    /// The same repository at another revision.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn at(&self, revision: &str) -> Result<HubModel> {
        Ok(HubModel { may_be_path: self.may_be_path, ..HubModel::new(&self.id, revision)? })
    }

    /// `owner/name`, as the user wrote it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// True if the text could also have been meant as a path, which does not exist.
    pub(crate) fn may_be_path(&self) -> bool {
        self.may_be_path
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.revision)
    }
}

/// The value of a MODEL argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelArgument {
    /// A file or a folder of this machine; it may be missing.
    Path(PathBuf),
    /// A model on the hub.
    Hub(HubModel),
}

impl ModelArgument {
    /// Applies the rule of this module. It looks whether a path of this name exists.
    ///
    /// # Errors
    /// `Recipe` for `hf://` with an invalid id, and for `owner/name@` with an invalid revision.
    pub fn parse(argument: &OsStr) -> Result<ModelArgument> {
        ModelArgument::parse_where(argument, |path| path.symlink_metadata().is_ok())
    }

    fn parse_where(argument: &OsStr, exists: impl Fn(&Path) -> bool) -> Result<ModelArgument> {
        let path = Path::new(argument);
        let Some(text) = argument.to_str() else { return Ok(ModelArgument::Path(path.to_owned())) };
        if text.starts_with(SCHEME) {
            return HubModel::parse(text).map(ModelArgument::Hub);
        }
        let id = text.split_once('@').map_or(text, |(id, _)| id);
        let is_file = FILE_ENDINGS.iter().any(|ending| id.ends_with(ending));
        if is_file || !is_repository_id(id) || exists(path) {
            return Ok(ModelArgument::Path(path.to_owned()));
        }
        Ok(ModelArgument::Hub(HubModel { may_be_path: true, ..HubModel::parse(text)? }))
    }
}

/// True for a name of a branch, a tag or a commit that is safe as a path and in a URL.
fn is_revision(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || "-_./+@=".contains(c);
    text.len() <= MOST_REVISION && text.chars().all(letter) && is_plain_name(text) && !text.contains("..")
}

/// True for the SHA-1 of a commit.
pub(crate) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, existing: &[&str]) -> Result<ModelArgument> {
        ModelArgument::parse_where(OsStr::new(text), |path| existing.iter().any(|e| path == Path::new(e)))
    }

    #[test]
    fn ids_and_paths_are_told_apart() {
        let hub = |text: &str, id: &str, revision: &str| {
            let ModelArgument::Hub(model) = parse(text, &[]).unwrap() else { panic!("{text} is no id") };
            assert_eq!((model.id(), model.revision()), (id, revision), "{text}");
        };
        hub("google/gemma-4-E2B-it", "google/gemma-4-E2B-it", "main");
        hub("google/gemma-4-E2B-it@refs/pr/1", "google/gemma-4-E2B-it", "refs/pr/1");
        hub("hf://a/b@v1.0", "a/b", "v1.0");
        let paths = [
            "model", "./a/b", "../a/b", "/a/b", "a/b/", "a/b/c", "a/b.gguf", "a--b/c", "a/.b", "a/b c", "",
            "a/b.git",
        ];
        for text in paths {
            assert_eq!(parse(text, &[]).unwrap(), ModelArgument::Path(text.into()), "{text}");
        }
    }

    #[test]
    fn an_existing_path_wins() {
        for text in ["a/b", "a/b@main"] {
            assert_eq!(parse(text, &[text]).unwrap(), ModelArgument::Path(text.into()));
            let ModelArgument::Hub(model) = parse(text, &[]).unwrap() else { panic!("{text} is no id") };
            assert!(model.may_be_path());
        }
        let explicit = parse("hf://a/b", &["hf://a/b", "a/b"]).unwrap();
        assert_eq!(explicit, ModelArgument::Hub(HubModel::new("a/b", "main").unwrap()));
    }

    #[test]
    fn invalid_names_are_refused() {
        for text in [
            "hf://a",
            "hf://a/b/c",
            "hf://../b",
            "a/b@",
            "a/b@../c",
            "a/b@/c",
            "a/b@c d",
            "a/b@a..b",
            "a/b@c#d",
            "a/b@c?d",
            "a/b@%2e",
        ] {
            let error = parse(text, &[]).unwrap_err();
            assert_eq!(error.fault(), base::Fault::Recipe, "{text}");
        }
        assert!(HubModel::new("a/b", "main").unwrap().at("x\0").is_err());
        assert!(is_commit(&"0a".repeat(20)) && !is_commit(&"0A".repeat(20)) && !is_commit("0a"));
    }
}
