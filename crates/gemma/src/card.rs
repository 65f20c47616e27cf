//! Metadata keys `general.*` (names, licence, origin), from the recipe or the model card.
//!
//! gguf-py also guesses them from the name of the folder; this module does not, so a model without a card has no
//! name. Titles and hub URLs are made as in `gguf-py/gguf/metadata.py`.

use checkpoint::ModelCard;
use gguf::Metadata;
use serde_json::Value as Json;

use crate::KeySources;
use crate::formats::KeyRow;
use crate::hub_name;
use crate::keys::Parameters;

/// The fields of a card for each key; the first match wins.
const ALIASES: &[(&str, &[&str])] = &[
    ("name", &["name", "model_name"]),
    ("author", &["author", "model_author", "model_creator"]),
    ("version", &["version", "model_version"]),
    ("organization", &["organization", "model_organization"]),
    ("description", &["description", "model_description"]),
    ("finetune", &["finetune", "model_finetune"]),
    ("basename", &["basename", "model_basename", "model_type"]),
    ("size_label", &["size_label", "model_size_label"]),
    ("source_url", &["url", "model_url"]),
    ("source_doi", &["doi", "model_doi"]),
    ("source_uuid", &["uuid", "model_uuid"]),
    ("source_repo_url", &["repo_url", "model_repo_url"]),
];

/// The fields allowed in a recipe's `[metadata]`.
pub const FIELDS: &[&str] = &[
    "name",
    "author",
    "version",
    "organization",
    "finetune",
    "basename",
    "description",
    "quantized_by",
    "size_label",
    "license",
    "license_name",
    "license_link",
    "url",
    "source_url",
    "source_doi",
    "source_uuid",
    "source_repo_url",
    "tags",
    "languages",
];

/// The value of a `card.…` row of the key table.
pub(crate) fn field(from: &KeySources<'_>, field: &str) -> Option<Json> {
    if let Some(named) = from.names.get(field) {
        return Some(named.clone());
    }
    let card = from.card;
    match field {
        "license" => card.license().map(Json::from),
        "license_name" => card.license_name().map(Json::from),
        "license_link" => card.license_link().map(Json::from),
        "tags" => Some(card.tags().into()),
        "languages" => Some(card.languages().into()),
        _ => {
            let aliases = ALIASES.iter().find(|(name, _)| *name == field).map(|(_, aliases)| *aliases)?;
            let text = card.text(aliases).map(Json::from);
            if field == "size_label" {
                text.or_else(|| Some(size_label(from.parameters).into()))
            } else {
                text
            }
        }
    }
}

/// Inserts `general.base_model.*` or `general.dataset.*`: a count, then the fields of each entry.
pub(crate) fn listed(from: &KeySources<'_>, row: &KeyRow, metadata: &mut Metadata) {
    let (keys, entries) = match row.value.as_str() {
        "card.base_models" => (["base_model", "base_models", "base_model_sources"], from.card.base_models()),
        _ => (["datasets", "dataset", "dataset_sources"], from.card.datasets()),
    };
    // a card with the key but no model gets the count 0
    if keys.iter().all(|key| from.card.get(key).is_none()) {
        return;
    }
    // gguf-py accepts a string or a list, and ignores other values such as a number
    let entries = if matches!(entries, [Json::String(_)])
        || keys.iter().find_map(|k| from.card.get(k)).is_some_and(Json::is_array)
    {
        entries
    } else {
        &[]
    };
    let known: Vec<_> = entries.iter().filter(|entry| !is_local(entry)).collect();
    // local paths are left out; a list of paths only counts as no list
    if known.is_empty() && !entries.is_empty() {
        return;
    }
    let stem = row.key.trim_end_matches(".*");
    metadata.insert(format!("{stem}.count"), known.len() as u32);
    for (number, entry) in known.into_iter().enumerate() {
        for (field, text) in described(entry).into_iter().filter(|(_, text)| !text.is_empty()) {
            metadata.insert(format!("{stem}.{number}.{field}"), text);
        }
    }
}

/// Whether an entry is a local path: absolute, starting with a relative segment, a Windows path, or with more
/// segments than a hub id.
fn is_local(entry: &Json) -> bool {
    let Some(id) = entry.as_str().map(str::trim) else { return false };
    if let Some(rest) = id.split_once("://") {
        return rest.0 == "file";
    }
    let drive = id.as_bytes().get(1) == Some(&b':') && id.starts_with(|c: char| c.is_ascii_alphabetic());
    let trained =
        |last: &str| last.strip_prefix("checkpoint-").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    id.starts_with(['/', '.', '~', '$', '%'])
        || id.contains('\\')
        || drive
        || id.ends_with('/')
        || id.matches('/').count() > 1
        || id.rsplit('/').next().is_some_and(trained)
}

/// A note about local paths that a card names in place of models and data sets of the hub.
pub(crate) fn left_out(card: &ModelCard) -> Option<String> {
    let named = card.base_models().iter().chain(card.datasets()).filter(|entry| is_local(entry));
    let paths: Vec<_> = named.filter_map(Json::as_str).collect();
    (!paths.is_empty()).then(|| {
        format!(
            "README.md: {} is a path on a machine and no model or data set of the hub: it is left out",
            paths.join(", ")
        )
    })
}

/// Name, organization and URL of a model or data set that is given as a hub id, a URL or a mapping.
fn described(entry: &Json) -> Vec<(&'static str, String)> {
    const FIELDS: [&str; 9] =
        ["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];
    match entry {
        Json::Object(map) => {
            FIELDS.iter().filter_map(|&field| Some((field, map.get(field)?.as_str()?.to_owned()))).collect()
        }
        Json::String(id) if ["http://", "https://", "ssh://"].iter().any(|scheme| id.starts_with(scheme)) => {
            let hub =
                ["https", "http"].iter().find_map(|s| id.strip_prefix(&format!("{s}://huggingface.co/")));
            let hub = hub.filter(|path| {
                path.split('/').filter(|p| !p.is_empty()).count() == 2 && path.matches('/').count() == 1
            });
            let mut fields = hub.map_or(Vec::new(), hub_name::fields);
            fields.push(("repo_url", id.clone()));
            fields
        }
        Json::String(id) => {
            let mut fields = hub_name::fields(id);
            if id.contains('/') && !id.contains(' ') && !id.starts_with('.') {
                fields.push(("repo_url", format!("https://huggingface.co/{id}")));
            }
            fields
        }
        _ => Vec::new(),
    }
}

/// The label of the number of parameters (`4.6B`, `128x2.6B`): for experts, their number times the size of the model
/// with one expert.
pub(crate) fn size_label(parameters: Parameters) -> String {
    let size = rounded(parameters.shared + parameters.one_expert);
    match parameters.experts {
        0 => size,
        experts => format!("{experts}x{size}"),
    }
}

/// The number with at least two significant digits and a letter for the power of 1000.
fn rounded(count: u64) -> String {
    let count = count as f64;
    let (scale, letter) = match count {
        n if n > 1e12 => (1e-12, 'T'),
        n if n > 1e9 => (1e-9, 'B'),
        n if n > 1e6 => (1e-6, 'M'),
        _ => (1e-3, 'K'),
    };
    let scaled = count * scale;
    let digits = match scaled.round_ties_even() {
        0.0 => 0,
        whole => format!("{whole}").len(),
    };
    format!("{scaled:.*}{letter}", 2usize.saturating_sub(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_no_models() {
        for path in [
            "/data/x/model",
            "./out",
            "../out",
            "~/m",
            "C:\\models\\x",
            "D:/models/x",
            "a/b/c",
            "out/checkpoint-500",
            "file:///data/x",
            "out/",
            "$HOME/m",
        ] {
            assert!(is_local(&Json::from(path)), "{path}");
        }
        for model in [
            "google/gemma-4-E2B-it",
            "gemma-4-E2B-it",
            "https://huggingface.co/google/gemma-4-E2B-it",
            "a name",
        ] {
            assert!(!is_local(&Json::from(model)), "{model}");
        }
    }

    #[test]
    fn size_labels() {
        let dense = |shared| size_label(Parameters { shared, ..Parameters::default() });
        assert_eq!(dense(4_647_450_147), "4.6B");
        assert_eq!(dense(30_697_345_596), "31B");
        assert_eq!(dense(7_404_000), "7.4M");
        assert_eq!(
            size_label(Parameters { shared: 2_000_000_000, one_expert: 600_000_000, experts: 128 }),
            "128x2.6B"
        );
    }
}
