//! Sine and cosine of an f32, as glibc has computed them since version 2.28 on processors with fused multiply-add.
//!
//! Other C libraries round some results to the neighbouring value, and an importance matrix then has other bytes. Source:
//! `sincosf.h` of Arm's Optimized Routines (MIT licence), which glibc took over. All non-negative numbers were compared.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2, PI};

/// Coefficients of x³, x⁵ and x⁷.
const SINE: [f64; 3] = [-0.16666654943701084, 0.008332178146138854, -0.00019517298981385725];
/// Coefficients of 1, x², x⁴, x⁶ and x⁸.
const COSINE: [f64; 5] =
    [1.0, -0.49999999725108224, 0.041666623324344516, -0.001388676379437604, 2.4390450703564542e-5];

/// The first 192 bits of 2/π, after 24 zeros.
const TWO_OVER_PI: [u8; 27] = [
    0, 0, 0, 0xa2, 0xf9, 0x83, 0x6e, 0x4e, 0x44, 0x15, 0x29, 0xfc, 0x27, 0x57, 0xd1, 0xf5, 0x34, 0xdd, 0xc0,
    0xdb, 0x62, 0x95, 0x99, 0x3c, 0x43, 0x90, 0x41,
];

/// (sin x, cos x); NaN for infinities and NaN.
pub(crate) fn sin_cos(x: f32) -> (f32, f32) {
    let size = x.abs();
    // glibc compares twelve bits, so a limit is somewhat below its number
    let below = |limit: f32| size.to_bits() >> 20 < limit.to_bits() >> 20;
    if below(1.0 / 4096.0) {
        return (x, 1.0);
    }
    let (rest, quarters) = match () {
        () if below(std::f32::consts::FRAC_PI_4) => (f64::from(size), 0),
        () if below(120.0) => few_quarters(size),
        () if size.is_finite() => many_quarters(size),
        () => return (f32::NAN, f32::NAN),
    };
    let (sine, cosine) = polynomials(rest);
    let (sine, cosine) = match quarters & 3 {
        0 => (sine, cosine),
        1 => (cosine, -sine),
        2 => (-sine, -cosine),
        _ => (-cosine, sine),
    };
    (if x < 0.0 { -sine } else { sine }, cosine)
}

/// What is left of x without the nearest multiple of π/2, and that multiple.
fn few_quarters(x: f32) -> (f64, u64) {
    let scaled = (f64::from(x) * (FRAC_2_PI * f64::from(1 << 24))) as u64;
    let quarters = (scaled + (1 << 23)) >> 24;
    // the product and the first difference are exact: one rounding, as with a fused multiply-add
    let (high, n) = (f64::from_bits(FRAC_PI_2.to_bits() & !0xff), quarters as f64);
    (f64::from(x) - n * high - n * (FRAC_PI_2 - high), quarters)
}

/// The same of a large x, by those bits of 2/π that count.
fn many_quarters(x: f32) -> (f64, u64) {
    let bits = x.to_bits();
    let mantissa = ((bits & 0x7f_ffff) | 0x80_0000) << (bits >> 23 & 7);
    let first = (bits >> 26 & 15) as usize;
    let [high, middle, low] = [0, 4, 8].map(|at| {
        let word = [0, 1, 2, 3].map(|byte| TWO_OVER_PI[first + at + byte]);
        u64::from(mantissa) * u64::from(u32::from_be_bytes(word))
    });
    let turns = (high << 32 | low >> 32).wrapping_add(middle);
    // two bits of quarters, 62 of a fraction
    let quarters = turns.wrapping_add(1 << 61) >> 62;
    let rest = turns.wrapping_sub(quarters << 62) as i64;
    (rest as f64 * (PI / (1u64 << 63) as f64), quarters)
}

/// Sine and cosine of an |x| up to about π/4.
fn polynomials(x: f64) -> (f32, f32) {
    let x2 = x * x;
    let (x3, x4) = (x2 * x, x2 * x2);
    let (x5, x6) = (x3 * x2, x4 * x2);
    let sine = x + x3 * SINE[0] + x5 * (SINE[1] + x2 * SINE[2]);
    let cosine = COSINE[0] + x2 * COSINE[1] + x4 * COSINE[2] + x6 * (COSINE[3] + x2 * COSINE[4]);
    (sine as f32, cosine as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 1009th number from 0 on.
    fn numbers() -> impl Iterator<Item = f32> {
        (0..f32::INFINITY.to_bits()).step_by(1009).map(f32::from_bits)
    }

    #[test]
    fn results_are_near() {
        for x in numbers().filter(|x| *x < 1e6) {
            let (sine, cosine) = sin_cos(x);
            for (ours, exact) in [(sine, f64::from(x).sin()), (cosine, f64::from(x).cos())] {
                let unit = f64::from(ours.abs().next_up() - ours.abs());
                assert!((f64::from(ours) - exact).abs() < 0.57 * unit, "{x}: {ours}, exactly {exact}");
            }
            assert_eq!(sin_cos(-x), (-sine, cosine));
        }
        for x in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let (sine, cosine) = sin_cos(x);
            assert!(sine.is_nan() && cosine.is_nan());
        }
    }

    /// The digest is that of `sinf` and `cosf` of glibc 2.36.
    #[test]
    fn results_are_those_of_glibc() {
        let bytes: Vec<u8> = numbers()
            .flat_map(|x| {
                let (sine, cosine) = sin_cos(x);
                [sine, cosine].map(f32::to_le_bytes)
            })
            .flatten()
            .collect();
        assert_eq!(
            base::hex(&base::Sha256::of(&bytes)),
            "4c5862729455950e951b35cde1d228e393ce90c117337a4be0eeec3ee5ffd323"
        );
    }
}
