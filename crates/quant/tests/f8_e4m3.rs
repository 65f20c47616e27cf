//! F8_E4M3 equals torch's, at every level. Vectors and provenance: `fixtures/golden/f8_e4m3/README.md`.

use quant::{Simd, first_beyond, invalid_block, largest};
use tensor::DType;
use testkit::{SplitMix64, floats};

fn read(name: &str) -> Vec<u8> {
    testkit::read(format!("golden/f8_e4m3/{name}"))
}

fn read_f32(name: &str) -> Vec<f32> {
    floats(&read(name))
}

fn encode(simd: Simd, x: &[f32]) -> Vec<u8> {
    let mut out = vec![0xaa; x.len()];
    quant::encode(simd, DType::F8_E4M3, x.len(), x, None, &mut out);
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
fn decodes_as_torch() {
    let bytes: Vec<u8> = (0..=255).collect();
    let expected = read_f32("decode.f32");
    assert_eq!(expected.len(), bytes.len());
    for simd in testkit::available("SIMD level", Simd::ALL, Simd::is_available) {
        let mut out = vec![0.5; bytes.len()];
        quant::decode(simd, DType::F8_E4M3, &bytes, &mut out);
        for (byte, (found, expected)) in out.iter().zip(&expected).enumerate() {
            assert_eq!(found.to_bits(), expected.to_bits(), "{byte:02x} at {simd:?}");
        }
    }
}

#[test]
fn encodes_every_bf16_as_torch() {
    let x: Vec<f32> = (0..1 << 16).map(|bf16: u32| f32::from_bits(bf16 << 16)).collect();
    assert_encodes(&x, &read("encode_bf16.u8"));
}

/// Midpoints and their neighbours, both ends of the range, infinities and NaN.
#[test]
fn encodes_f32_as_torch() {
    assert_encodes(&read_f32("encode_in.f32"), &read("encode_out.u8"));
}

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
fn nan_is_invalid_and_what_saturates_is_found_before() {
    let mut bytes: Vec<u8> = (0..=255).filter(|byte| byte & 0x7f != 0x7f).collect();
    assert_eq!(invalid_block(DType::F8_E4M3, &bytes), None);
    bytes[7] = 0xff;
    assert_eq!(invalid_block(DType::F8_E4M3, &bytes), Some(7));
    let limit = largest(DType::F8_E4M3);
    assert_eq!(first_beyond(&[448.0, -448.0, 448.0_f32.next_up()], limit), Some(2));
}
