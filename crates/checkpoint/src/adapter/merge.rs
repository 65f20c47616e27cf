//! Attaches the parts of an adapter to the tensors of a checkpoint.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use tensor::{DType, Error, Result, TensorDesc};

use crate::adapter::delta::{Change, Delta};
use crate::adapter::folder::{AdapterFile, AdapterFolder};
use crate::adapter::part::{Kind, LowRank, Part, PartChange, Stored};
use crate::from_gguf::adapter_into_gguf;
use crate::open::Location;
use crate::pieces::{Entry, Piece};
use crate::tables::{EMBEDDING, HEAD, is, text_config};
use crate::view::Note;
use crate::{Checkpoint, tables};

/// Bytes that are checked at a time.
const PIECE: u64 = 1 << 20;

/// An adapter to merge into a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The folder.
    pub folder: PathBuf,
    /// Multiplies the adapter's own scale; 1 for what it was trained with.
    pub scale: f64,
    /// An embedding that the adapter replaces stays the head too, as for trainers that tie both. PEFT keeps the old embedding as
    /// the head.
    pub tie: bool,
}

/// An adapter that is merged into a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedAdapter {
    /// The folder and the scale.
    pub adapter: Adapter,
    /// The program whose arithmetic is followed.
    pub rule: &'static str,
    /// Config and weights.
    pub files: Vec<AdapterFile>,
}

impl Checkpoint {
    /// The same checkpoint with adapters merged into it, one after the other, as its rows are read. Their weights are
    /// read where they are needed: both factors of one tensor at a time.
    ///
    /// # Errors
    /// Those of [`AdapterFolder::open`]; `Malformed` for parts whose tensor the checkpoint lacks or that have another
    /// shape, and for values that are not finite; `Recipe` for [`Adapter::tie`] where no adapter replaces an embedding that is the
    /// head.
    pub fn with_adapters(mut self, adapters: &[Adapter]) -> Result<Checkpoint> {
        if self.keys.is_some() && !adapters.is_empty() {
            return Err(adapter_into_gguf(self.shards.first().map_or(&self.dir, |shard| &shard.path)));
        }
        let mut ties = false;
        for adapter in adapters {
            if !adapter.scale.is_finite() {
                return Err(Error::recipe(adapter.folder.display(), "not a scale")
                    .expected("a finite number", adapter.scale));
            }
            let folder = AdapterFolder::open(&adapter.folder)?;
            let files = folder.files()?;
            if folder.parts.iter().any(|part| part.target == HEAD || is(&part.target, EMBEDDING)) {
                self.leave_out_tied_head()?;
            }
            let (rule, place) = (folder.rule, folder.shard.path.display().to_string());
            ties |= self.attach(folder, adapter).map_err(|e| e.within(place))?;
            self.adapters.push(MergedAdapter { adapter: adapter.clone(), rule, files });
            self.tensors = self.entries.iter().map(|entry| entry.desc.clone()).collect();
        }
        if !ties && adapters.iter().any(|adapter| adapter.tie) {
            return Err(Error::recipe(
                "‹tie›",
                "has no effect: no adapter replaces an embedding that is the head",
            ));
        }
        Ok(self)
    }

    /// The adapters that are merged, in order.
    pub fn adapters(&self) -> &[MergedAdapter] {
        &self.adapters
    }

    /// Returns whether it replaces an embedding that is the head, and brings no head.
    fn attach(&mut self, folder: AdapterFolder, adapter: &Adapter) -> Result<bool> {
        let AdapterFolder { dir, mut shard, parts, tied, is_old, dropped, .. } = folder;
        let place = dir.display().to_string();
        shard.name = format!("{}/{}", base::with_slashes(&dir), shard.name);
        shard.is_adapter = true;
        self.shards.push(shard);
        let number = self.shards.len() - 1;
        let names: HashMap<String, usize> =
            self.entries.iter().enumerate().map(|(index, entry)| (entry.desc.name.clone(), index)).collect();
        let had_head = names.contains_key(HEAD);
        let old_embedding = self.entries.iter().find(|entry| is(&entry.desc.name, EMBEDDING)).cloned();
        let (mut unused, mut merged, mut replaced) = (Vec::new(), 0, Vec::new());
        let mut head = None;
        for part in parts {
            let index = find(&names, &part.target);
            match (index, part.change) {
                (Some(index), PartChange::LowRank(product)) => {
                    let delta = self.delta(index, number, product, adapter.scale, is_old)?;
                    self.entries[index].decode_here();
                    self.entries[index].changes.push(Change::Add(Arc::new(delta)));
                    merged += 1;
                }
                (Some(index), PartChange::Replace(stored)) => {
                    self.check_finite(number, &stored)?;
                    self.entries[index] = replacement(&self.entries[index], number, &stored)?;
                    replaced.push(self.entries[index].desc.name.clone());
                }
                (None, PartChange::Replace(stored)) if part.target == HEAD && old_embedding.is_some() => {
                    self.check_finite(number, &stored)?;
                    head = Some(stored);
                }
                (None, change) if self.is_unused_kv(&part.target) => {
                    unused.push(Part { target: part.target, change })
                }
                (None, _) => return Err(self.without_tensor(&part.target)),
            }
        }
        let mut note = |text: String| self.notes.push(Note::adapter(format!("adapter {place}: {text}")));
        note(format!("{merged} tensors get a product of low rank, {} are replaced", replaced.len()));
        if !unused.is_empty() {
            note(format!(
                "{} pairs are for K/V of KV-shared layers, which the model has not: they have no effect ({})",
                unused.len(),
                unused[0].target
            ));
        }
        if let Some((name, reason)) = dropped.first() {
            note(format!("{} tensors have no effect: {reason} ({name})", dropped.len()));
        }
        let Some(old) = old_embedding.filter(|_| !had_head) else { return Ok(false) };
        let is_replaced = tables::is_tied(&self.config) && replaced.contains(&old.desc.name);
        let brings_head = head.is_some();
        let head = match head {
            Some(stored) => named(replacement(&old, number, &stored)?, HEAD)?,
            None if is_replaced && !tied && !adapter.tie => {
                note(format!(
                    "it replaces the embedding and has no head: as in PEFT, the head stays the old embedding and is {HEAD}. \
                     ‹tie›, or ensure_weight_tying in its config, keeps them one tensor"
                ));
                named(old, HEAD)?
            }
            None => return Ok(is_replaced),
        };
        self.entries.push(head);
        self.config["tie_word_embeddings"] = false.into();
        self.config_as_stored = false;
        Ok(is_replaced && !brings_head)
    }

    /// Leaves out a stored head that has the bytes of the embedding, if the config ties them: in transformers they are one
    /// parameter, and what an adapter does to the embedding holds for the head.
    fn leave_out_tied_head(&mut self) -> Result<()> {
        let place = |table| self.tensors.iter().position(|desc| is(&desc.name, table));
        let (Some(head), Some(embedding)) = (place(HEAD), place(EMBEDDING)) else { return Ok(()) };
        if !tables::is_tied(&self.config) || !tensor::are_equal((self, embedding), (self, head))? {
            return Ok(());
        }
        self.entries.remove(head);
        self.tensors.remove(head);
        let text =
            format!("{HEAD} has the bytes of the embedding, to which it is tied: it is left out, as in PEFT");
        self.notes.push(Note::adapter(text));
        Ok(())
    }

    /// The product for tensor `index`, whose shapes and values have been checked.
    fn delta(&self, index: usize, shard: usize, product: LowRank, scale: f64, is_old: bool) -> Result<Delta> {
        let Entry { desc, changes, .. } = &self.entries[index];
        let place = || format!("tensor {}", desc.name);
        if !matches!(desc.dtype, DType::BF16 | DType::F16 | DType::F32) {
            return Err(Error::unsupported(place(), "not a type of weights that an adapter changes")
                .expected("bf16, f16 or f32", desc.dtype));
        }
        let is_stack = desc.shape.len() == 3;
        let stacked = matches!(product.kind, Kind::Experts) || product.left.stored.desc.shape.len() == 3;
        if !(is_stack && stacked || desc.shape.len() == 2 && !stacked) {
            return Err(Error::malformed(place(), "not the kind of tensor that the adapter expects")
                .expected(
                    if stacked { "a stack of matrices" } else { "a matrix" },
                    format!("{:?}", desc.shape),
                ));
        }
        let matrices = if is_stack { desc.shape[0] } else { 1 };
        let (rows, cols) = (desc.rows() / matrices.max(1), desc.cols());
        let window = match product.kind {
            Kind::Mlx(part) => part.of(rows),
            _ => 0..rows,
        };
        let LowRank { kind, rank, left, right, magnitude, .. } = &product;
        if *rank == 0 {
            return Err(Error::malformed(place(), "a product of rank 0"));
        }
        if is_old && *kind == Kind::Experts && (rows == cols || left.check(matrices, rows, *rank).is_err()) {
            return Err(Error::unsupported(
                place(),
                "PEFT before 0.19 may store experts with inputs and outputs exchanged",
            )
            .help("Merge it with the version of peft that trained it, and give the merged folder."));
        }
        left.check(matrices, window.end - window.start, *rank)
            .and_then(|()| right.check(matrices, *rank, cols))
            .map_err(|e| e.within(place()))?;
        for factor in [left, right] {
            self.check_finite(shard, &factor.stored)?;
        }
        if let Some(stored) = magnitude {
            if stored.desc.shape != [rows] {
                return Err(Error::malformed(
                    format!("tensor {}", stored.desc.name),
                    "wrong shape for the base",
                )
                .expected(format!("[{rows}]"), format!("{:?}", stored.desc.shape)));
            }
            self.check_finite(shard, stored)?;
        }
        let rounded = changes.iter().find_map(|change| match change {
            Change::Round(dtype) => Some(*dtype),
            Change::Add(_) => None,
        });
        let scale = product.scale * scale;
        let dtype = rounded.unwrap_or(desc.dtype);
        Ok(Delta { shard, scale, matrices, rows, window, dtype, product })
    }

    /// Checks that all values of an adapter's tensor are finite floats.
    fn check_finite(&self, shard: usize, stored: &Stored) -> Result<()> {
        let desc = &stored.desc;
        let place = || format!("tensor {}", desc.name);
        if !matches!(desc.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::unsupported(place(), "not a type of adapters")
                .expected("f32, f16 or bf16", desc.dtype));
        }
        let (mut at, mut bytes) = (0, Vec::new());
        while at < desc.byte_len() {
            bytes.resize(PIECE.min(desc.byte_len() - at) as usize, 0);
            self.read_at(shard, stored.offset + at, &mut bytes)?;
            if let Some(bad) = quant::invalid_block(desc.dtype, &bytes) {
                let element = at / desc.dtype.block_bytes() as u64 + bad as u64;
                return Err(Error::malformed(place(), format!("element {element} is not finite"))
                    .help("The training diverged, or the file is damaged."));
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Whether a name is that of K or V of a layer that reads those of another. Only re-saved checkpoints lack them.
    fn is_unused_kv(&self, name: &str) -> bool {
        let text = text_config(&self.config);
        let count = |key: &str| text.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let all = count("num_hidden_layers");
        let own = all.saturating_sub(count("num_kv_shared_layers"));
        let layer = name.split_once(".layers.").and_then(|(_, rest)| rest.split_once('.'));
        layer.is_some_and(|(number, rest)| {
            number.parse().is_ok_and(|number| (own..all).contains(&number))
                && ["self_attn.k_proj.weight", "self_attn.v_proj.weight"].contains(&rest)
        })
    }

    fn without_tensor(&self, target: &str) -> Error {
        let error = Error::malformed(format!("tensor {target}"), "the base has no such tensor");
        if target == HEAD {
            return error
                .expected("a base with a head of its own", "a base whose head is its embedding")
                .help("PEFT would merge this into the embedding too. Merge it with peft, and give the merged folder.");
        }
        error.help(
            "The adapter belongs to another model, or its names are those of a program that is not known.",
        )
    }
}

/// The tensor that an adapter names. Adapters of text models and of multimodal models differ in a prefix.
fn find(names: &HashMap<String, usize>, target: &str) -> Option<usize> {
    const PREFIX: &str = "model.language_model.";
    let other = match target.strip_prefix(PREFIX) {
        Some(rest) => format!("model.{rest}"),
        None => format!("{PREFIX}{}", target.strip_prefix("model.").unwrap_or(target)),
    };
    names.get(target).or_else(|| names.get(&other)).copied()
}

/// A base's tensor, replaced by one of the adapter.
fn replacement(base: &Entry, shard: usize, stored: &Stored) -> Result<Entry> {
    let place = || format!("tensor {}", stored.desc.name);
    if stored.desc.shape != base.desc.shape {
        return Err(Error::unsupported(
            place(),
            "it replaces a tensor of another shape: the vocabulary was resized",
        )
        .expected(format!("{:?}", base.desc.shape), format!("{:?}", stored.desc.shape))
        .help("Merge it with peft (merge_and_unload, save_pretrained), and save the tokenizer with it."));
    }
    let desc = TensorDesc::new(&base.desc.name, stored.desc.dtype, base.desc.shape.clone())?;
    let location = Location { shard, offset: stored.offset };
    let piece = Piece { location, rows: desc.rows(), scale: None, packed: None };
    // PEFT loads it into a parameter of the base's type
    let narrower = desc.dtype != base.desc.dtype;
    let changes = if narrower { vec![Change::Round(base.desc.dtype)] } else { Vec::new() };
    Ok(Entry { desc, code: None, pieces: vec![piece], changes })
}

/// The same tensor under another name.
fn named(entry: Entry, name: &str) -> Result<Entry> {
    let desc = TensorDesc::new(name, entry.desc.dtype, entry.desc.shape.clone())?;
    Ok(Entry { desc, ..entry })
}
