//! The arguments, as they are typed. `args/jobs.rs` turns them into jobs of the library.

mod budget;
mod calibrate;
mod draft;
mod jobs;
mod spelling;

use std::path::PathBuf;
use std::sync::OnceLock;

use clap::builder::BoolishValueParser;
use clap::{Parser, Subcommand};

pub(crate) use budget::{Budget, Sensitivity};
pub(crate) use calibrate::{Calibrate, CalibrationText};
pub(crate) use draft::{Draft, DraftCommand, DraftConvert, DraftExtract, DraftMeasure, Drafting};
pub(crate) use spelling::normalised;

/// Turns Gemma 4 checkpoints into GGUF files for llama.cpp and Ollama, byte for byte as llama.cpp's own tools, and into
/// smaller safetensors.
#[derive(Debug, Parser)]
#[command(version, long_version = version(), max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The version, the commit that it was built from and what it computes with here.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(describe_version)
}

fn describe_version() -> String {
    let commit = match env!("GEMMA_CONVERT_COMMIT") {
        "" => "unknown",
        commit => commit,
    };
    format!(
        "{} (commit {commit})\ncodecs: {}; matrix products: {}",
        env!("CARGO_PKG_VERSION"),
        format!("{:?}", quant::Simd::detect()).to_lowercase(),
        match runtime::Kernel::detect() {
            runtime::Kernel::Plain => "f32",
            runtime::Kernel::Tiles => "amx",
        }
    )
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a checkpoint folder, a GGUF file, a file of importance or an .sbs file of gemma.cpp holds
    Inspect(Inspect),
    /// Show what would be written: every tensor, its type, file, offset and size; writes nothing
    Plan(Plan),
    /// Convert a checkpoint folder to GGUF, or to safetensors in other types or shards
    Convert(Convert),
    /// Learn from a text which columns of the weights matter: a file of importance
    Calibrate(Calibrate),
    /// Measure what rounding each tensor costs: what types are chosen by for a size
    Sensitivity(Sensitivity),
    /// Check an artifact against its checkpoint: structure, weights, perplexity, KL divergence
    Verify(Verify),
    /// Continue a prompt with the reference runtime
    Generate(Generate),
    /// Draft models for speculative decoding
    Draft(Draft),
    /// List the recipes, with the size of each for a model
    Recipes(List),
    /// List the presets of llama-quantize, with the size of each for a model
    Types(List),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Print the manual page, in roff
    Man,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Checkpoint folder, to predict sizes for
    pub(crate) model: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Checkpoint folder, GGUF file (any part of a split), file of importance (GGUF or .dat) or .sbs file
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
    #[arg(short, long, alias = "outfile", value_name = "OUT", default_value = ".")]
    pub(crate) out: PathBuf,
    /// The memory there is, such as 2GiB: whether the output fits, with which context, and which recipes do
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Tokens of prompt and answer together, for the memory plan; 8192, if the model has so many
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N")]
    pub(crate) context: Option<u64>,
    /// Type of keys and values in llama.cpp, for the memory plan: f32, f16, bf16, q8_0, q5_1, q5_0, iq4_nl, q4_1 or q4_0
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub(crate) kv_type: String,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Convert {
    /// Checkpoint folder
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) what: What,
    #[command(flatten)]
    pub(crate) text: CalibrationText,
    /// Folder, or for one output a file name that ends in .gguf
    #[arg(short, long, alias = "outfile", value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Replace outputs that are there
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not wait for the disk: a power cut may lose the output, a killed run still leaves no half file
    #[arg(long)]
    pub(crate) no_sync: bool,
    /// Vector instructions to use: scalar, baseline, avx2 or avx512; the bytes are the same with any
    #[arg(long, value_name = "LEVEL")]
    pub(crate) simd: Option<String>,
}

/// Files that a report is written to besides.
#[derive(Debug, clap::Args)]
pub(crate) struct ReportFiles {
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report_json: Option<PathBuf>,
    /// Write the report as a page with plots
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Append the report as Markdown, as for a CI summary
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Replace files that are there and are no reports of this tool
    #[arg(long)]
    pub(crate) force: bool,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Number of threads; 0 for one a processor
    #[arg(short, long, global = true, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
    /// No progress bar, no notes, no figures on stderr
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// What to make. Several recipes or types are made in one pass over the checkpoint.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct What {
    /// A recipe: one of `recipes/` by name, or a file
    #[arg(long = "recipe", value_name = "NAME|FILE", required_unless_present = "types")]
    pub(crate) recipes: Vec<String>,
    /// A preset of llama-quantize: q4_0, q8_0, q4_k_m, bf16, …
    #[arg(long = "type", visible_alias = "outtype", value_name = "PRESET")]
    pub(crate) types: Vec<String>,
    /// A type for the tensors whose GGUF name a regular expression finds; the first that matches decides
    #[arg(long = "tensor-type", value_name = "REGEX=TYPE")]
    pub(crate) tensor_types: Vec<String>,
    /// Type of the token embedding, which is also the head
    #[arg(long, alias = "token-embedding-type", value_name = "TYPE")]
    pub(crate) token_embd_type: Option<String>,
    /// Type of the per-layer embedding table of E2B and E4B
    #[arg(long, value_name = "TYPE")]
    pub(crate) per_layer_token_embd_type: Option<String>,
    /// Split the output into parts of at most so many bytes of tensors: 2GB, 500MB
    #[arg(long, value_name = "SIZE")]
    pub(crate) split_max_size: Option<String>,
    /// Shards of safetensors of at most so many bytes of tensors: 5GB, 512MB; 50GB, as transformers does, if left out
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_shard_size: Option<String>,
    /// Write only the text model to safetensors, as a model of its own; a GGUF never holds more
    #[arg(long)]
    pub(crate) text_only: bool,
    /// Round by importance: a file of `calibrate` or llama-imatrix, in GGUF form or an older .dat
    #[arg(long, visible_alias = "imatrix", value_name = "FILE")]
    pub(crate) importance: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) budget: Budget,
    /// Set a key of the recipe: unused_kv=drop, metadata.name="My Gemma"
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    /// Checkpoint folder or GGUF file (any part of a split)
    pub(crate) model: PathBuf,
    /// The text to continue, or with --chat what the user says; - for stdin
    #[arg(short, long, value_name = "TEXT", required_unless_present = "prompt_file")]
    pub(crate) prompt: Option<String>,
    /// The same, from a file; one newline at its end is not read
    #[arg(short = 'f', long, alias = "file", value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// Put the prompt through the model's chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// What the model is told before the user speaks
    #[arg(long, alias = "system-prompt", value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
    /// Whether the model should think first; without it the template decides
    #[arg(long, value_name = "on|off", requires = "chat", hide_possible_values = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub(crate) thinking: Option<bool>,
    /// Tools that the model may call: a JSON list, for the chat template
    #[arg(long, value_name = "FILE", requires = "chat")]
    pub(crate) tools: Option<PathBuf>,
    /// The most tokens to generate; 128, if the context has room
    #[arg(short = 'n', long, aliases = ["n-predict", "predict"], value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// The most tokens of prompt and answer together; the model's context, if left out
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N")]
    pub(crate) context: Option<usize>,
    /// Draw tokens at random: the higher, the more surprising; 0 takes the likeliest
    #[arg(long, visible_alias = "temp", value_name = "F", default_value_t = 0.0, value_parser = temperature)]
    pub(crate) temperature: f64,
    /// Draw from so many of the likeliest tokens; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0, requires = "temperature")]
    pub(crate) top_k: usize,
    /// Draw from the fewest of the likeliest tokens that have this share of the probability
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = share, requires = "temperature")]
    pub(crate) top_p: f64,
    /// Draw from tokens at least so likely as this share of the likeliest
    #[arg(long, value_name = "F", default_value_t = 0.0, value_parser = share, requires = "temperature")]
    pub(crate) min_p: f64,
    /// Where the random numbers begin: the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0, requires = "temperature")]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) drafting: Drafting,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// GGUF file (any part of a split) or folder of safetensors; a draft model too
    pub(crate) artifact: PathBuf,
    /// What to hold it against: the checkpoint folder it is of, a GGUF of the same model, or llama-perplexity's file of
    /// base logits. Without it the artifact is only checked by itself
    #[arg(long, value_name = "MODEL")]
    pub(crate) against: Option<PathBuf>,
    /// Text to predict; a .jsonl file has conversations, a list of messages each line
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Vec<PathBuf>,
    /// Tokens of a chunk of text, or of a conversation at most
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N", default_value_t = 512)]
    pub(crate) context: usize,
    /// The most chunks or conversations of each text
    #[arg(long, value_name = "N")]
    pub(crate) chunks: Option<usize>,
    /// What of a conversation is predicted
    #[arg(long, value_name = "WHAT", default_value = "all")]
    pub(crate) score: Score,
    /// The recipe that the artifact should be of, by name or as a file; else its manifest says, or its file type
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) recipe: Option<String>,
    /// The file of importance that it was rounded by, to compare every block byte for byte; else looked for where the
    /// manifest or its keys say that it was, and beside the artifact
    #[arg(long, visible_alias = "imatrix", value_name = "FILE")]
    pub(crate) importance: Option<PathBuf>,
    /// Fail when the mean KL divergence is larger, in nats a token
    #[arg(long, value_name = "X")]
    pub(crate) max_kld: Option<f64>,
    /// Fail when the perplexity is more than so many times the checkpoint's
    #[arg(long, value_name = "X")]
    pub(crate) max_ppl_ratio: Option<f64>,
    /// Fail when a smaller share of tokens has the same likeliest one in both
    #[arg(long, value_name = "X")]
    pub(crate) min_top1: Option<f64>,
    /// Go on with later steps when an earlier one has failed
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Fail without a manifest that describes the artifact
    #[arg(long)]
    pub(crate) require_manifest: bool,
    /// Do not look at weights
    #[arg(long)]
    pub(crate) no_tensors: bool,
    /// Memory for what lies between two layers; what a layer needs besides is some 500 MiB
    #[arg(long, alias = "memory", value_name = "SIZE", default_value = "1GiB")]
    pub(crate) text_memory: String,
    /// Write the logits of the base (of the artifact, if there is none) as llama-perplexity's --kl-divergence-base does:
    /// 134 MB a chunk of 512 tokens
    #[arg(long, value_name = "FILE")]
    pub(crate) save_logits: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reports: ReportFiles,
}

/// What of a conversation is predicted.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Score {
    /// Every token but the first
    All,
    /// What the model says
    Answers,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().map_err(|e| format!("{e}"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("not between 0 and 1".into()) }
}

fn temperature(text: &str) -> Result<f64, String> {
    let temperature: f64 = text.parse().map_err(|e| format!("{e}"))?;
    if temperature >= 0.0 && temperature.is_finite() { Ok(temperature) } else { Err("not 0 or more".into()) }
}
