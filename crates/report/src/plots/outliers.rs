//! Tensors whose error stands out among the others of their type in the file.

use std::collections::BTreeMap;

use verify::TensorError;

/// Multiple of the median error of a type beyond which a tensor is an outlier.
const BEYOND: f64 = 1.5;

/// The error beyond which a tensor of a type is an outlier.
pub(super) struct Outliers(BTreeMap<String, f64>);

impl Outliers {
    pub(super) fn of(tensors: &[TensorError]) -> Outliers {
        let mut errors: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for tensor in tensors.iter().filter(|tensor| tensor.relative > 0.0) {
            errors.entry(&tensor.dtype).or_default().push(tensor.relative);
        }
        let limit = |mut errors: Vec<f64>| {
            errors.sort_by(f64::total_cmp);
            BEYOND * errors[errors.len() / 2]
        };
        Outliers(errors.into_iter().map(|(dtype, errors)| (dtype.to_owned(), limit(errors))).collect())
    }

    pub(super) fn has(&self, tensor: &TensorError) -> bool {
        self.0.get(&tensor.dtype).is_some_and(|limit| tensor.relative > *limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_is_far_from_the_others_of_its_type() {
        let tensor = |dtype: &str, relative| TensorError {
            dtype: dtype.to_owned(),
            relative,
            ..TensorError::default()
        };
        let tensors = [
            tensor("Q4_0", 0.08),
            tensor("Q4_0", 0.09),
            tensor("Q4_0", 0.14),
            tensor("Q6_K", 0.5),
            tensor("F32", 0.0),
        ];
        let outliers = Outliers::of(&tensors);
        assert_eq!(tensors.each_ref().map(|tensor| outliers.has(tensor)), [false, false, true, false, false]);
    }
}
