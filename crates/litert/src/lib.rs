//! Bundles of LiteRT-LM (`.litertlm`), from which phones, Raspberry Pi and desktops run Gemma 4.
//!
//! A bundle holds TFLite models, a tokenizer and metadata. For one architecture and one set of export flags the graph of a
//! model is always the same: only weights and their scales differ. So a bundle of a fine-tune is that of its base with
//! other bytes in place of the weights, and Google's exporter, which needs 64 GB of memory for E2B, is not needed.
//!
//! 1. [`Bundle::read`] reads the header: sections, their types and positions.
//! 2. [`Model::read`] reads a TFLite model: tensors, quantization, buffers. [`constants`] are those that may be weights.
//! 3. [`map`] finds the tensor of the base checkpoint that each constant holds, by its bytes or by correlation, or refuses.
//! 4. [`Transplant`] places the weights of another checkpoint, and writes the bundle in one pass.
//! 5. [`StoredConstant`] holds a constant against a checkpoint; [`DecodedWeights`] presents a bundle as tensors of f32.
//!
//! Reading is bounded: a position or a length that leads beyond the file is an error, and items are limited. Files are read
//! at positions, so that no model is in memory.
//!
//! Without a bundle, [`Skeleton`] builds the models of one: the graph that was recorded from the exporter, at any width, with zeros as
//! weights. Step 4 is the same, and [`Skeleton::recognise`] takes the place of step 3 for such a bundle.
//!
//! A graph may have weights in another form, as fused matrices: [`GraphTensors`] has them after the tensors of a checkpoint. Step 3 does not find
//! them.
//!
//! Not covered: activations with static scales, bundles of the runtime for the web. This crate knows no name of a tensor: the caller says which tensors belong to which model.
//!
//! Sources: see `bundle.rs`, `tflite.rs`, `flatbuffer.rs` and `metadata.rs`; of the codecs, `integers.rs` of `quant`.

mod bundle;
mod constants;
mod decoded;
mod flatbuffer;
mod graph_tensors;
mod mapping;
mod metadata;
mod new_metadata;
mod retype;
mod similar;
mod skeleton;
mod source;
mod stored;
mod tflite;
mod tokenizer;
mod transplant;
mod weights;

pub use bundle::{ALIGNMENT, Bundle, BundleLayout, ItemValue, Items, Section, SectionType};
pub use constants::{Constant, ConstantEncoding, constants, static_activation};
pub use decoded::DecodedWeights;
pub use graph_tensors::{GraphTensorName, GraphTensors};
pub use mapping::{Assignment, Mapped, Wanted, map};
pub use metadata::{LlmMetadata, MetadataToken};
pub use new_metadata::NewMetadata;
pub use skeleton::{EmptyBundle, Skeleton, SkeletonSections, SkeletonWeight, SparseSource};
pub use source::{FileSource, Source, SourceRange};
pub use stored::StoredConstant;
pub use tflite::{Buffer, ElementType, Model, Quantization, Subgraph, Tensor};
pub use tokenizer::{pack_tokenizer, unpack_tokenizer};
pub use transplant::{BundleScales, BundleTypes, Replacement, Transplant};
pub use weights::rows_at_once;
