//! Integer tensors, which are copied unchanged: the token order of a draft model's ordered embedding.

use tensor::{Result, TensorDesc, TensorSource};

use crate::expected::{Expected, Values};
use crate::{Finding, Severity, Step};

/// Compares integer tensors with those of the base.
pub(crate) fn integers(
    artifact: &dyn TensorSource,
    base: &dyn TensorSource,
    expected: &Expected,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for tensor in expected.tensors.iter().filter(|tensor| !quant::can_encode(tensor.desc.dtype)) {
        let same = |desc: &TensorDesc| desc.name == tensor.desc.name && desc.dtype == tensor.desc.dtype;
        let (Some(index), Values::Base(origin)) = (artifact.tensors().iter().position(same), &tensor.from)
        else {
            continue; // reported by `structure.rs`
        };
        let len = artifact.tensors()[index].byte_len();
        if base.tensors()[*origin].byte_len() != len {
            continue;
        }
        let [mut found, mut should] = [(); 2].map(|()| vec![0; len as usize]);
        artifact.read_rows(index, 0, &mut found)?;
        base.read_rows(*origin, 0, &mut should)?;
        if let Some(at) = found.iter().zip(&should).position(|(found, should)| found != should) {
            let item = at / tensor.desc.dtype.block_bytes();
            let problem = format!("its integers are not those of the checkpoint, the first is item {item}");
            let place = format!("tensor {}", tensor.desc.name);
            findings.push(Finding::new(Severity::Failure, Step::Tensors, place, problem));
        }
    }
    Ok(findings)
}
