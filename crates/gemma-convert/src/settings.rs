//! Names of settings in errors and notes.

/// Replaces each `‹name›` of a setting in a text by `option(name)`, the program's name for it.
///
/// ```
/// let text = gemma_convert::rename_settings("Use ‹force› to replace it.", |name| format!("--{name}"));
/// assert_eq!(text, "Use --force to replace it.");
/// ```
pub fn rename_settings(text: &str, option: impl Fn(&str) -> String) -> String {
    let mut renamed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('‹') {
        renamed.push_str(before);
        match after.split_once('›') {
            Some((name, behind)) if is_name(name) => {
                renamed.push_str(&option(name));
                rest = behind;
            }
            _ => {
                renamed.push('‹');
                rest = after;
            }
        }
    }
    renamed + rest
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::rename_settings;

    #[test]
    fn only_names_of_settings_are_renamed() {
        let option = |name: &str| format!("--{}", name.replace('_', "-"));
        for (text, expected) in [
            ("", ""),
            ("give ‹min_top1›, ‹text_memory› or ‹chunks›", "give --min-top1, --text-memory or --chunks"),
            ("«‹Bonjour›» ‹a b› ‹›", "«‹Bonjour›» ‹a b› ‹›"),
            ("‹ ‹force›", "‹ --force"),
            ("‹open", "‹open"),
        ] {
            assert_eq!(rename_settings(text, option), expected);
        }
    }
}
