//! An LRU cache for rows of the per-layer embedding (PLE) table of E2B and E4B.
//!
//! The table is half of E2B's weights, and a token needs one row of 262,144. A row holds the slices of all layers, so it is
//! read once and cached as stored until the last layer has used it: one read a token. A disk is fast enough as a source.
//!
//! The cache is bounded, with LRU eviction. In a batch with more distinct tokens than the cache can hold, the rows of the rest
//! are read again for every layer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use tensor::Result;

use crate::{Matrix, RowMajor, Weight};

/// Default size of the cache in bytes: rows of 570 tokens of E2B in Q6_K.
pub const PLE_CACHE_BYTES: usize = 4 << 20;

/// Statistics of the reads of the PLE table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PleCacheReads {
    /// Rows read from the source.
    pub rows: u64,
    /// Bytes read from the source.
    pub bytes: u64,
    /// Cache hits, by layer and token.
    pub hits: u64,
}

/// Cached rows and counters, for one tensor.
pub(crate) struct PleCache {
    /// Size of the cache in bytes.
    room: usize,
    kept: Mutex<Kept>,
    rows: AtomicU64,
    bytes: AtomicU64,
    hits: AtomicU64,
}

#[derive(Default)]
struct Kept {
    /// By token: the row, and the time of its last use.
    rows: HashMap<u32, (Arc<[u8]>, u64)>,
    /// The logical clock: number of lookups.
    now: u64,
}

impl PleCache {
    /// A cache of `room` bytes.
    pub(crate) fn new(room: usize) -> PleCache {
        let zero = AtomicU64::default;
        PleCache { room, kept: Mutex::default(), rows: zero(), bytes: zero(), hits: zero() }
    }

    pub(crate) fn reads(&self) -> PleCacheReads {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PleCacheReads { rows: value(&self.rows), bytes: value(&self.bytes), hits: value(&self.hits) }
    }

    /// For each token, the values `first .. first + len` of its row.
    ///
    /// # Errors
    /// `Io` and `Malformed` of the source.
    pub(crate) fn gather(
        &self,
        table: Weight<'_>,
        tokens: &[u32],
        first: usize,
        len: usize,
    ) -> Result<Matrix> {
        let desc = table.desc();
        let block = desc.dtype.block_len();
        // the blocks around the values
        let (from, to) = (first / block, (first + len).div_ceil(block));
        let span = from * desc.dtype.block_bytes()..to * desc.dtype.block_bytes();
        let rows = self.rows(table, tokens)?;
        let mut out = Matrix::zeros((tokens.len(), len));
        let each = out.values_mut().par_chunks_mut(len).zip(tokens).with_min_len(16);
        each.try_for_each_init(
            || vec![0.0; (to - from) * block],
            |values, (out, token)| {
                let bytes = rows.get(token).cloned().map_or_else(|| self.read(table, *token), Ok)?;
                quant::decode(table.compute().simd, desc.dtype, &bytes[span.clone()], values);
                out.copy_from_slice(&values[first - from * block..][..len]);
                Ok(())
            },
        )?;
        Ok(out)
    }

    /// The rows of as many of these tokens as the cache can hold: the smallest ids, so that the choice is deterministic.
    fn rows(&self, table: Weight<'_>, tokens: &[u32]) -> Result<HashMap<u32, Arc<[u8]>>> {
        let most = self.room / table.desc().row_bytes() as usize;
        let mut wanted = tokens.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.truncate(most);

        let mut found = HashMap::new();
        let mut kept = self.lock();
        kept.now += 1;
        let now = kept.now;
        wanted.retain(|token| match kept.rows.get_mut(token) {
            Some((row, used)) => {
                *used = now;
                found.insert(*token, row.clone()).is_some()
            }
            None => true,
        });
        drop(kept);
        let hits = tokens.iter().filter(|token| found.contains_key(token)).count();
        self.hits.fetch_add(hits as u64, Ordering::Relaxed);

        let read: Vec<_> =
            wanted.par_iter().map(|&token| Ok((token, self.read(table, token)?))).collect::<Result<_>>()?;
        let mut kept = self.lock();
        for (token, row) in read {
            kept.rows.insert(token, (row.clone(), now));
            found.insert(token, row);
        }
        kept.leave(most);
        Ok(found)
    }

    fn read(&self, table: Weight<'_>, token: u32) -> Result<Arc<[u8]>> {
        let mut row = vec![0; table.desc().row_bytes() as usize];
        table.read_bytes(token.into(), &mut row)?;
        self.rows.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(row.len() as u64, Ordering::Relaxed);
        Ok(row.into())
    }

    /// A panic of another thread leaves the rows intact.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// LRU eviction of all but `most` rows.
    fn leave(&mut self, most: usize) {
        let surplus = self.rows.len().saturating_sub(most);
        if surplus > 0 {
            let mut oldest: Vec<_> = self.rows.iter().map(|(&token, &(_, used))| (used, token)).collect();
            oldest.sort_unstable();
            oldest[..surplus].iter().for_each(|(_, token)| drop(self.rows.remove(token)));
        }
    }
}
