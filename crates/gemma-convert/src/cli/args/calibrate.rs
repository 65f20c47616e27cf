//! The arguments of calibration.

use std::path::PathBuf;

use gemma_convert::Chunks;

/// A text that weights are calibrated on.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CalibrationText {
    /// A text to calibrate on: plain, or conversations in a .jsonl file; several may be given
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Vec<PathBuf>,
    /// Which pieces of the text: 100 for the first hundred, 100..200 for those after them
    #[arg(long, value_name = "N|A..B", requires = "text")]
    pub(crate) chunks: Option<Chunks>,
    /// Memory for the text between two layers
    #[arg(long, value_name = "SIZE", default_value = "2GiB", requires = "text")]
    pub(crate) text_memory: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Calibrate {
    /// Checkpoint folder or GGUF file
    #[arg(required_unless_present = "merge")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) text: CalibrationText,
    /// Tokens of a piece of plain text, and the most of a conversation
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N", default_value_t = 512)]
    pub(crate) context: usize,
    /// Add up files of importance that were made of other pieces of text, on this machine or others
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) merge: Vec<PathBuf>,
    /// The file to write
    #[arg(short, long, alias = "outfile", value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Replace it if it is there
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) arithmetic: super::Arithmetic,
}
