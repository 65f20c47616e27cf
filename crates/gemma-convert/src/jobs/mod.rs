//! The jobs of the library, one file per job.

mod adapter_conversion;
mod adapter_verification;
mod bundle;
mod bundle_verification;
mod calibration;
mod catalogue;
mod conversion;
mod draft_extraction;
mod drafts;
mod edit;
mod estimates;
mod generation;
mod measurement;
mod model_info;
mod packing;
mod planning;
mod predictions;
mod release;
mod rounding;
mod sensitivities;
mod set_files;
mod set_verification;
mod thresholds;
mod verification;
mod verification_steps;

pub use adapter_conversion::{AdapterConvert, AdapterConverted, ConvertedPair, DroppedPair};
pub use bundle::{ConvertBundle, ConvertedBundle};
pub use calibration::{Calibrate, Calibrated};
pub use catalogue::{CatalogueEntry, presets, recipes};
pub use conversion::{Convert, Converted};
pub use draft_extraction::DraftExtract;
pub use drafts::DraftConvert;
pub use edit::{Edit, Edited, KeyChange};
pub use estimates::{ArtifactMemory, EstimateOptions};
pub use generation::{Generate, Generated, PleReads, Prompt};
pub use measurement::DraftMeasure;
pub use packing::{OllamaTarget, PackOllama};
pub use planning::{PlanOutcome, Planning};
pub use release::{Release, Released};
pub use sensitivities::MeasureSensitivity;
pub use set_verification::VerifySet;
pub use verification::Verify;

pub(crate) use model_info::model_info;
pub(crate) use planning::Planned;
