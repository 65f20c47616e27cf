//! The tree: what lies at the top, provenance and size of fixtures, and no path of somebody's machine.

use std::collections::BTreeSet;

use super::links;

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

/// The file of the container image's build that lists what it gets.
pub(super) const CONTAINER: &str = ".github/Dockerfile.dockerignore";

/// Files that the program embeds and that the build of its container image does not get. `ignore` is the text of [`CONTAINER`];
/// `sources` are paths and texts.
pub(super) fn check_container<'e>(
    ignore: &str,
    sources: impl IntoIterator<Item = (&'e str, &'e str)>,
) -> Vec<String> {
    let kept: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let is_kept = |path: &str| {
        kept.iter()
            .any(|kept| path.strip_prefix(kept).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    let mut problems = Vec::new();
    for (path, text) in
        sources.into_iter().filter(|(path, _)| path.starts_with("crates/") && path.contains("/src/"))
    {
        for start in ["include_str!(\"", "include_bytes!(\"", "include_dir!(\"$CARGO_MANIFEST_DIR/"] {
            for (at, _) in text.match_indices(start) {
                let target = text[at + start.len()..].split('"').next().unwrap_or_default();
                let from = match start.ends_with('/') {
                    true => path.split("/src/").next().unwrap_or(path),
                    false => path.rsplit_once('/').map_or("", |(folder, _)| folder),
                };
                let embedded = links::resolve(from, target).unwrap_or_default();
                if !is_kept(&embedded) {
                    problems.push(format!("{path}: embeds {embedded}, which {CONTAINER} leaves out"));
                }
            }
        }
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
    fn what_the_program_embeds_goes_into_its_container() {
        let ignore = "*\n!crates\n!fixtures/text\n";
        let embed = |target: &str| format!("const A: &str = include_{}!(\"{target}\");", "str");
        let check = |text: &str| check_container(ignore, [("crates/a/src/b/c.rs", text)]);
        assert!(check(&embed("../../../../fixtures/text/x.txt")).is_empty());
        assert!(check(&embed("page.css")).is_empty());
        let problems = check(&embed("../../../../fixtures/texts/x.txt"));
        assert!(problems[0].contains("fixtures/texts/x.txt"), "{problems:?}");
        let folder = format!("include_{}!(\"$CARGO_MANIFEST_DIR/../../recipes\")", "dir");
        assert!(check(&folder)[0].contains("embeds recipes"));
    }

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
