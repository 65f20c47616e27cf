//! Block counts of tensors that are repacked from a 4-bit quantization grid, and the notes about them.

use std::sync::atomic::{AtomicU64, Ordering};

use plan::{Lattice, RepackedTensor};

use crate::schedule::Work;

/// Exact blocks per thousand below which a tensor is named in a note.
const ENOUGH: u64 = 999;

/// Counts of a tensor's blocks so far.
#[derive(Debug, Default)]
pub(crate) struct Count {
    blocks: AtomicU64,
    exact: AtomicU64,
    near: AtomicU64,
}

impl Count {
    pub(crate) fn add(&self, more: quant::RepackCounts) {
        self.blocks.fetch_add(more.blocks, Ordering::Relaxed);
        self.exact.fetch_add(more.exact, Ordering::Relaxed);
        self.near.fetch_add(more.near, Ordering::Relaxed);
    }
}

/// Results by target, sorted by tensor name.
pub(crate) fn repacked(work: &Work<'_>, targets: usize) -> Vec<Vec<RepackedTensor>> {
    let mut all = vec![Vec::new(); targets];
    for to in work.wanted.iter().flat_map(|wanted| &wanted.uses) {
        if to.lattice != Some(Lattice::On) {
            continue;
        }
        let count = &to.repacked;
        let [blocks, exact, near] =
            [&count.blocks, &count.exact, &count.near].map(|count| count.load(Ordering::Relaxed));
        all[to.target].push(RepackedTensor { tensor: to.desc.name.clone(), blocks, exact, near });
    }
    for tensors in &mut all {
        tensors.sort_by(|a, b| a.tensor.cmp(&b.tensor));
    }
    all
}

/// Notes for the user about an artifact's repacked tensors; empty if there are none.
pub(crate) fn notes(recipe: &str, repacked: &[RepackedTensor]) -> Vec<String> {
    let share = |exact: u64, blocks: u64| 100.0 * exact as f64 / blocks.max(1) as f64;
    let [blocks, exact, near] =
        [|t: &RepackedTensor| t.blocks, |t: &RepackedTensor| t.exact, |t: &RepackedTensor| t.near]
            .map(|figure| repacked.iter().map(figure).sum::<u64>());
    if blocks == 0 {
        return Vec::new();
    }
    let mut notes = vec![format!(
        "{recipe}: {exact} of {blocks} blocks of {} repacked tensors are exact, {near} have a scale that is not an f16",
        repacked.len()
    )];
    let few = repacked.iter().filter(|tensor| tensor.exact * 1000 < tensor.blocks * ENOUGH);
    let least = few.clone().min_by(|a, b| share(a.exact, a.blocks).total_cmp(&share(b.exact, b.blocks)));
    if let Some(least) = least {
        notes.push(format!(
            "{recipe}: {} tensors have fewer than 99.9 % exact blocks, {} the fewest: {:.2} %, and {} are off the grid",
            few.count(),
            least.tensor,
            share(least.exact, least.blocks),
            least.blocks - least.exact - least.near
        ));
    }
    notes
}
