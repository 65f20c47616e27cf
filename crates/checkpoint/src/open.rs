//! The open folder: shards opened once and kept open, their tensors as one list, positional reads.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use base::Positioned;
use gguf::Metadata;
use quant::Simd;
use serde_json::Value;
use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::adapter::MergedAdapter;
use crate::adapter::delta::FactorCache;
use crate::float8::StoredEncoding;
use crate::inputs::{self, Companion};
use crate::pieces::{Decoder, Entry, Piece};
use crate::quantised::Packed;
use crate::view::{self, Note};
use crate::{ChatTemplates, ModelCard, TokenizerFile, files, folder, header, shards, template};

/// The key in `__metadata__` (ours) whose value is the same in all shards of one conversion and differs between
/// conversions.
pub const SET: &str = "set";

/// An open model folder whose headers have been checked.
#[derive(Debug)]
pub struct Checkpoint {
    pub(crate) dir: PathBuf,
    pub(crate) config: Value,
    pub(crate) companions: Vec<Companion>,
    /// False if `config` differs from the file.
    pub(crate) config_as_stored: bool,
    pub(crate) shards: Vec<Shard>,
    /// The tensors as presented; `entries` has the location of each.
    pub(crate) tensors: Vec<TensorDesc>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) notes: Vec<Note>,
    pub(crate) beside: Vec<String>,
    /// Read when the folder was opened, if the file is valid.
    pub(crate) tokenizer: Option<Arc<TokenizerFile>>,
    /// Vector instructions for weights that are stored in 8 bits.
    pub(crate) simd: Simd,
    /// The files have the headers of the weights, and no values.
    pub(crate) headers_only: bool,
    pub(crate) adapters: Vec<MergedAdapter>,
    pub(crate) factors: FactorCache,
    /// The weights that are decoded as they are read.
    pub(crate) packed: Vec<Packed>,
    /// The keys, if the weights are those of a GGUF.
    pub(crate) keys: Option<Metadata>,
}

/// One file with weights: safetensors, or a GGUF.
#[derive(Debug)]
pub struct Shard {
    /// Path relative to the folder, with `/`.
    pub name: String,
    /// Path by which the file is opened.
    pub path: PathBuf,
    /// Size of the file in bytes.
    pub len: u64,
    /// Offset of the first data byte.
    pub data_start: u64,
    /// The header's `__metadata__`; empty for a GGUF.
    pub metadata: BTreeMap<String, String>,
    /// Whether the file is an adapter's; its name is then its path. Adapters follow the files of the model.
    pub is_adapter: bool,
    pub(crate) file: File,
    pub(crate) modified: Option<SystemTime>,
}

/// Position of the first byte of a tensor, or of a [piece](Piece) of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Index into [`Checkpoint::shards`].
    pub shard: usize,
    /// Byte offset from the start of the file.
    pub offset: u64,
}

impl Checkpoint {
    /// The same folder, read with other vector instructions; the values are the same with any.
    #[must_use]
    pub fn with_simd(self, simd: Simd) -> Checkpoint {
        Checkpoint { simd, ..self }
    }

    /// The same folder, whose files have the headers of the weights only: their values say nothing.
    #[must_use]
    pub fn of_headers(self) -> Checkpoint {
        Checkpoint { headers_only: true, ..self }
    }

    /// Whether the files have the headers of the weights only.
    pub fn has_headers_only(&self) -> bool {
        self.headers_only
    }

    /// The vector instructions with which it is read.
    pub fn simd(&self) -> Simd {
        self.simd
    }

    /// Opens the folder: reads `config.json` and the headers of all shards, and checks them against each other and
    /// against the sizes of the files. `dir` may also be a repository in the hub's cache, or the output folder of a
    /// trainer.
    ///
    /// Weights are presented in the layout that transformers saves, in whatever layout they are stored: quantised ones as
    /// the values they encode (see [`encoding`](Self::encoding) and [`is_packed`](Self::is_packed)), names without wrapper prefixes, the experts of a
    /// layer in one tensor (see [`pieces`](Self::pieces)), tables without padding rows. [`notes`](Self::notes) lists
    /// the differences.
    ///
    /// # Errors
    /// `Malformed` for anything missing, truncated or contradictory, `Unsupported` for element types, containers and
    /// kinds of quantisation that this crate does not read, `Limit` for a header over 100 MB.
    pub fn open(dir: impl AsRef<Path>) -> Result<Checkpoint> {
        let (dir, chosen) = folder::resolve(dir.as_ref())?;
        // recorded before the files are read, so that a later change is noticed
        let companions = inputs::found(&dir);
        let place = dir.join("config.json");
        let config = files::object(&place)?.ok_or_else(|| folder::without_config(&dir))?;

        let layout = shards::find(&dir)?;
        let mut checkpoint = Checkpoint {
            beside: shards::beside(&dir, &layout.shards),
            dir,
            config,
            config_as_stored: true,
            companions,
            shards: Vec::new(),
            tensors: Vec::new(),
            entries: Vec::new(),
            notes: [chosen, layout.note].into_iter().flatten().map(Note::place).collect(),
            tokenizer: None,
            simd: Simd::detect(),
            headers_only: false,
            adapters: Vec::new(),
            factors: FactorCache::default(),
            packed: Vec::new(),
            keys: None,
        };
        let mut entries: Vec<Entry> = Vec::new();
        let mut homes = HashMap::new();
        for (number, name) in layout.shards.iter().enumerate() {
            let (shard, tensors) = Shard::open(&checkpoint.dir, name)?;
            for (desc, offset) in tensors {
                if let Some(first) = homes.insert(desc.name.clone(), number) {
                    let first = layout.shards[first].clone();
                    return Err(Error::malformed(
                        format!("{}: tensor {}", shard.path.display(), desc.name),
                        "is in two shards",
                    )
                    .expected("each tensor once", format!("also in {first}")));
                }
                entries.push(Entry::stored(desc, Location { shard: number, offset }));
            }
            checkpoint.shards.push(shard);
        }
        if let Some(index) = layout.index {
            checkpoint.check_index(&index, &homes, &entries)?;
        }
        checkpoint.check_set()?;
        view::present(checkpoint, entries)
    }

    /// Stores the results of [`view`].
    pub(crate) fn with(
        mut self,
        entries: Vec<Entry>,
        config: Value,
        tokenizer: Option<Arc<TokenizerFile>>,
        notes: Vec<Note>,
    ) -> Checkpoint {
        self.tensors = entries.iter().map(|entry| entry.desc.clone()).collect();
        self.entries = entries;
        self.config_as_stored = config == self.config;
        self.config = config;
        self.tokenizer = tokenizer;
        self.notes.extend(notes);
        self
    }

    /// Checks both directions: each tensor of the index is in its shard, and each tensor of a shard is in the index.
    fn check_index(
        &self,
        index: &BTreeMap<String, String>,
        homes: &HashMap<String, usize>,
        entries: &[Entry],
    ) -> Result<()> {
        let place = shards::index_place(&self.dir);
        for (tensor, file) in index {
            let found = homes.get(tensor).map(|&s| self.shards[s].name.as_str());
            if found != Some(file) {
                return Err(Error::malformed(
                    format!("{place}: tensor {tensor}"),
                    "is not in the shard that the index names",
                )
                .expected(file, found.unwrap_or("no shard has it"))
                .help("index and shards are of different versions, or a shard is damaged: fetch the model again"));
            }
        }
        let strays: Vec<String> =
            entries.iter().map(|e| &e.desc.name).filter(|n| !index.contains_key(*n)).cloned().collect();
        if let Some(first) = strays.first() {
            let shard = &self.shards[homes[first]].name;
            return Err(Error::malformed(&place, format!("{shard} holds tensors that the index lacks"))
                .expected(format!("{} tensors", index.len()), format!("also {}", shards::some(&strays)))
                .help("index and shards are of different versions: fetch the model again"));
        }
        Ok(())
    }

    /// Checks that all shards carry the same value of [`SET`]: shards written by this tool record their conversion.
    fn check_set(&self) -> Result<()> {
        let set = |shard: &Shard| shard.metadata.get(SET).cloned();
        let first = self.shards.first().and_then(set);
        match self.shards.iter().find(|shard| set(shard) != first) {
            None => Ok(()),
            Some(other) => {
                let none = || "none".to_owned();
                Err(Error::malformed(
                    other.path.display(),
                    "it is part of another conversion than the first shard",
                )
                .expected(format!("set {}", first.unwrap_or_else(none)), set(other).unwrap_or_else(none))
                .help("All shards of a model must come from the same run: convert again."))
            }
        }
    }

    /// Path of the folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The object in `config.json`, except for fields that contradict the weights, which are corrected
    /// ([`notes`](Self::notes) names them).
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// True if [`config`](Self::config) equals the content of the file.
    pub fn config_is_as_stored(&self) -> bool {
        self.config_as_stored
    }

    /// Differences between the folder and one saved by transformers, and how each was handled. The presented tensors
    /// always have the layout of transformers.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Files in the folder that look like weights but are not read.
    pub fn beside(&self) -> &[String] {
        &self.beside
    }

    /// The shards, sorted by name.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Total bytes of all shards, headers included.
    pub fn total_len(&self) -> u64 {
        self.shards.iter().map(|s| s.len).sum()
    }

    /// [`beside`](Self::beside) as a sentence for people; `None` if there are no such files.
    pub fn beside_note(&self) -> Option<String> {
        const MOST: usize = 12;
        let adapter = self.beside.iter().any(|name| name.starts_with("adapter_model"));
        let shown = self.beside.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = self.beside.len().saturating_sub(MOST);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let adapter = if adapter { "; the adapter is not merged" } else { "" };
        (!self.beside.is_empty())
            .then(|| format!("files beside the model that are not read: {shown}{more}{adapter}"))
    }

    /// Location of the first row of tensor `index`. `None` past the end of [`TensorSource::tensors`].
    pub fn location(&self, index: usize) -> Option<Location> {
        self.pieces(index).first().map(|piece| piece.location)
    }

    /// Locations of the rows of tensor `index`, in row order: usually one piece, many for experts that are stored
    /// separately. A row takes the bytes of its type in the file; for an [encoded](Self::encoding) tensor one byte an
    /// element. Rows of a [packed](Self::is_packed) tensor are not in one place.
    pub fn pieces(&self, index: usize) -> &[Piece] {
        self.entries.get(index).map_or(&[], |entry| &entry.pieces)
    }

    /// The stored encoding of tensor `index`, if it differs from the presented type and no adapter changes the tensor. A
    /// tensor in several pieces gives the scale of the first.
    pub fn encoding(&self, index: usize) -> Option<StoredEncoding> {
        let entry = self.entries.get(index)?;
        let piece = entry.pieces.first().filter(|piece| piece.packed.is_none())?;
        Some(StoredEncoding { dtype: entry.code?, scale: piece.scale? })
    }

    /// Reads the bytes of shard `shard` from `offset` on, until `out` is full.
    ///
    /// # Errors
    /// `Io`, or `Malformed` if the file has become shorter or there is no such shard.
    pub fn read_at(&self, shard: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let Some(shard) = self.shards.get(shard) else {
            return Err(Error::malformed(self.dir.display(), format!("there is no shard number {shard}")));
        };
        shard.file.read_exact_at(out, offset).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => shard.changed(),
            _ => Error::io(shard.path.display(), &e),
        })
    }

    /// Whether tensor `index` is decoded here, because its rows are not contiguous bytes of a file or because an adapter
    /// changes the decoded values.
    pub fn is_packed(&self, index: usize) -> bool {
        self.entries.get(index).is_some_and(Entry::is_packed)
    }

    /// Checks that no shard and no [companion](Self::companions) has been written to since the folder was opened. Call
    /// it after the last read.
    ///
    /// # Errors
    /// `Malformed`, naming the first file whose size or modification time differs.
    pub fn check_unchanged(&self) -> Result<()> {
        self.shards.iter().try_for_each(|shard| {
            let now = shard.file.metadata().map_err(|e| Error::io(shard.path.display(), &e))?;
            if now.len() == shard.len && now.modified().ok() == shard.modified {
                Ok(())
            } else {
                Err(shard.changed())
            }
        })?;
        self.check_companions()
    }

    /// Names (relative to the folder, with `/`) and sizes in bytes of all regular files in the folder and its direct
    /// subfolders, sorted by name.
    ///
    /// # Errors
    /// `Io`.
    pub fn files(&self) -> Result<Vec<(String, u64)>> {
        files::list(&self.dir)
    }

    /// The content of `generation_config.json`, if the file exists.
    ///
    /// # Errors
    /// `Malformed` with line and column.
    pub fn generation_config(&self) -> Result<Option<Value>> {
        files::object(&self.dir.join("generation_config.json"))
    }

    /// The content of `processor_config.json`, else of `preprocessor_config.json`; `None` if neither exists.
    ///
    /// # Errors
    /// `Malformed` if the file is not a JSON object, `Io`.
    pub fn processor_config(&self) -> Result<Option<Value>> {
        let found = files::object(&self.dir.join("processor_config.json"))?;
        found.map_or_else(
            || files::object(&self.dir.join("preprocessor_config.json")),
            |found| Ok(Some(found)),
        )
    }

    /// The content of `tokenizer_config.json`, if the file exists.
    ///
    /// # Errors
    /// `Malformed` with line and column.
    pub fn tokenizer_config(&self) -> Result<Option<Value>> {
        files::object(&self.dir.join("tokenizer_config.json"))
    }

    /// The chat templates: see [`ChatTemplates`].
    ///
    /// # Errors
    /// `Malformed`, naming the file and key.
    pub fn chat_templates(&self) -> Result<ChatTemplates> {
        template::read(&self.dir, self.tokenizer_config()?.as_ref())
    }

    /// The default chat template, if there is one.
    ///
    /// # Errors
    /// As [`chat_templates`](Self::chat_templates).
    pub fn chat_template(&self) -> Result<Option<String>> {
        Ok(self.chat_templates()?.default)
    }

    /// The front matter of `README.md`; empty if there is none.
    ///
    /// # Errors
    /// `Malformed` with line and column.
    pub fn model_card(&self) -> Result<ModelCard> {
        ModelCard::read(&self.dir.join("README.md"))
    }

    /// The content of `tokenizer.json`.
    ///
    /// # Errors
    /// As [`TokenizerFile::read`].
    pub fn tokenizer(&self) -> Result<Arc<TokenizerFile>> {
        match &self.tokenizer {
            Some(tokenizer) => Ok(tokenizer.clone()),
            None => TokenizerFile::read(&self.dir.join("tokenizer.json")).map(Arc::new),
        }
    }
}

impl Shard {
    pub(crate) fn open(dir: &Path, name: &str) -> Result<(Shard, Vec<(TensorDesc, u64)>)> {
        let path = dir.join(name);
        let (file, meta) = files::open(&path)?.ok_or_else(|| {
            Error::malformed(path.display(), "was removed while the folder was being opened")
        })?;
        let len = meta.len();
        let header = header::read(&file, len, &path.display().to_string())?;
        let shard = Shard {
            name: name.to_owned(),
            path,
            len,
            data_start: header.data_start,
            metadata: header.metadata,
            is_adapter: false,
            file,
            modified: meta.modified().ok(),
        };
        Ok((shard, header.tensors))
    }

    pub(crate) fn changed(&self) -> Error {
        let now = self.file.metadata().map_or("an unknown size".into(), |m| format!("{} bytes", m.len()));
        Error::malformed(self.path.display(), "the file was changed while it was being read")
            .expected(format!("{} bytes, not written to", self.len), now)
            .help("wait until the download or the other program has finished, then start again")
    }
}

impl TensorSource for Checkpoint {
    /// Sorted by shard name, then by offset.
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let Some(entry) = self.entries.get(index) else {
            return Err(Error::malformed(self.dir.display(), format!("there is no tensor number {index}")));
        };
        let desc = &entry.desc;
        rows_offset(desc, first, out.len())
            .map_err(|e| e.within(self.shards[entry.shard()].path.display()))?;
        let row_bytes = desc.row_bytes() as usize;
        if row_bytes == 0 || out.is_empty() {
            return Ok(());
        }
        let mut rest = &mut *out;
        for piece in entry.rows(first, (rest.len() / row_bytes) as u64) {
            let (rows, after) = rest.split_at_mut(piece.rows as usize * row_bytes);
            match (piece.packed.map(|packed| (packed.by, packed.first)), entry.code) {
                (Some((Decoder::Packed(weight), first)), _) => self.packed[weight].read(self, first, rows)?,
                (Some((Decoder::ChannelsLast, first)), _) => self.read_channels(desc, &piece, first, rows)?,
                (_, Some(code)) => self.read_coded(desc, code, &piece, rows)?,
                (_, None) => self.read_at(piece.location.shard, piece.location.offset, rows)?,
            }
            rest = after;
        }
        self.merge_rows(index, first, out)
    }
}

/// Byte offset in a tensor of row `first`, if the `bytes` from there on are whole rows of the tensor.
pub(crate) fn rows_offset(desc: &TensorDesc, first: u64, bytes: usize) -> Result<u64> {
    let row = desc.row_bytes();
    let whole = (bytes as u64).is_multiple_of(row);
    let offset = first.checked_mul(row).filter(|at| {
        first <= desc.rows() && at.checked_add(bytes as u64).is_some_and(|end| end <= desc.byte_len())
    });
    offset.filter(|_| whole).ok_or_else(|| {
        Error::malformed(format!("tensor {}", desc.name), "no such rows").expected(
            format!("whole rows of {row} bytes within {}", desc.rows()),
            format!("{bytes} bytes from row {first} on"),
        )
    })
}
