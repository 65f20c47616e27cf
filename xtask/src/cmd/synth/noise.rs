//! Gaussian BF16 noise: one pool, from which tensors take runs at changing places.
//!
//! A fresh number for each of billions of weights would take longer than writing them, and nothing that
//! a converter does depends on a repetition 32 MiB away.

use base::SplitMix64;

/// Standard deviation of the weights, about that of real ones.
const SIGMA: f32 = 0.02;
/// Elements of the pool.
const POOL: usize = 1 << 24;

/// The pool, as little-endian bytes.
pub(super) struct Noise(Vec<u8>);

impl Noise {
    pub(super) fn new() -> Self {
        let mut random = SplitMix64(1);
        let mut bytes = Vec::with_capacity(2 * POOL);
        for _ in 0..POOL {
            bytes.extend(to_bf16(gaussian(&mut random) * SIGMA).to_le_bytes());
        }
        Noise(bytes)
    }

    /// The `number`-th run of `bytes` bytes, an even count that must not exceed the pool's size.
    pub(super) fn run(&self, number: u64, bytes: usize) -> &[u8] {
        let places = (self.0.len() - bytes) / 2 + 1;
        let start = SplitMix64(number).next() as usize % places * 2;
        &self.0[start..start + bytes]
    }
}

/// A standard normal number as the sum of twelve uniform ones (Irwin–Hall): integers until the last step, so
/// the same on every machine, which a logarithm would not be.
fn gaussian(random: &mut SplitMix64) -> f32 {
    let mut sum = 0i32;
    for _ in 0..3 {
        let bits = random.next();
        sum += (0..4).map(|part| (bits >> (16 * part) & 0xFFFF) as i32).sum::<i32>();
    }
    (sum - 6 * 0xFFFF) as f32 / 65536.0
}

/// Rounds to nearest, ties to even. Finite input only.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_gaussian_and_runs_lie_inside() {
        let noise = Noise::new();
        let values: Vec<f64> = noise
            .0
            .chunks_exact(2)
            .map(|pair| f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16).into())
            .collect();
        let mean = values.iter().sum::<f64>() / POOL as f64;
        let sigma = (values.iter().map(|v| v * v).sum::<f64>() / POOL as f64).sqrt();
        let beyond_two =
            values.iter().filter(|v| v.abs() > 2.0 * f64::from(SIGMA)).count() as f64 / POOL as f64;
        assert!(mean.abs() < 1e-4 && (sigma - 0.02).abs() < 1e-4, "{mean} {sigma}");
        assert!((beyond_two - 0.0455).abs() < 2e-3, "{beyond_two}");

        assert_eq!(noise.run(7, 2 * POOL), noise.0);
        assert_ne!(noise.run(7, 64), noise.run(8, 64));
    }

    #[test]
    fn rounding_to_bf16() {
        let ties = [0x3F80_0000, 0xC000_0000, 0x3F80_8000, 0x3F81_8000].map(f32::from_bits);
        assert_eq!(ties.map(to_bf16), [0x3F80, 0xC000, 0x3F80, 0x3F82]);
    }
}
