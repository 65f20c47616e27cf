//! Relative links in Markdown files: what they point to is in the repository. Anchors are not checked.

/// Broken links in the document `path`. `exists` is asked with paths relative to the root.
pub(super) fn check(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut problems = Vec::new();
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut in_code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for link in links(line) {
            let target = link.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if target.is_empty() || elsewhere {
                continue;
            }
            if !resolve(folder, target).is_some_and(|target| target.is_empty() || exists(&target)) {
                problems.push(format!("{path}:{}: the link to {link} leads nowhere", number + 1));
            }
        }
    }
    problems
}

/// Targets of `[text](target)` and `[label]: target`, outside of inline code.
fn links(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for text in line.split('`').step_by(2) {
        for (at, _) in text.match_indices("](") {
            let rest = &text[at + 2..];
            let end = rest.find([')', ' ']).unwrap_or(rest.len());
            found.push(rest[..end].trim_matches(['<', '>']));
        }
    }
    if line.starts_with('[')
        && let Some((_, rest)) = line.split_once("]: ")
    {
        found.extend(rest.split_whitespace().next());
    }
    found
}

/// `target` seen from `folder`, without `.` and `..`. `None` when it leaves the repository.
pub(super) fn resolve(folder: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(target.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_resolve_from_their_folder() {
        let exists = |path: &str| ["README.md", "docs/a.md", "docs"].contains(&path);
        let good = "[a](a.md) [r](../README.md#top) [d](../docs/) [w](https://example.org/x) [s](#here)\n\
                    `[not](a-link.md)`\n```\n[nor](this.md)\n```\n[label]: a.md\n[up](..)";
        assert_eq!(check("docs/b.md", good, exists), [""; 0]);
        for bad in
            ["[x](b.md)", "[x](docs/a.md)", "[x](../../README.md)", "[label]: c.md \"title\"", "![i](i.png)"]
        {
            assert_eq!(check("docs/b.md", bad, exists).len(), 1, "{bad}");
        }
    }

    #[test]
    fn links_resolve_from_the_top() {
        assert_eq!(
            check("README.md", "[a](docs/a.md), [b](./docs/b.md)", |path| path == "docs/a.md").len(),
            1
        );
    }
}
