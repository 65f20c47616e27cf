//! Presents a model in the layout that transformers saves, whatever its stored layout: names, experts, tables, and a
//! config that agrees with the weights. All readers of a checkpoint see this view.

use std::sync::Arc;

use tensor::Result;

use crate::float8::is_fp8;
use crate::pieces::Entry;
use crate::quantised::Said;
use crate::{Checkpoint, TokenizerFile, channels, experts, names, quantised, tables};

/// A difference between a folder and one saved by transformers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Subject of the note.
    pub topic: Topic,
    /// Text for people.
    pub text: String,
}

/// Subject of a [`Note`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Position of the files, and which of them hold the model.
    Place,
    /// Tensor names that transformers does not use.
    Names,
    /// Layout of the weights: stored separately, or with surplus rows.
    Form,
    /// A config field that contradicts the weights.
    Config,
    /// Weights that are quantised already.
    Quantised,
    /// Weights that are quantised already, which the config does not say.
    Undeclared,
    /// A merged adapter.
    Adapter,
}

impl Note {
    pub(crate) fn place(text: String) -> Note {
        Note { topic: Topic::Place, text }
    }

    fn names(text: String) -> Note {
        Note { topic: Topic::Names, text }
    }

    fn form(text: String) -> Note {
        Note { topic: Topic::Form, text }
    }

    fn undeclared(count: usize) -> Note {
        let text = format!(
            "config.json has no quantization_config, but {count} weights are quantised: other programs take their codes for weights"
        );
        Note { topic: Topic::Undeclared, text }
    }

    pub(crate) fn adapter(text: String) -> Note {
        Note { topic: Topic::Adapter, text }
    }

    fn quantised(text: String) -> Note {
        Note { topic: Topic::Quantised, text }
    }

    fn config(text: String) -> Note {
        Note { topic: Topic::Config, text }
    }
}

/// Converts the stored entries to the layout of transformers and stores them, with notes, in the checkpoint.
pub(crate) fn present(checkpoint: Checkpoint, mut entries: Vec<Entry>) -> Result<Checkpoint> {
    let shards = checkpoint.shards();
    let file_of = |entry: &Entry| shards[entry.shard()].path.display().to_string();
    let mut config = checkpoint.config().clone();
    let mut notes = Vec::new();
    let mut form = Vec::new();

    let renamed = names::unwrap(&mut entries, &file_of)?;
    let sfp8 = shards.iter().any(|shard| shard.metadata.get("format").is_some_and(|format| format == "sfp8"));
    let said = Said::of(&config);
    let fp8 = is_fp8(&config).unwrap_or(false);
    quantised::refuse(&entries, said.as_ref(), &file_of)?;
    let (packed, of_packed) = quantised::unpack(&checkpoint, &mut entries, said.as_ref(), fp8)?;
    if said.is_none() && !packed.is_empty() {
        notes.push(Note::undeclared(packed.len()));
    }
    notes.extend(of_packed.into_iter().map(Note::quantised));
    notes.extend(quantised::check(&entries, &mut config, said.as_ref(), sfp8, &file_of)?.map(Note::config));
    let mut entries = checkpoint.resolve(entries, fp8)?;
    form.extend(channels::before_kernel(&mut entries)?);
    form.extend(experts::join(&mut entries)?);
    form.extend(tables::embedding_of_head(&mut entries, &config));
    // without a tokenizer the row counts cannot be checked; callers that need one get its error from
    // `Checkpoint::tokenizer`
    let tokenizer = TokenizerFile::read(&checkpoint.dir().join("tokenizer.json")).ok().map(Arc::new);
    if let Some(tokenizer) = &tokenizer {
        form.extend(tables::cut(&mut entries, &mut config, tokenizer, &file_of)?);
    }
    if renamed.is_some() || !form.is_empty() || !packed.is_empty() {
        // the order of the safetensors library: wide types first, then by name
        entries.sort_by(|a, b| {
            let stored = |e: &Entry| e.code.filter(|_| !e.is_packed()).unwrap_or(e.desc.dtype);
            let key = |e: &Entry| (e.shard(), std::cmp::Reverse(stored(e).block_bytes()));
            (key(a), &a.desc.name).cmp(&(key(b), &b.desc.name))
        });
    }
    notes.extend(renamed.map(Note::names));
    notes.extend(form.into_iter().map(Note::form));
    let mut checkpoint = checkpoint.with(entries, config, tokenizer, notes);
    checkpoint.packed = packed;
    Ok(checkpoint)
}
