//! The arguments of types by budget.

use std::path::PathBuf;

use super::CalibrationText;

/// The limit of a recipe with a budget.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Budget {
    /// Choose types for files of at most so many bytes together: 3.2GB
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["target_bpw", "target_kld"])]
    pub(crate) target_size: Option<String>,
    /// Choose types for at most so many bits a weight, over all tensors
    #[arg(long, value_name = "BITS", conflicts_with = "target_kld")]
    pub(crate) target_bpw: Option<f64>,
    /// Choose types for the smallest files with a predicted KL divergence of at most so many nats a token
    #[arg(long, value_name = "NATS")]
    pub(crate) target_kld: Option<f64>,
    /// What rounding each tensor costs: a file of `sensitivity`. Without one `convert` measures it on its --text
    #[arg(long, value_name = "FILE")]
    pub(crate) sensitivity: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Sensitivity {
    /// Checkpoint folder
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) text: CalibrationText,
    /// Tokens of a piece of plain text, and the most of a conversation
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N", default_value_t = 512)]
    pub(crate) context: usize,
    /// The file to write. What it knows already of the same model and text is not measured again
    #[arg(short, long, alias = "outfile", value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Replace a file of another model or text
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) arithmetic: super::Arithmetic,
}
