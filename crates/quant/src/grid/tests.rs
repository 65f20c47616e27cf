//! Detection of blocks on a grid, and of blocks that are not.

use super::*;
use crate::{decode, encode};
use testkit::SplitMix64;

const BLOCKS: usize = 20_000;

fn bf16(value: f32) -> f32 {
    f32::from_bits(u32::from(f32_to_bf16(value)) << 16)
}

fn f16(value: f32) -> f32 {
    f16_to_f32(f32_to_f16(value))
}

/// The code of the extremum of a block.
#[derive(Clone, Copy, Debug)]
enum Extremum {
    Minus8,
    PlusMinus7,
    Free,
}

const EXTREMA: [Extremum; 3] = [Extremum::Minus8, Extremum::PlusMinus7, Extremum::Free];

/// Blocks of BF16 of d·q, with d from 2^`exponents`, rounded by `store`.
fn lattice(extremum: Extremum, exponents: [f32; 2], store: fn(f32) -> f32) -> Vec<f32> {
    let mut random = SplitMix64(0x9e37_79b9_7f4a_7c15);
    let block = |_| {
        let d = store((exponents[0] + (exponents[1] - exponents[0]) * random.unit() as f32).exp2());
        let d = if random.unit() < 0.5 { -d } else { d };
        let mut codes = [0.0; QK];
        let most = if matches!(extremum, Extremum::Minus8) { 8.0 } else { 7.0 };
        codes.fill_with(|| (2.4 * random.normal()).round().clamp(-most, 7.0));
        let at = (random.unit() * QK as f64) as usize;
        match extremum {
            Extremum::Minus8 => codes[at] = -8.0,
            Extremum::PlusMinus7 => codes[at] = if random.unit() < 0.5 { 7.0 } else { -7.0 },
            Extremum::Free => {}
        }
        codes.map(|code| bf16(code * d))
    };
    (0..BLOCKS).flat_map(block).collect()
}

/// Repacks, and counts the blocks that decode to the original values.
fn repacked(x: &[f32]) -> (RepackCounts, u64) {
    let mut packed = vec![0; x.len() / QK * BYTES];
    let count = repack_q4_0(Simd::detect(), x, &mut packed);
    (count, same_blocks(x, &packed))
}

fn same_blocks(x: &[f32], packed: &[u8]) -> u64 {
    let mut decoded = vec![0.0; x.len()];
    decode(Simd::detect(), DType::Q4_0, packed, &mut decoded);
    let same = |(x, y): (&[f32], &[f32])| x.iter().zip(y).all(|(x, y)| *x == bf16(*y));
    x.chunks(QK).zip(decoded.chunks(QK)).filter(|pair| same(*pair)).count() as u64
}

#[test]
fn scales_of_16_bits_are_recovered_exactly() {
    type Scales = (fn(f32) -> f32, [f32; 2]);
    let stored: [Scales; 3] = [(bf16, [-11.0, -5.0]), (f16, [-11.0, -5.0]), (bf16, [-17.0, -13.0])];
    for extremum in EXTREMA {
        for (number, (store, exponents)) in stored.into_iter().enumerate() {
            let x = lattice(extremum, exponents, store);
            let (count, same) = repacked(&x);
            assert_eq!(
                (count.blocks, count.exact, count.near),
                (BLOCKS as u64, same, 0),
                "{extremum:?} {number}"
            );
            assert_eq!(same, BLOCKS as u64, "{extremum:?} {number}");
        }
    }
}

#[test]
fn scales_of_32_bits_are_recovered_nearly() {
    for extremum in EXTREMA {
        let x = lattice(extremum, [-11.0, -5.0], |d| d);
        let (count, same) = repacked(&x);
        assert_eq!((count.exact, count.exact + count.near), (same, BLOCKS as u64), "{extremum:?}: {count:?}");
        assert!(count.exact >= BLOCKS as u64 * 96 / 100, "{extremum:?}: {count:?}");
        let mut packed = vec![0; x.len() / QK * BYTES];
        let mut decoded = vec![0.0; x.len()];
        repack_q4_0(Simd::detect(), &x, &mut packed);
        decode(Simd::detect(), DType::Q4_0, &packed, &mut decoded);
        let close = |(x, y): (&f32, &f32)| (x - y).abs() <= x.abs() / 200.0;
        assert!(x.iter().zip(&decoded).all(close), "{extremum:?}");
    }
}

#[test]
fn the_ordinary_encoder_loses_what_is_kept_here() {
    let x = lattice(Extremum::PlusMinus7, [-11.0, -5.0], bf16);
    let mut packed = vec![0; x.len() / QK * BYTES];
    encode(Simd::detect(), DType::Q4_0, QK, &x, None, &mut packed);
    assert!(same_blocks(&x, &packed) < BLOCKS as u64 / 100);
}

#[test]
fn every_level_gives_the_same_bytes() {
    let mut x = lattice(Extremum::Free, [-11.0, -5.0], |d| d);
    x.truncate(QK * 2000);
    let mut random = SplitMix64(7);
    x.extend((0..QK * 100).map(|_| bf16(0.02 * random.normal())));
    let made = |simd| {
        let mut packed = vec![0; x.len() / QK * BYTES];
        (repack_q4_0(simd, &x, &mut packed), packed, survey(simd, &x))
    };
    let scalar = made(Simd::Scalar);
    let levels = testkit::available("SIMD level", Simd::ALL, Simd::is_available);
    assert!(levels.iter().all(|simd| made(*simd) == scalar));
}

#[test]
fn weights_of_no_lattice_are_never_mistaken() {
    let mut random = SplitMix64(42);
    let normal: Vec<f32> = (0..QK * 100_000).map(|_| bf16(0.02 * random.normal())).collect();
    // grids with more bits, or with a minimum
    let [mut q8_0, mut q5_0, mut q4_1, mut q4_k] = std::array::from_fn(|_| normal[..QK * 8 * 1000].to_vec());
    for (values, dtype) in [
        (&mut q8_0, DType::Q8_0),
        (&mut q5_0, DType::Q5_0),
        (&mut q4_1, DType::Q4_1),
        (&mut q4_k, DType::Q4_K),
    ] {
        let mut packed = vec![0; values.len() / dtype.block_len() * dtype.block_bytes()];
        encode(Simd::detect(), dtype, 256, values, None, &mut packed);
        decode(Simd::detect(), dtype, &packed, values);
        values.iter_mut().for_each(|v| *v = bf16(*v));
    }
    // a minimum is sometimes a multiple of the scale: in 20 of 8000 blocks of Q4_1
    for (name, values, most) in [
        ("normal", &normal, 0),
        ("q8_0", &q8_0, 0),
        ("q5_0", &q5_0, 0),
        ("q4_1", &q4_1, 40),
        ("q4_k", &q4_k, 40),
    ] {
        let seen = survey(Simd::detect(), values);
        assert_eq!(seen.telling, (values.len() / QK) as u64, "{name}");
        assert!(seen.on <= most, "{name}: {seen:?}");
    }
}

#[test]
fn blocks_that_fit_many_lattices_tell_nothing() {
    let one = [0.25; QK];
    let two: [f32; QK] = std::array::from_fn(|i| if i % 3 == 0 { 0.5 } else { -0.25 });
    for block in [[0.0; QK], [-0.0; QK], one, two] {
        assert_eq!(survey(Simd::detect(), &block), GridSurvey::default());
        assert_eq!(repacked(&block), (RepackCounts { blocks: 1, exact: 1, near: 0 }, 1));
    }
}

#[test]
fn values_out_of_reach_are_encoded_as_ever() {
    let mut blocks =
        vec![[f32::NAN; QK], [f32::INFINITY; QK], [f32::MAX; QK], [f32::MIN_POSITIVE; QK], [1e-42; QK]];
    blocks.push([0.0; QK]);
    blocks[5][0] = f32::MIN_POSITIVE;
    for block in blocks {
        let (mut packed, mut ordinary) = ([0; BYTES], [0; BYTES]);
        let count = repack_q4_0(Simd::detect(), &block, &mut packed);
        encode(Simd::detect(), DType::Q4_0, QK, &block, None, &mut ordinary);
        assert_eq!(
            (count, packed),
            (RepackCounts { blocks: 1, ..RepackCounts::default() }, ordinary),
            "{block:?}"
        );
    }
}

/// A block whose values are a grid's with changes of `share` of a step, RMS, for each block of [`lattice`].
fn moved(share: f32) -> (Vec<f32>, Vec<f32>) {
    let x = lattice(Extremum::Free, [-11.0, -5.0], bf16);
    let mut random = SplitMix64(11);
    let scales = grid_scales(Simd::detect(), &x);
    let step = scales.iter().flat_map(|scale| [*scale; QK]);
    (x.iter().zip(step).map(|(x, step)| bf16(x + share * step * random.normal())).collect(), scales)
}

fn squared_error(x: &[f32], encode: impl Fn(&[f32], &mut [u8])) -> f64 {
    let (mut packed, mut decoded) = (vec![0; x.len() / QK * BYTES], vec![0.0; x.len()]);
    encode(x, &mut packed);
    decode(Simd::detect(), DType::Q4_0, &packed, &mut decoded);
    x.iter().zip(&decoded).map(|(x, y)| f64::from(x - y).powi(2)).sum()
}

/// What is left of the error is the change itself, until it is as large as the error of a new grid.
#[test]
fn moved_weights_keep_their_grid() {
    let to_nearest = |x: &[f32], out: &mut [u8]| {
        repack_q4_0(Simd::detect(), x, out);
    };
    let ordinary = |x: &[f32], out: &mut [u8]| encode(Simd::detect(), DType::Q4_0, QK, x, None, out);
    for (share, same, error) in [(0.02, 0.999, 0.02), (0.05, 0.999, 0.08), (0.1, 0.98, 0.3), (0.15, 0.8, 0.6)]
    {
        let (x, scales) = moved(share);
        let found = grid_scales(Simd::detect(), &x);
        let close = scales.iter().zip(&found).filter(|(a, b)| (*a / *b - 1.0).abs() < 0.04).count();
        assert!(close as f64 >= same * BLOCKS as f64, "{share}: {close}");
        let ratio = squared_error(&x, to_nearest) / squared_error(&x, ordinary);
        assert!(ratio < error, "{share}: {ratio}");
        let seen = survey(Simd::detect(), &x);
        assert!(seen.is_moved() && !seen.is_on_grid(), "{share}: {seen:?}");
    }
    let (x, _) = moved(0.25);
    assert!(!survey(Simd::detect(), &x).is_moved());
}

#[test]
fn weights_of_no_lattice_are_not_moved_from_one() {
    let mut random = SplitMix64(5);
    let normal: Vec<f32> = (0..QK * 10_000).map(|_| bf16(0.02 * random.normal())).collect();
    let outliers: Vec<f32> =
        normal.iter().map(|x| if random.below(16) == 0 { 6.0 * x } else { *x }).collect();
    let products: Vec<f32> = normal.iter().map(|x| bf16(x * random.normal())).collect();
    for x in [normal, outliers, products] {
        let seen = survey(Simd::detect(), &x);
        assert!(!seen.is_moved() && seen.moved * 100 < seen.telling, "{seen:?}");
    }
}
