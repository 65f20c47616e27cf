//! The raw arguments, as they are typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Turns Gemma 4 checkpoints into GGUF files for llama.cpp and Ollama, byte for byte as llama.cpp's own tools.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Args {
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a checkpoint folder or a GGUF file holds
    Inspect(Inspect),
    /// Show what would be written: every tensor, its type, file, offset and size; writes nothing
    Plan(Plan),
    /// Convert a checkpoint folder to GGUF
    Convert(Convert),
    /// Continue a prompt with the reference runtime, always with the likeliest token
    Generate(Generate),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Checkpoint folder or GGUF file (any part of a split)
    pub(crate) model: PathBuf,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    /// Checkpoint folder
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) what: What,
    /// Folder, or for one output a file name that ends in .gguf
    #[arg(short, long, value_name = "OUT", default_value = ".")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Convert {
    /// Checkpoint folder
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) what: What,
    /// Folder, or for one output a file name that ends in .gguf
    #[arg(short, long, value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Replace outputs that are there
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not wait for the disk: a power cut may lose the output, a killed run still leaves no half file
    #[arg(long)]
    pub(crate) no_sync: bool,
    /// Number of threads; 0 for one a processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
    /// Vector instructions to use: scalar, baseline, avx2 or avx512; the bytes are the same with any
    #[arg(long, value_name = "LEVEL")]
    pub(crate) simd: Option<String>,
    /// No progress bar and no notes
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// What to make. Several recipes or types are made in one pass over the checkpoint.
#[derive(Debug, clap::Args)]
pub(crate) struct What {
    /// A recipe: one of `recipes/` by name, or a file
    #[arg(long = "recipe", value_name = "NAME|FILE", required_unless_present = "types")]
    pub(crate) recipes: Vec<String>,
    /// A preset of llama-quantize: q4_0, q8_0, q4_k_m, bf16, …
    #[arg(long = "type", value_name = "PRESET")]
    pub(crate) types: Vec<String>,
    /// A type for the tensors whose GGUF name a regular expression finds; the first that matches decides
    #[arg(long = "tensor-type", value_name = "REGEX=TYPE")]
    pub(crate) tensor_types: Vec<String>,
    /// Type of the token embedding, which is also the head
    #[arg(long, value_name = "TYPE")]
    pub(crate) token_embd_type: Option<String>,
    /// Type of the per-layer embedding table of E2B and E4B
    #[arg(long, value_name = "TYPE")]
    pub(crate) per_layer_token_embd_type: Option<String>,
    /// Split the output into parts of at most so many bytes of tensors: 2GB, 500MB
    #[arg(long, value_name = "SIZE")]
    pub(crate) split_max_size: Option<String>,
    /// Set a key of the recipe: unused_kv=drop, metadata.name="My Gemma"
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    /// Checkpoint folder or GGUF file (any part of a split)
    pub(crate) model: PathBuf,
    /// The text to continue, or with --chat what the user says
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// Put the prompt through the model's chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// Tools that the model may call: a JSON list, for the chat template
    #[arg(long, value_name = "FILE", requires = "chat")]
    pub(crate) tools: Option<PathBuf>,
    /// The most tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    pub(crate) max_tokens: usize,
    /// No figures on stderr
    #[arg(short, long)]
    pub(crate) quiet: bool,
}
