//! Causes that `xtask::broken` has no files for, in a square matrix of BF16 and of Q4_0.

use base::Part;
use gemma::{Attention, Config, ModelKind, Rope};
use gguf::Metadata;
use quant::Simd;
use tensor::{DType, TensorDesc, TensorSource};
use testkit::{MemoryTensors, SplitMix64};

use crate::artifact::Stored;
use crate::errors::TensorComparison;
use crate::{Expected, ExpectedTensor, Severity, Values};

const SIZE: usize = 64;

/// One tensor in memory.
fn memory(dtype: DType, values: &[f32]) -> MemoryTensors {
    let desc = TensorDesc::new("blk.0.attn_output.weight", dtype, [SIZE as u64, SIZE as u64]).unwrap();
    let mut bytes = vec![0; desc.byte_len() as usize];
    quant::encode(Simd::detect(), dtype, SIZE, values, None, &mut bytes);
    MemoryTensors::one(desc, bytes)
}

fn config() -> Config {
    Config {
        architecture: "gemma4".to_owned(),
        kind: ModelKind::Text,
        attention: vec![Attention::Full],
        hidden: SIZE as u64,
        ffn: SIZE as u64,
        double_wide: false,
        heads: 4,
        kv_heads: 4,
        full_kv_heads: None,
        head_dim: 16,
        full_head_dim: 16,
        k_eq_v: false,
        shared_kv_layers: 0,
        ple: 0,
        vocab: 64,
        vocab_ple: 64,
        experts: None,
        experts_used: None,
        expert_ffn: None,
        context: 64,
        window: 64,
        causal: true,
        image_blocks: false,
        norm_eps: 1e-6,
        softcap: None,
        rope: Rope::default_of(Attention::Full),
        rope_swa: Rope::default_of(Attention::Sliding),
        tied: true,
        draft: None,
        notes: Vec::new(),
    }
}

/// Pseudorandom numbers in BF16, without a pattern.
fn values() -> Vec<f32> {
    let mut random = SplitMix64(88172645463325252);
    (0..SIZE * SIZE).map(|_| f32::from_bits(random.uniform().to_bits() & 0xffff_0000)).collect()
}

/// An expected artifact with this one tensor.
fn expected(tensor: ExpectedTensor) -> Expected {
    Expected {
        plan: String::new(),
        config: Some(config()),
        metadata: Metadata::new(),
        tensors: vec![tensor],
        folder: None,
        binding: false,
        known: false,
        importance: None,
        quantised: false,
        lenient: true,
    }
}

/// The failures of an artifact with other values.
fn said(base: &[f32], artifact: &MemoryTensors) -> Vec<String> {
    let base = memory(DType::BF16, base);
    let tensor = ExpectedTensor {
        desc: artifact.tensors()[0].clone(),
        role: "attn_output",
        layer: Some(0),
        unused: false,
        fitted: false,
        rounding: Default::default(),
        from: Values::Base(0),
    };
    let expected = expected(tensor);
    let stored = [Stored::plain(&artifact.tensors()[0])];
    let comparison = TensorComparison::of((artifact, None), &stored, &base, &expected, Simd::detect());
    let errors = comparison.measure(Part::default(), &|_| {}).unwrap();
    let (_, findings) = comparison.judge(errors).unwrap();
    findings.into_iter().filter(|f| f.severity == Severity::Failure).map(|f| f.problem).collect()
}

#[test]
fn causes_are_told_by_what_they_did() {
    type Change = fn(&[f32], usize, usize) -> f32;
    #[rustfmt::skip]
    let cases: &[(&str, Change)] = &[
        ("its sign is flipped", |x, r, c| -x[r * SIZE + c]),
        ("its values are those of the base times", |x, r, c| 2.0 * x[r * SIZE + c]),
        ("it is transposed", |x, r, c| x[c * SIZE + r]),
        ("its upper and lower half are exchanged", |x, r, c| x[(r + SIZE / 2) % SIZE * SIZE + c]),
        ("the columns of each head are permuted", |x, r, c| x[r * SIZE + c / 16 * 16 + c % 16 / 2 + c % 2 * 8]),
        ("another packing of its bytes", |x, r, c| x[r * SIZE + c / 32 * 32 + c % 32 / 2 + c % 2 * 16]),
        ("the halves of each block of 32 are exchanged", |x, r, c| x[r * SIZE + (c ^ 16)]),
        ("reverse order", |x, r, c| x[r * SIZE + SIZE - 1 - c]),
        ("shifted by one to the left", |x, r, c| x[r * SIZE + (c + 1) % SIZE]),
        ("its rows are shifted by 3", |x, r, c| x[(r + 3) % SIZE * SIZE + c]),
        ("its rows are permuted: row 0 holds row 5", |x, r, c| x[(r * 11 + 5) % SIZE * SIZE + c]),
        ("all values are 0", |_, _, _| 0.0),
        ("row 9 holds only the value 0", |x, r, c| if r == 9 { 0.0 } else { x[r * SIZE + c] }),
        ("without a known pattern", |x, r, c| x[(r * 7 + c * 13 + r * c) % (SIZE * SIZE)]),
    ];
    let base = values();
    for dtype in [DType::BF16, DType::Q4_0] {
        assert_eq!(said(&base, &memory(dtype, &base)), [""; 0], "{dtype}");
        for (words, change) in cases {
            let changed: Vec<f32> = (0..SIZE * SIZE).map(|i| change(&base, i / SIZE, i % SIZE)).collect();
            let said = said(&base, &memory(dtype, &changed));
            assert!(said.len() == 1 && said[0].contains(words), "{dtype}: {words:?} is not in {said:?}");
        }
    }
}

#[test]
fn swapped_bytes_are_recognised() {
    let base = values();
    let mut artifact = memory(DType::BF16, &base);
    artifact.bytes_mut(0).chunks_exact_mut(2).for_each(<[u8]>::reverse);
    let said = said(&base, &artifact);
    assert!(said.iter().any(|problem| problem.contains("big-endian")), "{said:?}");
}

#[test]
fn figures_are_those_of_the_definition() {
    let base = values();
    let artifact = memory(DType::Q4_0, &base);
    let mut decoded = vec![0f32; base.len()];
    quant::decode(Simd::detect(), DType::Q4_0, artifact.bytes(0), &mut decoded);
    let pairs = || base.iter().zip(&decoded).map(|(x, y)| (f64::from(*x), f64::from(*y)));
    let sum = |of: fn((f64, f64)) -> f64| pairs().map(of).sum::<f64>();
    let (ee, xx) = (sum(|(x, y)| (y - x).powi(2)), sum(|(x, _)| x * x));
    let (xy, yy) = (sum(|(x, y)| x * y), sum(|(_, y)| y * y));

    let desc = artifact.tensors()[0].clone();
    let of_base = memory(DType::BF16, &base);
    let from = Values::Base(0);
    let tensor = ExpectedTensor {
        desc,
        role: "attn_output",
        layer: Some(0),
        unused: false,
        fitted: false,
        rounding: Default::default(),
        from,
    };
    let expected = expected(tensor);
    let stored = [Stored::plain(&artifact.tensors()[0])];
    let comparison = TensorComparison::of((&artifact, None), &stored, &of_base, &expected, Simd::detect());
    let errors = comparison.measure(Part::default(), &|_| {}).unwrap();
    let (tensors, _) = comparison.judge(errors).unwrap();
    let error = &tensors.tensors[0];
    for (found, definition) in [
        (error.rmse, (ee / base.len() as f64).sqrt()),
        (error.relative, (ee / xx).sqrt()),
        (error.cosine, xy / (xx * yy).sqrt()),
        (tensors.roles[0].relative, error.relative),
    ] {
        assert!((found - definition).abs() < 1e-12, "{found} {definition}");
    }
    let worst = &error.worst_block;
    let start = (worst.row as usize * SIZE) + worst.column as usize;
    let of = |values: &[(f64, f64)]| {
        let (ee, xx) = values.iter().fold((0.0, 0.0), |(ee, xx), (x, y)| (ee + (y - x).powi(2), xx + x * x));
        (ee / xx).sqrt()
    };
    let all: Vec<(f64, f64)> = pairs().collect();
    assert!((of(&all[start..start + 32]) - worst.relative).abs() < 1e-12);
    assert!(all.chunks(32).all(|block| of(block) <= worst.relative + 1e-12));
}
