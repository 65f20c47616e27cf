//! The folder of an adapter: config, weights and their parts, without a base.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tensor::{Error, Result};

use crate::adapter::part::{Dropped, Part, PartChange, Stored};
use crate::adapter::peft_config::PeftConfig;
use crate::adapter::{mlx, peft};
use crate::folder::{names, step};
use crate::open::Shard;
use crate::{files, shards};

const CONFIG: &str = "adapter_config.json";
const PEFT_WEIGHTS: &str = "adapter_model.safetensors";
const MLX_WEIGHTS: &str = "adapters.safetensors";

/// The arithmetic of a merge.
const PEFT_RULE: &str = "peft 0.21 merge_and_unload";
const MLX_RULE: &str = "mlx-lm fuse";

/// A file of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterFile {
    /// Name in the folder.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// An adapter (LoRA) in the form of PEFT or mlx-lm, whose config and headers have been read.
#[derive(Debug)]
pub struct AdapterFolder {
    pub(crate) dir: PathBuf,
    pub(crate) shard: Shard,
    pub(crate) parts: Vec<Part>,
    /// The head stays the embedding when that is trained.
    pub(crate) tied: bool,
    /// Experts may be stored with inputs and outputs exchanged.
    pub(crate) is_old: bool,
    pub(crate) rule: &'static str,
    /// Tensors without effect, with reasons.
    pub(crate) dropped: Vec<Dropped>,
    config: Value,
}

/// One tensor of the base that an adapter changes.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptedTensor {
    /// Name of the tensor in transformers.
    pub tensor: String,
    /// Rank of the product that is added; `None` for a tensor that is replaced.
    pub rank: Option<u64>,
    /// Factor of the product: 1 for a tensor that is replaced.
    pub scale: f64,
    /// Whether the rows have magnitudes (DoRA).
    pub dora: bool,
}

impl AdapterFolder {
    /// Whether a folder holds an adapter and no model. Trainers may save the config of the base beside the adapter.
    pub fn is_one(dir: &Path) -> bool {
        let has_model = || dir.join("config.json").exists() && !shards::is_empty(&names(dir));
        dir.join(CONFIG).is_file() && !has_model()
    }

    /// Reads the config of an adapter and the header of its weights.
    ///
    /// # Errors
    /// `Malformed` for a folder without an adapter and for contradictory contents, `Unsupported` for kinds of adapters
    /// and settings that cannot be merged.
    pub fn open(dir: &Path) -> Result<AdapterFolder> {
        if !dir.is_dir() {
            return Err(without_config(dir));
        }
        let place = dir.join(CONFIG);
        let config = files::object(&place)?.ok_or_else(|| without_config(dir))?;
        let is_mlx = mlx::is_mlx(&config);
        let name = if is_mlx { MLX_WEIGHTS } else { PEFT_WEIGHTS };
        if files::open(&dir.join(name))?.is_none() {
            return Err(without_weights(dir, name));
        }
        let (shard, tensors) = Shard::open(dir, name)?;
        let tensors: Vec<_> = tensors.into_iter().map(|(desc, offset)| Stored { desc, offset }).collect();
        let in_config = |e: Error| e.within(place.display());
        let mut folder = AdapterFolder {
            dir: dir.to_owned(),
            parts: Vec::new(),
            tied: false,
            is_old: false,
            rule: MLX_RULE,
            dropped: Vec::new(),
            config: Value::Null,
            shard,
        };
        if is_mlx {
            folder.parts = mlx::parts(&tensors, &config).map_err(|e| e.within(dir.display()))?;
        } else {
            let settings = PeftConfig::new(&config).map_err(in_config)?;
            let (parts, dropped) =
                peft::parts(&tensors, &settings).map_err(|e| e.within(folder.shard.path.display()))?;
            (folder.parts, folder.dropped) = (parts, dropped);
            (folder.tied, folder.is_old, folder.rule) = (settings.tied, settings.is_old, PEFT_RULE);
        }
        if folder.parts.is_empty() {
            return Err(Error::malformed(folder.shard.path.display(), "an adapter without tensors"));
        }
        folder.config = config;
        Ok(folder)
    }

    /// The rule by which it is merged.
    pub fn rule(&self) -> &'static str {
        self.rule
    }

    /// The content of `adapter_config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The tensors of the base that it changes.
    pub fn tensors(&self) -> impl Iterator<Item = AdaptedTensor> {
        self.parts.iter().map(|part| {
            let tensor = part.target.clone();
            match &part.change {
                PartChange::LowRank(change) => AdaptedTensor {
                    tensor,
                    rank: Some(change.rank),
                    scale: change.scale,
                    dora: change.magnitude.is_some(),
                },
                PartChange::Replace(_) => AdaptedTensor { tensor, rank: None, scale: 1.0, dora: false },
            }
        })
    }

    /// Tensors without effect, with reasons.
    pub fn dropped(&self) -> &[(String, &'static str)] {
        &self.dropped
    }

    /// The name of the base that the config gives, if it does.
    pub fn base(&self) -> Option<&str> {
        self.config.get("base_model_name_or_path").or_else(|| self.config.get("model"))?.as_str()
    }

    /// Size and SHA-256 of config and weights.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn files(&self) -> Result<Vec<AdapterFile>> {
        let names = [CONFIG, &self.shard.name];
        let hashed = |name: &str| {
            let (bytes, sha256) = base::sha256_file(&self.dir.join(name), &|_| ())?;
            Ok(AdapterFile { name: name.to_owned(), bytes, sha256 })
        };
        names.into_iter().map(hashed).collect()
    }
}

fn without_config(dir: &Path) -> Error {
    let error = Error::malformed(dir.display(), "not the folder of an adapter");
    if dir.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) && dir.is_file() {
        return error
            .expected(format!("a folder with {CONFIG}"), "a GGUF file")
            .help("A GGUF adapter is for llama.cpp's programs. Merge the folder that it was made from.");
    }
    if !dir.is_dir() {
        return error.expected(format!("a folder with {CONFIG}"), "no folder");
    }
    let here = names(dir);
    let mut steps: Vec<_> = here.iter().filter(|name| dir.join(name).join(CONFIG).exists()).collect();
    steps.sort_by_key(|name| step(name));
    match steps.last() {
        Some(last) => error
            .expected(CONFIG, format!("{} folders with one", steps.len()))
            .help(format!("Give one of them: {}", dir.join(last).display())),
        None if here.iter().any(|name| name == "config.json") => {
            error.expected(CONFIG, "config.json: a model").help("A merged model is converted as it is.")
        }
        None => error.expected(CONFIG, "no such file"),
    }
}

fn without_weights(dir: &Path, name: &str) -> Error {
    let here = names(dir);
    match here.iter().find(|name| *name == "adapter_model.bin" || name.ends_with(".npz")) {
        Some(pickle) => Error::unsupported(dir.join(pickle).display(), "the adapter is not safetensors")
            .expected(name, pickle)
            .help("Load it with peft and save it again: save_pretrained writes safetensors."),
        None => Error::missing(dir.join(name).display()).help("Fetch the adapter again."),
    }
}
