//! Importance matrix (imatrix): Σx² of each input column of each matrix, and the number of tokens.
//!
//! Tensors and sums follow llama-imatrix (`tools/imatrix/imatrix.cpp`), which has no entries for the embeddings. Here
//! `token_embd.weight` has the entry of the tied head, and `per_layer_token_embd.weight` has its own, see `ple_imatrix.rs`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gemma::{Config, Inventory};
use imatrix::{Entry, Importance};
use ndarray::Axis;
use rayon::prelude::*;
use runtime::{Input, Matrix, Model, Observer};
use tensor::{Error, Result};

use crate::lm_head;
use crate::ple_imatrix;
use crate::tokens::CalibrationTokens;
use eval::stream;

/// Sums the squares of the inputs of all matrices.
struct Collector<'a> {
    config: &'a Config,
    sums: Mutex<ByRole>,
    /// Outputs of `inp_gate` for the tokens whose `proj` comes next.
    gates: Mutex<Matrix>,
}

/// Sums by role and layer.
type ByRole = BTreeMap<(&'static str, usize), SquareSums>;

/// Σx² of each column of each matrix, and the tokens of each matrix.
pub(crate) struct SquareSums {
    pub(crate) squares: Vec<f64>,
    pub(crate) counts: Vec<u64>,
}

impl SquareSums {
    pub(crate) fn new(matrices: usize, cols: usize) -> SquareSums {
        SquareSums { squares: vec![0.0; matrices * cols], counts: vec![0; matrices] }
    }

    pub(crate) fn entry(&self) -> Result<Entry> {
        Entry::new(self.squares.iter().map(|&sum| sum as f32).collect(), self.counts.clone())
    }
}

impl Collector<'_> {
    fn add(&self, role: &'static str, input: &Input<'_>, x: &Matrix) {
        let experts = self.config.experts.unwrap_or(0) as usize;
        let (cols, matrices) = (x.ncols(), input.expert.as_ref().map_or(1, |_| experts));
        // outside of the lock: experts run in parallel
        let squares = squares(x);
        let number = input.expert.as_ref().map_or(0, |expert| expert.number);
        let mut all = lock(&self.sums);
        let sums = all.entry((role, input.layer)).or_insert_with(|| SquareSums::new(matrices, cols));
        sums.squares[number * cols..][..cols].iter_mut().zip(&squares).for_each(|(sum, new)| *sum += new);
        sums.counts[number] += x.nrows() as u64;
    }
}

impl Observer for Collector<'_> {
    fn input(&self, input: &Input<'_>) -> Result<()> {
        self.add(input.role, input, input.x);
        Ok(())
    }

    fn output(&self, input: &Input<'_>, y: &Matrix) -> Result<()> {
        match input.role {
            "inp_gate" => *lock(&self.gates) = y.clone(),
            "proj" => {
                let gates = std::mem::replace(&mut *lock(&self.gates), Matrix::zeros((0, 0)));
                self.add(ple_imatrix::ROLE, input, &ple_imatrix::input(gates, y, self.config.norm_eps));
            }
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
/// `Malformed` for a model without such matrices, a token beyond the vocabulary or activations that are not finite; `Io`.
pub fn importance(
    model: &Model<'_>,
    inventory: &Inventory,
    text: &CalibrationTokens<'_>,
) -> Result<Importance> {
    let config = model.config();
    let collector = Collector { config, sums: Mutex::default(), gates: Mutex::new(Matrix::zeros((0, 0))) };
    let observed = Model::new(config, model.weights().clone().observed(&collector))?;
    let mut of_head = SquareSums::new(1, config.hidden as usize);
    for group in text.groups(config) {
        let mut batches = stream::embed(&observed, &text.sequences[group])?;
        stream::layers(&observed, &mut batches, text.progress)?;
        for batch in &batches {
            let normed = observed.norm(batch.hidden())?;
            of_head.squares.iter_mut().zip(squares(&normed)).for_each(|(sum, new)| *sum += new);
            of_head.counts[0] += normed.nrows() as u64;
        }
    }
    let longest = text.sequences.iter().map(Vec::len).max().unwrap_or(0);
    let mut found = Importance::new(text.names.clone(), text.sequences.len() as u32, longest as u32);
    let mut sums = lock(&collector.sums);
    for tensor in &inventory.text {
        let slot = &tensor.slot;
        // one input for several roles
        if let Some(sums) = slot.layer.and_then(|layer| sums.get(&(slot.role, layer))) {
            let entry = sums.entry().map_err(|e| e.within(format!("tensor {}", slot.gguf)))?;
            found.insert(slot.gguf.clone(), entry);
        } else if slot.role == lm_head::ROLE && config.tied {
            found.insert(slot.gguf.clone(), of_head.entry()?);
        } else if slot.role == ple_imatrix::ROLE {
            let layers = (0..config.layers()).filter_map(|layer| sums.get(&(ple_imatrix::ROLE, layer)));
            found.insert(slot.gguf.clone(), ple_imatrix::entry(model, layers)?);
        }
    }
    sums.clear();
    if found.is_empty() {
        return Err(Error::malformed("model", "no weights that text goes through"));
    }
    found.fill_unseen();
    Ok(found)
}
