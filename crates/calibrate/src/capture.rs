//! Activation capture: the inputs of the matrices of one role, from a forward pass that stops once it has them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use runtime::{Batch, Input, LayerPart, Matrix, Mixture, Model, Observer, Weights};
use tensor::{Error, Result};

/// Captured activations of one batch.
#[derive(Default)]
pub(crate) struct Captured {
    /// Inputs by number of the expert; 0 for a role with one matrix.
    pub(crate) inputs: BTreeMap<usize, CapturedRows>,
    /// The residual stream before the part of the layer.
    pub(crate) residual: Matrix,
    /// Mean of y² of each row of the output; for experts, of their weighted sum.
    pub(crate) squares: Vec<f32>,
    /// The other summand of a mixture of experts.
    pub(crate) beside: Option<OtherBranch>,
    stopped: bool,
}

/// The other branch of a mixture of experts: the summand that is added before the common norm.
pub(crate) struct OtherBranch {
    /// The branch's normalised output.
    pub(crate) x: Matrix,
    /// Mean of squares of each row of the sum.
    pub(crate) squares: Vec<f32>,
}

/// Inputs of a matrix.
pub(crate) struct CapturedRows {
    pub(crate) x: Matrix,
    /// The rows of the batch, ascending.
    pub(crate) tokens: Vec<usize>,
    /// Router weight of each row; 1 without a router.
    pub(crate) shares: Vec<f32>,
}

impl Captured {
    /// Inputs of a matrix that is applied to every row of a batch.
    pub(crate) fn of(x: Matrix) -> Captured {
        let rows = CapturedRows { tokens: (0..x.nrows()).collect(), shares: vec![1.0; x.nrows()], x };
        Captured { inputs: BTreeMap::from([(0, rows)]), ..Captured::default() }
    }
}

/// The observer that captures the inputs of a role, for a range of experts.
struct Capture {
    role: &'static str,
    experts: Range<usize>,
    /// Whether the output is a summand of a mixture of experts.
    mixed: bool,
    seen: Mutex<Captured>,
}

/// Runs a copy of a batch through a part of a layer until the inputs of a role are captured.
///
/// # Errors
/// `Malformed` for hidden states that are not finite; `Io`.
pub(crate) fn capture(
    config: &gemma::Config,
    weights: &Weights<'_>,
    (layer, part): (usize, LayerPart),
    batch: &Batch,
    role: &'static str,
    experts: Range<usize>,
) -> Result<Captured> {
    let mixed = config.experts.is_some() && ["ffn_down", "ffn_down_exps"].contains(&role);
    let capture = Capture { role, experts, mixed, seen: Mutex::default() };
    let passed =
        Model::new(config, weights.clone().observed(&capture))?.part(layer, part, &mut batch.clone());
    let seen = capture.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    match passed {
        Err(_) if seen.stopped => Ok(seen),
        other => other.map(|()| seen),
    }
}

impl Capture {
    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) -> Result<()> {
        self.lock().stopped = true;
        Err(Error::unsupported(self.role, "the pass ends here"))
    }
}

impl Observer for Capture {
    fn residual(&self, hidden: &Matrix) -> Result<()> {
        self.lock().residual = hidden.clone();
        Ok(())
    }

    fn input(&self, input: &Input<'_>) -> Result<()> {
        let number = input.expert.as_ref().map_or(0, |expert| expert.number);
        if input.role != self.role || !self.experts.contains(&number) {
            return Ok(());
        }
        let (tokens, shares) = match &input.expert {
            Some(expert) => expert.tokens.iter().copied().unzip(),
            None => ((0..input.x.nrows()).collect(), vec![1.0; input.x.nrows()]),
        };
        self.lock().inputs.insert(number, CapturedRows { x: input.x.clone(), tokens, shares });
        Ok(())
    }

    fn output(&self, input: &Input<'_>, y: &Matrix) -> Result<()> {
        if input.role != self.role {
            return Ok(());
        }
        self.lock().squares = squares(y);
        if self.mixed { Ok(()) } else { self.stop() }
    }

    fn mixture(&self, mixture: &Mixture<'_>) -> Result<()> {
        if !self.mixed {
            return Ok(());
        }
        let sum = mixture.dense_normed + mixture.experts_normed;
        let mut seen = self.lock();
        let beside = if seen.squares.is_empty() {
            seen.squares = squares(mixture.experts);
            mixture.dense_normed
        } else {
            mixture.experts_normed
        };
        seen.beside = Some(OtherBranch { x: beside.clone(), squares: squares(&sum) });
        drop(seen);
        self.stop()
    }
}

/// Mean of squares of each row.
fn squares(y: &Matrix) -> Vec<f32> {
    y.outer_iter().map(|row| row.iter().map(|y| y * y).sum::<f32>() / row.len() as f32).collect()
}
