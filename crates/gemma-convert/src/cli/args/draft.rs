//! The arguments of draft models.

use std::path::PathBuf;

use clap::Subcommand;
use gemma_convert::{Chunks, Layers};

use super::{Convert, Lora, ReportFiles};

#[derive(Debug, clap::Args)]
pub(crate) struct Draft {
    #[command(subcommand)]
    pub(crate) command: DraftCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DraftCommand {
    /// Convert an assistant, the draft model that Google publishes with every model, to GGUF or safetensors
    Convert(DraftConvert),
    /// Extract a draft model from a model: some of its layers
    Extract(DraftExtract),
    /// Measure a draft model: agreement with its target, acceptance rate and speed-up
    Measure(DraftMeasure),
}

#[derive(Debug, clap::Args)]
pub(crate) struct DraftConvert {
    /// Checkpoint folder, hub id or GGUF file of the target, which must match the draft model
    #[arg(long, value_name = "MODEL")]
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) convert: Convert,
}

/// Help of `--text` in `draft extract`.
const TEXT: &str = "Text to select layers on, and to calibrate on if a recipe needs it: plain text, or conversations in \
                    a .jsonl file";

#[derive(Debug, clap::Args)]
#[command(mut_group("outputs", |group| group.required(false)))]
#[command(mut_arg("text", |arg| arg.help(TEXT)))]
pub(crate) struct DraftExtract {
    /// Number of layers, which are selected on the text; or a list of layers, ascending: 0,3,7
    #[arg(long, value_name = "N|LIST")]
    pub(crate) layers: Layers,
    /// Tokens per chunk of the text that layers are selected on
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N", default_value_t = 512)]
    pub(crate) context: usize,
    #[command(flatten)]
    pub(crate) convert: Convert,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DraftMeasure {
    /// Draft model: an assistant or a model of the same vocabulary; checkpoint folder, hub id or GGUF file
    pub(crate) draft: PathBuf,
    /// Target model: checkpoint folder, hub id or GGUF file
    #[arg(long, value_name = "MODEL")]
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) lora: Lora,
    /// Text for agreement and rollouts: plain text, or a .jsonl file with a conversation (list of messages) in each
    /// line
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) text: Vec<PathBuf>,
    /// Tokens per chunk of plain text; rollouts begin after the first half, and agreement is measured on the second
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N", default_value_t = 512)]
    pub(crate) context: usize,
    /// Chunks or conversations of the text to use: 8 for the first eight, 8..16 for the next eight
    #[arg(long, value_name = "N|A..B", default_value = "8")]
    pub(crate) chunks: Chunks,
    #[command(flatten)]
    pub(crate) reports: ReportFiles,
    #[command(flatten)]
    pub(crate) arithmetic: super::Arithmetic,
}

/// The draft model of `generate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Drafting {
    /// Draft model for speculative decoding: folder, hub id or GGUF file; the output keeps its distribution
    #[arg(long, alias = "model-draft", value_name = "DRAFT")]
    pub(crate) draft: Option<PathBuf>,
    /// Draft tokens per pass
    #[arg(long, alias = "draft-max", value_name = "N", default_value_t = 3, requires = "draft")]
    #[arg(value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub(crate) draft_tokens: usize,
}
