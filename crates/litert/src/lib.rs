//! Bundles of LiteRT-LM.

mod bundle;
mod constants;
mod flatbuffer;
mod mapping;
mod retype;
mod source;
mod tflite;
mod tokenizer;
mod transplant;
mod weights;

pub use bundle::{ALIGNMENT, Bundle, Items, Layout, Section, SectionType, Value};
pub use constants::{Constant, Encoding, constants, static_activation};
pub use mapping::{Assignment, Mapped, Wanted, map};
pub use source::{FileSource, Part, Source};
pub use tflite::{Buffer, ElementType, Model, Quantization, Subgraph, Tensor};
pub use tokenizer::{pack_tokenizer, unpack_tokenizer};
pub use transplant::{Replacement, Transplant, Types};
