//! The scans for values and scales that are not finite.

use quant::{Simd, first_beyond, invalid_block};
use tensor::DType;

#[test]
fn finds_the_first_value_that_is_not_finite() {
    let mut x = vec![f32::MAX; 1000];
    x[3] = f32::MIN_POSITIVE / 2.0;
    assert_eq!(first_beyond(&x, f32::MAX), None);
    assert_eq!(first_beyond(&[], f32::MAX), None);
    for at in [999, 512, 255, 0] {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            x[at] = bad;
            assert_eq!(first_beyond(&x, f32::MAX), Some(at));
        }
    }
}

#[test]
fn finds_the_first_block_with_a_scale_that_is_not_finite() {
    // The scales of these are beyond f16 (MXFP4's exponents are not).
    let blocks = 300;
    for &dtype in DType::ALL.iter().filter(|t| t.is_quantized() && **t != DType::MXFP4) {
        let mut x: Vec<f32> = (0..blocks * dtype.block_len()).map(|i| (i % 7) as f32 - 3.0).collect();
        let mut bytes = vec![0; blocks * dtype.block_bytes()];
        quant::encode(Simd::detect(), dtype, x.len(), &x, None, &mut bytes);
        assert_eq!(invalid_block(dtype, &bytes), None, "{dtype}");
        for at in [299, 256, 17, 0] {
            x[at * dtype.block_len() + 5] = -1e9;
            quant::encode(Simd::detect(), dtype, x.len(), &x, None, &mut bytes);
            assert_eq!(invalid_block(dtype, &bytes), Some(at), "{dtype}");
        }
    }
}

#[test]
fn knows_the_bad_patterns_of_each_type() {
    // Type, bytes of one block before the pattern, pattern, true if invalid.
    let cases: &[(DType, usize, &[u8], bool)] = &[
        (DType::F32, 0, &[0, 0, 0x80, 0x7f], true),
        (DType::F32, 0, &[1, 0, 0x80, 0xff], true),
        (DType::F32, 0, &[0xff, 0xff, 0x7f, 0x7f], false),
        (DType::F16, 0, &[0, 0x7c], true),
        (DType::F16, 0, &[1, 0xfc], true),
        (DType::F16, 0, &[0xff, 0x7b], false),
        (DType::BF16, 0, &[0x80, 0x7f], true),
        (DType::BF16, 0, &[0xc0, 0xff], true),
        (DType::BF16, 0, &[0x7f, 0x7f], false),
        (DType::Q4_1, 2, &[0, 0x7c], true),
        (DType::Q5_1, 2, &[0, 0xfe], true),
        (DType::Q2_K, 82, &[0, 0x7c], true),
        (DType::Q4_K, 2, &[0, 0x7c], true),
        (DType::Q5_K, 2, &[0, 0x7c], true),
        (DType::Q4_0, 2, &[0, 0x7c], false),
        (DType::Q6_K, 208, &[0, 0x7c], true),
        (DType::Q6_K, 206, &[0, 0x7c], false),
        (DType::MXFP4, 0, &[0xff], true),
        (DType::MXFP4, 0, &[0xfe], false),
        (DType::I8, 0, &[0xff], false),
        (DType::I32, 0, &[0xff, 0xff, 0xff, 0xff], false),
    ];
    for &(dtype, at, pattern, bad) in cases {
        let mut block = vec![0; dtype.block_bytes()];
        block[at..][..pattern.len()].copy_from_slice(pattern);
        assert_eq!(invalid_block(dtype, &block), bad.then_some(0), "{dtype} {pattern:02x?} at {at}");
    }
}
