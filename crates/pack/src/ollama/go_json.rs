//! JSON with the bytes of Go's `json.Encoder`: compact, safe inside of HTML, a newline at the end.

use serde::Serialize;

/// A document as Go writes it.
pub(crate) fn encode(document: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_string(document).expect("a document is plain data");
    text = escaped(&text);
    text.push('\n');
    text.into_bytes()
}

/// Escapes the characters that Go escapes and serde_json does not. In compact JSON they occur in strings only.
pub(crate) fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            _ => text.push(char),
        }
    }
    text
}

/// A finite f32 as Go writes it: `1`, `0.95`, `1e-7`, `1e+21`.
pub(crate) fn float(value: f32) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{value:e}");
        return if size < 1.0 { text } else { text.replace('e', "e+") };
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by a Go program of `json.NewEncoder(os.Stdout).Encode`.
    #[test]
    fn bytes_are_gos() {
        let text = "<turn|> & \u{2028}\u{2029}\u{8}\u{c}\u{1}\u{7f}é\"\\/\t";
        let expected = "\"\\u003cturn|\\u003e \\u0026 \\u2028\\u2029\\b\\f\\u0001\u{7f}é\\\"\\\\/\\t\"\n";
        assert_eq!(String::from_utf8(encode(&text)).unwrap(), expected);
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.95, "0.95"),
            (1.1, "1.1"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e-6, "0.000001"),
            (9.5e-7, "9.5e-7"),
            (1e-10, "1e-10"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (f32::MAX, "3.4028235e+38"),
        ] {
            assert_eq!(float(value), expected);
        }
    }
}
