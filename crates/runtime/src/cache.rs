//! The KV cache: keys and values of earlier positions.
//!
//! The last layers of E2B and E4B have none of their own (KV sharing) and read those of a donor: the last layer of their kind
//! that has its own. For a sliding layer only the positions of the window are kept, plus those for a rollback.

use gemma::{Attention, Config};
use ndarray::ArrayView2;
use tensor::{Error, Result};

/// Keys and values of one sequence.
#[derive(Clone, Debug)]
pub struct KvCache {
    len: usize,
    keep: Keep,
    /// Positions that a rollback can remove.
    undo: usize,
    layers: Vec<LayerKv>,
}

/// Lifetime of the cached rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// Until later positions no longer need them: for generation.
    Later,
    /// Until the last layer that reads them: for a single pass.
    Pass,
}

/// Keys and values of one layer, a row a position.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerKv {
    /// The position of the first row.
    pub(crate) first: usize,
    /// Heads side by side, `kv_heads * head_dim` values a position.
    keys: Vec<f32>,
    /// As `keys`.
    values: Vec<f32>,
}

impl KvCache {
    /// An empty cache for a sequence that is continued, as in generation.
    pub fn new(config: &Config) -> KvCache {
        KvCache { len: 0, keep: Keep::Later, undo: 0, layers: vec![LayerKv::default(); config.layers()] }
    }

    /// The same cache with room for a rollback of the last `positions` at any time, see [`KvCache::truncate`].
    pub fn with_rollback(self, positions: usize) -> KvCache {
        KvCache { undo: positions, ..self }
    }

    /// Removes all positions from `len` on (rollback). Later results are the same as if they had never been computed, unless `len` is
    /// inside of an image, whose earlier positions may have attended to the later ones.
    ///
    /// # Errors
    /// `Limit` for more positions than [`KvCache::with_rollback`] made room for; the cache is then unchanged.
    pub fn truncate(&mut self, config: &Config, len: usize) -> Result<()> {
        let needed = |layer: usize| match config.attention[layer] {
            Attention::Sliding => (len + 1).saturating_sub(config.window as usize),
            Attention::Full => 0,
        };
        if (0..self.layers.len()).any(|layer| self.layers[layer].first > needed(layer)) {
            return Err(Error::limit("cache", "positions that cannot be taken back any more")
                .expected(format!("at most {}", self.undo), self.len.saturating_sub(len)));
        }
        for (layer, kv) in self.layers.iter_mut().enumerate() {
            let width = width(config, layer);
            let rows = len.saturating_sub(kv.first);
            kv.keys.truncate(rows * width);
            kv.values.truncate(rows * width);
        }
        self.len = self.len.min(len);
        Ok(())
    }

    /// A cache for a sequence that is computed in one pass: a layer is freed once no later layer reads it.
    pub(crate) fn of_one_pass(config: &Config) -> KvCache {
        KvCache { keep: Keep::Pass, ..KvCache::new(config) }
    }

    /// Number of cached positions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True before the first position.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|kv| (kv.keys.len() + kv.values.len()) * size_of::<f32>()).sum()
    }

    pub(crate) fn layer(&self, layer: usize) -> &LayerKv {
        &self.layers[layer]
    }

    /// Adds the keys and values of new positions to a layer.
    pub(crate) fn extend(&mut self, layer: usize, keys: ArrayView2<'_, f32>, values: ArrayView2<'_, f32>) {
        let kv = &mut self.layers[layer];
        kv.keys.extend(keys);
        kv.values.extend(values);
    }

    /// Frees the keys and values that no later layer reads. Called after each layer; `end` is the number of positions.
    pub(crate) fn release(&mut self, config: &Config, layer: usize, end: usize) {
        let donor = donor(config, layer);
        let read_later = (layer + 1..config.layers()).any(|later| self::donor(config, later) == donor);
        if !read_later {
            let width = width(config, donor);
            let kv = &mut self.layers[donor];
            match (self.keep, config.attention[donor]) {
                (Keep::Pass, _) => *kv = LayerKv::default(),
                // a position sees itself and the `window - 1` before it
                (Keep::Later, Attention::Sliding) => {
                    kv.drop_before((end + 1).saturating_sub(config.window as usize + self.undo), width);
                }
                (Keep::Later, Attention::Full) => {}
            }
        }
        if layer + 1 == config.layers() {
            self.len = end;
        }
    }
}

impl LayerKv {
    /// The keys from row `first` on: a row of `width` values a position.
    pub(crate) fn keys(&self, first: usize, rows: usize, width: usize) -> ArrayView2<'_, f32> {
        view(&self.keys, first, rows, width)
    }

    /// The values, as [`LayerKv::keys`].
    pub(crate) fn values(&self, first: usize, rows: usize, width: usize) -> ArrayView2<'_, f32> {
        view(&self.values, first, rows, width)
    }

    /// The position behind the last row.
    pub(crate) fn end(&self, width: usize) -> usize {
        self.first + self.keys.len() / width
    }

    fn drop_before(&mut self, position: usize, width: usize) {
        if position > self.first {
            let gone = (position - self.first) * width;
            self.keys.drain(..gone);
            self.values.drain(..gone);
            self.first = position;
        }
    }
}

/// Some rows of keys or values.
fn view(all: &[f32], first: usize, rows: usize, width: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, width), &all[first * width..][..rows * width]).expect("whole rows")
}

/// Values a position in the keys, or the values, of a layer.
fn width(config: &Config, layer: usize) -> usize {
    (config.kv_heads_of(layer) * config.head_dim_of(layer)) as usize
}

/// True for the last layer with keys and values of its own: after it, rows no longer depend on each other.
pub(crate) fn is_last_owner(config: &Config, layer: usize) -> bool {
    !config.shares_kv(layer) && (layer + 1..config.layers()).all(|later| config.shares_kv(later))
}

/// The layer whose keys and values a layer reads: itself, or the last owner of its kind.
pub(crate) fn donor(config: &Config, layer: usize) -> usize {
    if !config.shares_kv(layer) {
        return layer;
    }
    let owner = |&n: &usize| !config.shares_kv(n) && config.attention[n] == config.attention[layer];
    // a config is refused unless there is one
    (0..layer).rev().find(owner).unwrap_or(layer)
}
