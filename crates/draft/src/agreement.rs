//! Overlap of two models' predictions along a text.

use eval::predictions;
use ndarray::{Axis, s};
use rayon::prelude::*;
use runtime::{Assistant, Drafter, KvCache, Matrix, Model, RowMajor, argmax};
use tensor::Result;
use text::Sequence;

/// Rows of logits computed together: 64 MiB per model.
const ROWS: usize = 64;

/// Overlap of two predictions of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overlap {
    /// Whether both have the same most probable token.
    pub same_top: bool,
    /// `Σ min(p, q)`, between 0 and 1.
    pub shared: f64,
}

impl Overlap {
    /// The overlap of two rows of logits.
    fn of(p: &[f32], q: &[f32]) -> Overlap {
        let tops = [p, q].map(argmax);
        let least = |row: &[f32], top: usize| {
            let most = f64::from(row[top]);
            let sum: f64 = row.iter().map(|&logit| (f64::from(logit) - most).exp()).sum();
            most + sum.ln()
        };
        let (p_sum, q_sum) = (least(p, tops[0]), least(q, tops[1]));
        let shared = p.iter().zip(q).map(|(&p, &q)| (f64::from(p) - p_sum).min(f64::from(q) - q_sum).exp());
        Overlap { same_top: tops[0] == tops[1], shared: shared.sum() }
    }
}

/// The overlaps of target and draft at the scored tokens of all sequences.
///
/// # Errors
/// `Io` for a source that cannot be read.
pub fn overlaps(
    target: &Model<'_>,
    draft: &Drafter<'_>,
    sequences: &[Sequence],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Overlap>> {
    match draft {
        Drafter::Assistant(drafter) => assistant_overlaps(target, drafter, sequences, progress),
        Drafter::Model(model) => {
            let (theirs, own) =
                (predictions(target, sequences, &[], &|_| ())?, predictions(model, sequences, &[], &|_| ())?);
            progress(sequences.iter().map(|sequence| sequence.scored.len() as u64).sum());
            own_overlaps((target, &theirs), (model, &own))
        }
    }
}

/// The overlaps of a target and its assistant, which reads the target's cache.
fn assistant_overlaps(
    target: &Model<'_>,
    drafter: &Assistant<'_>,
    sequences: &[Sequence],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Overlap>> {
    let mut all = Vec::new();
    for Sequence { tokens, scored, .. } in sequences {
        // one pass for all positions; then the cache is rolled back, last position first
        let mut cache = KvCache::new(target.config()).with_rollback(tokens.len());
        let hidden = target.norm(&target.forward(tokens, &mut cache, |_, _| ())?)?;
        // the first draft token uses the hidden state of the token before the last
        for &position in scored.iter().rev().filter(|&&position| position >= 2) {
            cache.truncate(target.config(), position - 1)?;
            let guess = drafter.guess(
                target,
                &cache,
                tokens[position - 1],
                &hidden.select(Axis(0), &[position - 2]),
            )?;
            let logits = target.logits(&hidden.select(Axis(0), &[position - 1]), 0..target.config().vocab)?;
            all.push(Overlap::of(logits.row_values(0), &guess.logits));
            progress(1);
        }
    }
    Ok(all)
}

/// The overlaps of two models' [`predictions`].
///
/// # Errors
/// `Io` for a source that cannot be read.
pub fn own_overlaps(target: (&Model<'_>, &Matrix), draft: (&Model<'_>, &Matrix)) -> Result<Vec<Overlap>> {
    let vocab = 0..target.0.config().vocab;
    let mut all = Vec::with_capacity(target.1.nrows());
    for start in (0..target.1.nrows()).step_by(ROWS) {
        let rows = start..(start + ROWS).min(target.1.nrows());
        let p = target.0.logits(&target.1.slice(s![rows.clone(), ..]).to_owned(), vocab.clone())?;
        let q = draft.0.logits(&draft.1.slice(s![rows.clone(), ..]).to_owned(), vocab.clone())?;
        all.par_extend(
            (0..rows.len()).into_par_iter().map(|row| Overlap::of(p.row_values(row), q.row_values(row))),
        );
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overlap_is_the_sum_of_the_lesser_probabilities() {
        let logits = |odds: [f32; 3]| odds.map(f32::ln);
        let [p, q] = [logits([6.0, 3.0, 1.0]), logits([2.0, 5.0, 3.0])];
        let overlap = Overlap::of(&p, &q);
        assert!(!overlap.same_top && (overlap.shared - 0.6).abs() < 1e-6, "{overlap:?}");
        let same = Overlap::of(&p, &p.map(|logit| logit + 50.0));
        assert!(same.same_top && (same.shared - 1.0).abs() < 1e-5, "{same:?}");
        // zero probabilities add nothing
        let never = Overlap::of(&[0.0, f32::NEG_INFINITY], &[f32::NEG_INFINITY, 0.0]);
        assert_eq!(never, Overlap { same_top: false, shared: 0.0 });
    }
}
