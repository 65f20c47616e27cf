//! The files of a repository that llama.cpp picks by their names: `llama-server -hf OWNER/NAME:TAG`.
//!
//! Source: llama.cpp `common/download.cpp`. Ollama's `hf.co/OWNER/NAME:TAG` follows the labels of the hub, which are the same for
//! names that end in the type.

use tensor::{Error, Result};

/// What llama.cpp takes a GGUF for, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HubRole {
    /// A text model: any file without one of the words below.
    Model,
    /// Image and audio towers: `mmproj`.
    Mmproj,
    /// A draft model: `mtp-`, `eagle3-`, `dflash-`, `dspark-`.
    Draft,
    /// An importance matrix: `imatrix`.
    Importance,
}

/// The words that make a file another one than a text model.
const WORDS: [(&str, HubRole); 6] = [
    ("mmproj", HubRole::Mmproj),
    ("imatrix", HubRole::Importance),
    ("mtp-", HubRole::Draft),
    ("eagle3-", HubRole::Draft),
    ("dflash-", HubRole::Draft),
    ("dspark-", HubRole::Draft),
];

impl HubRole {
    /// The role of a GGUF with this path in its repository; `None` for other files and for parts of a split after the first, which
    /// are found by the first.
    pub fn of(path: &str) -> Option<HubRole> {
        let stem = path.strip_suffix(".gguf")?;
        if gguf::part_of(path).is_some_and(|(_, number)| number != 1) {
            return None;
        }
        let name = stem.rsplit('/').next().unwrap_or(stem);
        let word = WORDS.iter().find(|(word, _)| name.contains(word));
        Some(word.map_or(HubRole::Model, |(_, role)| *role))
    }
}

/// Whether the selector `:TAG` matches a path: the tag, of any case, and `.` or `-` after it.
pub fn matches_tag(path: &str, tag: &str) -> bool {
    let (path, tag) = (path.to_ascii_lowercase(), tag.to_ascii_lowercase());
    ['.', '-'].iter().any(|end| path.contains(&format!("{tag}{end}")))
}

/// Of mmproj files or draft models, the one for a text model: the same type, else that with the nearest number of bits.
pub fn nearest<'a>(model: &str, others: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (wanted, label) = (bits(model), label(model));
    let key = |other: &&str| {
        let is_same = self::label(other).eq_ignore_ascii_case(label);
        (!is_same, bits(other).abs_diff(wanted))
    };
    others.into_iter().min_by_key(key)
}

/// The type in a name: its last word, without the number of a part.
fn label(path: &str) -> &str {
    let stem = match gguf::part_of(path) {
        Some((prefix, _)) => prefix,
        None => path.strip_suffix(".gguf").unwrap_or(path),
    };
    stem.rsplit(['-', '.']).next().unwrap_or(stem)
}

/// The number of bits in the type of a name: 4 for `Q4_0`, 16 for `BF16`.
fn bits(path: &str) -> u32 {
    let digits = label(path).trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// A file of a release, before it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// Path in the repository.
    pub path: String,
    /// What it is.
    pub role: HubRole,
    /// The preset that selects a text model, such as `Q4_0`.
    pub tag: String,
}

/// Checks that llama.cpp takes every file for what it is, and that the type of each text model selects it and no other.
///
/// # Errors
/// `Recipe` for a name that does not do this.
pub fn check_names(files: &[NamedFile]) -> Result<()> {
    for (number, file) in files.iter().enumerate() {
        let path = &file.path;
        if files[..number].iter().any(|other| other.path.eq_ignore_ascii_case(path)) {
            return Err(Error::recipe(path, "two files of a release have this name")
                .help("Change the templates ‹names› of the release recipe."));
        }
        let taken = HubRole::of(path);
        if taken.is_some_and(|role| role != file.role) {
            let words: Vec<_> = WORDS.iter().map(|(word, _)| *word).collect();
            return Err(Error::recipe(path, "llama.cpp takes a file of this name for another kind")
                .expected(format!("{:?}", file.role), format!("{:?}", taken.unwrap_or(HubRole::Model)))
                .help(format!(
                    "The words {} in a name tell the kinds of files apart. Choose another ‹name›, or change ‹names› in the \
                     release recipe.",
                    words.join(", ")
                )));
        }
    }
    let models = || files.iter().filter(|file| HubRole::of(&file.path) == Some(HubRole::Model));
    for file in models() {
        let tag = &file.tag;
        let chosen: Vec<_> = models().filter(|other| matches_tag(&other.path, tag)).collect();
        match chosen[..] {
            [only] if only == file => {}
            [] => {
                return Err(Error::recipe(
                    &file.path,
                    "no selector finds this file: its name lacks its type",
                )
                .expected(format!("{tag} and a dot or a hyphen after it"), &file.path));
            }
            _ => {
                let names: Vec<_> = chosen.iter().map(|file| file.path.as_str()).collect();
                return Err(Error::recipe(format!("-hf REPOSITORY:{tag}"), "it selects more than one file")
                    .expected(&file.path, names.join(", "))
                    .help(
                        "Put files of one type into repositories of their own, or choose another ‹name›.",
                    ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_those_of_llama_cpp() {
        for (path, role) in [
            ("gemma-4-E2B-it-Q4_0.gguf", Some(HubRole::Model)),
            ("draft-q8_0.gguf", Some(HubRole::Model)),
            ("mmproj-gemma-4-E2B-it-BF16.gguf", Some(HubRole::Mmproj)),
            ("mtp-gemma-4-E2B-it-Q8_0.gguf", Some(HubRole::Draft)),
            ("imatrix-gemma-4-E2B-it.gguf", Some(HubRole::Importance)),
            ("a-00001-of-00002.gguf", Some(HubRole::Model)),
            ("a-00002-of-00002.gguf", None),
            ("mmproj/a-Q4_0.gguf", Some(HubRole::Model)),
            ("README.md", None),
        ] {
            assert_eq!(HubRole::of(path), role, "{path}");
        }
    }

    #[test]
    fn the_nearest_type_is_chosen() {
        let files = ["mmproj-a-BF16.gguf", "mmproj-a-Q8_0.gguf"];
        for (model, expected) in [
            ("a-Q4_0.gguf", "mmproj-a-Q8_0.gguf"),
            ("a-BF16.gguf", "mmproj-a-BF16.gguf"),
            ("a-F16.gguf", "mmproj-a-BF16.gguf"),
            ("a-Q4_K_M-00001-of-00003.gguf", "mmproj-a-Q8_0.gguf"),
        ] {
            assert_eq!(nearest(model, files), Some(expected), "{model}");
        }
        assert_eq!(nearest("a-Q4_0.gguf", []), None);
    }

    fn model(path: &str, tag: &str) -> NamedFile {
        NamedFile { path: path.to_owned(), role: HubRole::Model, tag: tag.to_owned() }
    }

    #[test]
    fn each_type_selects_one_file() {
        let good =
            [model("a-Q8_0.gguf", "Q8_0"), model("a-Q4_0.gguf", "Q4_0"), model("a-Q4_K_M.gguf", "Q4_K_M")];
        check_names(&good).unwrap();
        for (files, problem) in [
            (vec![model("a-Q4_0.gguf", "Q4_0"), model("a-cal-Q4_0.gguf", "Q4_0")], "more than one"),
            (vec![model("a-q4_0-b-Q8_0.gguf", "Q8_0"), model("a-q4_0-b-Q4_0.gguf", "Q4_0")], "more than one"),
            (vec![model("a.gguf", "Q4_0")], "lacks its type"),
            (vec![model("a-Q4_0.gguf", "Q4_0"), model("A-q4_0.gguf", "Q4_0")], "this name"),
            (vec![model("my-mtp-model-Q4_0.gguf", "Q4_0")], "another kind"),
        ] {
            let error = check_names(&files).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        let draft = NamedFile { role: HubRole::Draft, ..model("draft-a-Q8_0.gguf", "Q8_0") };
        assert!(check_names(&[draft]).unwrap_err().to_string().contains("another kind"));
    }
}
