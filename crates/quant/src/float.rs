//! Conversions between float widths with ggml's rounding, and scans for values that are not finite.
//!
//! Source: ggml's `ggml-impl.h` (`ggml_compute_fp32_to_fp16` and its siblings) and `ggml-quants.c`.

/// ggml's `GROUP_MAX_EPS`: a group whose largest magnitude is smaller counts as zero.
pub(crate) const GROUP_MAX_EPS: f32 = 1e-15;

/// Converts to IEEE half precision, half to even; every NaN becomes the canonical NaN of its sign.
#[inline(always)]
pub(crate) fn f32_to_f16(value: f32) -> u16 {
    let twice = value.to_bits() << 1;
    let sign = value.to_bits() & 0x8000_0000;
    // Adding a power of two, chosen by the exponent, leaves ten bits of mantissa, rounded by the addition.
    let (to_infinity, to_zero) = (f32::from_bits(0x7780_0000), f32::from_bits(0x0880_0000));
    let base = (value.abs() * to_infinity) * to_zero;
    let bias = (twice & 0xff00_0000).max(0x7100_0000);
    let bits = (f32::from_bits((bias >> 1) + 0x0780_0000) + base).to_bits();
    let magnitude = ((bits >> 13) & 0x7c00) + (bits & 0x0fff);
    let magnitude = if twice > 0xff00_0000 { 0x7e00 } else { magnitude };
    ((sign >> 16) | magnitude) as u16
}

/// Converts from IEEE half precision, exactly.
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let twice = u32::from(half) << 17;
    let sign = u32::from(half & 0x8000) << 16;
    let normal = f32::from_bits((twice >> 4) + (0xe0 << 23)) * f32::from_bits(0x0780_0000);
    let subnormal = f32::from_bits((twice >> 17) | (126 << 23)) - 0.5;
    let magnitude = if twice < 1 << 27 { subnormal } else { normal };
    f32::from_bits(sign | magnitude.to_bits())
}

/// Converts to bfloat16, half to even; a NaN stays a NaN.
#[inline(always)]
pub(crate) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 64;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded }) as u16
}

/// ggml's `nearest_int`: rounds half to even for |value| < 2^22; beyond that the result is not the nearest integer, but
/// ggml's.
#[inline(always)]
pub(crate) fn nearest_int(value: f32) -> i32 {
    ((value + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// A C cast from float to an 8-bit integer, as x86 performs it: truncates to 32 bits and keeps the lowest eight; zero
/// if the value exceeds 32 bits (scales of subnormal blocks have infinite inverses).
#[inline(always)]
pub(crate) fn low_byte(value: f32) -> u8 {
    let in_range = if value.abs() < 2_147_483_648.0 { value } else { 0.0 };
    // SAFETY: the value is in range, and not NaN. A saturating cast makes the types of 32 two to four times slower.
    (unsafe { in_range.to_int_unchecked::<i32>() }) as u8
}

/// Reads the f16 at byte `at` of a block.
#[inline(always)]
pub(crate) fn f16_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The first value with the largest magnitude, with its sign; +0 if all values are zero.
#[inline(always)]
pub(crate) fn extremum<const K: usize>(x: &[f32; K]) -> f32 {
    // In general this needs a chain of comparisons; but if only one sign has the largest magnitude, three passes that
    // vectorise give the same result.
    let magnitude = x.iter().fold(0, |most, v| most.max(v.to_bits() as i32 & i32::MAX)) as u32;
    let plus = x.iter().fold(false, |any, v| any | (v.to_bits() == magnitude));
    let minus = x.iter().fold(false, |any, v| any | (v.to_bits() == magnitude | 0x8000_0000));
    if plus != minus && (1..=0x7f80_0000).contains(&magnitude) {
        return f32::from_bits(magnitude).copysign(if plus { 1.0 } else { -1.0 });
    }
    x.iter().fold(0.0, |most: f32, &v| if v.abs() > most.abs() { v } else { most })
}

/// The index of the first value that is `bad`. Tests whole chunks first, which vectorises, then searches the chunk.
#[inline(always)]
pub(crate) fn first_bad<T: Copy>(values: &[T], bad: impl Fn(T) -> bool) -> Option<usize> {
    let chunk = 256;
    let (n, found) = values
        .chunks(chunk)
        .enumerate()
        .find(|(_, values)| values.iter().fold(false, |any, &v| any | bad(v)))?;
    found.iter().position(|&v| bad(v)).map(|at| n * chunk + at)
}
