//! Names of models: `[HOST/][NAMESPACE/]MODEL[:TAG]`.
//!
//! Source: ollama/ollama `types/model/name.go` (`ParseName`, `isValidPart`).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tensor::{Error, Result};

const HOST: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";
const TAG: &str = "latest";

/// The name of a model in a store; every part is valid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OllamaName {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

/// A part of a name, with its rule: the most bytes, and which of `.` and `:` it may contain.
struct Part {
    name: &'static str,
    most: usize,
    punctuation: &'static [u8],
}

const PARTS: [Part; 4] = [
    Part { name: "host", most: 350, punctuation: b"-.:" },
    Part { name: "namespace", most: 80, punctuation: b"-" },
    Part { name: "model", most: 80, punctuation: b"-." },
    Part { name: "tag", most: 80, punctuation: b"-." },
];

impl Part {
    fn is_valid(&self, text: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let mut bytes = text.bytes();
        text.len() <= self.most
            && bytes.next().is_some_and(plain)
            && bytes.all(|byte| plain(byte) || self.punctuation.contains(&byte))
    }

    fn rule(&self) -> String {
        let marks: Vec<_> = self.punctuation.iter().map(|&mark| format!("`{}`", char::from(mark))).collect();
        format!(
            "1 to {} letters and digits of ASCII, `_`, and after the first also {}",
            self.most,
            marks.join(", ")
        )
    }
}

impl OllamaName {
    /// The tag; `latest` if none was given.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The name without the parts that are Ollama's defaults, except the tag: as `ollama list` shows it.
    pub fn short(&self) -> String {
        let OllamaName { host, namespace, model, tag } = self;
        if !host.eq_ignore_ascii_case(HOST) {
            format!("{host}/{namespace}/{model}:{tag}")
        } else if !namespace.eq_ignore_ascii_case(NAMESPACE) {
            format!("{namespace}/{model}:{tag}")
        } else {
            format!("{model}:{tag}")
        }
    }

    /// The path of the manifest below `manifests/`.
    pub fn path(&self) -> PathBuf {
        self.parts().iter().collect()
    }

    /// The name of a manifest with these path components, if they are one.
    pub(crate) fn from_parts(parts: [&str; 4]) -> Option<OllamaName> {
        let valid = PARTS.iter().zip(parts).all(|(part, text)| part.is_valid(text));
        let [host, namespace, model, tag] = parts.map(str::to_owned);
        valid.then_some(OllamaName { host, namespace, model, tag })
    }

    /// The name with the spelling of existing names: Ollama ignores the case of a name, part by part. A part that exists
    /// in this spelling keeps it.
    pub(crate) fn spelled_as(&self, existing: &[OllamaName]) -> OllamaName {
        let mut parts = self.parts().map(str::to_owned);
        for (at, part) in parts.iter_mut().enumerate() {
            let mut spellings: Vec<&str> = existing.iter().map(|name| name.parts()[at]).collect();
            spellings.retain(|spelling| spelling.eq_ignore_ascii_case(part));
            if !spellings.contains(&part.as_str())
                && let Some(first) = spellings.into_iter().min()
            {
                *part = first.to_owned();
            }
        }
        let [host, namespace, model, tag] = parts;
        OllamaName { host, namespace, model, tag }
    }

    fn parts(&self) -> [&str; 4] {
        [&self.host, &self.namespace, &self.model, &self.tag]
    }
}

impl FromStr for OllamaName {
    type Err = Error;

    fn from_str(text: &str) -> Result<OllamaName> {
        // a colon before the last slash belongs to a port
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, TAG),
        };
        let (path, model) = path.rsplit_once('/').unwrap_or(("", path));
        let given = text.contains('/');
        let (host, namespace) = match path.rsplit_once('/') {
            Some((host, namespace)) => (host.rsplit_once("://").map_or(host, |(_, host)| host), namespace),
            None if given => (HOST, path),
            None => (HOST, NAMESPACE),
        };
        let parts = [host, namespace, model, tag];
        OllamaName::from_parts(parts).ok_or_else(|| {
            let wrong = PARTS.iter().zip(parts).find(|(part, text)| !part.is_valid(text));
            let (part, found) = wrong.expect("a part is not valid");
            Error::recipe(format!("‹name› {text}"), format!("Ollama allows no such {} in a name", part.name))
                .expected(part.rule(), format!("{found:?}"))
                .help("A name is MODEL:TAG, NAMESPACE/MODEL:TAG or HOST/NAMESPACE/MODEL:TAG.")
        })
    }
}

impl fmt::Display for OllamaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OllamaName { host, namespace, model, tag } = self;
        write!(f, "{host}/{namespace}/{model}:{tag}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_ollamas_defaults() {
        for (text, full, short) in [
            ("gemma", "registry.ollama.ai/library/gemma:latest", "gemma:latest"),
            ("gemma4-e2b:q4_0", "registry.ollama.ai/library/gemma4-e2b:q4_0", "gemma4-e2b:q4_0"),
            ("me/gemma:1", "registry.ollama.ai/me/gemma:1", "me/gemma:1"),
            ("LIBRARY/gemma:1", "registry.ollama.ai/LIBRARY/gemma:1", "gemma:1"),
            ("localhost:5000/me/gemma", "localhost:5000/me/gemma:latest", "localhost:5000/me/gemma:latest"),
            ("http://host/me/gemma:a.b-c", "host/me/gemma:a.b-c", "host/me/gemma:a.b-c"),
        ] {
            let name: OllamaName = text.parse().unwrap();
            assert_eq!((name.to_string().as_str(), name.short().as_str()), (full, short));
        }
        let name: OllamaName = "me/gemma:1".parse().unwrap();
        assert_eq!(name.path(), PathBuf::from("registry.ollama.ai/me/gemma/1"));
    }

    #[test]
    fn what_ollama_refuses_is_refused() {
        let long = "m".repeat(81);
        for (text, part) in [
            ("", "model"),
            (":tag", "model"),
            ("gemma:", "tag"),
            ("gemma:a:b", "model"),
            ("/gemma", "namespace"),
            ("me/", "model"),
            ("a/b/c/d", "host"),
            ("my.name/gemma", "namespace"),
            ("-gemma", "model"),
            ("gem ma", "model"),
            ("gémma", "model"),
            ("../../gemma", "host"),
            ("..:..", "model"),
            (&long, "model"),
        ] {
            let error = text.parse::<OllamaName>().unwrap_err();
            assert_eq!(error.problem(), format!("Ollama allows no such {part} in a name"), "{text}");
        }
        assert!(long[1..].parse::<OllamaName>().is_ok());
    }

    #[test]
    fn the_case_of_existing_names_wins() {
        let name = |text: &str| text.parse::<OllamaName>().unwrap();
        let existing = [name("Gemma:Q4"), name("me/other:Q8"), name("gemma2:q8")];
        assert_eq!(name("gemma:q4").spelled_as(&existing), name("Gemma:Q4"));
        assert_eq!(name("ME/gemma:q8").spelled_as(&existing), name("me/Gemma:q8"));
        assert_eq!(name("new:1").spelled_as(&existing), name("new:1"));
    }
}
