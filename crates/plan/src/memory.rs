//! What a run takes of memory: weights by placement, keys and values by kind of layer, working buffers.
//!
//! Arithmetic over a plan and a config; nothing is measured here. Each engine has a file of its own: `llama_cpp.rs`
//! follows llama.cpp's source, `runtime.rs` this project's runtime. docs/memory.md has the figures that both were held
//! against.
//!
//! Left out: graphics cards, several sequences at a time, image and audio input (the weights of those are `idle`).

mod fit;
mod llama_cpp;
mod runtime;

use gemma::{Attention, Config, Model};
use serde::Serialize;
use tensor::{DType, Error, Result};

pub use fit::{Candidate, Verdict, verdict};

use crate::offload::Offloaded;
use crate::safetensors::OTHER;
use crate::types::{Artifact, Origin, OutputTensor};

/// What a run is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// Tokens of prompt and answer together.
    pub context: u64,
    /// Tokens that go through the model together, at most: llama.cpp's `--ubatch-size`, or a piece of the prompt.
    pub batch: u64,
    /// The type of keys and values in llama.cpp. The runtime keeps them in f32.
    pub kv_type: DType,
}

/// What runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Engine {
    /// llama.cpp on a processor, with one sequence and the defaults of its tools.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
    /// `gemma-convert generate`.
    #[serde(rename = "gemma-convert")]
    Runtime,
}

/// What an artifact takes under some conditions.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Tokens of prompt and answer together.
    pub context: u64,
    /// The weights.
    pub weights: Weights,
    /// What an engine needs besides. The first is the one that the artifact is meant for.
    pub needs: Vec<Need>,
}

/// Bytes of weights by where they have to be.
#[derive(Clone, Debug, Serialize)]
pub struct Weights {
    /// Read for every token.
    pub resident: u64,
    /// In files of their own, a little of them read for every token.
    pub offloaded: Vec<Offloaded>,
    /// Never read for text: towers, K/V of layers that read another layer's.
    pub idle: u64,
    /// Bits a weight, of those that text needs.
    pub bits_per_weight: f64,
}

/// Bytes that an engine needs besides the weights.
#[derive(Clone, Debug, Serialize)]
pub struct Need {
    /// Whose.
    pub engine: Engine,
    /// The type of keys and values.
    pub kv_type: &'static str,
    /// Keys and values, by kind of layer.
    pub kv: Vec<KvLayers>,
    /// What lies between layers, while `batch` tokens go through.
    pub working: u64,
    /// The program and its tokenizer.
    pub process: u64,
    /// All of these: for `gemma-convert`, which reads weights where it multiplies them, the peak of its resident set.
    pub private: u64,
    /// With the resident weights: what has to be there, so that a token waits for no disk.
    pub total: u64,
}

/// Layers that have the same of keys and values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KvLayers {
    /// `sliding` or `full`; `shared` for layers that read those of another.
    pub kind: &'static str,
    /// How many layers.
    pub layers: u64,
    /// Positions that there is room for.
    pub cells: u64,
    /// Bytes of all these layers.
    pub bytes: u64,
}

/// The types of keys and values that llama.cpp takes (`kv_cache_types` of its common/arg.cpp).
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

/// No engine counts further, whatever a config says.
const MAX_CONTEXT: u64 = u32::MAX as u64;

impl Conditions {
    /// What llama.cpp takes, unless it is told otherwise.
    pub const BATCH: u64 = 512;

    /// # Errors
    /// `Recipe` for a context that the model has not, and for a type that llama.cpp does not keep K/V in or that heads of
    /// this model are no whole number of blocks of.
    pub fn new(config: &Config, context: u64, kv_type: DType) -> Result<Conditions> {
        let most = config.context.clamp(1, MAX_CONTEXT);
        if context == 0 || context > most {
            return Err(Error::recipe("--context", "not a context of this model")
                .expected(format!("1 to {most} tokens"), context));
        }
        let fits = |t: DType| (0..config.layers()).all(|n| t.row_bytes(config.head_dim_of(n)).is_some());
        if !KV_TYPES.contains(&kv_type) || !fits(kv_type) {
            let known: Vec<_> = KV_TYPES.iter().filter(|&&t| fits(t)).map(|t| t.name()).collect();
            return Err(Error::recipe("--kv-type", "keys and values of this model cannot be kept so")
                .expected(known.join(", "), kv_type));
        }
        Ok(Conditions { context, batch: Conditions::BATCH, kv_type })
    }

    fn at(self, context: u64) -> Conditions {
        Conditions { context, ..self }
    }

    /// Tokens that can go through together.
    fn together(self) -> u64 {
        self.batch.min(self.context)
    }
}

/// What `artifact`, planned for `model`, takes.
pub fn memory(model: &Model, artifact: &Artifact, conditions: Conditions) -> Memory {
    let weights = weights(&model.config, artifact);
    let engines: &[Engine] =
        if is_gguf(artifact) { &[Engine::LlamaCpp, Engine::Runtime] } else { &[Engine::Runtime] };
    let needs = engines.iter().map(|&engine| {
        let (working, process) = match engine {
            Engine::LlamaCpp => (llama_cpp::working(&model.config, conditions), llama_cpp::process(model)),
            Engine::Runtime => (
                runtime::working(&model.config, artifact, conditions),
                runtime::process(model, is_gguf(artifact)),
            ),
        };
        let kv = kv_cache(&model.config, engine, conditions);
        let private = kv.iter().map(|layers| layers.bytes).sum::<u64>() + working + process;
        let kv_type = engine.kv_type(conditions).name();
        Need { engine, kv_type, kv, working, process, private, total: private + weights.resident }
    });
    Memory { context: conditions.context, needs: needs.collect(), weights }
}

impl Engine {
    fn kv_type(self, conditions: Conditions) -> DType {
        match self {
            Engine::LlamaCpp => conditions.kv_type,
            Engine::Runtime => DType::F32,
        }
    }
}

/// Keys and values by kind of layer: `sliding`, `full`, `shared`, those that the model has.
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
        // keys and values; the type has been checked
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

fn weights(config: &Config, artifact: &Artifact) -> Weights {
    let (idle, read): (Vec<_>, Vec<_>) = artifact.tensors().partition(|tensor| is_idle(config, tensor));
    let bytes = |tensors: &[&OutputTensor]| tensors.iter().map(|tensor| tensor.bytes).sum::<u64>();
    let offloaded = artifact.offloaded.iter().map(|class| class.bytes).sum::<u64>();
    let is_weight = |tensor: &&&OutputTensor| !matches!(tensor.from, Origin::Scales(_));
    let count: u64 = read.iter().filter(is_weight).map(|tensor| tensor.desc.elements()).sum();
    Weights {
        resident: bytes(&read).saturating_sub(offloaded),
        offloaded: artifact.offloaded.clone(),
        idle: bytes(&idle),
        bits_per_weight: bytes(&read) as f64 * 8.0 / count.max(1) as f64,
    }
}

/// Whether no text ever needs it.
fn is_idle(config: &Config, tensor: &OutputTensor) -> bool {
    let is_kv = ["attn_k", "attn_v", "attn_k_norm"].contains(&tensor.role);
    tensor.role == OTHER || is_kv && tensor.layer.is_some_and(|layer| config.shares_kv(layer))
}

fn is_gguf(artifact: &Artifact) -> bool {
    artifact.files.first().is_some_and(|file| file.name.ends_with(".gguf"))
}

/// Entries of the tokenizer: tokens and merges.
fn entries(model: &Model) -> u64 {
    (model.vocabulary.tokens.len() + model.vocabulary.merges.len()) as u64
}
