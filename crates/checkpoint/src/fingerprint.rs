//! The fingerprint of a checkpoint: a digest that tells models apart without reading all of their weights.

use base::Sha256;
use tensor::Result;

use crate::Checkpoint;

impl Checkpoint {
    /// A digest of `config.json`, the headers and a sample of the weights: 64 KiB at the beginning, the middle and the
    /// end of each shard, and 512 bytes at each of 256 places between, so that a fine-tune of a few matrices a layer
    /// differs. Different digests mean different models; equal digests mean the same model, except for differences
    /// that are constructed to evade the sample. Adapters are hashed whole.
    ///
    /// # Errors
    /// Those of [`read_at`](Self::read_at).
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        const PIECE: u64 = 64 << 10;
        const PLACES: u64 = 256;
        const PLACE: u64 = 512;
        let mut hash = Sha256::new();
        hash.update(self.config.to_string());
        for (number, shard) in self.shards.iter().enumerate() {
            hash.update(shard.len.to_le_bytes());
            let last = shard.len.saturating_sub(PIECE);
            let stretches =
                [(0, shard.data_start), (shard.data_start, PIECE), (shard.len / 2, PIECE), (last, PIECE)];
            let data = shard.len - shard.data_start;
            let spread = (0..PLACES).map(|place| (shard.data_start + data / PLACES * place, PLACE));
            for (from, len) in stretches.into_iter().chain(spread) {
                let mut bytes = vec![0; len.min(shard.len - from) as usize];
                self.read_at(number, from, &mut bytes)?;
                hash.update(&bytes);
            }
        }
        for merged in &self.adapters {
            hash.update(merged.adapter.scale.to_le_bytes());
            merged.files.iter().for_each(|file| hash.update(&file.sha256));
        }
        Ok(hash.finish())
    }
}
