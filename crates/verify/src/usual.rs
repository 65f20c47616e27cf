//! The usual error of a type: what round-to-nearest gives for normally distributed weights.

use tensor::DType;

/// Relative errors `√(Σ(y − x)² / Σx²)`; a test measures them.
const USUAL: &[(DType, f64)] = &[
    (DType::F16, 0.00021),
    (DType::BF16, 0.00166),
    (DType::Q8_0, 0.00526),
    (DType::Q6_K, 0.0175),
    (DType::Q5_0, 0.0421),
    (DType::Q5_1, 0.0374),
    (DType::Q5_K, 0.0356),
    (DType::Q4_0, 0.0849),
    (DType::Q4_1, 0.077),
    (DType::Q4_K, 0.0703),
    (DType::IQ4_NL, 0.0751),
    (DType::IQ4_XS, 0.0756),
    (DType::MXFP4, 0.114),
    (DType::Q3_K, 0.149),
    (DType::Q2_K, 0.293),
    (DType::SFP8, 0.0278),
    (DType::F8_E4M3, 0.0264),
];

/// The relative error that weights of a type usually have, by the type's name; `None` for a type that has none.
/// Calibrated quantization gives more, since it trades the error of a weight for that of the layer's output.
pub fn usual_error(dtype: &str) -> Option<f64> {
    USUAL.iter().find(|(known, _)| known.name().eq_ignore_ascii_case(dtype)).map(|(_, error)| *error)
}

#[cfg(test)]
mod tests {
    use base::SplitMix64;
    use quant::Simd;

    use super::*;
    use crate::sums::Sums;

    /// The error of a type on normally distributed weights.
    fn measured(dtype: DType) -> f64 {
        const COLS: usize = 1024;
        let mut random = SplitMix64(7);
        let x: Vec<f32> = (0..32 * COLS).map(|_| 0.25 * random.normal()).collect();
        let mut bytes = vec![0; x.len() / dtype.block_len() * dtype.block_bytes()];
        let mut y = vec![0.0; x.len()];
        quant::encode(Simd::detect(), dtype, COLS, &x, None, &mut bytes);
        quant::decode(Simd::detect(), dtype, &bytes, &mut y);
        Sums::of(&x, &y).relative()
    }

    #[test]
    fn usual_errors_are_those_of_the_codecs() {
        for dtype in DType::ALL.iter().copied().filter(|dtype| quant::can_encode(*dtype)) {
            let error = measured(dtype);
            let usual = usual_error(dtype.name());
            let is_usual = usual.map_or(error == 0.0, |usual| (error / usual - 1.0).abs() < 0.03);
            assert!(is_usual, "{dtype}: {error:.5}");
        }
        assert_eq!(usual_error("none"), None);
    }
}
