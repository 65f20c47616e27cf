//! What goes into the matrices of one role, batch by batch: kept from a pass that ends as soon as it has been seen.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use runtime::{Batch, Input, LayerPart, Matrix, Mixture, Model, Observer, Weights};
use tensor::{Error, Result};

/// What was seen of one batch.
#[derive(Default)]
pub(crate) struct Captured {
    /// The inputs: of the role's one matrix (number 0), or of each expert's.
    pub(crate) inputs: BTreeMap<usize, CapturedRows>,
    /// The residual stream that the part began with.
    pub(crate) residual: Matrix,
    /// Mean of y² of each row of the output; of experts, of what they give together.
    pub(crate) squares: Vec<f32>,
    /// The other part of a mixture, for whose parts' outputs the pass goes on that far.
    pub(crate) beside: Option<OtherBranch>,
    stopped: bool,
}

/// What an output, behind its norm, is added to before the norm that both are behind.
pub(crate) struct OtherBranch {
    /// It, behind its norm.
    pub(crate) x: Matrix,
    /// Mean of squares of each row of the sum.
    pub(crate) squares: Vec<f32>,
}

/// Inputs of a matrix.
pub(crate) struct CapturedRows {
    pub(crate) x: Matrix,
    /// The rows of the batch, ascending.
    pub(crate) tokens: Vec<usize>,
    /// What the router makes of each; 1 without one.
    pub(crate) shares: Vec<f32>,
}

impl Captured {
    /// Inputs of a matrix that every row of a batch goes into.
    pub(crate) fn of(x: Matrix) -> Captured {
        let rows = CapturedRows { tokens: (0..x.rows()).collect(), shares: vec![1.0; x.rows()], x };
        Captured { inputs: BTreeMap::from([(0, rows)]), ..Captured::default() }
    }
}

/// Looks at the inputs of a role, of the experts in a range if it has some.
struct Capture {
    role: &'static str,
    experts: Range<usize>,
    /// Whether its output is a part of a mixture.
    mixed: bool,
    seen: Mutex<Captured>,
}

/// Takes a copy of a batch through a part of a layer until the inputs of a role have been seen.
///
/// # Errors
/// What the model says.
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
            None => ((0..input.x.rows()).collect(), vec![1.0; input.x.rows()]),
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
        let mut sum = mixture.dense_normed.clone();
        sum.add(mixture.experts_normed);
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
    let mean = |row: &[f32]| row.iter().map(|y| y * y).sum::<f32>() / row.len() as f32;
    (0..y.rows()).map(|row| mean(y.row(row))).collect()
}
