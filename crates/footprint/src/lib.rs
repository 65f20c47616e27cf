//! Memory estimates of a run: weights by placement, KV cache by kind of layer, working buffers; and the fit into a
//! memory limit.
//!
//! ```
//! # let folder = testkit::fixtures("checkpoints/e2b");
//! # let checkpoint = checkpoint::Checkpoint::open(&folder)?;
//! # let model = gemma::ModelSpec::open(&checkpoint)?;
//! # let recipe = plan::Recipe::from_toml("types.preset = 'q4_0'", "mine")?;
//! # let requests = [plan::Request::new("mine", recipe, "model")];
//! # let plan = plan::plan(&model, &plan::Shards::of(&checkpoint), &requests)?;
//! use footprint::{Conditions, Engine, memory};
//! use tensor::DType;
//!
//! let conditions = Conditions::new(&model.config, 8192, DType::F16)?; // tokens, type of the KV cache
//! let memory = memory(&model, &plan.artifacts[0], conditions);
//! assert_eq!(memory.needs[0].engine, Engine::LlamaCpp);
//! assert!(memory.needs[0].total > memory.weights.resident);
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! The estimates are arithmetic over a plan and a config, without measurements. Each engine has its own file:
//! `llama_cpp.rs` follows llama.cpp's source, `runtime.rs` this project's `runtime`, whose constants it uses.
//! docs/memory.md has measurements beside the estimates.
//!
//! [`Conditions::with_media`] adds an image and a sound, and the towers that read them. Without it towers are `idle`.
//!
//! Not covered: GPUs, several sequences at a time, several images at a time.

mod fit;
mod llama_cpp;
mod media;
mod runtime;

use gemma::{Attention, Config, ModelSpec};
use plan::{Artifact, OTHER, Offloaded, Origin, OutputTensor};
use schemars::JsonSchema;
use serde::Serialize;
use tensor::{DType, Error, Result};

pub use fit::{Candidate, Verdict, verdict};
pub use media::{Media, MediaTokens, own_towers};

/// The settings of a run that determine its memory.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// Tokens of prompt and answer together.
    pub context: u64,
    /// Maximum tokens per forward pass: llama.cpp's `--ubatch-size`, or a piece of the prompt.
    pub batch: u64,
    /// The type of keys and values in llama.cpp. The runtime keeps them in f32.
    pub kv_type: DType,
    /// Threads of the runtime, each with its own buffers.
    pub threads: u64,
    /// An image and a sound, if any.
    pub media: Option<Media>,
}

/// The program that runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Engine {
    /// llama.cpp on a CPU, with one sequence and the defaults of its tools.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
    /// `gemma-convert generate`.
    #[serde(rename = "gemma-convert")]
    Runtime,
}

/// The memory of an artifact under given conditions.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Memory {
    /// Tokens of prompt and answer together.
    pub context: u64,
    /// Maximum tokens per forward pass.
    pub batch: u64,
    /// Threads of the runtime.
    pub threads: u64,
    /// The image and the sound, if the estimate counts any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<MediaTokens>,
    /// The weights.
    pub weights: WeightMemory,
    /// The needs of each engine. The first is the engine that the artifact is meant for.
    pub needs: Vec<EngineMemory>,
}

/// Bytes of weights by placement.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct WeightMemory {
    /// Bytes that every token, image or sound reads.
    pub resident: u64,
    /// Of these, the image and audio towers. 0 if the estimate counts no image and no sound.
    pub towers: u64,
    /// Sparsely accessed weights in separate files.
    pub offloaded: Vec<Offloaded>,
    /// Bytes that are never read: unused K/V of KV-shared layers, and towers without an image or a sound.
    pub idle: u64,
    /// Bits per weight, of the weights that text needs.
    pub bits_per_weight: f64,
}

/// The memory of an engine: in its process, and in the page cache.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EngineMemory {
    /// The engine that these figures are for.
    pub engine: Engine,
    /// Weights in the process: llama.cpp maps them, and `gemma-convert` those of a GGUF but the per-layer table. Of a folder
    /// it keeps only those that it is multiplying.
    pub mapped: u64,
    /// Weights of towers in the process: llama.cpp reads them into its own memory.
    pub towers: u64,
    /// The type of keys and values.
    pub kv_type: &'static str,
    /// The KV cache, by kind of layer.
    pub kv: Vec<KvLayers>,
    /// Activation memory and buffers for `batch` tokens.
    pub working: u64,
    /// Activation memory and buffers for the image and the sound.
    pub media: u64,
    /// The program and its tokenizer, after the model is opened.
    pub process: u64,
    /// The peak of the process's resident set with a full context. For llama.cpp, the sum of these. `gemma-convert`
    /// frees the buffers of image and sound before it computes the text; its peak is while opening, with these
    /// buffers on top, or while computing.
    pub peak_rss: u64,
    /// Weights that every token, image or sound reads from the file: they need the page cache, or each token waits
    /// for the disk.
    pub cached: u64,
    /// The sum of the two: the memory with which nothing waits for the disk.
    pub total: u64,
}

/// The KV cache of layers of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KvLayers {
    /// `sliding` or `full`; `shared` for layers that read the K/V of another.
    pub kind: &'static str,
    /// Number of layers.
    pub layers: u64,
    /// Positions per layer.
    pub cells: u64,
    /// Bytes of all these layers.
    pub bytes: u64,
}

/// The types of keys and values that llama.cpp accepts (`kv_cache_types` of its common/arg.cpp).
const KV_TYPES: [DType; 9] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::IQ4_NL,
    DType::Q5_0,
    DType::Q5_1,
];

/// The limit of both engines, whatever the config says.
const MAX_CONTEXT: u64 = u32::MAX as u64;

impl Conditions {
    /// llama.cpp's default of `--ubatch-size`.
    pub const BATCH: u64 = 512;
    /// The default number of threads.
    const THREADS: u64 = 2;

    /// # Errors
    /// `Recipe` for a context above the model's, and for a type that llama.cpp does not support for K/V or whose
    /// blocks do not divide this model's head sizes.
    pub fn new(config: &Config, context: u64, kv_type: DType) -> Result<Conditions> {
        let most = config.context.clamp(1, MAX_CONTEXT);
        if context == 0 || context > most {
            return Err(Error::recipe("‹context›", "not a context of this model")
                .expected(format!("1 to {most} tokens"), context));
        }
        let fits = |t: DType| (0..config.layers()).all(|n| t.row_bytes(config.head_dim_of(n)).is_some());
        if !KV_TYPES.contains(&kv_type) || !fits(kv_type) {
            let known: Vec<_> = KV_TYPES.iter().filter(|&&t| fits(t)).map(|t| t.name()).collect();
            return Err(Error::recipe("‹kv_type›", "not a type for the keys and values of this model")
                .expected(known.join(", "), kv_type));
        }
        let (batch, threads) = (Conditions::BATCH, Conditions::THREADS);
        Ok(Conditions { context, batch, kv_type, threads, media: None })
    }

    fn at(self, context: u64) -> Conditions {
        Conditions { context, ..self }
    }

    /// Maximum number of tokens in one forward pass.
    fn together(self) -> u64 {
        self.batch.min(self.context)
    }
}

/// The memory that `artifact`, planned for `model`, needs. Safetensors of the text model alone read no images and no
/// sounds.
pub fn memory(model: &ModelSpec, artifact: &Artifact, conditions: Conditions) -> Memory {
    let media = conditions.media.filter(|media| media.weights(artifact) > 0);
    let conditions = Conditions { media, ..conditions };
    let weights = weights(&model.config, artifact, media);
    let engines: &[Engine] =
        if is_gguf(artifact) { &[Engine::LlamaCpp, Engine::Runtime] } else { &[Engine::Runtime] };
    let needs = engines.iter().map(|&engine| need(model, artifact, engine, &weights, conditions)).collect();
    let Conditions { context, threads, .. } = conditions;
    let media = media.map(|media| media.tokens());
    Memory { context, batch: conditions.together(), threads, media, needs, weights }
}

fn need(
    model: &ModelSpec,
    artifact: &Artifact,
    engine: Engine,
    weights: &WeightMemory,
    conditions: Conditions,
) -> EngineMemory {
    let config = &model.config;
    let kv = kv_cache(config, engine, conditions);
    let cache = kv.iter().map(|layers| layers.bytes).sum::<u64>();
    let WeightMemory { resident, towers, .. } = *weights;
    let kv_type = engine.kv_type(conditions).name();
    match engine {
        Engine::LlamaCpp => {
            let (working, process) = (llama_cpp::working(config, conditions), llama_cpp::process(model));
            let media = conditions.media.map_or(0, |media| llama_cpp::media(config, &media));
            let (mapped, total) = (resident - towers, resident + cache + working + media + process);
            EngineMemory {
                engine,
                mapped,
                towers,
                kv_type,
                kv,
                working,
                media,
                process,
                peak_rss: total,
                cached: 0,
                total,
            }
        }
        Engine::Runtime => {
            let (process, opening) = runtime::process(model, is_gguf(artifact));
            let working = runtime::working(config, artifact, conditions);
            let media = conditions.media.map_or(0, |media| runtime::media(config, &media, conditions));
            let own = (process + cache + working).max(opening + media);
            let mapped = if is_gguf(artifact) { runtime::mapped(artifact, resident - towers) } else { 0 };
            EngineMemory {
                engine,
                mapped,
                towers: 0,
                kv_type,
                kv,
                working,
                media,
                process,
                peak_rss: own + mapped,
                cached: resident - mapped,
                total: own + resident,
            }
        }
    }
}

impl Engine {
    fn kv_type(self, conditions: Conditions) -> DType {
        match self {
            Engine::LlamaCpp => conditions.kv_type,
            Engine::Runtime => DType::F32,
        }
    }
}

/// The KV cache by kind of layer: `sliding`, `full` and `shared`, as far as the model has them.
pub fn kv_cache(config: &Config, engine: Engine, conditions: Conditions) -> Vec<KvLayers> {
    let dtype = engine.kv_type(conditions);
    let kinds = [
        ("sliding", false, Attention::Sliding),
        ("full", false, Attention::Full),
        ("shared", true, Attention::Sliding),
        ("shared", true, Attention::Full),
    ];
    let mut all: Vec<KvLayers> = Vec::new();
    for (kind, shares, attention) in kinds {
        let of_kind = |&n: &usize| config.shares_kv(n) == shares && config.attention[n] == attention;
        let layers: Vec<usize> = (0..config.layers()).filter(of_kind).collect();
        let cells = match (shares, engine) {
            (true, _) => 0,
            (false, Engine::LlamaCpp) => llama_cpp::cells(config, attention, conditions),
            (false, Engine::Runtime) => runtime::cells(config, attention, conditions),
        };
        // keys and values; the type was checked before
        let bytes = |n: &usize| {
            2 * cells * dtype.row_bytes(config.kv_heads_of(*n) * config.head_dim_of(*n)).unwrap_or(0)
        };
        let here =
            KvLayers { kind, layers: layers.len() as u64, cells, bytes: layers.iter().map(bytes).sum() };
        match all.last_mut().filter(|last| last.kind == kind) {
            Some(last) => last.layers += here.layers,
            None => all.push(here),
        }
    }
    all.retain(|layers| layers.layers > 0);
    all
}

fn weights(config: &Config, artifact: &Artifact, media: Option<Media>) -> WeightMemory {
    let (idle, read): (Vec<_>, Vec<_>) = artifact.tensors().partition(|tensor| is_idle(config, tensor));
    let bytes = |tensors: &[&OutputTensor]| tensors.iter().map(|tensor| tensor.bytes).sum::<u64>();
    let offloaded = artifact.offloaded.iter().map(|class| class.bytes).sum::<u64>();
    let is_weight = |tensor: &&&OutputTensor| !matches!(tensor.from, Origin::Scales(_));
    let count: u64 = read.iter().filter(is_weight).map(|tensor| tensor.desc.elements()).sum();
    let towers = media.map_or(0, |media| media.weights(artifact));
    let own = if media.is_some() { own_towers(artifact) } else { 0 };
    WeightMemory {
        resident: bytes(&read).saturating_sub(offloaded) + towers,
        towers,
        offloaded: artifact.offloaded.clone(),
        idle: bytes(&idle) - own,
        bits_per_weight: bytes(&read) as f64 * 8.0 / count.max(1) as f64,
    }
}

/// Whether text never reads the tensor.
fn is_idle(config: &Config, tensor: &OutputTensor) -> bool {
    let is_kv = ["attn_k", "attn_v", "attn_k_norm"].contains(&tensor.role);
    tensor.role == OTHER || is_kv && tensor.layer.is_some_and(|layer| config.shares_kv(layer))
}

fn is_gguf(artifact: &Artifact) -> bool {
    artifact.files.first().is_some_and(|file| file.name.ends_with(".gguf"))
}

/// Number of entries of the tokenizer: tokens and merges.
fn entries(model: &ModelSpec) -> u64 {
    (model.vocabulary.tokens.len() + model.vocabulary.merges.len()) as u64
}
