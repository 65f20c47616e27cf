//! The projector: `W · RMS(z)`, from the width of a tower to that of the text model. `Gemma4MultimodalEmbedder`.

use tensor::Result;

use super::weights::PartWeights;
use super::{Features, check_finite};
use crate::Matrix;
use crate::norm::rms;

impl PartWeights<'_> {
    /// Soft tokens of the outputs of a part; `role` is the projection, and the norm has no weight.
    pub(super) fn soft_tokens(&self, role: &'static str, encoder: Matrix, eps: f32) -> Result<Features> {
        let soft_tokens = self.linear(role, &rms(self.compute().simd, &encoder, None, eps))?;
        check_finite("projector", role, &soft_tokens)?;
        Ok(Features { encoder, soft_tokens })
    }
}
