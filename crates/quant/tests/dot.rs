//! Dot products with stored rows: the same bits at every level, and equal to those of decoded rows.

use quant::{DOT_VECTORS, Simd};
use tensor::DType;
use testkit::SplitMix64;

/// Numbers around 0 with a long period.
fn fill(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|n| ((n * 7919 + seed) % 1009) as f32 / 504.0 - 1.0 + (n % 13) as f32 * 1e-4).collect()
}

/// A second implementation of the definition: 32 lanes, one rounding a product, folded in halves.
fn defined(w: &[f32], x: &[f32]) -> f32 {
    let mut lanes = [0.0; 32];
    for (i, (w, x)) in w.iter().zip(x).enumerate() {
        lanes[i % 32] = w.mul_add(*x, lanes[i % 32]);
    }
    for half in [16, 8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

#[test]
fn every_level_gives_the_bits_of_the_definition() {
    for &dtype in DType::ALL.iter().filter(|&&dtype| quant::can_encode(dtype)) {
        let block = dtype.block_len();
        // one block, an odd number of blocks, a row of E2B; for the plain types also lengths that are not multiples of
        // 32
        let odd = if block == 1 { vec![1, 31, 33, 77, 300] } else { vec![] };
        for cols in [block, 5 * block, 1536].into_iter().chain(odd).filter(|cols| cols % block == 0) {
            let rows = 3;
            let mut bytes = vec![0; rows * cols / block * dtype.block_bytes()];
            quant::encode(Simd::detect(), dtype, cols, &fill(rows * cols, 1), None, &mut bytes);
            let mut w = vec![0.0; rows * cols];
            quant::decode(Simd::Scalar, dtype, &bytes, &mut w);
            for vectors in 1..=DOT_VECTORS {
                let x = fill(vectors * cols, 5);
                let mut expected = Vec::new();
                for w in w.chunks(cols) {
                    expected.extend(x.chunks(cols).map(|x| defined(w, x).to_bits()));
                }
                for simd in testkit::available("SIMD level", Simd::ALL, Simd::is_available) {
                    let mut y = vec![f32::NAN; rows * vectors];
                    quant::dot(simd, dtype, cols, &bytes, &x, &mut y);
                    let y: Vec<u32> = y.into_iter().map(f32::to_bits).collect();
                    assert_eq!(y, expected, "{simd:?} {dtype}, {vectors} × {cols}");
                }
            }
        }
    }
}

/// Blocks of random bytes: all codes and all scales, including those that the encoders never write.
#[test]
fn any_bytes_give_the_bits_of_the_definition_where_they_are_numbers() {
    let mut random = SplitMix64(1);
    let mut byte = || (random.next() >> 56) as u8;
    for &dtype in DType::ALL.iter().filter(|&&dtype| quant::can_encode(dtype)) {
        let cols = 512;
        let row_bytes = cols / dtype.block_len() * dtype.block_bytes();
        let mut numbers = 0;
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..row_bytes).map(|_| byte()).collect();
            let x = fill(cols, usize::from(bytes[0]));
            let mut w = vec![0.0; cols];
            quant::decode(Simd::Scalar, dtype, &bytes, &mut w);
            let expected = defined(&w, &x);
            numbers += usize::from(expected.is_finite());
            for simd in testkit::available("SIMD level", Simd::ALL, Simd::is_available) {
                let mut y = [0.0];
                quant::dot(simd, dtype, cols, &bytes, &x, &mut y);
                match expected.is_finite() {
                    true => assert_eq!(y[0].to_bits(), expected.to_bits(), "{simd:?} {dtype}"),
                    false => assert!(!y[0].is_finite(), "{simd:?} {dtype}: {}", y[0]),
                }
            }
        }
        // in the plain types nearly every row has a value that is NaN, infinite or too large
        assert!(numbers > 0 || !dtype.is_quantized(), "{dtype}");
    }
}
