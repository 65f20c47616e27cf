//! Sixteen lanes of f32 as one value.

/// A vector of sixteen f32.
pub(super) trait Lanes16: Copy {
    fn splat(value: f32) -> Self;
    fn load(values: &[f32; 16]) -> Self;
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// The sum of all lanes: 8 onto 8, 4 onto 4, 2 onto 2, 1 onto 1.
    fn fold(self) -> f32;
}

/// Conversion of stored codes to lanes.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) trait Widen: Lanes16 {
    fn store(self) -> [f32; 16];
    /// Requests the cache line of an address, which may be any, from memory.
    fn prefetch(address: *const u8);
    /// All lanes with the value of one f16, given its bits.
    fn half(bits: [u8; 2]) -> Self;
    /// Lanes from signed bytes.
    fn signed(codes: &[u8; 16]) -> Self;
    /// Parameters for the values of 4-bit codes.
    type Nibble: Copy;
    /// Values `scale · code − min`.
    fn line(scale: Self, min: Self) -> Self::Nibble;
    /// Values `(code − 8) · d`, for a `d` with so few bits that nothing is rounded.
    fn centred(d: Self) -> Self::Nibble;
    fn low_nibbles(codes: &[u8; 16], values: Self::Nibble) -> Self;
    fn high_nibbles(codes: &[u8; 16], values: Self::Nibble) -> Self;
    fn f16(values: &[u8; 32]) -> Self;
    fn bf16(values: &[u8; 32]) -> Self;
}

/// The definition in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 16]);

impl Lanes16 for Plain {
    #[inline(always)]
    fn splat(value: f32) -> Plain {
        Plain([value; 16])
    }
    #[inline(always)]
    fn load(values: &[f32; 16]) -> Plain {
        Plain(*values)
    }
    #[inline(always)]
    fn add(self, other: Plain) -> Plain {
        let mut lanes = self.0;
        lanes.iter_mut().zip(&other.0).for_each(|(a, b)| *a += b);
        Plain(lanes)
    }
    #[inline(always)]
    fn mul(self, other: Plain) -> Plain {
        let mut lanes = self.0;
        lanes.iter_mut().zip(&other.0).for_each(|(a, b)| *a *= b);
        Plain(lanes)
    }
    #[inline(always)]
    fn fold(self) -> f32 {
        let mut lanes = self.0;
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
        }
        lanes[0]
    }
}
