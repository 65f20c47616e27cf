//! Public types: each name is declared once in `crates/*/src`, so that a name means one thing in the whole workspace.

use std::collections::BTreeMap;

/// Names that several crates may declare, and why.
const ALLOWED: &[(&str, &str)] = &[
    ("Artifact", "the planned output files of a recipe in plan, the files on disk in verify"),
    ("Model", "the facade's opened model, and the forward pass in runtime that it runs"),
];

/// Names that more than one of these files declares as a public type. `files` are paths and texts of Rust files.
pub(super) fn check<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let mut declared: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (path, text) in files {
        let in_library = path.starts_with("crates/") && path.split('/').nth(2) == Some("src");
        for name in text.lines().filter(|_| in_library).filter_map(public_type) {
            declared.entry(name).or_default().push(path);
        }
    }
    let allowed = |name: &str| ALLOWED.iter().any(|(allowed, _)| *allowed == name);
    let twice = declared.iter().filter(|(name, paths)| paths.len() > 1 && !allowed(name));
    let mut problems: Vec<_> = twice
        .map(|(name, paths)| {
            format!("public type {name} is declared in several places: {}", paths.join(", "))
        })
        .collect();
    let stale = ALLOWED.iter().filter(|(name, _)| declared.get(name).is_none_or(|paths| paths.len() < 2));
    problems
        .extend(stale.map(|(name, _)| format!("public type {name}: allowed twice, declared once at most")));
    problems
}

/// The name of the public type that a line declares.
fn public_type(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("pub ")?;
    let rest = rest.strip_prefix("unsafe ").unwrap_or(rest);
    let (keyword, rest) = rest.split_once(' ')?;
    let declares = ["struct", "enum", "union", "trait", "type"].contains(&keyword);
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    Some(&rest[..end]).filter(|name| declares && !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The allowed names, declared twice as the list says.
    fn allowed() -> String {
        ALLOWED.iter().map(|(name, _)| format!("pub struct {name};\npub enum {name} {{}}\n")).collect()
    }

    #[test]
    fn a_public_type_name_is_declared_once() {
        let base = allowed();
        let with = |files: &[(&str, &str)]| {
            check(files.iter().copied().chain([("crates/z/src/lib.rs", base.as_str())]))
        };
        let one =
            ("crates/a/src/lib.rs", "pub struct Rows<'a>(&'a [u8]);\npub(crate) struct Sums;\npub fn f() {}");
        assert_eq!(with(&[one]), [""; 0]);
        for other in
            ["pub enum Rows {", "    pub trait Rows: Sync {", "pub type Rows = u8;", "pub struct Rows;"]
        {
            assert_eq!(with(&[one, ("crates/b/src/x.rs", other)]).len(), 1, "{other}");
        }
        for other in ["pub(crate) struct Rows;", "struct Rows;", "pub struct RowsOf;", "pub struct Sums;"] {
            assert_eq!(with(&[one, ("crates/b/src/x.rs", other)]), [""; 0], "{other}");
        }
        assert_eq!(with(&[one, ("crates/b/tests/x.rs", "pub struct Rows;")]), [""; 0]);
    }

    #[test]
    fn the_list_holds_no_name_that_is_declared_once() {
        assert_eq!(check([("crates/z/src/lib.rs", "pub struct Artifact;")]).len(), ALLOWED.len());
    }
}
