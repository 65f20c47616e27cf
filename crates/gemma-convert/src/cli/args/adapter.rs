//! The arguments of the conversion of adapters.

use std::path::PathBuf;

use clap::Subcommand;
use gemma_convert::{AdapterConvert, DType, Error, Result};

use super::jobs::out;

#[derive(Debug, clap::Args)]
pub(crate) struct AdapterArgs {
    #[command(subcommand)]
    pub(crate) command: AdapterCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdapterCommand {
    /// Convert an adapter of PEFT or mlx-lm to a GGUF file, for `--lora` of llama.cpp's programs
    Convert(AdapterConvertArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct AdapterConvertArgs {
    /// Folder of the adapter, or its hub id
    #[arg(value_name = "DIR")]
    pub(crate) adapter: PathBuf,
    /// Checkpoint folder or hub id of the model that the adapter was trained on; its weights are not needed
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) base: PathBuf,
    /// Name of the GGUF file
    #[arg(short, long, visible_alias = "outfile", value_name = "FILE")]
    out: PathBuf,
    /// Type of the factors: f32, f16, bf16 or q8_0
    #[arg(long = "type", visible_alias = "outtype", value_name = "TYPE", default_value = "f32")]
    dtype: String,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

impl AdapterConvertArgs {
    pub(crate) fn job(&self) -> Result<AdapterConvert> {
        let dtype: DType = self.dtype.to_ascii_lowercase().parse().map_err(|e: Error| e.within("--type"))?;
        let mut job = AdapterConvert::new(&self.adapter, &self.base, out(&self.out)?).dtype(dtype);
        job.force = self.force;
        Ok(job)
    }
}
