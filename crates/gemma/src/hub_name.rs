//! Title, owner and version of a model from its name on the hub.
//!
//! Follows `id_to_title` and `get_model_id_components` of gguf-py/gguf/metadata.py. gguf-py counts a size that is far
//! from the model's as part of a fine-tune's name; here every number of parameters is a size, which matters only for
//! a name that also has a size in words.

use std::sync::LazyLock;

use regex::Regex;

/// Patterns for the kinds of words in a name; other words belong to the name itself.
struct Words {
    version: Regex,
    quantisation: Regex,
    parameters: Regex,
    size: Regex,
    tune: Regex,
}

static WORDS: LazyLock<Words> = LazyLock::new(|| {
    let whole = |pattern: &str| Regex::new(&format!("(?i)^(?:{pattern})$")).expect("a constant, and tested");
    Words {
        version: whole(r"(v|iter)?[0-9]+(\.[0-9]+)*"),
        quantisation: whole(r"i?q[0-9](_\w)*|b?fp?(16|32)"),
        parameters: whole(r"(a|[0-9]+x)?[0-9]+([._][0-9]+)?[kmbt][0-9]?"),
        size: whole("small|mini|medium|large|x?xl"),
        tune: whole("chat|instruct|vision|lora"),
    }
});

/// The fields of `general.base_model.N` for `owner/model-name`: titles, and the version at the end of the name.
pub(crate) fn fields(id: &str) -> Vec<(&'static str, String)> {
    let split = id.split_once('/').filter(|_| !id.contains(' '));
    let (owner, model) = split.map_or((None, id), |(owner, model)| (Some(owner), model));
    let mut fields = vec![("name", title(model))];
    fields.extend(version(model).map(|version| ("version", version)));
    // `./model` has no owner
    fields.extend(owner.filter(|owner| !owner.starts_with('.')).map(|owner| ("organization", title(owner))));
    fields
}

/// The version: `v2` in `model-7B-v2`, but not the `4` in `gemma-4-31B`, which belongs to the name.
fn version(model: &str) -> Option<String> {
    if model.contains(' ') {
        return None;
    }
    let parts: Vec<&str> = model.split('-').filter(|part| !part.is_empty()).collect();
    let is_version = |part: &str| WORDS.version.is_match(part);
    let counted = parts.iter().skip(1).any(|part| WORDS.parameters.is_match(part));
    let typed = |i: usize, part: &str| {
        let later = WORDS.parameters.is_match(part)
            || WORDS.tune.is_match(part)
            || WORDS.size.is_match(part) && !counted;
        WORDS.quantisation.is_match(part) || i > 0 && later
    };
    let of_name = |(i, part): &(usize, &&str)| {
        is_version(part) || !typed(*i, part) && part.starts_with(char::is_alphabetic)
    };
    let start = parts.iter().enumerate().take_while(of_name).count();
    // a version that ends the name is not part of it
    let trailing =
        if start < parts.len() { 0 } else { parts.iter().rev().take_while(|part| is_version(part)).count() };
    let versions: Vec<&str> =
        parts[start - trailing..].iter().copied().filter(|part| is_version(part)).collect();
    Some(versions.join("-")).filter(|v| !v.is_empty())
}

/// The title of a model by its name on the hub: lower-case words are capitalised unless they are a version.
///
/// ```
/// assert_eq!(gemma::hub_title("gemma-4-E2B-it"), "Gemma 4 E2B It");
/// ```
pub fn title(id: &str) -> String {
    let version = |word: &str| {
        let digits = word.strip_prefix('v').unwrap_or(word);
        let numbers = digits.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        word.starts_with(|c: char| c.is_ascii_digit()) || word.starts_with('v') && numbers
    };
    let lower = |word: &str| word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
    let capital = |word: &str| {
        // as Python's str.title: a letter is upper case unless it follows a letter
        let mut after_letter = false;
        let mut out = String::new();
        for c in word.chars() {
            if after_letter {
                out.push(c)
            } else {
                out.extend(c.to_uppercase())
            }
            after_letter = c.is_alphabetic();
        }
        out
    };
    let words = id.trim().replace('-', " ");
    let words = words.split_whitespace();
    let titled =
        words.map(|word| if lower(word) && !version(word) { capital(word) } else { word.to_owned() });
    titled.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_python_titles() {
        assert_eq!(title("gemma-4-E2B-it"), "Gemma 4 E2B It");
        assert_eq!(title("google"), "Google");
        assert_eq!(title("my-model-v1.5-31B"), "My Model v1.5 31B");
    }

    /// Expected values are those of gguf-py's `get_model_id_components`.
    #[test]
    fn versions() {
        for (name, expected) in [
            ("gemma-4-E2B-it", None),
            ("gemma-4-31B-it", None),
            ("Mistral-7B-Instruct-v0.2", Some("v0.2")),
            ("Foo-v2", Some("v2")),
            ("gemma-4-26B-A4B-it-v1.5", Some("v1.5")),
            ("a name in words v2", None),
            ("", None),
        ] {
            assert_eq!(version(name).as_deref(), expected, "{name}");
        }
    }
}
