//! Error figures of the report: by tensor and by role.

use crate::errors::{Pair, Part};
use crate::reencode::{Bytes, Verdict};
use crate::sums::Sums;
use crate::{RoleError, TensorError, Tensors};

/// Figures of all tensors, in the order of the file.
pub(crate) fn tensors(pairs: &[Pair<'_>], errors: &[Part], bytes: &[Bytes], verdicts: &[Verdict]) -> Tensors {
    let mut roles: Vec<(RoleError, Sums, u64)> = Vec::new();
    let mut tensors = Vec::with_capacity(pairs.len());
    for (((pair, part), bytes_of_it), verdict) in pairs.iter().zip(errors).zip(bytes).zip(verdicts) {
        let desc = &pair.stored.desc;
        let (dtype, bytes, weights) = (desc.dtype.name(), pair.stored.bytes, desc.elements());
        let sums = part.sums;
        let name = pair.tensor.role;
        let at = roles.iter().position(|(role, ..)| role.role == name).unwrap_or_else(|| {
            roles.push((RoleError { role: name.to_owned(), ..RoleError::default() }, Sums::default(), 0));
            roles.len() - 1
        });
        let (role, role_sums, role_weights) = &mut roles[at];
        role.tensors += 1;
        role.bytes += bytes;
        *role.types.entry(dtype.to_owned()).or_default() += bytes;
        let base = pair.base_dtype();
        role.base_bytes += weights / base.block_len() as u64 * base.block_bytes() as u64;
        *role_sums = role_sums.plus(sums);
        *role_weights += weights;
        tensors.push(TensorError {
            name: desc.name.clone(),
            role: name.to_owned(),
            layer: pair.tensor.layer,
            dtype: dtype.to_owned(),
            bytes,
            weights,
            rmse: rmse(sums, weights),
            relative: sums.relative(),
            cosine: sums.cosine(),
            worst_block: part.worst.clone(),
            compared: verdict.compared(),
            blocks: bytes_of_it.blocks,
            differing: bytes_of_it.differing,
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
