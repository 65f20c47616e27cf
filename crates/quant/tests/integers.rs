//! Integers in blocks have the codes and scales of ai-edge-quantizer.
//!
//! Contents and provenance of the golden file: `fixtures/golden/litertlm/README.md`.

use quant::{IntegerBits, IntegerScales, Integers};

const ROWS: usize = 6;
const COLS: usize = 512;

/// Codes of a byte each, packed: low bits first.
fn pack(codes: &[u8], bits: u32) -> Vec<u8> {
    let mask = u8::MAX >> (8 - bits);
    let byte = |codes: &[u8]| (0..).zip(codes).fold(0, |byte, (n, code)| byte | (code & mask) << (bits * n));
    codes.chunks((8 / bits) as usize).map(byte).collect()
}

#[test]
fn blocks_are_those_of_ai_edge_quantizer() {
    let golden = testkit::read("golden/litertlm/blocks.bin");
    let mut rest = &golden[..];
    let mut take = |len: usize| {
        let (taken, after) = rest.split_at(len);
        rest = after;
        taken
    };
    let values = take(2 * ROWS * COLS).as_chunks().0.iter();
    let values: Vec<f32> =
        values.map(|bits| f32::from_bits(u32::from(u16::from_le_bytes(*bits)) << 16)).collect();
    for block in [32, 64, 128, 256] {
        for bits in [IntegerBits::Two, IntegerBits::Four, IntegerBits::Eight] {
            let expected_codes = pack(take(ROWS * COLS), bits.count() as u32);
            let expected_scales = take(2 * ROWS * (COLS / block));
            let integers = Integers { bits, block: Some(block) };
            let mut codes = vec![0; expected_codes.len()];
            let mut scales = vec![0; expected_scales.len()];
            integers.encode(COLS, &values, IntegerScales::MinMax, &mut codes, &mut scales);
            assert_eq!(scales, expected_scales, "{bits:?} {block}");
            assert_eq!(codes, expected_codes, "{bits:?} {block}");
        }
    }
    assert!(rest.is_empty());
}
