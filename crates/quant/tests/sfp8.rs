//! SFP8 equals gemma.cpp's, at every level. Vectors and provenance: `fixtures/golden/sfp8/README.md`.

use quant::{Simd, first_beyond, invalid_block, largest, max_abs, sfp8_divide, sfp8_scale};
use tensor::DType;
use testkit::{SplitMix64, floats};

const RESERVED: u8 = 0x80;

fn read(name: &str) -> Vec<u8> {
    testkit::read(format!("golden/sfp8/{name}"))
}

fn encode(simd: Simd, x: &[f32]) -> Vec<u8> {
    let mut out = vec![0xaa; x.len()];
    quant::encode(simd, DType::SFP8, x.len(), x, None, &mut out);
    out
}

fn decode(simd: Simd, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len()];
    quant::decode(simd, DType::SFP8, bytes, &mut out);
    out
}

fn assert_encodes(x: &[f32], expected: &[u8]) {
    assert_eq!(x.len(), expected.len());
    for simd in testkit::available("SIMD level", Simd::ALL, Simd::is_available) {
        for ((v, found), expected) in x.iter().zip(encode(simd, x)).zip(expected) {
            assert_eq!(found, *expected, "{v:e} ({:08x}) at {simd:?}", v.to_bits());
        }
    }
}

#[test]
fn decodes_as_gemma_cpp() {
    let bytes: Vec<u8> = (0..=255).collect();
    let expected = floats(&read("decode.f32"));
    assert_eq!(expected.len(), bytes.len());
    for simd in testkit::available("SIMD level", Simd::ALL, Simd::is_available) {
        for (byte, (found, expected)) in decode(simd, &bytes).iter().zip(&expected).enumerate() {
            assert_eq!(found.to_bits(), expected.to_bits(), "{byte:02x} at {simd:?}");
        }
    }
}

/// Every BF16, with different low bits that make it an f32: they are truncated.
#[test]
fn encodes_every_bf16_as_gemma_cpp() {
    let expected = read("encode_bf16.u8");
    for end in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
        let patterns = (0..=0x3ff0_u32).chain(0x8000..=0xbff0);
        let x: Vec<f32> = patterns.map(|bf16| f32::from_bits(bf16 << 16 | end)).collect();
        assert_encodes(&x, &expected);
    }
}

#[test]
fn encodes_f32_as_gemma_cpp() {
    let x = floats(&read("encode_in.f32"));
    assert_eq!(x.len(), 29_733);
    assert_encodes(&x, &read("encode_out.u8"));
}

#[test]
fn scales_tensors_as_gemma_cpp() {
    let bytes = read("scaled_tensors.bin");
    let (count, mut rest) = bytes.split_first_chunk().unwrap();
    let mut scaled = 0;
    for case in 0..u32::from_le_bytes(*count) {
        let (n, after) = rest.split_first_chunk().unwrap();
        let n = u32::from_le_bytes(*n) as usize;
        let (scale, after) = after.split_first_chunk().unwrap();
        let scale = f32::from_le_bytes(*scale);
        let (x, after) = after.split_at(n * 4);
        let (codes, after) = after.split_at(n);
        rest = after;

        let mut x = floats(x);
        assert_eq!(sfp8_scale(max_abs(&x)).to_bits(), scale.to_bits(), "tensor {case}");
        sfp8_divide(&mut x, scale);
        assert_eq!(first_beyond(&x, largest(DType::SFP8)), None, "tensor {case}");
        assert_encodes(&x, codes);
        scaled += usize::from(scale != 1.0);
    }
    assert!(rest.is_empty());
    assert_eq!(scaled, 5);
}

#[test]
fn what_is_too_large_becomes_the_largest_and_is_found_before() {
    let values = [1.9, 1.9375, 1.99, 2.0, 3e38, f32::INFINITY, f32::NAN];
    assert_encodes(&values, &[0x7f; 7]);
    assert_encodes(&values.map(|v| -v), &[0xff; 7]);
    for v in values {
        assert_eq!(first_beyond(&[0.0, 1.875, -1.875, -v], largest(DType::SFP8)), Some(3), "{v}");
    }
}

#[test]
fn every_value_has_one_code_and_the_reserved_one_is_invalid() {
    let bytes: Vec<u8> = (0..=255).filter(|&byte| byte != RESERVED).collect();
    assert_encodes(&decode(Simd::Scalar, &bytes), &bytes);
    assert_eq!(invalid_block(DType::SFP8, &bytes), None);
    assert_eq!(invalid_block(DType::SFP8, &[0, 0x7f, RESERVED, 0xff, RESERVED]), Some(2));
}

/// All values, not only those that gemma.cpp supports: BF16 patterns, their neighbours, random bits.
#[test]
fn levels_agree() {
    let mut random = SplitMix64(1);
    let random = (0..1 << 18).map(|_| (random.next() >> 32) as u32);
    let patterns =
        (0..1 << 16).flat_map(|bf16: u32| [-1, 0, 1].map(|step| (bf16 << 16).wrapping_add_signed(step)));
    let x: Vec<f32> = patterns.chain(random).map(f32::from_bits).collect();
    assert_encodes(&x, &encode(Simd::Scalar, &x));
}

#[test]
fn the_largest_magnitude_is_nan_if_any_value_is() {
    let mut x = vec![0.5; 1000];
    x[77] = -3.25;
    assert_eq!(max_abs(&x), 3.25);
    assert_eq!(max_abs(&[]), 0.0);
    x[999] = f32::NEG_INFINITY;
    assert_eq!(max_abs(&x), f32::INFINITY);
    x[3] = -f32::NAN;
    assert!(max_abs(&x).is_nan());
}
