//! Importance matrix (imatrix): Σx² of each input column of each matrix, and the number of tokens.
//!
//! Tensors and sums follow llama-imatrix (`tools/imatrix/imatrix.cpp`), which has no entries for the embeddings. Here
//! `token_embd.weight` has the entry of the tied head, and `per_layer_token_embd.weight` has its own, see `ple_imatrix.rs`.
//!
//! The batches of a text are the same in any part and with any memory, because the last bits of activations depend on the batch. The
//! sums are exact (`square_sums.rs`), so those of the parts add up to the same bytes, however many there are.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::Part;
use gemma::{Config, Inventory};
use imatrix::Importance;
use ndarray::Axis;
use rayon::prelude::*;
use runtime::{Input, Matrix, Model, Observer};
use tensor::Result;

use crate::importance_sums::ImportanceSums;
use crate::lm_head;
use crate::ple_imatrix;
use crate::square_sums::SquareSums;
use crate::tokens::CalibrationTokens;
use eval::stream;

/// Sums the squares of the inputs of all matrices.
struct Collector<'a> {
    config: &'a Config,
    /// By layer, see [`ple_imatrix::effects`].
    effects: Vec<Vec<f64>>,
    sums: Mutex<ByRole>,
    /// Outputs of `inp_gate` for the tokens whose `proj` comes next.
    gates: Mutex<Matrix>,
}

/// Sums by role and layer; 0 for tensors outside of layers.
type ByRole = BTreeMap<(&'static str, usize), SquareSums>;

impl Collector<'_> {
    /// Adds the normalised last hidden states of a batch, which are the input of the head.
    fn add_head(&self, normed: &Matrix) -> Result<()> {
        let squares = squares(normed);
        let mut all = lock(&self.sums);
        let sums = all.entry((lm_head::ROLE, 0)).or_insert_with(|| SquareSums::new(1, squares.len()));
        sums.count(0, normed.nrows());
        sums.add_batch(0, 0, &squares).map_err(|e| e.within("input of the head"))
    }

    /// Adds a batch of one layer to the entry of the per-layer embedding table.
    fn add_ple(&self, input: &Input<'_>, y: &Matrix) -> Result<()> {
        let gates = std::mem::replace(&mut *lock(&self.gates), Matrix::zeros((0, 0)));
        let mut squares = squares(&ple_imatrix::input(gates, y, self.config.norm_eps));
        squares.iter_mut().zip(&self.effects[input.layer]).for_each(|(square, effect)| *square *= effect);
        let ple = squares.len();
        let mut all = lock(&self.sums);
        let whole = || SquareSums::new(1, self.config.layers() * ple);
        let sums = all.entry((ple_imatrix::ROLE, 0)).or_insert_with(whole);
        if input.layer == 0 {
            sums.count(0, y.nrows());
        }
        sums.add_batch(0, input.layer * ple, &squares).map_err(|e| e.within(ple_imatrix::ROLE))
    }
}

impl Observer for Collector<'_> {
    fn input(&self, input: &Input<'_>) -> Result<()> {
        // outside of the lock: experts run in parallel
        let squares = squares(input.x);
        let experts = self.config.experts.unwrap_or(0) as usize;
        let (matrices, number) = input.expert.as_ref().map_or((1, 0), |expert| (experts, expert.number));
        let mut all = lock(&self.sums);
        let new = || SquareSums::new(matrices, squares.len());
        let sums = all.entry((input.role, input.layer)).or_insert_with(new);
        sums.count(number, input.x.nrows());
        let place = || format!("input of {} in layer {}", input.role, input.layer);
        sums.add_batch(number, 0, &squares).map_err(|e| e.within(place()))
    }

    fn output(&self, input: &Input<'_>, y: &Matrix) -> Result<()> {
        match input.role {
            "inp_gate" => *lock(&self.gates) = y.clone(),
            "proj" => self.add_ple(input, y)?,
            _ => {}
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Σx² of each column.
fn squares(x: &Matrix) -> Vec<f64> {
    const COLUMNS: usize = 256;
    let mut sums = vec![0.0; x.ncols()];
    let columns = x.axis_chunks_iter(Axis(1), COLUMNS).into_par_iter();
    sums.par_chunks_mut(COLUMNS).zip(columns).for_each(|(sums, x)| {
        for row in x.outer_iter() {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
        }
    });
    sums
}

/// Importance of a model's matrices on a text. Each weight is read once for as many tokens as fit into the memory.
///
/// # Errors
/// `Malformed` for a model without such matrices, a token beyond the vocabulary or activations that are not finite; `Limit` for sums
/// of 2⁶⁴ and more; `Io`.
pub fn importance(
    model: &Model<'_>,
    inventory: &Inventory,
    text: &CalibrationTokens<'_>,
) -> Result<Importance> {
    let sums = importance_sums(model, inventory, text, Part::default())?;
    sums.importance(text.names.clone(), text.sequences.len() as u32, text.longest() as u32)
}

/// What one part of a text adds to [`importance`].
///
/// # Errors
/// Those of [`importance`], but not for a model without such matrices.
pub fn importance_sums(
    model: &Model<'_>,
    inventory: &Inventory,
    text: &CalibrationTokens<'_>,
    part: Part,
) -> Result<ImportanceSums> {
    let config = model.config();
    let effects = ple_imatrix::effects(model)?;
    let (sums, gates) = (Mutex::default(), Mutex::new(Matrix::zeros((0, 0))));
    let collector = Collector { config, effects, sums, gates };
    let observed = Model::new(config, model.weights().clone().observed(&collector))?;
    for run in text.runs(config, part) {
        let mut batches = stream::embed(&observed, &text.sequences[run])?;
        stream::layers(&observed, &mut batches, text.progress)?;
        if config.tied {
            batches.iter().try_for_each(|batch| collector.add_head(&observed.norm(batch.hidden())?))?;
        }
    }
    let mut sums = std::mem::take(&mut *lock(&collector.sums));
    let mut found = ImportanceSums::default();
    for slot in inventory.text.iter().map(|tensor| &tensor.slot) {
        if let Some(sums) = sums.remove(&(slot.role, slot.layer.unwrap_or(0))) {
            found.insert(slot.gguf.clone(), sums);
        }
    }
    Ok(found)
}
