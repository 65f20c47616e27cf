//! The SHA-256 of a file by the record of the program that downloaded it from the hub.
//!
//! Programs of Hugging Face keep the hashes that the hub gave: their cache names files of Git LFS by it, and a download into a
//! folder writes it beside the time of the download. Source: `_local_folder.py` and `file_download.py` of huggingface_hub.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::open::Shard;

/// The folder of records in a folder with downloaded files. `NAME.metadata` has three lines: commit, hash, time in seconds.
const RECORDS: &str = ".cache/huggingface/download";

/// File systems keep times of different precision.
const PRECISION: Duration = Duration::from_secs(1);

impl Shard {
    /// The SHA-256 that a download from the hub has recorded for this file, if nothing has written to the file since. The
    /// content is not read. `None` for files that came from elsewhere.
    pub fn recorded_sha256(&self) -> Option<String> {
        let (sha256, recorded) = of_cache(&self.path).or_else(|| of_folder(&self.path, &self.name))?;
        (self.modified? <= recorded.checked_add(PRECISION)?).then_some(sha256)
    }
}

/// In the cache a link leads to the file, whose name is its hash. The link is made when the file is complete.
fn of_cache(path: &Path) -> Option<(String, SystemTime)> {
    let blob = fs::read_link(path).ok()?;
    let is_blob = blob.parent()?.file_name()? == "blobs";
    let hash = blob.file_name()?.to_str().filter(|name| is_blob && is_sha256(name))?;
    Some((hash.to_owned(), path.symlink_metadata().ok()?.modified().ok()?))
}

fn of_folder(path: &Path, name: &str) -> Option<(String, SystemTime)> {
    let folder = path.ancestors().nth(name.split('/').count())?;
    let record = fs::read_to_string(folder.join(RECORDS).join(format!("{name}.metadata"))).ok()?;
    let mut lines = record.lines().skip(1).map(str::trim);
    let hash = lines.next().filter(|hash| is_sha256(hash))?;
    let seconds = Duration::try_from_secs_f64(lines.next()?.parse().ok()?).ok()?;
    Some((hash.to_owned(), SystemTime::UNIX_EPOCH.checked_add(seconds)?))
}

fn is_sha256(text: &str) -> bool {
    base::is_hex(text, 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Checkpoint;
    use std::fs::File;
    use std::path::PathBuf;

    const WEIGHTS: &str = "model.safetensors";

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn of_e2b() -> Folder {
            let folder = Folder(tempfile::tempdir().unwrap());
            fs::create_dir(folder.path()).unwrap();
            for entry in fs::read_dir(testkit::fixtures("checkpoints/e2b")).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
            }
            folder
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("snapshot")
        }

        fn weights(&self) -> PathBuf {
            self.path().join(WEIGHTS)
        }

        fn recorded(&self) -> Option<String> {
            Checkpoint::open(self.path()).unwrap().shards()[0].recorded_sha256()
        }

        /// Sets the time of the weights to so long after the record.
        fn change_after(&self, record: SystemTime, seconds: u64) {
            let file = File::options().append(true).open(self.weights()).unwrap();
            file.set_modified(record + Duration::from_secs(seconds)).unwrap();
        }
    }

    #[test]
    fn a_download_into_a_folder() {
        let folder = Folder::of_e2b();
        assert_eq!(folder.recorded(), None);
        let records = folder.path().join(RECORDS);
        fs::create_dir_all(&records).unwrap();
        let record = |hash: &str, time: &str| {
            fs::write(records.join(format!("{WEIGHTS}.metadata")), format!("{:040}\n{hash}\n{time}\n", 0))
                .unwrap();
        };
        let (hash, at) = ("ab".repeat(32), SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        record(&hash, "1700000000.25");
        folder.change_after(at, 0);
        assert_eq!(folder.recorded(), Some(hash.clone()));
        folder.change_after(at, 3);
        assert_eq!(folder.recorded(), None);
        folder.change_after(at, 0);
        for (hash, time) in [("ab".repeat(20), "1700000000"), (hash.clone(), "nan"), (hash, "-1")] {
            record(&hash, time);
            assert_eq!(folder.recorded(), None, "{hash} {time}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_cache_of_the_hub() {
        for (folder_name, is_known) in [("blobs", true), ("others", false)] {
            let folder = Folder::of_e2b();
            let hash = "cd".repeat(32);
            let blobs = folder.0.path().join(folder_name);
            fs::create_dir(&blobs).unwrap();
            fs::rename(folder.weights(), blobs.join(&hash)).unwrap();
            let link = Path::new("..").join(folder_name).join(&hash);
            std::os::unix::fs::symlink(link, folder.weights()).unwrap();
            assert_eq!(folder.recorded(), is_known.then_some(hash));
            folder.change_after(SystemTime::now(), 60);
            assert_eq!(folder.recorded(), None);
        }
    }
}
