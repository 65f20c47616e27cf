//! The tree: what lies at the top, provenance and size of fixtures, and no path of somebody's machine.

use std::collections::BTreeSet;

/// What may lie at the top.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".gitattributes",
    ".github",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "action.yml",
    "clippy.toml",
    "contrib",
    "crates",
    "deny.toml",
    "docs",
    "fixtures",
    "formats",
    "recipes",
    "rustfmt.toml",
    "target",
    "tests",
    "xtask",
];

/// Limit for all files together.
const TOTAL_BYTES: u64 = 75_000_000;

/// Beginnings of paths that no other machine has. Put together here, so that this file does not hold them.
const MACHINE_PATHS: &[&str] = &[
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/wo", "rk/"),
    concat!("/Us", "ers/"),
    concat!("..", "/shared"),
];

/// Checks the whole list of paths and sizes.
pub(super) fn check(files: &[(&str, u64)]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut tops: Vec<_> = files.iter().map(|(path, _)| path.split('/').next().unwrap_or(path)).collect();
    tops.sort_unstable();
    tops.dedup();
    for top in tops.iter().filter(|top| !TOP.contains(top)) {
        problems.push(format!("{top}: not one of the top-level entries ({})", TOP.join(" ")));
    }
    let is_file = |path: &str| files.iter().any(|(other, _)| *other == path);
    let mut unexplained: BTreeSet<&str> = BTreeSet::new();
    for (path, _) in files.iter().filter(|(path, _)| path.starts_with("fixtures/")) {
        // fixtures/README.md is the index; provenance belongs beside the files, or above a family of folders.
        let folders: Vec<_> = path.match_indices('/').map(|(end, _)| &path[..end]).collect();
        let explained = folders[1..].iter().any(|folder| is_file(&format!("{folder}/README.md")));
        if *path != "fixtures/README.md" && !explained {
            unexplained.extend(folders.last());
        }
    }
    problems.extend(
        unexplained.iter().map(|folder| format!("{folder}: no README.md says where its files come from")),
    );
    let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    if total >= TOTAL_BYTES {
        problems.push(format!("the files take {total} bytes, the limit is {TOTAL_BYTES}"));
    }
    problems
}

/// Paths of a machine in the text of one file.
pub(super) fn check_paths(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // A machine's path starts at the root: a folder of that name elsewhere and a URL's path are something else.
        let starts = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.}/".contains(c));
        for word in MACHINE_PATHS {
            if line.match_indices(word).any(|(at, _)| word.starts_with('.') || starts(at)) {
                problems.push(format!("{path}:{}: names {word}, which no other machine has", number + 1));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_level_and_provenance() {
        let good = [
            ("README.md", 1),
            ("crates/x/src/lib.rs", 1),
            ("fixtures/README.md", 1),
            ("fixtures/a/README.md", 1),
            ("fixtures/a/b/c.bin", 1),
        ];
        assert_eq!(check(&good), [""; 0]);
        assert_eq!(check(&[("notes.txt", 1), ("scripts/a.sh", 1), ("scripts/b.sh", 1)]).len(), 2);
        assert_eq!(
            check(&[("fixtures/README.md", 1), ("fixtures/a/b.bin", 1), ("fixtures/c.bin", 1)]).len(),
            2
        );
        assert_eq!(check(&[("README.md", TOTAL_BYTES)]).len(), 1);
    }

    #[test]
    fn machine_paths() {
        for word in MACHINE_PATHS {
            assert_eq!(check_paths("x", &format!("see {word}it")).len(), 1, "{word}");
            assert_eq!(check_paths("x", &format!("{word}it")).len(), 1, "{word}");
        }
        let url = format!("https://example.org{}page and target{}x", MACHINE_PATHS[1], MACHINE_PATHS[0]);
        assert_eq!(check_paths("x", &url), [""; 0]);
    }
}
