//! The arguments of bit allocation.

use std::path::PathBuf;

use super::{CalibrationText, Lora, PartArgs};

/// The limit of a recipe with a budget.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Budget {
    /// Allocate types for files of at most this total size: 3.2GB
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, conflicts_with_all = ["target_bpw", "target_kld"])]
    pub(crate) target_size: Option<String>,
    /// Allocate types for at most this many bits per weight, over all tensors
    #[arg(long, value_name = "BITS", conflicts_with = "target_kld")]
    pub(crate) target_bpw: Option<f64>,
    /// Allocate types for the smallest files with at most this predicted KL divergence, in nats per token
    #[arg(long, value_name = "NATS")]
    pub(crate) target_kld: Option<f64>,
    /// Sensitivity of each tensor: a file of `sensitivity`. Without one, `convert` measures it on its --text
    #[arg(long, value_name = "FILE")]
    pub(crate) sensitivity: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Sensitivity {
    /// Checkpoint folder, or the id of a model on the hub
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) lora: Lora,
    #[command(flatten)]
    pub(crate) text: CalibrationText,
    /// Tokens per chunk of plain text; the most tokens of a conversation
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N", default_value_t = 512)]
    pub(crate) context: usize,
    /// The file to write. Tensors that it already has, for the same model and text, are not measured again
    #[arg(short, long, alias = "outfile", value_name = "OUT")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) part: PartArgs,
    /// Replace a file of another model or text
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) arithmetic: super::Arithmetic,
}
