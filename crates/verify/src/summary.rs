//! Error figures of the report: by tensor and by role.

use crate::errors::Pair;
use crate::reencode::{Bytes, Verdict};
use crate::row_errors::RowErrors;
use crate::sums::Sums;
use crate::{RoleError, TensorError, Tensors};

/// A tensor whose values were compared.
pub(crate) struct Measured {
    /// The entry; its figures follow from the sums.
    pub(crate) error: TensorError,
    pub(crate) sums: Sums,
    /// Size in the base in bytes.
    pub(crate) base_bytes: u64,
}

/// Figures of all tensors, in the order of the file.
pub(crate) fn tensors(
    pairs: &[Pair<'_>],
    errors: &[RowErrors],
    bytes: &[Bytes],
    verdicts: &[Verdict],
) -> Tensors {
    let all = pairs.iter().zip(errors).zip(bytes).zip(verdicts);
    collect(all.map(|(((pair, errors), bytes_of_it), verdict)| {
        let desc = &pair.stored.desc;
        let (base, weights) = (pair.base_dtype(), desc.elements());
        let error = TensorError {
            name: desc.name.clone(),
            role: pair.tensor.role.to_owned(),
            layer: pair.tensor.layer,
            dtype: desc.dtype.name().to_owned(),
            bytes: pair.stored.bytes,
            weights,
            worst_block: errors.worst.clone(),
            compared: verdict.compared(),
            blocks: bytes_of_it.blocks,
            differing: bytes_of_it.differing,
            ..TensorError::default()
        };
        let base_bytes = weights / base.block_len() as u64 * base.block_bytes() as u64;
        Measured { error, sums: errors.sums, base_bytes }
    }))
}

/// Adds the figures of tensors and of their roles.
pub(crate) fn collect(all: impl IntoIterator<Item = Measured>) -> Tensors {
    let mut roles: Vec<(RoleError, Sums, u64)> = Vec::new();
    let mut tensors = Vec::new();
    for Measured { error, sums, base_bytes } in all {
        let at = roles.iter().position(|(role, ..)| role.role == error.role).unwrap_or_else(|| {
            roles.push((RoleError { role: error.role.clone(), ..RoleError::default() }, Sums::default(), 0));
            roles.len() - 1
        });
        let (role, role_sums, role_weights) = &mut roles[at];
        role.tensors += 1;
        role.bytes += error.bytes;
        *role.types.entry(error.dtype.clone()).or_default() += error.bytes;
        role.base_bytes += base_bytes;
        *role_sums = role_sums.plus(sums);
        *role_weights += error.weights;
        tensors.push(TensorError {
            rmse: rmse(sums, error.weights),
            relative: sums.relative(),
            cosine: sums.cosine(),
            ..error
        });
    }
    let roles = roles.into_iter().map(|(role, sums, weights)| RoleError {
        rmse: rmse(sums, weights),
        relative: sums.relative(),
        cosine: sums.cosine(),
        ..role
    });
    Tensors { roles: roles.collect(), tensors }
}

fn rmse(sums: Sums, weights: u64) -> f64 {
    (sums.ee / weights.max(1) as f64).sqrt()
}
