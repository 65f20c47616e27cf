//! Files of others, damaged in a few thousand ways: what reads them neither panics nor hangs.
//!
//! The same bodies as the fuzz targets in `tests/fuzz`, without a fuzzer: over their seeds, over what once made them
//! fail (`tests/fuzz/crashes`), and over a fixed number of changes to both that are the same in every run.

#[path = "fuzz/src/lib.rs"]
#[allow(unreachable_pub, dead_code, missing_docs, reason = "a library of its own as well")]
mod fuzz;

use std::fs;
use std::panic::catch_unwind;

use testkit::SplitMix64;

/// Changed files of each target: together a few minutes in a debug build.
const CHANGES: [(&str, usize); 14] = [
    ("gguf", 15_000),
    ("safetensors", 30_000),
    ("index", 30_000),
    ("config", 30_000),
    ("tokenizer", 3_000),
    ("importance", 30_000),
    ("recipe", 7_500),
    ("manifest", 50_000),
    ("template", 7_500),
    ("card", 15_000),
    ("logits", 30_000),
    ("image", 7_500),
    ("sound", 7_500),
    ("litertlm", 1_500),
];

fn crashes(target: &str) -> Vec<Vec<u8>> {
    let folder = testkit::root().join("tests/fuzz/crashes").join(target);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// One to four changes: other bytes, sizes, words and numbers; parts left out, twice or of another file.
fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut SplitMix64) {
    const WORDS: [&str; 20] = [
        "0",
        "-1",
        "4294967296",
        "1e999",
        "NaN",
        "null",
        "true",
        "\"\"",
        "[]",
        "{}",
        "\\u0000",
        "\u{1b}[31m",
        "../..",
        "/",
        "\n",
        "{{",
        "%}",
        "|",
        "*",
        "&a",
    ];
    for _ in 0..=random.index(4) {
        let at = random.index(bytes.len() + 1);
        let end = at + random.index(1 + (bytes.len() - at).min(64));
        match random.index(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.index(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 => {
                let sizes =
                    [0, 1, u64::from(u32::MAX), 1 << 31, 1 << 40, u64::MAX, i64::MAX as u64, random.next()];
                let size = sizes[random.index(sizes.len())].to_le_bytes();
                let size = &size[..[2, 4, 8][random.index(3)]];
                let room = (bytes.len() - at).min(size.len());
                bytes[at..at + room].copy_from_slice(&size[..room]);
            }
            3 => drop(bytes.drain(at..end)),
            4 => {
                let part = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, part));
            }
            5 => {
                let word = WORDS[random.index(WORDS.len())].bytes();
                drop(bytes.splice(at..if random.index(2) == 0 { at } else { end }, word));
            }
            6 => {
                let from = random.index(other.len() + 1);
                let part = &other[from..from + random.index(1 + (other.len() - from).min(256))];
                drop(bytes.splice(at..end, part.iter().copied()));
            }
            _ => bytes.truncate(at.max(8)),
        }
    }
}

fn run(target: &str) {
    let (_, body) = fuzz::TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let (_, changes) = CHANGES.iter().find(|(name, _)| *name == target).unwrap();
    let seeds: Vec<Vec<u8>> = fuzz::seeds(target).into_iter().chain(crashes(target)).collect();
    assert!(!seeds.is_empty());
    let attempt = |bytes: &[u8]| {
        if catch_unwind(|| body(bytes)).is_err() {
            let path = std::env::temp_dir().join(format!("untrusted-{target}"));
            fs::write(&path, bytes).unwrap();
            panic!("{target}: see {}", path.display());
        }
    };
    seeds.iter().for_each(|seed| attempt(seed));
    let mut random = SplitMix64(0x9e37_79b9_7f4a_7c15);
    for _ in 0..*changes {
        let mut bytes = seeds[random.index(seeds.len())].clone();
        let other = &seeds[random.index(seeds.len())];
        change(&mut bytes, other, &mut random);
        attempt(&bytes);
    }
}

macro_rules! targets {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            run(stringify!($name));
        }
    )*};
}

targets! { gguf safetensors index config tokenizer importance recipe manifest template card logits image sound }
