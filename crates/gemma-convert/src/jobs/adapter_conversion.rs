//! Conversion of an adapter (LoRA) to GGUF.

use std::path::{Path, PathBuf};

use base::{OutputFile, Progress, Unit};
use checkpoint::{Adapter, Checkpoint, ModelCard};
use gemma::{AdapterInventory, ModelSpec, adapter_metadata, hub_title};
use gguf::Layout;
use serde::Serialize;
use tensor::{DType, Error, Result, TensorSource};

use crate::requests::{Destination, refuse_existing};

/// Converts an adapter (LoRA) of PEFT or mlx-lm to a GGUF file for llama.cpp's `--lora`.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let (checkpoint, adapter) = (testkit::fixtures("checkpoints/e2b"), testkit::fixtures("golden/lora/plain-e2b"));
/// # let out = folder.path().join("adapter.gguf");
/// use gemma_convert::{AdapterConvert, Silent};
///
/// let made = AdapterConvert::new(adapter, checkpoint, out).run(&Silent)?;
/// assert_eq!((made.alpha, made.pairs.len()), (16.0, 19));
/// # Ok::<(), gemma_convert::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AdapterConvert {
    /// The folder of the adapter.
    pub adapter: PathBuf,
    /// The checkpoint folder of its base, of which only config, tokenizer and shapes are used.
    pub base: PathBuf,
    /// The GGUF file to write.
    pub out: PathBuf,
    /// The type of the factors: F32, F16, BF16 or Q8_0.
    pub dtype: DType,
    /// Replaces an existing file.
    pub force: bool,
}

/// A converted adapter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdapterConverted {
    /// The file.
    pub file: PathBuf,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: String,
    /// The value of `adapter.lora.alpha`.
    pub alpha: f32,
    /// The pairs of factors, in file order.
    pub pairs: Vec<ConvertedPair>,
    /// Tensors that the adapter changes and that are not in the file.
    pub dropped: Vec<DroppedPair>,
}

/// A pair of factors in a GGUF adapter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConvertedPair {
    /// The tensor that it changes, by its name in a GGUF.
    pub tensor: String,
    /// Rank of the product.
    pub rank: u64,
    /// Factor of the product.
    pub scale: f64,
}

/// A change of an adapter that is not in a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DroppedPair {
    /// Name of the tensor in the checkpoint.
    pub tensor: String,
    /// The reason.
    pub reason: String,
}

impl AdapterConvert {
    /// A conversion to F32 that replaces no file.
    pub fn new(
        adapter: impl Into<PathBuf>,
        base: impl Into<PathBuf>,
        out: impl Into<PathBuf>,
    ) -> AdapterConvert {
        AdapterConvert {
            adapter: adapter.into(),
            base: base.into(),
            out: out.into(),
            dtype: DType::F32,
            force: false,
        }
    }

    /// Sets the type of the factors.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> AdapterConvert {
        self.dtype = dtype;
        self
    }

    /// Checks type and destination, without adapter and base.
    ///
    /// # Errors
    /// `Recipe` for another type than those of adapters and for a name that is not of a GGUF file; `Target` for an existing
    /// file.
    pub fn check(&self) -> Result<()> {
        if !convert::LORA_TYPES.contains(&self.dtype) {
            return Err(Error::recipe(format!("‹type› {}", self.dtype), "not a type of adapters")
                .expected(convert::LORA_TYPES.map(DType::name).join(", "), self.dtype));
        }
        if Destination::new(&self.out).file_name.is_none() {
            return Err(Error::recipe("‹out›", "not the name of a GGUF file")
                .expected("a file, such as adapter.gguf", self.out.display()));
        }
        refuse_existing(&self.out, self.force)
    }

    /// Checks adapter and base against each other, and writes the file.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); `Malformed` or `Unsupported` for an adapter that is not of this base, or that a GGUF
    /// cannot express or llama.cpp does not apply; `Io`.
    pub fn run(&self, progress: &dyn Progress) -> Result<AdapterConverted> {
        self.check()?;
        let adapted = AdaptedBase::open(&self.adapter, &self.base)?;
        let AdaptedBase { checkpoint, inventory, .. } = &adapted;
        let alpha = inventory.alpha().ok_or_else(|| {
            Error::unsupported(self.adapter.display(), "there is nothing that a GGUF adapter would change")
                .expected("pairs for tensors of the text model, and a scale other than 0", adapted.left())
        })?;
        let card = ModelCard::read(&self.adapter.join("README.md"))?;
        let metadata = adapter_metadata(&adapted.model, &card, &hub_title(&title(&self.adapter)), alpha)?;
        let descs = inventory.pairs.iter();
        let descs = descs.map(|pair| convert::lora_tensors(&pair.name, &pair.product, self.dtype));
        let descs = descs.collect::<Result<Vec<_>>>()?;
        let layout = Layout::new(&metadata, descs.concat())?;
        checkpoint.notes().iter().for_each(|note| progress.note(&note.text));

        let output = OutputFile::create(&self.out)?;
        output.set_len(layout.len)?;
        output.write_at(&layout.header, 0)?;
        let task = progress.begin("converting", layout.len, Unit::Bytes);
        for ((pair, descs), placed) in inventory.pairs.iter().zip(&descs).zip(layout.tensors.chunks_exact(2))
        {
            let factor = relative(pair.alpha(), alpha);
            let encoded = convert::lora_bytes(checkpoint, pair, factor, descs)?;
            for (bytes, placed) in encoded.iter().zip(placed) {
                output.write_at(bytes, placed.offset)?;
                task.advance(bytes.len() as u64);
            }
        }
        checkpoint.check_unchanged()?;
        output.publish()?;
        let (bytes, sha256) = base::sha256_file(&self.out, &|_| ())?;
        let pair = |pair: &gemma::AdapterPair| ConvertedPair {
            tensor: pair.name.clone(),
            rank: pair.product.rank,
            scale: pair.product.scale,
        };
        Ok(AdapterConverted {
            file: self.out.clone(),
            bytes,
            sha256,
            alpha,
            pairs: inventory.pairs.iter().map(pair).collect(),
            dropped: adapted.dropped(),
        })
    }
}

/// A checkpoint with an adapter, and what the adapter changes in its text model.
pub(super) struct AdaptedBase {
    pub(super) checkpoint: Checkpoint,
    model: ModelSpec,
    pub(super) inventory: AdapterInventory,
}

impl AdaptedBase {
    pub(super) fn open(adapter: &Path, base: &Path) -> Result<AdaptedBase> {
        let folder = Adapter { folder: adapter.to_owned(), scale: 1.0, tie: false };
        let checkpoint = Checkpoint::open(base)?.with_adapters(&[folder])?;
        let model = ModelSpec::open(&checkpoint)?;
        let inventory = AdapterInventory::of(&model, &checkpoint).map_err(|e| e.within(adapter.display()))?;
        Ok(AdaptedBase { checkpoint, model, inventory })
    }

    fn dropped(&self) -> Vec<DroppedPair> {
        let names = self.checkpoint.tensors();
        let dropped = self.inventory.dropped.iter().map(|dropped| DroppedPair {
            tensor: names[dropped.index].name.clone(),
            reason: dropped.reason.to_owned(),
        });
        dropped.collect()
    }

    /// What is there if there is nothing to write.
    fn left(&self) -> String {
        match self.inventory.dropped.first() {
            Some(first) => format!("{} others ({})", self.inventory.dropped.len(), first.reason),
            None if self.inventory.pairs.is_empty() => "none".to_owned(),
            None => "a scale of 0".to_owned(),
        }
    }
}

/// The factor by which a product is multiplied that would have another alpha than the file's.
pub(super) fn relative(own: f64, of_file: f32) -> f64 {
    if own as f32 == of_file { 1.0 } else { own / f64::from(of_file) }
}

/// The name of an adapter: that of its folder or, in the hub's cache, of its repository.
fn title(folder: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let cached = folder.parent().filter(|parent| parent.ends_with("snapshots")).and_then(Path::parent);
    let repository = cached.and_then(name).and_then(|name| {
        let (_, id) = name.strip_prefix("models--")?.split_once("--")?;
        Some(id.to_owned())
    });
    // a path such as `..` ends in no name
    let own = || name(folder).or_else(|| name(&folder.canonicalize().ok()?));
    repository.or_else(own).unwrap_or_default()
}
