//! Sixteen lanes of f32 as one value.

/// A vector of sixteen f32.
pub(super) trait Lanes16: Copy {
    fn splat(value: f32) -> Self;
    fn load(values: &[f32; 16]) -> Self;
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self · other + sum`, rounded once.
    fn mul_add(self, other: Self, sum: Self) -> Self;
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
    fn mul_add(self, other: Plain, sum: Plain) -> Plain {
        let mut lanes = sum.0;
        lanes.iter_mut().zip(self.0).zip(other.0).for_each(|((sum, a), b)| *sum = mul_add(a, b, *sum));
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

/// `a · b + c`, rounded once, as [`f32::mul_add`], which calls a slow function of the C library on a processor without the instruction.
///
/// The product is exact in f64. The sum is rounded to odd there: of the two neighbours of the exact sum, the one whose last bit is 1.
/// f64 has more than two bits beyond those of f32, so rounding that to f32 is the same as rounding the exact sum (Boldo and Melquiond,
/// "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    // what the sum has lost (Knuth's TwoSum)
    let of_c = sum - product;
    let lost = (product - (sum - of_c)) + (c - of_c);
    let bits = sum.to_bits();
    let odd = match bits & 1 {
        // away from zero if what was lost has the sign of the sum, else towards it
        0 if sum.is_finite() && lost != 0.0 => {
            bits.wrapping_add(if (lost > 0.0) == (sum > 0.0) { 1 } else { u64::MAX })
        }
        _ => bits,
    };
    f64::from_bits(odd) as f32
}

#[cfg(test)]
mod tests {
    use testkit::SplitMix64;

    use super::mul_add;

    #[test]
    fn the_sum_is_rounded_once() {
        let mut random = SplitMix64(1);
        let mut next = || random.next();
        let equal = |a: f32, b: f32, c: f32| {
            let (ours, expected) = (mul_add(a, b, c), a.mul_add(b, c));
            assert!(
                ours.to_bits() == expected.to_bits() || ours.is_nan() && expected.is_nan(),
                "{a:e} {b:e} {c:e}"
            );
        };
        for _ in 0..4_000_000 {
            // any bits: all exponents, subnormal numbers, infinities, NaN
            let [a, b, c] = [next(), next(), next()].map(|bits| f32::from_bits((bits >> 32) as u32));
            equal(a, b, c);
            // sums near a tie: of products with few bits, and of a number close to the negative product
            let few = |value: f32| f32::from_bits(value.to_bits() & 0xffff_f000);
            equal(few(a), few(b), c);
            let near = f32::from_bits((-a * b).to_bits().wrapping_add((next() % 5) as u32));
            equal(a, b, near);
            let tie = f32::from_bits(((a * b).to_bits()).wrapping_add(((next() % 3 + 11) as u32) << 23));
            equal(few(a), few(b), tie);
        }
    }
}
