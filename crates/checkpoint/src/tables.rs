//! Tables with one row a token: embedding, output head, per-layer embedding. Restores a tied embedding that was stored
//! only as the head, and removes padding rows beyond the last token.

use serde_json::Value;
use tensor::{Error, Result, TensorDesc};

use crate::pieces::Entry;
use crate::tokenizer::TokenizerFile;

pub(crate) const EMBEDDING: &str = "embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";
const PER_LAYER: &str = "embed_tokens_per_layer.weight";
/// The config fields that count the rows of [`EMBEDDING`] and [`PER_LAYER`].
const SIZES: [(&str, &str); 2] = [("vocab_size", EMBEDDING), ("vocab_size_per_layer_input", PER_LAYER)];

/// Prefixes of the text model, below which the embedding lies.
const PREFIXES: [&str; 2] = ["model.language_model.", "model."];

/// Whether a name is that of a table of the text model.
pub(crate) fn is(name: &str, table: &str) -> bool {
    name == table || PREFIXES.iter().any(|prefix| name.strip_prefix(prefix) == Some(table))
}

/// The config object of the text model: `text_config`, else the whole config.
pub(crate) fn text_config(config: &Value) -> &Value {
    config.get("text_config").filter(|text| text.is_object()).unwrap_or(config)
}

/// As [`text_config`], to change it.
fn text_config_mut(config: &mut Value) -> &mut Value {
    let has_own = config.get("text_config").is_some_and(Value::is_object);
    if has_own { &mut config["text_config"] } else { config }
}

/// True if the head is tied to the embedding: the top level of the config takes precedence over its `text_config`.
pub(crate) fn is_tied(config: &Value) -> bool {
    let said = |config: &Value| config.get("tie_word_embeddings").and_then(Value::as_bool);
    said(config).or_else(|| said(config.get("text_config")?)).unwrap_or(true)
}

/// `safetensors.torch.save_model` keeps one of two names of a tensor. If that is the head's, the tensor gets the name
/// of the embedding back. Returns a note about it.
pub(crate) fn embedding_of_head(entries: &mut [Entry], config: &Value) -> Option<String> {
    if !is_tied(config) || entries.iter().any(|entry| is(&entry.desc.name, EMBEDDING)) {
        return None;
    }
    let below = |prefix: &&&str| entries.iter().any(|e| e.desc.name.starts_with(&format!("{prefix}layers.")));
    let prefix = PREFIXES.iter().find(below)?;
    let head = entries.iter_mut().find(|entry| entry.desc.name == HEAD)?;
    head.desc.name = format!("{prefix}{EMBEDDING}");
    Some(format!(
        "{HEAD} exists, {} does not: they are tied (tie_word_embeddings), and the head is read as the embedding",
        head.desc.name
    ))
}

/// Number of rows of a table that covers all tokens: the largest id plus one.
fn tokens(tokenizer: &TokenizerFile) -> u64 {
    let ids = tokenizer.vocab().map(|(_, id)| id).chain(tokenizer.added_tokens.iter().map(|token| token.id));
    ids.max().map_or(0, |id| u64::from(id) + 1)
}

/// Removes the rows beyond the last token and corrects the config. Returns notes about the changes.
///
/// # Errors
/// `Malformed` for a table with fewer rows than tokens. `file_of` names the file of an entry.
pub(crate) fn cut(
    entries: &mut [Entry],
    config: &mut Value,
    tokenizer: &TokenizerFile,
    file_of: &dyn Fn(&Entry) -> String,
) -> Result<Vec<String>> {
    let tokens = tokens(tokenizer);
    let is_table = |entry: &&mut Entry| {
        let matrix = entry.desc.shape.len() == 2 && entry.desc.cols() > 0;
        matrix && [EMBEDDING, HEAD, PER_LAYER].iter().any(|table| is(&entry.desc.name, table))
    };
    let tables =
        || entries.iter().filter(|e| [EMBEDDING, HEAD, PER_LAYER].iter().any(|t| is(&e.desc.name, t)));
    let rows = |table| tables().find(|entry| is(&entry.desc.name, table)).map(|entry| entry.desc.rows());
    if let Some(short) = tables().find(|entry| entry.desc.shape.len() == 2 && entry.desc.rows() < tokens) {
        let others = tables().filter(|entry| entry.desc.name != short.desc.name);
        let others = others.map(|entry| format!("; {} has {}", entry.desc.name, entry.desc.rows()));
        return Err(Error::malformed(
            format!("{}: tensor {}", file_of(short), short.desc.name),
            "fewer rows than there are tokens",
        )
        .expected(
            format!("{tokens} rows, one for each token of tokenizer.json{}", others.collect::<String>()),
            format!("{} rows", short.desc.rows()),
        )
        .help("Tokens were added to the tokenizer, but not to every table: resize the model's embeddings, or take the tokenizer that it was trained with."));
    }
    let mut notes = Vec::new();
    let text = text_config_mut(config);
    for (field, table) in SIZES {
        let (Some(rows), Some(said)) = (rows(table), text.get(field).and_then(Value::as_u64)) else {
            continue;
        };
        // a larger difference than padding means another model's config, and the shapes will be refused
        if said == rows || said.max(rows) > 2 * said.min(rows) {
            continue;
        }
        if said != tokens {
            notes.push(format!(
                "config.json: {field} is {said}, and {table} has {rows} rows: the table decides"
            ));
        }
        text[field] = rows.into();
    }
    let mut names = Vec::new();
    let mut most = tokens;
    for entry in entries.iter_mut().filter(is_table).filter(|entry| entry.desc.rows() > tokens) {
        most = most.max(entry.desc.rows());
        names.push(entry.desc.name.clone());
        let (rows, cols) = (entry.desc.rows(), entry.desc.cols());
        for (field, table) in SIZES {
            if is(&entry.desc.name, table) && text.get(field).and_then(Value::as_u64) == Some(rows) {
                text[field] = tokens.into();
            }
        }
        entry.pieces = entry.rows(0, tokens);
        entry.desc = TensorDesc::new(&entry.desc.name, entry.desc.dtype, [tokens, cols])?;
    }
    if !names.is_empty() {
        notes.push(format!(
            "rows {tokens} to {} of {} are padding without a token ({tokens} tokens): they are left out",
            most - 1,
            names.join(", ")
        ));
    }
    Ok(notes)
}
