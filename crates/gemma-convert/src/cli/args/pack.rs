//! The arguments of packing.

use std::path::PathBuf;

use clap::Subcommand;
use gemma_convert::OllamaTarget;

#[derive(Debug, clap::Args)]
pub(crate) struct Pack {
    #[command(subcommand)]
    pub(crate) command: PackCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PackCommand {
    /// Put GGUF files into an Ollama store, as `ollama create` does, or write a Modelfile
    Ollama(PackOllama),
}

#[derive(Debug, clap::Args)]
pub(crate) struct PackOllama {
    /// GGUF files of one model: text model, projector (mmproj), draft model; or the folder that holds them
    #[arg(required = true, value_name = "DIR|FILE")]
    files: Vec<PathBuf>,
    /// Name of the model in Ollama: MODEL:TAG, with NAMESPACE/ or HOST/NAMESPACE/ before it if it has one
    #[arg(long, value_name = "NAME", required_unless_present = "modelfile")]
    name: Option<String>,
    /// Folder of the store; by default $OLLAMA_MODELS or ~/.ollama/models
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Write a Modelfile for `ollama create` instead of a store
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "store"])]
    modelfile: Option<PathBuf>,
    /// Text of the license; by default that of the license in the keys of the text model
    #[arg(long, value_name = "FILE")]
    license: Option<PathBuf>,
    /// Replace another model of this name, or an existing Modelfile
    #[arg(long)]
    force: bool,
}

impl PackOllama {
    pub(crate) fn job(&self) -> gemma_convert::PackOllama {
        let target = match &self.modelfile {
            Some(file) => OllamaTarget::Modelfile(file.clone()),
            None => OllamaTarget::Store {
                name: self.name.clone().unwrap_or_default(),
                folder: self.store.clone(),
            },
        };
        gemma_convert::PackOllama {
            files: self.files.clone(),
            target,
            license: self.license.clone(),
            force: self.force,
        }
    }
}
