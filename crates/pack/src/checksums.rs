//! SHA256SUMS, as `sha256sum` writes and checks it.

/// The text for files with their SHA-256 in hexadecimal, sorted by name. A name with a backslash or a line end is escaped as by
/// coreutils.
pub fn sha256sums<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_unstable();
    let line = |(name, sha256): (&str, &str)| {
        let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
        let mark = if escaped == name { "" } else { "\\" };
        format!("{mark}{sha256}  {escaped}\n")
    };
    files.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_escaped() {
        assert_eq!(sha256sums([("b", "22"), ("a c", "11"), ("d\\", "33")]), "11  a c\n22  b\n\\33  d\\\\\n");
    }
}
