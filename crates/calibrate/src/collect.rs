//! Importance: Σx² of every column of what goes into each matrix, and how many tokens that was.
//!
//! The tensors and sums are those of llama-imatrix (`tools/imatrix/imatrix.cpp`), which leaves out the head: here it is
//! the entry of `token_embd.weight`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gemma::Inventory;
use importance::{Entry, Importance};
use rayon::prelude::*;
use runtime::{Input, Matrix, Model, Observer};
use tensor::{Error, Result};

use crate::stream::{Text, batches};

/// Sums by role and layer.
#[derive(Default)]
struct Collector {
    sums: Mutex<BTreeMap<(&'static str, usize), Sums>>,
    experts: usize,
}

/// Σx² of each column of each matrix, and the tokens that each saw.
struct Sums {
    squares: Vec<f64>,
    counts: Vec<u64>,
}

impl Sums {
    fn new(matrices: usize, cols: usize) -> Sums {
        Sums { squares: vec![0.0; matrices * cols], counts: vec![0; matrices] }
    }

    fn entry(&self) -> Result<Entry> {
        Entry::new(self.squares.iter().map(|&sum| sum as f32).collect(), self.counts.clone())
    }
}

impl Collector {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, usize), Sums>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Collector {
    fn input(&self, input: &Input<'_>) -> Result<()> {
        let (cols, matrices) = (input.x.cols(), input.expert.as_ref().map_or(1, |_| self.experts));
        // outside of the lock: experts come side by side
        let squares = squares(input.x);
        let number = input.expert.as_ref().map_or(0, |expert| expert.number);
        let mut all = self.lock();
        let sums = all.entry((input.role, input.layer)).or_insert_with(|| Sums::new(matrices, cols));
        sums.squares[number * cols..][..cols].iter_mut().zip(&squares).for_each(|(sum, new)| *sum += new);
        sums.counts[number] += input.x.rows() as u64;
        Ok(())
    }
}

/// Σx² of each column.
fn squares(x: &Matrix) -> Vec<f64> {
    const COLUMNS: usize = 256;
    let cols = x.cols();
    let mut sums = vec![0.0; cols];
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(n, sums)| {
        for row in x.data().chunks_exact(cols) {
            let row = &row[n * COLUMNS..][..sums.len()];
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
        }
    });
    sums
}

/// Importance of a model's matrices for a text, each weight read once for as many tokens as the memory holds.
///
/// # Errors
/// What the model says.
pub fn importance(model: &Model<'_>, inventory: &Inventory, text: &Text<'_>) -> Result<Importance> {
    let config = model.config();
    let collector = Collector { experts: config.experts.unwrap_or(0) as usize, ..Collector::default() };
    let observed = Model::new(config, model.weights().clone().observed(&collector))?;
    let mut head = Sums::new(1, config.hidden as usize);
    for group in text.groups(config) {
        let mut batches = batches(&observed, &text.sequences[group])?;
        for layer in 0..config.layers() {
            for batch in &mut batches {
                observed.layer(layer, batch)?;
                (text.progress)(batch.hidden().rows() as u64);
            }
        }
        for batch in &batches {
            let normed = observed.norm(batch.hidden())?;
            head.squares.iter_mut().zip(squares(&normed)).for_each(|(sum, new)| *sum += new);
            head.counts[0] += normed.rows() as u64;
        }
    }
    let longest = text.sequences.iter().map(Vec::len).max().unwrap_or(0);
    let mut found = Importance::new(text.names.clone(), text.sequences.len() as u32, longest as u32);
    let mut sums = collector.lock();
    for tensor in &inventory.text {
        let slot = &tensor.slot;
        // one input for several roles
        if let Some(sums) = slot.layer.and_then(|layer| sums.get(&(slot.role, layer))) {
            let entry = sums.entry().map_err(|e| e.within(format!("tensor {}", slot.gguf)))?;
            found.insert(slot.gguf.clone(), entry);
        } else if slot.role == "token_embd" && config.tied {
            found.insert(slot.gguf.clone(), head.entry()?);
        }
    }
    sums.clear();
    if found.is_empty() {
        return Err(Error::malformed("model", "no weights that text goes through"));
    }
    found.fill_unseen();
    Ok(found)
}
