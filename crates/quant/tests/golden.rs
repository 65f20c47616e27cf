//! Bytes and values equal to those of stock ggml, for every type, with and without importance, at every level.
//!
//! Contents and provenance of the vectors: `fixtures/ggml-quants/README.md`.

use quant::Simd;
use tensor::DType;

/// The rows of a golden folder are in ten groups; a group shares its importance.
const GROUPS: usize = 10;

const BLOCKS_OF_32: [DType; 7] =
    [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::IQ4_NL, DType::MXFP4];
const BLOCKS_OF_256: [DType; 6] =
    [DType::Q2_K, DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::IQ4_XS];

fn read(name: &str) -> Vec<u8> {
    testkit::read(format!("ggml-quants/{name}"))
}

fn read_f32(name: &str) -> Vec<f32> {
    testkit::floats(&read(name))
}

fn read_u16(name: &str) -> Vec<u16> {
    read(name).as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect()
}

/// Encodes a golden input, group by group.
fn encode(simd: Simd, dtype: DType, cols: usize, x: &[f32], weights: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0; x.len() / dtype.block_len() * dtype.block_bytes()];
    let (group, bytes) = (x.len() / GROUPS, out.len() / GROUPS);
    for (g, (x, out)) in x.chunks(group).zip(out.chunks_mut(bytes)).enumerate() {
        let importance = weights.map(|w| &w[g * cols..][..cols]);
        quant::encode(simd, dtype, cols, x, importance, out);
    }
    out
}

/// The sign of a NaN that arithmetic makes is the processor's choice: minus on x86, plus elsewhere. No file has such a
/// block: `quant::invalid_block` finds it.
fn differ_in_signs_of_nan(dtype: DType, found: &[u8], expected: &[u8]) -> bool {
    let is_invalid = |block| quant::invalid_block(dtype, block).is_some();
    cfg!(not(target_arch = "x86_64"))
        && is_invalid(found)
        && is_invalid(expected)
        && found.iter().zip(expected).all(|(a, b)| (a ^ b) & 0x7f == 0)
}

fn assert_blocks_equal(dtype: DType, simd: Simd, what: &str, found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    let size = dtype.block_bytes();
    let differ = |(a, b)| a != b && !differ_in_signs_of_nan(dtype, a, b);
    if let Some(at) = found.chunks(size).zip(expected.chunks(size)).position(differ) {
        panic!(
            "{dtype} {what}, {simd:?}, block {at}:\nfound    {:02x?}\nexpected {:02x?}",
            &found[at * size..][..size],
            &expected[at * size..][..size]
        );
    }
}

fn check_folder(folder: &str, cols: usize, types: &[DType]) {
    let x = read_f32(&format!("{folder}/input.f32"));
    let weights = read_f32(&format!("{folder}/weights.f32"));
    for &dtype in types {
        let plain = read(&format!("{folder}/{dtype}.bin"));
        let weighted = match quant::uses_importance(dtype) {
            true => read(&format!("{folder}/{dtype}.weighted.bin")),
            false => plain.clone(),
        };
        for simd in Simd::available() {
            assert_blocks_equal(dtype, simd, "plain", &encode(simd, dtype, cols, &x, None), &plain);
            assert_blocks_equal(
                dtype,
                simd,
                "weighted",
                &encode(simd, dtype, cols, &x, Some(&weights)),
                &weighted,
            );
        }
    }
}

#[test]
fn encodes_rows_of_1536_as_ggml() {
    check_folder("n1536", 1536, &[&BLOCKS_OF_32[..], &BLOCKS_OF_256[..]].concat());
}

#[test]
fn encodes_rows_of_704_as_ggml() {
    check_folder("n704", 704, &BLOCKS_OF_32);
}

/// Subnormal, huge, tied and flat values, which depend on casts, overflows and NaN.
#[test]
fn encodes_extremes_as_ggml() {
    check_folder("extremes", 1536, &[&BLOCKS_OF_32[..], &BLOCKS_OF_256[..]].concat());
}

#[test]
fn decodes_as_ggml() {
    let cols = 1536;
    for &dtype in BLOCKS_OF_32.iter().chain(&BLOCKS_OF_256) {
        let bytes = read(&format!("n{cols}/{dtype}.bin"));
        let expected = read_f32(&format!("n{cols}/{dtype}.dequant.f32"));
        let row = cols / dtype.block_len() * dtype.block_bytes();
        for simd in Simd::available() {
            for (group, expected) in bytes.chunks(bytes.len() / GROUPS).zip(expected.chunks(cols)) {
                let mut out = vec![f32::NAN; cols];
                quant::decode(simd, dtype, &group[..row], &mut out);
                for (col, (found, expected)) in out.iter().zip(expected).enumerate() {
                    assert_eq!(found.to_bits(), expected.to_bits(), "{dtype} {simd:?} column {col}");
                }
            }
        }
    }
}

#[test]
fn narrows_floats_as_ggml() {
    let x: Vec<f32> = read("float/input.u32")
        .as_chunks()
        .0
        .iter()
        .map(|b| f32::from_bits(u32::from_le_bytes(*b)))
        .collect();
    assert_eq!(x.len(), 17_380);
    for (dtype, name) in [(DType::F16, "float/f16.u16"), (DType::BF16, "float/bf16.u16")] {
        let expected = read_u16(name);
        for simd in Simd::available() {
            let mut out = vec![0; x.len() * 2];
            quant::encode(simd, dtype, x.len(), &x, None, &mut out);
            for ((v, found), expected) in x.iter().zip(out.as_chunks().0).zip(&expected) {
                let found = u16::from_le_bytes(*found);
                assert_eq!(found, *expected, "{dtype} of {:08x} at {simd:?}", v.to_bits());
            }
        }
    }
}
