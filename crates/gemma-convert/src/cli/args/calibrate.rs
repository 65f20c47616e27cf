//! The arguments of calibration.

use std::path::PathBuf;

use gemma_convert::Chunks;

use super::{Lora, PartArgs};

/// A calibration text.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CalibrationText {
    /// Calibration text: plain text, or conversations in a .jsonl file; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Vec<PathBuf>,
    /// Chunks of the text to use: 100 for the first hundred, 100..200 for the next hundred
    #[arg(long, value_name = "N|A..B", requires = "text")]
    pub(crate) chunks: Option<Chunks>,
    /// Activation memory: hidden states of the text between two layers
    #[arg(
        long,
        value_name = "SIZE",
        allow_negative_numbers = true,
        default_value = "2GiB",
        requires = "text"
    )]
    pub(crate) text_memory: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Calibrate {
    /// Checkpoint folder, hub id or GGUF file
    #[arg(required_unless_present = "merge")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) lora: Lora,
    #[command(flatten)]
    pub(crate) text: CalibrationText,
    /// Tokens per chunk of plain text; the most tokens of a conversation
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N", default_value_t = 512)]
    pub(crate) context: usize,
    /// Merge importance matrices that were collected on other chunks of text, on this machine or others
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) merge: Vec<PathBuf>,
    /// The file to write
    #[arg(short, long, alias = "outfile", value_name = "OUT")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) part: PartArgs,
    /// Replace an existing file
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) arithmetic: super::Arithmetic,
}
