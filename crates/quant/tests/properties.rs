//! Properties of any row: no panic for finite values, errors within the bounds of the type, and a decoded row encodes
//! to the same bytes again.

use proptest::collection::vec;
use proptest::prelude::*;
use quant::{Simd, can_encode, decode, encode};
use tensor::DType;

/// The largest error of each type relative to the largest magnitude of its block, without importance. Half a step where
/// all steps are equal; for the K types plus the quantization error of group scales and minima.
const BOUNDS: [(DType, f32); 12] = [
    (DType::Q4_0, 0.126),
    (DType::Q4_1, 0.069),
    (DType::Q5_0, 0.064),
    (DType::Q5_1, 0.034),
    (DType::Q8_0, 0.0046),
    (DType::Q2_K, 0.60),
    (DType::Q3_K, 0.40),
    (DType::Q4_K, 0.17),
    (DType::Q5_K, 0.11),
    (DType::Q6_K, 0.06),
    (DType::IQ4_NL, 0.17),
    (DType::IQ4_XS, 0.22),
];

/// The relative error of floats: half a step of the mantissa. Below the smallest normal, half a step of the subnormals.
const FLOATS: [(DType, f32, f32, f32); 4] = [
    (DType::F32, 0.0, 0.0, f32::MAX),
    (DType::F16, 1.0 / 2048.0, 3.0e-8, 65504.0),
    (DType::BF16, 1.0 / 256.0, 4.6e-41, 3.3e38),
    (DType::F8_E4M3, 1.0 / 16.0, 1.0 / 1024.0, 448.0),
];

/// Two blocks of 256, the largest block of any type.
const COLS: usize = 512;

fn finite() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => any::<f32>().prop_filter("finite", |value| value.is_finite()),
        4 => -1.0f32..1.0,
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => Just(f32::MAX),
        1 => Just(f32::MIN),
        1 => Just(f32::MIN_POSITIVE),
        1 => Just(1.0e-45),
    ]
}

/// Weights as in models, of any common magnitude, some of them zero or outliers.
fn weights() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![12 => -1.0f32..1.0, 2 => Just(0.0), 1 => -8.0f32..8.0];
    (vec(value, COLS), -3i32..4)
        .prop_map(|(row, size)| row.iter().map(|value| value * 10f32.powi(size)).collect())
}

fn stored(dtype: DType, row: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![0; row.len() / dtype.block_len() * dtype.block_bytes()];
    encode(Simd::detect(), dtype, row.len(), row, importance, &mut bytes);
    bytes
}

fn read(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut row = vec![0.0; COLS];
    decode(Simd::detect(), dtype, bytes, &mut row);
    row
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_finite_does_no_harm(row in vec(finite(), COLS), importance in vec(0.0f32..1.0e6, COLS)) {
        for &dtype in DType::ALL.iter().filter(|dtype| can_encode(**dtype)) {
            read(dtype, &stored(dtype, &row, None));
            read(dtype, &stored(dtype, &row, Some(&importance)));
        }
    }

    #[test]
    fn any_bytes_are_read(bytes in vec(any::<u8>(), 4 * COLS)) {
        for &dtype in DType::ALL.iter().filter(|dtype| can_encode(**dtype)) {
            read(dtype, &bytes[..COLS / dtype.block_len() * dtype.block_bytes()]);
        }
    }

    #[test]
    fn errors_are_within_the_bound_of_the_type(row in weights()) {
        for (dtype, bound) in BOUNDS {
            let decoded = read(dtype, &stored(dtype, &row, None));
            for (block, (given, found)) in row.chunks(dtype.block_len()).zip(decoded.chunks(dtype.block_len())).enumerate() {
                let most = given.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                // f16 scales lose digits below 6e-5.
                let least = 1.0e-4;
                for (a, b) in given.iter().zip(found) {
                    prop_assert!((a - b).abs() <= bound * most + least, "{} block {}: {} of {}, found {}", dtype, block, a, most, b);
                }
            }
        }
    }

    #[test]
    fn floats_are_rounded_to_the_nearest(row in vec(finite(), COLS)) {
        for (dtype, relative, least, largest) in FLOATS {
            let row: Vec<f32> = row.iter().map(|value| value.clamp(-largest, largest)).collect();
            for (a, b) in row.iter().zip(read(dtype, &stored(dtype, &row, None))) {
                prop_assert!((a - b).abs() <= relative * a.abs() + least, "{dtype}: {a}, found {b}");
            }
        }
    }

    #[test]
    fn what_was_read_is_stored_as_the_same_bytes(row in weights()) {
        // Types with scale searches may find another scale for their own output.
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F8_E4M3, DType::SFP8, DType::Q4_0, DType::Q5_0, DType::Q8_0] {
            let once = read(dtype, &stored(dtype, &row, None));
            let twice = read(dtype, &stored(dtype, &once, None));
            prop_assert_eq!(once, twice, "{}", dtype);
        }
    }
}

#[test]
fn importance_changes_the_bytes_of_the_types_that_use_it_and_of_no_other() {
    // a quarter of the columns counts a thousand times as much
    let importance: Vec<f32> = (0..COLS).map(|i| if i % 4 == 1 { 1000.0 } else { 1.0 }).collect();
    let row: Vec<f32> = (0..COLS).map(|i| (i as f32 * 0.7).sin() * (1.0 + (i % 5) as f32)).collect();
    for &dtype in DType::ALL.iter().filter(|dtype| can_encode(**dtype)) {
        let changes = stored(dtype, &row, None) != stored(dtype, &row, Some(&importance));
        assert_eq!(changes, quant::uses_importance(dtype), "{dtype}");
    }
}
