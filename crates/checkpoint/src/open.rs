//! The folder as a whole: shards opened once and kept, their tensors as one list, positional reads.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::coded::Code;
use crate::inputs::{self, Companion};
use crate::{ChatTemplates, ModelCard, Tokenizer, files, header, layout, template};

/// The key of `__metadata__`, ours, of what all shards of one conversion have in common and those of another have not.
pub const SET: &str = "set";

/// An open model folder whose headers have been checked.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Value,
    pub(crate) companions: Vec<Companion>,
    shards: Vec<Shard>,
    pub(crate) tensors: Vec<TensorDesc>,
    pub(crate) locations: Vec<Location>,
    /// As long as `tensors`, or empty if none is coded.
    pub(crate) codes: Vec<Option<Code>>,
}

/// One safetensors file of a checkpoint.
#[derive(Debug)]
pub struct Shard {
    /// Path relative to the folder, with `/`.
    pub name: String,
    /// Path to open it by.
    pub path: PathBuf,
    /// Size of the file in bytes.
    pub len: u64,
    /// Offset of the first data byte.
    pub data_start: u64,
    /// The header's `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    file: File,
    modified: Option<SystemTime>,
}

/// Where the data of a tensor begins; its length is [`TensorDesc::byte_len`], of a [coded](Checkpoint::code) tensor
/// one byte an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Index into [`Checkpoint::shards`].
    pub shard: usize,
    /// Byte offset from the start of the file.
    pub offset: u64,
}

impl Checkpoint {
    /// Opens the folder: reads `config.json` and the headers of all shards, and checks them against each other
    /// and against the sizes of the files. Weights that are stored as 8-bit floats are presented as what they stand for:
    /// see [`code`](Self::code).
    ///
    /// # Errors
    /// `Malformed` for anything missing, cut short or contradictory, `Unsupported` for element types, containers and
    /// kinds of quantisation that this crate does not read, `Limit` for a header over 100 MB.
    pub fn open(dir: impl AsRef<Path>) -> Result<Checkpoint> {
        let dir = dir.as_ref();
        let meta = fs::metadata(dir).map_err(|e| Error::io(dir.display(), &e))?;
        if !meta.is_dir() {
            return Err(Error::malformed(dir.display(), "not a folder")
                .expected("the folder of a checkpoint", "a file")
                .help("give the folder that holds config.json"));
        }
        // before they are read, so that a change is noticed
        let companions = inputs::found(dir);
        let place = dir.join("config.json");
        let config: Value = files::json(&place)?.ok_or_else(|| {
            Error::malformed(place.display(), "no such file")
                .help("give the folder of a Hugging Face checkpoint")
        })?;
        if !config.is_object() {
            return Err(Error::malformed(place.display(), "not a JSON object"));
        }

        let layout = layout::find(dir)?;
        let mut checkpoint = Checkpoint {
            dir: dir.to_owned(),
            config,
            companions,
            shards: Vec::new(),
            tensors: Vec::new(),
            locations: Vec::new(),
            codes: Vec::new(),
        };
        let mut homes = HashMap::new();
        for (number, name) in layout.shards.iter().enumerate() {
            let (shard, tensors) = Shard::open(dir, name)?;
            for (desc, offset) in tensors {
                if let Some(first) = homes.insert(desc.name.clone(), number) {
                    let first = layout.shards[first].clone();
                    return Err(Error::malformed(
                        format!("{}: tensor {}", shard.path.display(), desc.name),
                        "is in two shards",
                    )
                    .expected("each tensor once", format!("also in {first}")));
                }
                checkpoint.tensors.push(desc);
                checkpoint.locations.push(Location { shard: number, offset });
            }
            checkpoint.shards.push(shard);
        }
        if let Some(index) = layout.index {
            checkpoint.check_index(&index, &homes)?;
        }
        checkpoint.check_set()?;
        checkpoint.resolve()?;
        Ok(checkpoint)
    }

    /// Both ways: what the index says is in the shards, and what is in the shards is in the index.
    fn check_index(&self, index: &BTreeMap<String, String>, homes: &HashMap<String, usize>) -> Result<()> {
        let place = layout::index_place(&self.dir);
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
            self.tensors.iter().map(|t| &t.name).filter(|n| !index.contains_key(*n)).cloned().collect();
        if let Some(first) = strays.first() {
            let shard = &self.shards[homes[first]].name;
            return Err(Error::malformed(&place, format!("{shard} holds tensors that the index lacks"))
                .expected(format!("{} tensors", index.len()), format!("also {}", layout::some(&strays)))
                .help("index and shards are of different versions: fetch the model again"));
        }
        Ok(())
    }

    /// Shards that this tool has dealt out say which belong together.
    fn check_set(&self) -> Result<()> {
        let set = |shard: &Shard| shard.metadata.get(SET).cloned();
        let first = self.shards.first().and_then(set);
        match self.shards.iter().find(|shard| set(shard) != first) {
            None => Ok(()),
            Some(other) => {
                let none = || "none".to_owned();
                Err(Error::malformed(
                    other.path.display(),
                    "it is of another conversion than the first shard",
                )
                .expected(format!("set {}", first.unwrap_or_else(none)), set(other).unwrap_or_else(none))
                .help("Shards go together only if one run has made them: convert again."))
            }
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `config.json` as it is: an object.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The shards, by name.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Bytes of all shards together, headers included.
    pub fn total_len(&self) -> u64 {
        self.shards.iter().map(|s| s.len).sum()
    }

    /// Where tensor `index` lies. `None` past the end of [`TensorSource::tensors`].
    pub fn location(&self, index: usize) -> Option<Location> {
        self.locations.get(index).copied()
    }

    /// Fills `out` from byte `offset` of shard `shard` on.
    ///
    /// # Errors
    /// `Io`, or `Malformed` when the file has become shorter or there is no such shard.
    pub fn read_at(&self, shard: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let Some(shard) = self.shards.get(shard) else {
            return Err(Error::malformed(self.dir.display(), format!("there is no shard number {shard}")));
        };
        shard.file.read_exact_at(out, offset).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => shard.changed(),
            _ => Error::io(shard.path.display(), &e),
        })
    }

    /// A digest of `config.json`, of the headers and of a sample of the weights: 64 KiB from the beginning, the middle and
    /// the end of each shard, and 512 bytes in 256 places between, so that a fine-tune of a few matrices a layer differs. What differs in it are different models; what does not is the same but by design.
    ///
    /// # Errors
    /// Those of [`read_at`](Self::read_at).
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        const PIECE: u64 = 64 << 10;
        const PLACES: u64 = 256;
        const PLACE: u64 = 512;
        let mut hash = Sha256::new();
        hash.update(self.config.to_string());
        for (number, shard) in self.shards.iter().enumerate() {
            hash.update(shard.len.to_le_bytes());
            let last = shard.len.saturating_sub(PIECE);
            let stretches =
                [(0, shard.data_start), (shard.data_start, PIECE), (shard.len / 2, PIECE), (last, PIECE)];
            let data = shard.len - shard.data_start;
            let spread = (0..PLACES).map(|place| (shard.data_start + data / PLACES * place, PLACE));
            for (from, len) in stretches.into_iter().chain(spread) {
                let mut bytes = vec![0; len.min(shard.len - from) as usize];
                self.read_at(number, from, &mut bytes)?;
                hash.update(&bytes);
            }
        }
        Ok(hash.finalize().into())
    }

    /// That no shard and no [companion](Self::companions) has been written to since it was opened: to be asked after the last
    /// read.
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

    /// The names of all regular files of the folder and of its folders, with `/`, and their sizes, by name.
    ///
    /// # Errors
    /// `Io`.
    pub fn files(&self) -> Result<Vec<(String, u64)>> {
        files::list(&self.dir)
    }

    /// `generation_config.json`, if there.
    ///
    /// # Errors
    /// `Malformed` with line and column.
    pub fn generation_config(&self) -> Result<Option<Value>> {
        files::json(&self.dir.join("generation_config.json"))
    }

    /// `tokenizer_config.json`, if there.
    ///
    /// # Errors
    /// `Malformed` with line and column.
    pub fn tokenizer_config(&self) -> Result<Option<Value>> {
        files::json(&self.dir.join("tokenizer_config.json"))
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

    /// `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::read`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::read(&self.dir.join("tokenizer.json"))
    }
}

impl Shard {
    fn open(dir: &Path, name: &str) -> Result<(Shard, Vec<(TensorDesc, u64)>)> {
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
            file,
            modified: meta.modified().ok(),
        };
        Ok((shard, header.tensors))
    }

    fn changed(&self) -> Error {
        let now = self.file.metadata().map_or("an unknown size".into(), |m| format!("{} bytes", m.len()));
        Error::malformed(self.path.display(), "the file was changed while it was being read")
            .expected(format!("{} bytes, not written to", self.len), now)
            .help("wait until the download or the other program has finished, then start again")
    }
}

impl TensorSource for Checkpoint {
    /// By shard name, then by offset.
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let (Some(desc), Some(location)) = (self.tensors.get(index), self.location(index)) else {
            return Err(Error::malformed(self.dir.display(), format!("there is no tensor number {index}")));
        };
        let offset = rows_offset(desc, first, out.len())
            .map_err(|e| e.within(self.shards[location.shard].path.display()))?;
        if let Some(code) = self.code(index) {
            return self.read_coded(index, code, first, out);
        }
        self.read_at(location.shard, location.offset + offset, out)
    }
}

/// The offset in the tensor of row `first`, if the `bytes` from there on are whole rows of it.
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
