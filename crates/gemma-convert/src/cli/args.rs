//! The arguments as typed. `args/jobs.rs` turns them into jobs of the library.

mod adapter;
mod budget;
mod bundle;
mod calibrate;
mod draft;
mod edit;
mod examples;
mod generate;
mod jobs;
mod lora;
#[cfg(feature = "hub")]
mod models;
mod pack;
mod part;
mod release;
mod spelling;

use std::path::PathBuf;
use std::sync::OnceLock;

use clap::{Parser, Subcommand};
use gemma_convert::{Chunks, Compute, HubSource};

pub(crate) use adapter::{AdapterArgs, AdapterCommand};
pub(crate) use budget::{Budget, Sensitivity};
pub(crate) use bundle::IntoBundle;
pub(crate) use calibrate::{Calibrate, CalibrationText};
pub(crate) use draft::{Draft, DraftCommand, DraftConvert, DraftExtract, DraftMeasure, Drafting};
pub(crate) use edit::Edit;
pub(crate) use generate::{Generate, Media};
pub(crate) use lora::Lora;
#[cfg(feature = "hub")]
pub(crate) use models::{HubOptions, Slot};
pub(crate) use pack::{Pack, PackCommand};
pub(crate) use part::PartArgs;
pub(crate) use release::Release;
pub(crate) use spelling::normalised;

/// Converts Gemma 4 checkpoints to GGUF files for llama.cpp and Ollama, with the bytes of llama.cpp's own tools, and to
/// smaller safetensors.
#[derive(Debug, Parser)]
#[command(version, long_version = version(), max_term_width = 100, after_help = examples::ALL)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The version, the commit of the sources, the vector instructions and the kernel.
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
    /// Show the content of a checkpoint folder, a GGUF file, an importance matrix or an .sbs file of gemma.cpp
    #[command(after_help = examples::INSPECT)]
    Inspect(Inspect),
    /// Show the outputs of a conversion, with sizes and a memory estimate; writes nothing
    #[command(after_help = examples::PLAN)]
    Plan(Plan),
    /// Convert a checkpoint folder to GGUF (text model, mmproj), or to safetensors in other types or shards; or a GGUF to other types
    #[command(after_help = examples::CONVERT)]
    Convert(Convert),
    /// Make the outputs of a job from its parts, which `convert`, `calibrate` or `sensitivity` with `--part` have made
    #[command(after_help = examples::JOIN)]
    Join(Join),
    /// Collect an importance matrix (imatrix) on a text
    #[command(after_help = examples::CALIBRATE)]
    Calibrate(Calibrate),
    /// Measure the KL divergence caused by quantizing each tensor, for bit allocation
    #[command(after_help = examples::SENSITIVITY)]
    Sensitivity(Sensitivity),
    /// Compare an artifact with its checkpoint: structure, weights, perplexity, KL divergence
    #[command(after_help = examples::VERIFY)]
    Verify(Verify),
    /// Generate text with the reference runtime
    #[command(after_help = examples::GENERATE)]
    Generate(Generate),
    /// Draft models for speculative decoding
    #[command(after_help = examples::DRAFT)]
    Draft(Draft),
    /// Adapters (LoRA) as files of their own; `--lora` of other commands merges them
    #[command(after_help = examples::ADAPTER)]
    Adapter(AdapterArgs),
    /// Make the whole set of files of a model: quantized, verified, with model card and checksums
    #[command(after_help = examples::RELEASE)]
    Release(Release),
    /// Change keys or the chat template of a finished GGUF, merge its parts, or split it; the tensors are copied
    #[command(after_help = examples::EDIT)]
    Edit(Edit),
    /// Put finished GGUF files where other programs find them
    #[command(after_help = examples::PACK)]
    Pack(Pack),
    /// List the recipes, with the size of each for a model, and the recipes of releases
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
    /// Checkpoint folder, hub id or GGUF file, for sizes
    pub(crate) model: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Checkpoint folder, hub id, folder of an adapter, GGUF file (any part of a split), importance matrix (GGUF or .dat) or .sbs
    /// file
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) lora: Lora,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    /// Checkpoint folder, the id of a model on the hub, or a GGUF file (any part of a split)
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) lora: Lora,
    #[command(flatten)]
    pub(crate) what: What,
    /// Folder, or for one output a file name that ends in .gguf
    #[arg(short, long, alias = "outfile", value_name = "OUT", default_value = ".")]
    pub(crate) out: PathBuf,
    /// Memory limit, such as 2GiB: show whether the output fits, the largest context, and the recipes that fit
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory: Option<String>,
    /// Tokens of prompt and answer together, for the memory estimate; by default 8192, or the model's context if
    /// shorter
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N")]
    pub(crate) context: Option<u64>,
    /// The folder has the headers of the weights only
    #[arg(skip)]
    pub(crate) headers_only: bool,
    /// Show what each of N parts reads and writes, for `convert --part`
    #[arg(long, value_name = "N")]
    pub(crate) parts: Option<u32>,
    /// List every tensor: type, shape, file, offset, bytes and the reason for the type
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Type of the KV cache in llama.cpp, for the memory estimate: f16 by default, f32, bf16, q8_0, q5_1, q5_0,
    /// iq4_nl, q4_1 or q4_0
    #[arg(long, value_name = "TYPE")]
    pub(crate) kv_type: Option<String>,
    /// Soft tokens of an image, for the memory estimate: 70, 140, 280, 560 or 1120; by default those of the checkpoint,
    /// if an mmproj file is planned
    #[arg(long, value_name = "N")]
    pub(crate) image_budget: Option<usize>,
    /// Seconds of a sound, for the memory estimate, 0 for none; by default 30, if an mmproj file is planned
    #[arg(long, value_name = "N")]
    pub(crate) audio_seconds: Option<u64>,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Convert {
    /// Checkpoint folder, the id of a model on the hub, or a GGUF file (any part of a split)
    pub(crate) model: PathBuf,
    /// The repository from which the model was downloaded.
    #[arg(skip)]
    pub(crate) source: Option<HubSource>,
    #[command(flatten)]
    pub(crate) lora: Lora,
    #[command(flatten)]
    pub(crate) what: What,
    #[command(flatten)]
    pub(crate) text: CalibrationText,
    #[command(flatten)]
    pub(crate) bundle: IntoBundle,
    /// Folder, or for one output a file name that ends in .gguf
    #[arg(short, long, alias = "outfile", value_name = "OUT")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) part: PartArgs,
    /// Replace existing outputs
    #[arg(long)]
    pub(crate) force: bool,
    /// Skip artifacts that exist already, complete and made by the same plan: for CI caches. --force replaces the others
    #[arg(long)]
    pub(crate) skip_existing: bool,
    /// Do not flush outputs to disk: a power cut may lose them; a killed run still leaves no incomplete file
    #[arg(long)]
    pub(crate) no_sync: bool,
    /// Hash the weights, for the manifest: always; known, but where a download has recorded the hash; or never
    #[arg(long, value_name = "WHEN", default_value = "known")]
    pub(crate) hash_input: String,
    /// Convert the weights of a model on the hub as they are downloaded, and keep no copy of them
    #[cfg(feature = "hub")]
    #[arg(long, conflicts_with = "bundle")]
    pub(crate) stream: bool,
    #[command(flatten)]
    pub(crate) arithmetic: Arithmetic,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Join {
    /// The targets of the parts (their -o): one that all have written to, or several
    #[arg(required = true, value_name = "OUT")]
    pub(crate) folders: Vec<PathBuf>,
    /// Folder of the outputs; by default the first of the folders
    #[arg(short, long, value_name = "OUT")]
    pub(crate) out: Option<PathBuf>,
    /// Replace existing outputs
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not flush outputs to disk
    #[arg(long)]
    pub(crate) no_sync: bool,
}

/// The arithmetic of a job.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arithmetic {
    /// Vector instructions of codecs and functions: scalar, baseline, avx2 or avx512. Results are the same with any
    #[arg(long, value_name = "LEVEL")]
    simd: Option<String>,
    /// Kernel of matrix products: f32, or amx where the processor has it, which is the default there. The last bits of its results
    /// differ: the parts of a job need the same one
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
}

/// Files for the report.
#[derive(Debug, clap::Args)]
pub(crate) struct ReportFiles {
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report_json: Option<PathBuf>,
    /// Write the report as an HTML page with plots
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Append the report as Markdown, such as to a CI summary
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Replace existing files that are not reports of this program
    #[arg(long)]
    pub(crate) force: bool,
}

/// Options of all commands.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Number of threads; 0 for one per processor
    #[arg(short, long, global = true, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
    /// No progress bar, no notes, no figures on stderr
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// More details: errors by role in `verify`, figures in `generate`
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    #[cfg(feature = "hub")]
    #[command(flatten)]
    pub(crate) hub: HubOptions,
}

/// The artifacts to make. Several recipes or types are made in one pass over the checkpoint.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(group(clap::ArgGroup::new("outputs").required(true).multiple(true)))]
pub(crate) struct What {
    /// A recipe: one of `recipes/` by name, or a file
    #[arg(long = "recipe", value_name = "NAME|FILE", group = "outputs")]
    pub(crate) recipes: Vec<String>,
    /// A preset of llama-quantize: q4_0, q8_0, q4_k_m, bf16, …
    #[arg(
        long = "type",
        visible_alias = "outtype",
        value_name = "PRESET",
        value_delimiter = ',',
        group = "outputs"
    )]
    pub(crate) types: Vec<String>,
    /// An mmproj file with the image and audio towers, in this type: bf16, f16, f32, q8_0, …
    #[arg(long, value_name = "PRESET", value_delimiter = ',', group = "outputs")]
    pub(crate) mmproj: Vec<String>,
    /// Type of the tensors whose GGUF name matches a regular expression; the first matching rule applies
    #[arg(long = "tensor-type", value_name = "REGEX=TYPE")]
    pub(crate) tensor_types: Vec<String>,
    /// Type of the token embedding, which is also the head
    #[arg(long, alias = "token-embedding-type", value_name = "TYPE")]
    pub(crate) token_embd_type: Option<String>,
    /// Type of the per-layer embedding table of E2B and E4B
    #[arg(long, value_name = "TYPE")]
    pub(crate) per_layer_token_embd_type: Option<String>,
    /// Split the output into parts with at most this many bytes of tensors: 2GB, 500MB
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) split_max_size: Option<String>,
    /// Split safetensors into shards with at most this many bytes of tensors: 5GB, 512MB; by default 50GB, like
    /// transformers
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) max_shard_size: Option<String>,
    /// Write only the text model to safetensors, as a model of its own; a GGUF of a model never has towers
    #[arg(long)]
    pub(crate) text_only: bool,
    /// Importance matrix (imatrix) for quantization: a file of `calibrate` or llama-imatrix, GGUF or .dat
    #[arg(long, visible_alias = "imatrix", value_name = "FILE")]
    pub(crate) importance: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) budget: Budget,
    /// Set a key of the recipe: unused_kv=drop, metadata.name="My Gemma"
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// GGUF files (any part of a split) or folders of safetensors, also of draft models; or the folder of a release, with all
    /// its GGUF files. Several artifacts are compared with each other, and the base reads the text once
    #[arg(required = true, value_name = "ARTIFACT")]
    pub(crate) artifacts: Vec<PathBuf>,
    /// Base of the comparison: the checkpoint folder or its hub id, a GGUF of the same model (of an mmproj file another one), or
    /// llama-perplexity's file of base logits. Without it the artifact is checked alone
    #[arg(long, value_name = "MODEL")]
    pub(crate) against: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) lora: Lora,
    /// Checkpoint of the draft models among several artifacts, a folder or hub id
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) assistant: Option<PathBuf>,
    /// Text to predict: plain text, or a .jsonl file with a conversation (list of messages) in each line. Parts of messages
    /// may name images and sounds, by paths from the folder of that file
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Vec<PathBuf>,
    /// The mmproj file of a GGUF, for the images and sounds of conversations
    #[arg(long, value_name = "FILE")]
    pub(crate) mmproj: Option<PathBuf>,
    /// Tokens per chunk of plain text; the most tokens of a conversation
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N", default_value_t = 512)]
    pub(crate) context: usize,
    /// Chunks or conversations of the text to use: 16 for the first sixteen, 16..32 for the next sixteen
    #[arg(long, value_name = "N|A..B")]
    pub(crate) chunks: Option<Chunks>,
    /// Scored part of a conversation
    #[arg(long, value_name = "WHAT", default_value = "all")]
    pub(crate) score: Score,
    /// Recipe of the artifact, a name or a file; by default that of its manifest, or else of its file type
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) recipe: Option<String>,
    /// Importance matrix that the artifact was quantized with, to compare every block byte for byte; by default it is
    /// searched for at the path in the manifest or the keys, and beside the artifact
    #[arg(long, visible_alias = "imatrix", value_name = "FILE")]
    pub(crate) importance: Option<PathBuf>,
    /// Fail if the mean KL divergence is larger, in nats per token
    #[arg(long, value_name = "X")]
    pub(crate) max_kld: Option<f64>,
    /// Fail if the perplexity divided by the checkpoint's is larger
    #[arg(long, value_name = "X")]
    pub(crate) max_ppl_ratio: Option<f64>,
    /// Fail if the share of tokens with the same most probable token in both models is smaller
    #[arg(long, value_name = "X")]
    pub(crate) min_top1: Option<f64>,
    /// Fail if the soft tokens of an image or a sound differ more from those of the checkpoint, as relative RMS
    #[arg(long, value_name = "X")]
    pub(crate) max_feature_error: Option<f64>,
    /// An image for an mmproj file: its soft tokens are compared with those of the checkpoint; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,
    /// A sound for an mmproj file, likewise
    #[arg(long, value_name = "FILE")]
    pub(crate) audio: Vec<PathBuf>,
    /// Run later steps even if an earlier one has failed
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Fail without a manifest that describes the artifact
    #[arg(long)]
    pub(crate) require_manifest: bool,
    /// Do not read weights
    #[arg(long)]
    pub(crate) no_tensors: bool,
    /// Activation memory: hidden states of the text between two layers; the layer itself needs about 500 MiB more
    #[arg(
        long,
        alias = "memory",
        value_name = "SIZE",
        default_value = "1GiB",
        allow_negative_numbers = true
    )]
    pub(crate) text_memory: String,
    /// Write the logits of the base, or of the artifact without a base, in the format of llama-perplexity's
    /// --kl-divergence-base: 134 MB per chunk of 512 tokens
    #[arg(long, value_name = "FILE")]
    pub(crate) save_logits: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) part: PartArgs,
    /// Folder for what a part measures
    #[arg(short, long, value_name = "FOLDER", requires = "part")]
    pub(crate) out: Option<PathBuf>,
    /// Make the report from what the parts have measured, in their folders
    #[arg(long, value_name = "FOLDER", conflicts_with = "part")]
    pub(crate) join: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) reports: ReportFiles,
    #[command(flatten)]
    pub(crate) arithmetic: Arithmetic,
}

/// The scored part of a conversation.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Score {
    /// Every token except the first
    All,
    /// The answers of the model
    Answers,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().map_err(|e| format!("{e}"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("not between 0 and 1".into()) }
}
