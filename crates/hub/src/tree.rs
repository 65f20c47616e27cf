//! The files of a commit: path, size and hash, as the hub lists them and as the cache keeps them.
//!
//! What the hub says becomes paths, so everything is checked here.

use std::collections::BTreeMap;

use base::{Error, Result, is_hex, is_plain_name, visible_line};
use serde::{Deserialize, Serialize};

use crate::digest::Hasher;

/// Version of `trees/<commit>.json`. Source: `_tree_cache.py` of huggingface_hub.
const FORMAT: u32 = 1;

/// A file of a commit on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path in the repository, with `/`.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-1 of the git blob. For a large file, that of the text that points to it.
    pub blob: String,
    /// SHA-256 of a large file.
    pub sha256: Option<String>,
    /// Hash of the file in the store Xet.
    pub xet: Option<String>,
}

impl RemoteFile {
    /// The hash that names the file in the cache: SHA-256, else the SHA-1 of git.
    pub fn etag(&self) -> &str {
        self.sha256.as_deref().unwrap_or(&self.blob)
    }

    pub(crate) fn hasher(&self) -> Hasher {
        if self.sha256.is_some() { Hasher::sha256() } else { Hasher::git(self.size) }
    }

    fn check(self, place: &str) -> Result<RemoteFile> {
        let wrong = |problem: &str, found: &str| {
            Err(Error::malformed(place, problem)
                .expected("a plain path, hexadecimal hashes", visible_line(found)))
        };
        if !is_plain_name(&self.path) {
            return wrong("a file outside of the repository", &self.path);
        }
        let is_sha256 = |hash: &Option<String>| hash.as_ref().is_none_or(|hash| is_hex(hash, 64));
        if !is_hex(&self.blob, 40) || !is_sha256(&self.sha256) {
            return wrong("not a hash of a file", self.etag());
        }
        // not needed here, and Python drops the whole list for it
        Ok(RemoteFile { xet: self.xet.filter(|hash| is_hex(hash, 64)), ..self })
    }
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
    #[serde(rename = "xetHash")]
    xet: Option<String>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// The files in a page of the hub's tree API.
pub(crate) fn parse_page(json: &[u8], place: &str) -> Result<Vec<RemoteFile>> {
    let entries: Vec<Entry> = serde_json::from_slice(json).map_err(|e| Error::malformed(place, e))?;
    let files = entries.into_iter().filter(|entry| entry.kind == "file").map(|entry| {
        let size = entry.lfs.as_ref().map_or(entry.size, |lfs| lfs.size);
        let sha256 = entry.lfs.map(|lfs| lfs.oid);
        RemoteFile { path: entry.path, size, blob: entry.oid, sha256, xet: entry.xet }.check(place)
    });
    files.collect()
}

/// `trees/<commit>.json` of the cache.
#[derive(Serialize, Deserialize)]
struct Kept {
    format_version: u32,
    files: BTreeMap<String, KeptFile>,
}

#[derive(Serialize, Deserialize)]
struct KeptFile {
    size: u64,
    blob_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xet_hash: Option<String>,
}

/// The files in a list of the cache. `None` for a list of another version, and for a damaged one: it is asked for again.
pub(crate) fn parse_kept(json: &[u8], place: &str) -> Option<Vec<RemoteFile>> {
    let kept: Kept = serde_json::from_slice(json).ok()?;
    let files = kept.files.into_iter().map(|(path, file)| {
        let size = file.lfs_size.unwrap_or(file.size);
        RemoteFile { path, size, blob: file.blob_id, sha256: file.lfs_sha256, xet: file.xet_hash }
            .check(place)
            .ok()
    });
    files.collect::<Option<_>>().filter(|_| kept.format_version == FORMAT)
}

/// A list for the cache.
pub(crate) fn keep(files: &[RemoteFile]) -> String {
    let kept = |file: &RemoteFile| KeptFile {
        size: file.size,
        blob_id: file.blob.clone(),
        lfs_sha256: file.sha256.clone(),
        lfs_size: file.sha256.as_ref().map(|_| file.size),
        xet_hash: file.xet.clone(),
    };
    let files = files.iter().map(|file| (file.path.clone(), kept(file))).collect();
    let text = serde_json::to_string_pretty(&Kept { format_version: FORMAT, files });
    text.unwrap_or_default() // a map with text as keys is always JSON
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(path: &str, oid: &str, lfs: &str) -> Result<Vec<RemoteFile>> {
        let json = format!(
            r#"[{{"type":"directory","path":"d","oid":"","size":0}},
                {{"type":"file","path":"{path}","size":1,"oid":"{oid}"{lfs}}}]"#
        );
        parse_page(json.as_bytes(), "tree")
    }

    #[test]
    fn a_list_survives_the_cache() {
        let (sha1, sha256) = ("ab".repeat(20), "cd".repeat(32));
        let lfs = format!(r#","lfs":{{"oid":"{sha256}","size":70,"pointerSize":1}},"xetHash":"{sha256}""#);
        let mut files = page("d/model.safetensors", &sha1, &lfs).unwrap();
        assert_eq!((files[0].size, files[0].etag()), (70, sha256.as_str()));
        files.extend(page("a.json", &sha1, "").unwrap());
        assert_eq!((files[1].size, files[1].etag()), (1, sha1.as_str()));
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let kept = keep(&files);
        assert_eq!(parse_kept(kept.as_bytes(), "kept").unwrap(), files);
        assert_eq!(parse_kept(kept.replace("\": 1,", "\": 2,").as_bytes(), "kept"), None);
        assert_eq!(parse_kept(&kept.as_bytes()[..40], "kept"), None);
    }

    #[test]
    fn a_list_stays_inside() {
        let sha1 = "ab".repeat(20);
        for path in ["../x", "/etc/x", "a/../../x", "", "a//b"] {
            assert!(page(path, &sha1, "").is_err(), "{path}");
        }
        assert!(page("a", "../../x", "").is_err());
        assert!(page("a", &sha1, r#","lfs":{"oid":"../x","size":1}"#).is_err());
    }
}
