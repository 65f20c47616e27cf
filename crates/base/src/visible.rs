//! Makes text from files safe to show: names, keys and messages may contain control sequences for a terminal.

use std::borrow::Cow;

/// True for a character that acts instead of showing: control characters, and characters that change the direction of
/// text or end a line invisibly.
fn acts(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escaped(text: &str, acts: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(&acts) {
        return text.into();
    }
    let letters = text.chars().map(|letter| if acts(letter) { escape(letter) } else { letter.to_string() });
    letters.collect::<String>().into()
}

/// `text` for a terminal: active characters except line ends and tabs are written as an escape such as `\u{1b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(
        text,
        |letter| acts(letter) && !matches!(letter, '\n' | '\t'),
        |letter| letter.escape_default().to_string(),
    )
}

/// As [`visible`], but also escapes line ends and tabs: for a name in a table or in a sentence.
pub fn visible_line(text: &str) -> Cow<'_, str> {
    escaped(text, acts, |letter| letter.escape_default().to_string())
}

/// JSON for a terminal. Serializers escape only the control characters of ASCII; the others occur only in strings,
/// where JSON has escapes for them.
pub fn visible_json(json: &str) -> Cow<'_, str> {
    let escape =
        |letter: char| letter.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect();
    escaped(json, |letter| acts(letter) && !matches!(letter, '\n' | '\t' | '\r'), escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts() {
        assert_eq!(visible("plain é 😀\n\tend"), "plain é 😀\n\tend");
        assert!(matches!(visible_line("plain"), Cow::Borrowed(_)));
        assert_eq!(visible("\u{1b}[2J\u{9b}31m\r\u{7f}\u{202e}"), r"\u{1b}[2J\u{9b}31m\r\u{7f}\u{202e}");
        assert_eq!(visible_line("a\nb\tc"), r"a\nb\tc");
        let json = visible_json("{\n  \"a\": \"\u{9b}\u{7f}\u{202e}é\"\n}");
        assert_eq!(json, "{\n  \"a\": \"\\u009b\\u007f\\u202eé\"\n}");
    }
}
