//! Sixteen lanes of f32, as one value.

/// Sixteen lanes.
pub(super) trait Lanes16: Copy {
    fn splat(value: f32) -> Self;
    fn load(values: &[f32; 16]) -> Self;
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// The sum of all lanes: 8 onto 8, 4 onto 4, 2 onto 2, 1 onto 1.
    fn fold(self) -> f32;
}

/// How stored codes become lanes.
#[cfg(target_arch = "x86_64")]
pub(super) trait Widen: Lanes16 {
    fn store(self) -> [f32; 16];
    /// All lanes from the bits of one f16.
    fn half(bits: [u8; 2]) -> Self;
    /// Signed bytes.
    fn signed(codes: &[u8; 16]) -> Self;
    /// What four bits stand for.
    type Nibble: Copy;
    /// `scale · code − min`.
    fn line(scale: Self, min: Self) -> Self::Nibble;
    /// `(code − 8) · d`, of a `d` with so few bits that nothing is rounded.
    fn centred(d: Self) -> Self::Nibble;
    fn low_nibbles(codes: &[u8; 16], values: Self::Nibble) -> Self;
    fn high_nibbles(codes: &[u8; 16], values: Self::Nibble) -> Self;
    fn f16(values: &[u8; 32]) -> Self;
    fn bf16(values: &[u8; 32]) -> Self;
}

/// Plain Rust: the definition.
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
