//! Spellings of options by llama.cpp's programs, and older ones of this program, that clap cannot express.

use std::ffi::OsString;

/// Options whose value is positional here.
const MODEL: [&str; 2] = ["-m", "--model"];

/// Options with another name here. Their value follows as the next argument or after `=`.
const RENAMED: [(&str, &str); 2] = [("-md", "--draft"), ("-sys", "--system")];

/// The arguments in clap's spelling: `-m MODEL` is MODEL, `--json=FILE` is `--report-json FILE`.
pub(crate) fn normalised(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut found = Vec::new();
    let mut rest = args.into_iter();
    while let Some(arg) = rest.next() {
        let Some(text) = arg.to_str() else {
            found.push(arg);
            continue;
        };
        if text == "--" {
            found.push(arg);
            found.extend(rest);
            break;
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        if MODEL.contains(&name) {
            found.extend(value.map(OsString::from));
        } else if let (Some(value), "--json") = (value, name) {
            found.extend(["--report-json".into(), value.into()]);
        } else if let Some((_, ours)) = RENAMED.iter().find(|(theirs, _)| *theirs == name) {
            found.push(ours.into());
            found.extend(value.map(OsString::from));
        } else {
            found.push(arg);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_others_are_ours() {
        let of = |args: &[&str]| {
            let args = normalised(args.iter().map(OsString::from));
            args.into_iter().map(|arg| arg.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(&["x", "generate", "-m", "a.gguf", "-p", "hi"]), "x generate a.gguf -p hi");
        assert_eq!(
            of(&["x", "generate", "--model=a.gguf", "-md", "b.gguf"]),
            "x generate a.gguf --draft b.gguf"
        );
        assert_eq!(of(&["x", "verify", "a", "--json=r.json"]), "x verify a --report-json r.json");
        assert_eq!(of(&["x", "verify", "a", "--json"]), "x verify a --json");
        assert_eq!(of(&["x", "inspect", "--", "-m"]), "x inspect -- -m");
    }
}
