//! Tables of tensors: sizes and errors by role, the largest errors.

use verify::{Compared, RoleError, TensorError};

use super::number;
use super::tables::{Align, Grid, bytes, cell, exact, name};
use Align::{Left, Right};
use base::grouped;

/// The most tensors in the list of the largest errors.
const WORST: usize = 20;

/// Types of a role, the largest first: `Q4_0, F32`.
pub(super) fn types(role: &RoleError) -> String {
    let mut types: Vec<_> = role.types.iter().collect();
    types.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    types.iter().map(|(dtype, _)| number::plain(dtype)).collect::<Vec<_>>().join(", ")
}

/// Table of sizes and errors by role.
pub(super) fn roles(roles: &[RoleError]) -> Grid {
    let head = [("role", Left), ("tensors", Right), ("type", Left), ("base", Right), ("artifact", Right)];
    let errors = [("relative error", Right), ("RMSE", Right), ("cosine", Right)];
    let row = |role: &RoleError| {
        vec![
            name(&role.role),
            cell(grouped(role.tensors)),
            cell(types(role)),
            bytes(role.base_bytes),
            bytes(role.bytes),
            exact(number::percent(role.relative), role.relative),
            exact(number::significant(role.rmse), role.rmse),
            exact(number::cosine(role.cosine), role.cosine),
        ]
    };
    Grid { head: head.into_iter().chain(errors).collect(), rows: roles.iter().map(row).collect() }
}

/// Table of the tensors with the largest relative errors; exact tensors are left out.
pub(super) fn worst(tensors: &[TensorError]) -> Grid {
    let head =
        [("tensor", Left), ("type", Left), ("size", Right), ("relative error", Right), ("RMSE", Right)];
    let more = [("cosine", Right), ("worst block", Right), ("at row, column", Right), ("compared", Left)];
    let mut worst: Vec<_> = tensors.iter().filter(|tensor| tensor.relative > 0.0).collect();
    worst.sort_by(|a, b| b.relative.total_cmp(&a.relative));
    let row = |tensor: &&TensorError| {
        let block = &tensor.worst_block;
        vec![
            name(&tensor.name),
            cell(number::plain(&tensor.dtype)),
            bytes(tensor.bytes),
            exact(number::percent(tensor.relative), tensor.relative),
            exact(number::significant(tensor.rmse), tensor.rmse),
            exact(number::cosine(tensor.cosine), tensor.cosine),
            exact(number::percent(block.relative), block.relative),
            cell(format!("{}, {}", grouped(block.row), grouped(block.column))),
            cell(match tensor.compared {
                Compared::Bytes => "bytes".to_owned(),
                Compared::Limits => "limits".to_owned(),
            }),
        ]
    };
    Grid { head: head.into_iter().chain(more).collect(), rows: worst.iter().take(WORST).map(row).collect() }
}
