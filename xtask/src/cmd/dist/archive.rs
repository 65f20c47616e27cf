//! An archive (`.tar.gz`, for Windows `.zip`) whose bytes depend on its content alone: sorted names, one time, no owner.

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::release::Release;
use super::zip;

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

    /// The permissions of Unix.
    pub(super) fn mode(&self) -> u32 {
        if self.executable { 0o755 } else { 0o644 }
    }
}

/// The archive of a release, with all entries in one folder.
pub(super) fn pack(release: &Release, entries: &[Entry]) -> Result<Vec<u8>> {
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by(|one, other| one.path.cmp(&other.path));
    let pack = if release.is_for_windows() { zip::pack } else { tar_gz };
    pack(&release.name(), &sorted, release.epoch)
}

/// `epoch` is the time of each entry, in seconds since 1970.
fn tar_gz(folder: &str, entries: &[&Entry], epoch: u64) -> Result<Vec<u8>> {
    // the header of gzip holds no name and no time by default
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(entry.bytes.len() as u64);
        header.set_mode(entry.mode());
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
        let release =
            Release { version: "1".into(), triple: "x86_64-unknown-linux-gnu".into(), epoch: 86_400 };
        let bytes = pack(&release, &entries).unwrap();
        let mut other = entries.clone();
        other.reverse();
        assert!(bytes == pack(&release, &other).unwrap());

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.tar.gz");
        std::fs::write(&file, bytes).unwrap();
        let listed = Command::new("tar").env("TZ", "UTC").arg("-tvzf").arg(&file).output().unwrap();
        assert!(listed.status.success());
        let listed = String::from_utf8(listed.stdout).unwrap();
        let lines: Vec<_> = listed.lines().collect();
        let ends = ["-gnu/LICENSE", "-gnu/man/tool.1", "-gnu/tool"];
        assert_eq!(lines.len(), ends.len(), "{listed}");
        for (line, end) in lines.iter().zip(ends) {
            assert!(line.ends_with(end) && line.contains(" 0"), "{listed}");
        }
        assert!(lines[0].starts_with("-rw-r--r--") && lines[2].starts_with("-rwxr-xr-x"), "{listed}");
        // GNU tar and bsdtar have dates of different forms
        assert!(listed.contains("1970-01-02") || listed.contains("Jan  2  1970"), "{listed}");
    }
}
