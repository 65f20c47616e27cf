//! The arguments, as they are typed. `args/jobs.rs` turns them into jobs of the library.

mod budget;
mod calibrate;
mod draft;
mod examples;
mod jobs;
mod spelling;

use std::path::PathBuf;
use std::sync::OnceLock;

use clap::builder::BoolishValueParser;
use clap::{Parser, Subcommand};
use gemma_convert::{Chunks, Compute};

pub(crate) use budget::{Budget, Sensitivity};
pub(crate) use calibrate::{Calibrate, CalibrationText};
pub(crate) use draft::{Draft, DraftCommand, DraftConvert, DraftExtract, DraftMeasure, Drafting};
pub(crate) use spelling::normalised;

/// Turns Gemma 4 checkpoints into GGUF files for llama.cpp and Ollama, byte for byte as llama.cpp's own tools, and into
/// smaller safetensors.
#[derive(Debug, Parser)]
#[command(version, long_version = version(), max_term_width = 100, after_help = examples::ALL)]
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
    let Compute { simd, kernel } = Compute::detect();
    let (version, simd, kernel) = (env!("CARGO_PKG_VERSION"), simd.name(), kernel.name());
    format!("{version} (commit {commit})\ncodecs: {simd}; matrix products: {kernel}")
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a checkpoint folder, a GGUF file, a file of importance or an .sbs file of gemma.cpp holds
    #[command(after_help = examples::INSPECT)]
    Inspect(Inspect),
    /// Show what would be written: every tensor, its type, file, offset and size; writes nothing
    #[command(after_help = examples::PLAN)]
    Plan(Plan),
    /// Convert a checkpoint folder to GGUF, or to safetensors in other types or shards
    #[command(after_help = examples::CONVERT)]
    Convert(Convert),
    /// Learn from a text which columns of the weights matter: a file of importance
    #[command(after_help = examples::CALIBRATE)]
    Calibrate(Calibrate),
    /// Measure what rounding each tensor costs: what types are chosen by for a size
    #[command(after_help = examples::SENSITIVITY)]
    Sensitivity(Sensitivity),
    /// Check an artifact against its checkpoint: structure, weights, perplexity, KL divergence
    #[command(after_help = examples::VERIFY)]
    Verify(Verify),
    /// Continue a prompt with the reference runtime
    #[command(after_help = examples::GENERATE)]
    Generate(Generate),
    /// Draft models for speculative decoding
    #[command(after_help = examples::DRAFT)]
    Draft(Draft),
    /// List the recipes, with the size of each for a model
    #[command(after_help = examples::RECIPES)]
    Recipes(List),
    /// List the presets of llama-quantize, with the size of each for a model
    #[command(after_help = examples::TYPES)]
    Types(List),
    /// Print a completion script for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions(Completions),
    /// Print the manual page, in roff
    #[command(after_help = examples::MAN)]
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
    /// List every tensor: type, shape, file, offset, bytes and the reason of the type
    #[arg(long)]
    pub(crate) tensors: bool,
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
    /// Leave artifacts alone that are there already, complete and of this very plan: for CI caches
    #[arg(long, conflicts_with = "force")]
    pub(crate) skip_existing: bool,
    /// Do not wait for the disk: a power cut may lose the output, a killed run still leaves no half file
    #[arg(long)]
    pub(crate) no_sync: bool,
    #[command(flatten)]
    pub(crate) arithmetic: Arithmetic,
}

/// The arithmetic of a job.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arithmetic {
    /// Vector instructions of codecs and functions: scalar, baseline, avx2 or avx512. Results are the same with any
    #[arg(long, value_name = "LEVEL")]
    simd: Option<String>,
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
    /// More details: errors by role in `verify`, figures in `generate`
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
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
    /// The text to continue, or with --chat the message of the user; - for stdin
    #[arg(short, long, value_name = "TEXT", required_unless_present_any = ["prompt_file", "chat", "messages"])]
    pub(crate) prompt: Option<String>,
    /// The same, from a file; one newline at its end is not read
    #[arg(short = 'f', long, alias = "file", value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// Put the prompt through the model's chat template; without a prompt, a conversation on the terminal
    #[arg(long)]
    pub(crate) chat: bool,
    /// A conversation to answer: a JSON list of messages, as OpenAI's API takes them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompt_file", "system"])]
    pub(crate) messages: Option<PathBuf>,
    /// The system message of the conversation
    #[arg(long, alias = "system-prompt", value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
    /// Whether the model thinks first; without it the template decides
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub(crate) thinking: Option<bool>,
    /// Tools that the model may call: a JSON list, for the chat template
    #[arg(long, value_name = "FILE")]
    pub(crate) tools: Option<PathBuf>,
    /// The most tokens to generate; 128, if the context has room
    #[arg(short = 'n', long, aliases = ["n-predict", "predict"], value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// The most tokens of prompt and answer together; the model's context, if left out
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N")]
    pub(crate) context: Option<usize>,
    /// End at this text, which is not shown; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
    /// Sample with the values that the model recommends, as llama.cpp does; greedy decoding without
    #[arg(long)]
    pub(crate) sample: bool,
    /// Temperature of sampling; 0 for greedy decoding. 1, if another sampling option is given
    #[arg(long, visible_alias = "temp", value_name = "F", value_parser = temperature)]
    pub(crate) temperature: Option<f64>,
    /// Sample from so many of the likeliest tokens; 0 for all
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<usize>,
    /// Sample from the fewest of the likeliest tokens that have this share of the probability
    #[arg(long, value_name = "F", value_parser = share)]
    pub(crate) top_p: Option<f64>,
    /// Sample from tokens at least so likely as this share of the likeliest
    #[arg(long, value_name = "F", value_parser = share)]
    pub(crate) min_p: Option<f64>,
    /// Seed of the random numbers: the same seed gives the same text; without, a new one each time
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) drafting: Drafting,
    #[command(flatten)]
    pub(crate) arithmetic: Arithmetic,
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
    /// The chunks or conversations of the text: 16 for the first sixteen, 16..32 for those after them
    #[arg(long, value_name = "N|A..B")]
    pub(crate) chunks: Option<Chunks>,
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
    #[command(flatten)]
    pub(crate) arithmetic: Arithmetic,
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
