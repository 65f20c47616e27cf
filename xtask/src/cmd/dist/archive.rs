//! An archive (`.tar.gz`) whose bytes depend on its content alone: sorted names, one time, no owner.

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;

/// A file of an archive.
#[derive(Clone)]
pub(super) struct Entry {
    /// In the folder of the archive, with slashes.
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
    executable: bool,
}

impl Entry {
    pub(super) fn file(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Entry {
        Entry { path: path.into(), bytes: bytes.into(), executable: false }
    }

    pub(super) fn program(path: impl Into<String>, bytes: Vec<u8>) -> Entry {
        Entry { executable: true, ..Entry::file(path, bytes) }
    }
}

/// The archive, with all entries in one folder. `epoch` is the time of each, in seconds since 1970.
pub(super) fn pack(folder: &str, entries: &[Entry], epoch: u64) -> Result<Vec<u8>> {
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by(|one, other| one.path.cmp(&other.path));
    // the header of gzip holds no name and no time by default
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    for entry in sorted {
        let mut header = tar::Header::new_ustar();
        header.set_size(entry.bytes.len() as u64);
        header.set_mode(if entry.executable { 0o755 } else { 0o644 });
        header.set_mtime(epoch);
        header.set_uid(0);
        header.set_gid(0);
        archive.append_data(&mut header, format!("{folder}/{}", entry.path), entry.bytes.as_slice())?;
    }
    Ok(archive.into_inner()?.finish()?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The program `tar` says what is in it.
    #[test]
    fn tar_lists_sorted_names_without_owner() {
        let entries = [
            Entry::program("tool", b"x".to_vec()),
            Entry::file("man/tool.1", "y"),
            Entry::file("LICENSE", "zz"),
        ];
        let bytes = pack("tool-v1", &entries, 86_400).unwrap();
        let mut other = entries.clone();
        other.reverse();
        assert!(bytes == pack("tool-v1", &other, 86_400).unwrap());

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.tar.gz");
        std::fs::write(&file, bytes).unwrap();
        let listed = Command::new("tar").env("TZ", "UTC").arg("-tvzf").arg(&file).output().unwrap();
        assert!(listed.status.success());
        let listed = String::from_utf8(listed.stdout).unwrap();
        let lines: Vec<_> = listed.lines().collect();
        let ends = ["tool-v1/LICENSE", "tool-v1/man/tool.1", "tool-v1/tool"];
        assert_eq!(lines.len(), ends.len(), "{listed}");
        for (line, end) in lines.iter().zip(ends) {
            assert!(line.ends_with(end) && line.contains(" 0"), "{listed}");
        }
        assert!(lines[0].starts_with("-rw-r--r--") && lines[2].starts_with("-rwxr-xr-x"), "{listed}");
        // GNU tar and bsdtar have dates of different forms
        assert!(listed.contains("1970-01-02") || listed.contains("Jan  2  1970"), "{listed}");
    }
}
