//! The arguments that have to do with draft models.

use std::path::PathBuf;

use clap::Subcommand;
use gemma_convert::{Chunks, Layers};

use super::{Convert, ReportFiles};

#[derive(Debug, clap::Args)]
pub(crate) struct Draft {
    #[command(subcommand)]
    pub(crate) command: DraftCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DraftCommand {
    /// Convert an assistant, which Google publishes with every model, to GGUF or to safetensors
    Convert(DraftConvert),
    /// Cut a draft model out of a model itself: some of its layers
    Extract(DraftExtract),
    /// Measure what a draft model is worth: how often it agrees with its target, and how much faster the two are
    Measure(DraftMeasure),
}

#[derive(Debug, clap::Args)]
pub(crate) struct DraftConvert {
    /// Checkpoint folder of the model that it drafts for, which it is checked against
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) convert: Convert,
}

/// What a text is for there.
const TEXT: &str =
    "A text to choose layers by, and to round for if a recipe does: plain, or conversations in a .jsonl file";

#[derive(Debug, clap::Args)]
#[command(mut_arg("recipes", |arg| arg.required_unless_present("model")))]
#[command(mut_arg("text", |arg| arg.help(TEXT)))]
pub(crate) struct DraftExtract {
    /// How many layers, chosen by the text; or which, ascending: 0,3,7
    #[arg(long, value_name = "N|LIST")]
    pub(crate) layers: Layers,
    /// Tokens of a piece of the text by which layers are chosen
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N", default_value_t = 512)]
    pub(crate) context: usize,
    #[command(flatten)]
    pub(crate) convert: Convert,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DraftMeasure {
    /// The draft: an assistant or a model of the same vocabulary, checkpoint folder or GGUF file
    pub(crate) draft: PathBuf,
    /// The model that it drafts for, checkpoint folder or GGUF file
    #[arg(long, value_name = "MODEL")]
    pub(crate) target: PathBuf,
    /// Text to read and to go on from; a .jsonl file has conversations, a list of messages each line
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) text: Vec<PathBuf>,
    /// Tokens of a chunk of text: the first half is read, the second is predicted, and spoken from the first
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N", default_value_t = 512)]
    pub(crate) context: usize,
    /// The chunks or conversations of the text: 8 for the first eight, 8..16 for those after them
    #[arg(long, value_name = "N|A..B", default_value = "8")]
    pub(crate) chunks: Chunks,
    #[command(flatten)]
    pub(crate) reports: ReportFiles,
    #[command(flatten)]
    pub(crate) arithmetic: super::Arithmetic,
}

/// For `generate`: a draft model that guesses ahead.
#[derive(Debug, clap::Args)]
pub(crate) struct Drafting {
    /// A draft model of this model, folder or GGUF file: it guesses ahead, what comes out stays the same
    #[arg(long, alias = "model-draft", value_name = "DRAFT")]
    pub(crate) draft: Option<PathBuf>,
    /// Tokens to guess at a time
    #[arg(long, alias = "draft-max", value_name = "N", default_value_t = 3, requires = "draft")]
    #[arg(value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub(crate) draft_tokens: usize,
}
