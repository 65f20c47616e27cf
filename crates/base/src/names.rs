//! Names in files and arguments: files, paths inside a folder, repositories of the Hugging Face hub.

use std::path::Path;

/// Longest owner or name of a repository.
const MOST_PART: usize = 96;

/// True for `digits` lower-case hexadecimal digits.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// The last component of a path; empty if it has none.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A path as files that other systems read name it: with `/`, also on Windows, where `\` stands between folders too.
pub fn with_slashes(path: &Path) -> String {
    let text = path.display().to_string();
    if cfg!(windows) { text.replace('\\', "/") } else { text }
}

/// The folder of a file: `.` for a path of one component.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// True if `name` is a relative path inside its folder in normal form: `a/b`, not `a/../b`. On Windows a colon follows a drive
/// or precedes a stream of a file.
pub fn is_plain_name(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    name.split('/').all(plain) && !name.contains(['\0', '\\']) && !(cfg!(windows) && name.contains(':'))
}

/// True if the hub permits `text` as the id of a repository, `owner/name`. Source: `validate_repo_id` of huggingface_hub.
pub fn is_repository_id(text: &str) -> bool {
    let part = |part: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let ends = |c: char| "-.".contains(c);
        (1..=MOST_PART).contains(&part.len())
            && part.chars().all(letter)
            && !part.starts_with(ends)
            && !part.ends_with(ends)
    };
    let outside = text.contains("--") || text.contains("..") || text.ends_with(".git");
    text.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name)) && !outside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_a_folder_and_a_name() {
        for (path, folder, name) in [("a/b.gguf", "a", "b.gguf"), ("b.gguf", ".", "b.gguf"), ("/b", "/", "b")]
        {
            let path = Path::new(path);
            assert_eq!((folder_of(path), file_name(path).as_str()), (Path::new(folder), name));
        }
        assert_eq!(file_name(Path::new("..")), "");
    }

    #[test]
    fn a_path_in_a_file_has_slashes() {
        let path: std::path::PathBuf = ["a folder", "b", "é.txt"].iter().collect();
        assert_eq!(with_slashes(&path), "a folder/b/é.txt");
        // a name may hold it elsewhere
        assert_eq!(with_slashes(Path::new(r"a\b")), if cfg!(windows) { "a/b" } else { r"a\b" });
    }

    #[test]
    fn plain_names_stay_inside() {
        for name in ["model.safetensors", "a/b.gguf", "..a", "a..", "é"] {
            assert!(is_plain_name(name), "{name}");
        }
        for name in ["", "/a", "a/", "..", "a/..", "../a", "a//b", "./a", "a/./b", "a\0", "a\\b"] {
            assert!(!is_plain_name(name), "{name}");
        }
        assert_eq!(is_plain_name("C:a"), !cfg!(windows));
    }

    #[test]
    fn repositories_are_those_of_the_hub() {
        let long = "a".repeat(97);
        for good in ["a/b", "google/gemma-4-E2B-it", "_/__", "A.b/c_d", &format!("a/{}", &long[1..])] {
            assert!(is_repository_id(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "/a",
            "a/",
            "a/b/c",
            "a b/c",
            "a/b@main",
            "a--b/c",
            "a/b..c",
            "a/.b",
            "-a/b",
            "a/b-",
            "a/b.git",
            "a/ü",
            &format!("a/{long}"),
        ] {
            assert!(!is_repository_id(bad), "{bad}");
        }
    }
}
