//! Conversions between float widths, rounding as ggml rounds, and scans for values that are not finite.
//!
//! Source: ggml's `ggml-impl.h` (`ggml_compute_fp32_to_fp16` and its siblings) and `ggml-quants.c`.

/// ggml's `GROUP_MAX_EPS`: a group whose largest magnitude is smaller counts as zero.
pub(crate) const GROUP_MAX_EPS: f32 = 1e-15;

/// To IEEE half precision, nearest even; every NaN becomes the one of its sign.
#[inline(always)]
pub(crate) fn f32_to_f16(value: f32) -> u16 {
    let twice = value.to_bits() << 1;
    let sign = value.to_bits() & 0x8000_0000;
    // Adding a power of two, chosen by the exponent, leaves ten bits of mantissa, rounded by the adder.
    let (to_infinity, to_zero) = (f32::from_bits(0x7780_0000), f32::from_bits(0x0880_0000));
    let base = (value.abs() * to_infinity) * to_zero;
    let bias = (twice & 0xff00_0000).max(0x7100_0000);
    let bits = (f32::from_bits((bias >> 1) + 0x0780_0000) + base).to_bits();
    let magnitude = ((bits >> 13) & 0x7c00) + (bits & 0x0fff);
    let magnitude = if twice > 0xff00_0000 { 0x7e00 } else { magnitude };
    ((sign >> 16) | magnitude) as u16
}

/// From IEEE half precision, exactly.
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let twice = u32::from(half) << 17;
    let sign = u32::from(half & 0x8000) << 16;
    let normal = f32::from_bits((twice >> 4) + (0xe0 << 23)) * f32::from_bits(0x0780_0000);
    let subnormal = f32::from_bits((twice >> 17) | (126 << 23)) - 0.5;
    let magnitude = if twice < 1 << 27 { subnormal } else { normal };
    f32::from_bits(sign | magnitude.to_bits())
}

/// To bfloat16, nearest even; a NaN stays one.
#[inline(always)]
pub(crate) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 64;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded }) as u16
}

/// ggml's `nearest_int`: half to even while |value| < 2^22; beyond that not the nearest, but what ggml makes of it.
#[inline(always)]
pub(crate) fn nearest_int(value: f32) -> i32 {
    ((value + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// A cast of C, float to an 8-bit integer, as x86 performs it: truncated to 32 bits, of which the lowest
/// eight remain; zero when the 32 do not suffice (scales of subnormal blocks have infinite inverses).
#[inline(always)]
pub(crate) fn low_byte(value: f32) -> u8 {
    let in_range = if value.abs() < 2_147_483_648.0 { value } else { 0.0 };
    // SAFETY: it is, and is not NaN either. A saturating cast makes the types of 32 two to four times slower.
    (unsafe { in_range.to_int_unchecked::<i32>() }) as u8
}

/// The f16 at `at` in a block.
#[inline(always)]
pub(crate) fn f16_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The first value of largest magnitude, with its sign; +0 where there is none but zeros.
#[inline(always)]
pub(crate) fn extremum<const K: usize>(x: &[f32; K]) -> f32 {
    // In general a chain of comparisons; but when only one sign has the largest magnitude,
    // three passes that vectorise say the same.
    let magnitude = x.iter().fold(0, |most, v| most.max(v.to_bits() as i32 & i32::MAX)) as u32;
    let plus = x.iter().fold(false, |any, v| any | (v.to_bits() == magnitude));
    let minus = x.iter().fold(false, |any, v| any | (v.to_bits() == magnitude | 0x8000_0000));
    if plus != minus && (1..=0x7f80_0000).contains(&magnitude) {
        return f32::from_bits(magnitude).copysign(if plus { 1.0 } else { -1.0 });
    }
    x.iter().fold(0.0, |most: f32, &v| if v.abs() > most.abs() { v } else { most })
}

/// The index of the first value that is `bad`. Looks for a bad one in whole chunks, which vectorises, then in the chunk.
#[inline(always)]
pub(crate) fn first_bad<T: Copy>(values: &[T], bad: impl Fn(T) -> bool) -> Option<usize> {
    let chunk = 256;
    let (n, found) = values
        .chunks(chunk)
        .enumerate()
        .find(|(_, values)| values.iter().fold(false, |any, &v| any | bad(v)))?;
    found.iter().position(|&v| bad(v)).map(|at| n * chunk + at)
}
