//! Quantization with error feedback: valid blocks at every SIMD level, with a smaller error than without feedback.

use quant::{PANEL, Panel, Simd};
use tensor::DType;
use testkit::SplitMix64;

const TYPES: [DType; 9] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::IQ4_NL,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
];

/// Numbers like weights: roughly normal, with some outliers.
fn weights(seed: u64) -> Vec<f32> {
    let mut random = SplitMix64(seed);
    (0..PANEL).map(|_| (0..6).map(|_| random.uniform() / 2.0).sum::<f32>() * 0.03).collect()
}

/// M with feedback to all later values, decreasing with distance.
fn feedback(strength: f32) -> Vec<f32> {
    let mut m = vec![0.0; PANEL * PANEL];
    for i in 0..PANEL {
        for j in i + 1..PANEL {
            m[i * PANEL + j] = strength * 0.8f32.powi((j - i) as i32);
        }
    }
    m
}

fn round(
    simd: Simd,
    dtype: DType,
    weights: &[f32],
    feedback: &[f32],
    importance: &[f32],
) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = vec![0; PANEL / dtype.block_len() * dtype.block_bytes()];
    let mut values = vec![0.0; PANEL];
    let panel = Panel { weights, targets: weights, feedback, importance, scales: &[] };
    quant::round_panel(simd, dtype, &panel, &mut bytes, &mut values);
    (bytes, values)
}

/// Σ Dᵢ·(Σ_{j≤i} (ŵⱼ − wⱼ)·Mⱼᵢ)²: the error that feedback minimises.
fn loss(weights: &[f32], values: &[f32], feedback: &[f32], importance: &[f32]) -> f64 {
    let errors: Vec<f64> = values.iter().zip(weights).map(|(v, w)| f64::from(v - w)).collect();
    let sum = |i: usize| {
        let before: f64 = (0..i).map(|j| errors[j] * f64::from(feedback[j * PANEL + i])).sum();
        (errors[i] + before).powi(2) * f64::from(importance[i])
    };
    (0..weights.len()).map(sum).sum()
}

#[test]
fn the_values_are_those_of_the_bytes_on_every_level() {
    let importance: Vec<f32> = (0..PANEL).map(|i| 0.1 + (i % 7) as f32).collect();
    for dtype in TYPES {
        assert!(quant::feeds_back(dtype), "{dtype}");
        for seed in 0..4 {
            let (weights, feedback) = (weights(seed), feedback(0.5));
            let (expected, values) = round(Simd::Scalar, dtype, &weights, &feedback, &importance);
            let mut decoded = vec![0.0; PANEL];
            quant::decode(Simd::Scalar, dtype, &expected, &mut decoded);
            assert_eq!(decoded, values, "{dtype}");
            assert_eq!(quant::invalid_block(dtype, &expected), None, "{dtype}");
            for simd in testkit::available("SIMD level", Simd::ALL, Simd::is_available) {
                assert!(
                    round(simd, dtype, &weights, &feedback, &importance).0 == expected,
                    "{dtype} {simd:?}"
                );
            }
        }
    }
}

/// Without feedback it is a scale search, at least as good as ggml's; with feedback it must be much better.
#[test]
fn errors_are_smaller_than_those_of_the_plain_search() {
    let importance = vec![1.0; PANEL];
    for (strength, most) in [(0.0, 1.001), (1.0, 0.6)] {
        let feedback = feedback(strength);
        for dtype in TYPES {
            let (mut ours, mut plain) = (0.0, 0.0);
            for seed in 0..32 {
                let weights = weights(seed);
                let (_, values) = round(Simd::detect(), dtype, &weights, &feedback, &importance);
                ours += loss(&weights, &values, &feedback, &importance);
                let mut bytes = vec![0; PANEL / dtype.block_len() * dtype.block_bytes()];
                quant::encode(Simd::detect(), dtype, PANEL, &weights, Some(&importance), &mut bytes);
                let mut values = vec![0.0; PANEL];
                quant::decode(Simd::detect(), dtype, &bytes, &mut values);
                plain += loss(&weights, &values, &feedback, &importance);
            }
            assert!(ours <= most * plain, "{dtype}, feedback {strength}: {ours:e} against {plain:e}");
        }
    }
}

#[test]
fn zeros_and_tiny_weights_stay_finite() {
    let (feedback, importance) = (feedback(0.5), vec![1.0; PANEL]);
    for dtype in TYPES {
        for size in [0.0, 1e-30, 1e-9, 1e4] {
            let weights: Vec<f32> = weights(7).iter().map(|w| w * size).collect();
            let (bytes, values) = round(Simd::detect(), dtype, &weights, &feedback, &importance);
            assert_eq!(quant::invalid_block(dtype, &bytes), None, "{dtype} {size}");
            assert!(values.iter().all(|v| v.is_finite()), "{dtype} {size}");
        }
    }
}
