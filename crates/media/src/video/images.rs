//! A folder of images as a list of frames.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use base::{Error, Result};

const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// The images in a folder, in natural order.
pub(super) fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io(folder.display(), &e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let ending =
            path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if ENDINGS.contains(&ending.as_str()) && !hidden {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(Error::malformed(folder.display(), "no frames in the folder")
            .expected(format!("files *.{}", ENDINGS.join(", *.")), "none")
            .help("Extract frames of a video: ffmpeg -i VIDEO -vf fps=1 FOLDER/%04d.png"));
    }
    natural_order(&mut paths);
    Ok(paths)
}

/// Sorts paths so that numbers in their names count by value: frame-9 before frame-10.
pub fn natural_order(paths: &mut [PathBuf]) {
    // Equal numbers of different length, such as 1 and 01, are ordered as bytes.
    paths.sort_by(|a, b| {
        let (a, b) = (a.as_os_str().as_encoded_bytes(), b.as_os_str().as_encoded_bytes());
        compare(a, b).then_with(|| a.cmp(b))
    });
}

fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        let ordering = match (a.first(), b.first()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, y) = (take_number(&mut a), take_number(&mut b));
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            }
            (Some(x), Some(y)) => {
                (a, b) = (&a[1..], &b[1..]);
                x.cmp(y)
            }
            (x, y) => return x.cmp(&y),
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
}

/// Takes the digits at the beginning; returns them without leading zeros.
fn take_number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    let zeros = digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_by_value() {
        let sorted = [
            "a/f-1.png",
            "a/f-01.png",
            "a/f-2.png",
            "a/f-9.png",
            "a/f-10.png",
            "a/f-10b2.png",
            "a/f-100.png",
            "a/g.png",
        ];
        let mut paths: Vec<PathBuf> = sorted.iter().rev().map(PathBuf::from).collect();
        natural_order(&mut paths);
        let expected = ["a/f-01.png", "a/f-1.png"].iter().chain(&sorted[2..]).map(PathBuf::from);
        assert_eq!(paths, expected.collect::<Vec<_>>());
    }
}
