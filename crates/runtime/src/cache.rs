//! Keys and values of the positions that later ones look back to.
//!
//! Layers at the end of E2B and E4B own none and read those of a donor: the last layer of their kind that has them.
//! A sliding layer looks back `window` positions, so no more is kept of it than that, and as many as may be taken back.

use gemma::{Attention, Config};
use tensor::{Error, Result};

/// Keys and values of one sequence.
#[derive(Clone, Debug)]
pub struct KvCache {
    len: usize,
    keep: Keep,
    /// Positions that can be taken back.
    undo: usize,
    layers: Vec<LayerKv>,
}

/// For whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// The positions to come.
    Later,
    /// The layers to come, no longer.
    Pass,
}

/// Keys and values of one layer, position after position.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerKv {
    /// The position of the first row.
    pub(crate) first: usize,
    /// Heads side by side, `kv_heads * head_dim` values a position.
    pub(crate) keys: Vec<f32>,
    /// As `keys`.
    pub(crate) values: Vec<f32>,
}

impl KvCache {
    /// An empty cache for a sequence that goes on, such as a generation.
    pub fn new(config: &Config) -> KvCache {
        KvCache { len: 0, keep: Keep::Later, undo: 0, layers: vec![LayerKv::default(); config.layers()] }
    }

    /// The same, of which the last `positions` can be taken back at any time, see [`KvCache::truncate`].
    pub fn with_rollback(self, positions: usize) -> KvCache {
        KvCache { undo: positions, ..self }
    }

    /// Takes back all positions from `len` on: what goes through the model next is as if they had never been.
    ///
    /// # Errors
    /// `Limit` when they are more than the cache was [made for](KvCache::with_rollback), and nothing has changed.
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

    /// For a sequence that is done with in one pass: forgets a layer when no other will read it.
    pub(crate) fn of_one_pass(config: &Config) -> KvCache {
        KvCache { keep: Keep::Pass, ..KvCache::new(config) }
    }

    /// Number of positions that went through the model.
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
    pub(crate) fn extend(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let kv = &mut self.layers[layer];
        kv.keys.extend_from_slice(keys);
        kv.values.extend_from_slice(values);
    }

    /// To be called after each layer: lets go of the keys and values that it was the last to read.
    /// `end` is the number of positions so far.
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

/// Values a position in the keys, or the values, of a layer.
fn width(config: &Config, layer: usize) -> usize {
    (config.kv_heads_of(layer) * config.head_dim_of(layer)) as usize
}

/// True for the last layer with keys and values of its own: what becomes of a row after it, no other row sees.
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
