//! Embedded recipes of one kind: their names and purposes, their texts, and the errors for names and texts that are wrong.

use serde::de::DeserializeOwned;
use tensor::{Error, Result};

use crate::similar::similar;

/// A name and a TOML text.
pub(crate) type Named = (String, &'static str);

/// The names with their purposes, sorted. `purpose` parses a text; the second argument is its name.
pub(crate) fn purposes(
    known: impl Iterator<Item = Named>,
    purpose: impl Fn(&str, &str) -> Result<String>,
) -> Vec<(String, String)> {
    let described = known.filter_map(|(name, text)| purpose(text, &name).ok().map(|purpose| (name, purpose)));
    let mut all: Vec<_> = described.collect();
    all.sort();
    all
}

/// The text with this name.
///
/// # Errors
/// `missing`, with the known names, and with `help` if none of them is similar.
pub(crate) fn text(
    known: impl Iterator<Item = Named>,
    name: &str,
    missing: Error,
    help: &str,
) -> Result<&'static str> {
    let known: Vec<_> = known.collect();
    if let Some((_, text)) = known.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        return Ok(text);
    }
    let names: Vec<_> = known.iter().map(|(name, _)| name.as_str()).collect();
    let help = match similar(name, names.iter().copied()) {
        Some(similar) => format!("Did you mean {similar}?"),
        None => help.to_owned(),
    };
    Err(missing.expected(names.join(", "), name).help(help))
}

/// Parses a text. `place` is that of its errors, and `kind` the kind of recipe.
///
/// # Errors
/// `Recipe`, with the line in the text.
pub(crate) fn parse<T: DeserializeOwned>(text: &str, place: impl Fn() -> String, kind: &str) -> Result<T> {
    toml::from_str(text).map_err(|e| unreadable(&e, place(), kind))
}

/// The error for a text that does not parse.
pub(crate) fn unreadable(error: &toml::de::Error, place: String, kind: &str) -> Error {
    // the second line of the message names the key
    let problem = error.to_string().trim_end().replace('\n', " ");
    Error::recipe(place, problem).help(format!("The keys of {kind} are in recipes/README.md."))
}
