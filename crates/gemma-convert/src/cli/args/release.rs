//! The arguments of a release.

use std::path::PathBuf;

use gemma_convert::{Chunks, Error, HubSource, Result, TextOptions, Thresholds};

use super::jobs::{images_and_sounds, memory, out};
use super::{Arithmetic, CalibrationText, Lora};

#[derive(Debug, clap::Args)]
pub(crate) struct Release {
    /// Checkpoint folder, or the id of a model on the hub
    pub(crate) model: PathBuf,
    /// The repository from which the model was downloaded.
    #[arg(skip)]
    pub(crate) source: Option<HubSource>,
    #[command(flatten)]
    pub(crate) lora: Lora,
    /// Folder of the release
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Release recipe: default, ggml-org, offload, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "default")]
    recipe: String,
    /// Checkpoint folder or hub id of the assistant, the draft model; by default that of the recipe, else the model's id or
    /// folder with -assistant after it
    #[arg(long, value_name = "MODEL")]
    pub(crate) assistant: Option<PathBuf>,
    /// The repository from which the assistant was downloaded.
    #[arg(skip)]
    pub(crate) assistant_source: Option<HubSource>,
    /// Name of the model in file names; by default that of its repository or folder
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Repository where the release will be, for the commands in the model card
    #[arg(long, value_name = "OWNER/NAME")]
    repository: Option<String>,
    /// Who makes the release, for the model card and the keys of the files
    #[arg(long, value_name = "WHO")]
    quantized_by: Option<String>,
    #[command(flatten)]
    text: CalibrationText,
    /// Text to verify on: plain text, or conversations in a .jsonl file; may be given several times. By default a text of
    /// this program
    #[arg(long, value_name = "FILE")]
    eval: Vec<PathBuf>,
    /// Chunks or conversations of the text to verify on: 16 for the first sixteen, 16..32 for the next sixteen
    #[arg(long, value_name = "N|A..B")]
    eval_chunks: Option<Chunks>,
    /// Tokens per chunk of plain text; the most tokens of a conversation
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N", default_value_t = 512)]
    context: usize,
    /// An image on which mmproj files are verified; may be given several times
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// A sound on which mmproj files are verified; may be given several times
    #[arg(long, value_name = "FILE")]
    audio: Vec<PathBuf>,
    /// Fail if the mean KL divergence of a text model is larger, in nats per token
    #[arg(long, value_name = "X")]
    max_kld: Option<f64>,
    /// Fail if the perplexity of a text model divided by the checkpoint's is larger
    #[arg(long, value_name = "X")]
    max_ppl_ratio: Option<f64>,
    /// Fail if the share of tokens with the same most probable token is smaller
    #[arg(long, value_name = "X")]
    min_top1: Option<f64>,
    /// Replace existing outputs
    #[arg(long)]
    force: bool,
    /// Keep artifacts that exist already, complete and made by the same plan: continues a release that was interrupted
    #[arg(long)]
    skip_existing: bool,
    /// Of `convert` alone; refused with an explanation.
    #[arg(long, hide = true)]
    stream: bool,
    /// Do not flush outputs to disk: a power cut may lose them; a killed run still leaves no incomplete file
    #[arg(long)]
    no_sync: bool,
    #[command(flatten)]
    arithmetic: Arithmetic,
}

impl Release {
    /// The repository where the release will be.
    pub(crate) fn repository(&self) -> Option<&str> {
        self.repository.as_deref()
    }

    /// # Errors
    /// `Recipe` for `--stream` and for options that do not parse.
    pub(crate) fn job(&self) -> Result<gemma_convert::Release> {
        if self.stream {
            return Err(Error::recipe("--stream", "a release reads the weights several times: to convert and to verify")
                .help("Leave the option out: the checkpoint is downloaded once. `convert --stream` makes files without a copy of it."));
        }
        Ok(gemma_convert::Release {
            model: self.model.clone(),
            adapters: self.lora.adapters(),
            source: self.source.clone(),
            assistant: self.assistant.clone(),
            assistant_source: self.assistant_source.clone(),
            out: out(&self.out)?,
            recipe: self.recipe.clone(),
            name: self.name.clone(),
            repository: self.repository.clone(),
            quantized_by: self.quantized_by.clone(),
            text: self.text.options()?,
            evaluation: TextOptions {
                files: self.eval.clone(),
                chunks: self.eval_chunks.clone(),
                memory: memory("--text-memory", &self.text.text_memory)?,
            },
            media: images_and_sounds(&self.image, &self.audio).collect(),
            context: self.context,
            thresholds: Thresholds {
                max_kld: self.max_kld,
                max_ppl_ratio: self.max_ppl_ratio,
                min_top1: self.min_top1,
                max_feature_error: None,
            },
            force: self.force,
            skip_existing: self.skip_existing,
            sync: !self.no_sync,
            compute: self.arithmetic.compute()?,
        })
    }
}
