//! The keys of a GGUF with some layers of another.

use gguf::{Metadata, Value};
use tensor::Result;

use super::{Parameters, model_fact};
use crate::config::Config;
use crate::{card, formats};

/// The facts with a part for each layer, and the numbers of layers.
const BY_LAYER: [&str; 5] = ["layers", "ffn", "kv_heads", "shared_kv_layers", "sliding"];

const SIZE_LABEL: &str = "general.size_label";

/// The keys of a model with the config `config`, made of some layers of the model with the keys `source`. A size label that follows
/// from the parameters of the source, the first of `parameters`, becomes that of the second.
///
/// # Errors
/// `Malformed` if a value does not fit its type.
pub fn metadata_of_layers(
    source: &Metadata,
    config: &Config,
    [all, kept]: [Parameters; 2],
) -> Result<Metadata> {
    let table = formats::keys(config.kind);
    let mut metadata = source.clone();
    for row in table.key.iter().filter(|row| BY_LAYER.contains(&row.value.as_str())) {
        let key = row.key.replace("{arch}", &table.architecture);
        let value = model_fact(config, &row.value).map(|fact| fact.typed(&key, row.kind)).transpose()?;
        if let (Some(value), Some(_)) = (value.flatten(), source.get(&key)) {
            metadata.insert(key, value);
        }
    }
    if source.get(SIZE_LABEL) == Some(&Value::Str(card::size_label(all))) {
        metadata.insert(SIZE_LABEL, card::size_label(kept));
    }
    Ok(metadata)
}
