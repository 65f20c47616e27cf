//! Draft models for speculative decoding.

mod assistant;
mod session;

pub use assistant::{Assistant, AssistantOutput};
pub use session::{DraftSession, Drafter, TargetState};
