//! Conversion of Gemma 4 checkpoints to GGUF and safetensors, and verification of the files: the library behind
//! `gemma-convert`.
//!
//! Every job of the program is a struct with plain data in and plain data out:
//!
//! ```
//! use gemma_convert::{Chunks, Convert, Silent, Verify};
//!
//! # fn main() -> gemma_convert::Result<()> {
//! # let (checkpoint, text) = (testkit::fixtures("checkpoints/e2b"), testkit::fixtures("text/eval.txt"));
//! # let folder = tempfile::tempdir().unwrap();
//! # let out = folder.path().join("out");
//! let made = Convert::new(&checkpoint, &out).recipe("q4_0").run(&Silent)?;
//! let file = out.join(&made.artifacts[0].outputs[0].name);
//!
//! let mut verify = Verify::new(file).against(&checkpoint).text(&text);
//! (verify.context, verify.chunks) = (128, Some(Chunks(0..2)));
//! let report = verify.run(&Silent)?;
//! assert!(report.passed && report.kld.unwrap().mean < 0.1);
//! # Ok(())
//! # }
//! ```
//!
//! | job | in | out |
//! |---|---|---|
//! | [`Planning`] | checkpoint, recipes | [`Plan`]: every output tensor with its type, file and offset |
//! | [`Convert`] | checkpoint, recipes, a text for error feedback (LDLQ) | files and [`Converted`] |
//! | [`Join`] | the parts of a conversion, an importance matrix or sensitivities | files and [`Joined`] |
//! | [`ConvertBundle`] | checkpoint, its base, a bundle of LiteRT-LM | a bundle and [`ConvertedBundle`] |
//! | [`Calibrate`] | model, text | an [`Importance`] matrix file |
//! | [`MeasureSensitivity`] | checkpoint, text | a file of [`Sensitivity`] |
//! | [`Verify`] | artifact, checkpoint, text | [`Report`] |
//! | [`VerifySet`] | artifacts or the folder of a release, checkpoint, text | [`SetReport`] |
//! | [`DraftConvert`], [`DraftExtract`] | checkpoint of a draft model, or layers of a model | files and [`Converted`] |
//! | [`AdapterConvert`] | adapter (LoRA), checkpoint | a GGUF adapter and [`AdapterConverted`] |
//! | [`DraftMeasure`] | draft model, target, text | [`DraftReport`] |
//! | [`Generate`] | model, prompt | [`Generated`] text |
//! | [`Release`] | checkpoint, release recipe, texts | a folder of GGUF files with model card and checksums, and [`Released`] |
//! | [`Edit`] | a GGUF, changes of keys | the same tensors under other keys, or in other parts, and [`Edited`] |
//! | [`PackOllama`] | finished GGUF files | a model in an Ollama store, or a Modelfile, and [`OllamaPacked`] |
//!
//! [`Model`] opens a checkpoint folder or a GGUF for programs that need more than a job. Work runs on the rayon pool of
//! the caller; [`Progress`] receives progress and notes. Nothing here prints.
//!
//! # Errors
//! Every [`Error`] has a [`Fault`], which names the party at fault, a place, and often an expected and a found value
//! and help. Errors name a setting of a job as `‹name›`, such as `‹force›`; [`rename_settings`] replaces it by the name
//! of a program's option.

mod conversation_media;
mod draft_model;
mod jobs;
mod model;
mod options;
mod prompt;
mod requests;
mod settings;
mod towers;

pub use base::ErrorKind;
pub use base::{Part, Progress, Silent, Task, Unit};
pub use checkpoint::Adapter;
pub use convert::{HashInput, PartSize, StreamedFiles};
pub use draft::{DraftReport, LayerSelection};
pub use draft_model::DraftModel;
pub use eval::Invocation;
pub use eval::ModelInfo;
pub use footprint::{Conditions, Engine, MediaTokens, Memory, Verdict, WeightMemory};
pub use generate::{DraftCounts, Sampling};
pub use imatrix::Importance;
pub use jobs::*;
pub use litert::BundleTypes;
pub use media::ImagePreprocess;
pub use model::{Container, Model, ModelFile, refuse_part_of_a_folder};
pub use options::{BudgetOptions, Chunks, Layers, RecipeOptions, TextOptions};
pub use pack::ollama::{OllamaPacked, Placement, StoredModel};
pub use plan::{
    Artifact, ArtifactEntry, Dropped, HubSource, Plan, Preset, Recipe, ReleaseDraft, Sensitivity, Thresholds,
    byte_size,
};
pub use quant::{IntegerBits, Simd};
pub use requests::Destination;
pub use runtime::{Compute, Kernel};
pub use settings::rename_settings;
pub use tensor::{DType, Error, Fault, Result};
pub use text::{MediaFile, Scored};
pub use towers::{MediaOptions, soft_tokens};
pub use verify::{Finding, Outcome, Report, SetReport, Severity, Unverified};

/// Name and version of this program in manifests and reports.
pub const TOOL: &str = concat!("gemma-convert ", env!("CARGO_PKG_VERSION"));

/// The snippets of README.md compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct ReadmeSnippets;
