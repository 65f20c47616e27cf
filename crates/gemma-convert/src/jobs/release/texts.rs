//! The texts of a release: those that the user gave, else those of the program.

use std::fs;
use std::path::{Path, PathBuf};

use base::write_whole;
use tensor::{Error, Result};

/// English prose from a public-domain factbook, see fixtures/text/README.md.
const CALIBRATION: (&str, &str) = ("calibration.txt", include_str!("../../../../../fixtures/text/calib.txt"));
/// Other articles of the same book.
const EVALUATION: (&str, &str) = ("evaluation.txt", include_str!("../../../../../fixtures/text/eval.txt"));

/// The files of a text: those given, else the program's own, written into the folder of the release, so that anyone can repeat the
/// measurement.
///
/// # Errors
/// `Target` for a file of this name with other content.
pub(super) fn calibration(given: &[PathBuf], folder: &Path) -> Result<Vec<PathBuf>> {
    of(given, CALIBRATION, folder)
}

/// As [`calibration`], for the text that the files are verified on.
pub(super) fn evaluation(given: &[PathBuf], folder: &Path) -> Result<Vec<PathBuf>> {
    of(given, EVALUATION, folder)
}

fn of(given: &[PathBuf], (name, text): (&str, &str), folder: &Path) -> Result<Vec<PathBuf>> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let path = folder.join(name);
    match fs::read(&path) {
        Ok(found) if found == text.as_bytes() => {}
        Ok(_) => {
            return Err(Error::exists(path.display(), "another text of this name is in the folder")
                .help("Move it away, or name it as the text to use."));
        }
        Err(_) => {
            write_whole(&path, |file| std::io::Write::write_all(file, text.as_bytes()))?;
        }
    }
    Ok(vec![path])
}
