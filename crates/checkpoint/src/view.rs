//! The forms in which a model is found, presented as the one form in which transformers saves it: names, experts, tables,
//! and a config that speaks of the weights that are there. Whoever reads a checkpoint reads this view of it.

use std::sync::Arc;

use tensor::Result;

use crate::float8::is_fp8;
use crate::pieces::Entry;
use crate::{Checkpoint, TokenizerFile, experts, names, quantised, tables};

/// Something about a folder that is not as transformers would have saved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is about.
    pub topic: Topic,
    /// For people.
    pub text: String,
}

/// What a [`Note`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Where the files are, and which of them are the model.
    Place,
    /// Names that transformers does not know.
    Names,
    /// The form of the weights: apart, or with more than there should be.
    Form,
    /// Something that is said and does not hold.
    Config,
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

    fn config(text: String) -> Note {
        Note { topic: Topic::Config, text }
    }
}

/// Presents what the shards hold.
pub(crate) fn present(checkpoint: Checkpoint, mut entries: Vec<Entry>) -> Result<Checkpoint> {
    let shards = checkpoint.shards();
    let file_of = |entry: &Entry| shards[entry.shard()].path.display().to_string();
    let mut config = checkpoint.config().clone();
    let mut notes = Vec::new();
    let mut form = Vec::new();

    let renamed = names::unwrap(&mut entries, &file_of)?;
    let sfp8 = shards.iter().any(|shard| shard.metadata.get("format").is_some_and(|format| format == "sfp8"));
    notes.extend(quantised::check(&entries, &mut config, sfp8, &file_of)?.map(Note::config));
    // what is no FP8 has been refused, or is not heeded
    let fp8 = is_fp8(&config).unwrap_or(false);
    let mut entries = checkpoint.resolve(entries, fp8)?;
    form.extend(experts::join(&mut entries)?);
    form.extend(tables::embedding_of_head(&mut entries, &config));
    // without a tokenizer there is nothing to hold the tables against; who needs it is told what is wrong with it
    let tokenizer = TokenizerFile::read(&checkpoint.dir().join("tokenizer.json")).ok().map(Arc::new);
    if let Some(tokenizer) = &tokenizer {
        form.extend(tables::cut(&mut entries, &mut config, tokenizer, &file_of)?);
    }
    if renamed.is_some() || !form.is_empty() {
        // as the safetensors library orders the tensors of a file: wide types first, then by name
        entries.sort_by(|a, b| {
            let key =
                |e: &Entry| (e.shard(), std::cmp::Reverse(e.code.unwrap_or(e.desc.dtype).block_bytes()));
            (key(a), &a.desc.name).cmp(&(key(b), &b.desc.name))
        });
    }
    notes.extend(renamed.map(Note::names));
    notes.extend(form.into_iter().map(Note::form));
    Ok(checkpoint.with(entries, config, tokenizer, notes))
}
