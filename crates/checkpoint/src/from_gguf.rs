//! A GGUF in the place of a folder: its parts are the shards, its tensors keep their names and types, and its keys take the place of
//! `config.json` and the tokenizer files.

use std::collections::BTreeMap;
use std::path::Path;

use gguf::{GgufFile, GgufSet, Metadata};
use quant::Simd;
use serde_json::Value;
use tensor::{Error, Result, TensorSource};

use crate::adapter::delta::FactorCache;
use crate::files;
use crate::open::{Checkpoint, Location, Shard};
use crate::pieces::Entry;

impl Checkpoint {
    /// Opens a GGUF file, or all parts of a split, as a source of weights. Files beside it are not read; the
    /// [config](Self::config) is `null`.
    ///
    /// # Errors
    /// Those of [`GgufSet::open`].
    pub fn open_gguf(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let set = GgufSet::open(path)?;
        let shards = set.parts().iter().map(shard).collect::<Result<Vec<_>>>()?;
        let parts = set.parts().iter().enumerate();
        let entries: Vec<Entry> = parts
            .flat_map(|(shard, part)| {
                let tensors = part.tensors().iter().zip(part.offsets());
                tensors.map(move |(desc, &offset)| Entry::stored(desc.clone(), Location { shard, offset }))
            })
            .collect();
        let first = set.parts()[0].path();
        Ok(Checkpoint {
            dir: first.parent().map(Path::to_owned).unwrap_or_default(),
            config: Value::Null,
            companions: Vec::new(),
            config_as_stored: true,
            shards,
            tensors: entries.iter().map(|entry| entry.desc.clone()).collect(),
            entries,
            notes: Vec::new(),
            beside: Vec::new(),
            tokenizer: None,
            simd: Simd::detect(),
            headers_only: false,
            adapters: Vec::new(),
            factors: FactorCache::default(),
            packed: Vec::new(),
            keys: Some(set.metadata().clone()),
        })
    }

    /// The keys of the GGUF, without `split.*`; `None` for a folder.
    pub fn keys(&self) -> Option<&Metadata> {
        self.keys.as_ref()
    }
}

fn shard(part: &GgufFile) -> Result<Shard> {
    let path = part.path();
    let removed = || Error::malformed(path.display(), "was removed while it was being opened");
    let (file, meta) = files::open(path)?.ok_or_else(removed)?;
    let shard = Shard {
        name: base::file_name(path),
        path: path.to_owned(),
        len: part.file_len(),
        data_start: part.header_len(),
        metadata: BTreeMap::new(),
        is_adapter: false,
        file,
        modified: meta.modified().ok(),
    };
    if meta.len() == shard.len { Ok(shard) } else { Err(shard.changed()) }
}

/// The error for adapters that are given with a GGUF.
pub fn adapter_into_gguf(path: &Path) -> Error {
    Error::unsupported(path.display(), "an adapter is merged into a checkpoint, not into a GGUF")
        .expected("the folder of a checkpoint", "a GGUF file")
        .help("Give the checkpoint that the adapter was trained on.")
}
