//! Tensor digests among the keys of a calibrated GGUF. Error feedback depends on the calibration text, so the bytes
//! cannot be reproduced from the checkpoint alone; the digests detect changes.

use base::Sha256;
use gguf::GgufSet;
use plan::{TENSOR_DIGESTS, digest_of_entry};
use rayon::prelude::*;
use tensor::{Result, TensorDesc, TensorSource};

use crate::{Finding, Severity, Step};

/// Bytes hashed per read (at least a row).
const PIECE: u64 = 1 << 20;

/// Compares the tensors of a GGUF with the digests in its keys. No findings if it has none.
///
/// # Errors
/// `Io`.
pub(crate) fn tensor_digests(artifact: &GgufSet) -> Result<Vec<Finding>> {
    if artifact.metadata().get(TENSOR_DIGESTS).is_none() {
        return Ok(Vec::new());
    }
    let failure =
        |place: String, problem: &str| Finding::new(Severity::Failure, Step::Structure, place, problem);
    let entries: Option<Vec<(&str, &str)>> = artifact
        .metadata()
        .typed::<&[String]>(TENSOR_DIGESTS)
        .ok()
        .flatten()
        .and_then(|entries| entries.iter().map(|entry| digest_of_entry(entry)).collect());
    let Some(entries) = entries else {
        let problem = "not a list of names and SHA-256: the digests of the tensors cannot be checked";
        return Ok(vec![failure(format!("key {TENSOR_DIGESTS}"), problem)]);
    };
    let checked = artifact.tensors().par_iter().enumerate().map(|(index, desc)| {
        let place = || format!("tensor {}", desc.name);
        let Some((_, said)) = entries.iter().find(|(name, _)| *name == desc.name) else {
            let problem =
                format!("{TENSOR_DIGESTS} has no digest of it: it was added after the file was made");
            return Ok(Some(failure(place(), &problem)));
        };
        let found = sha256(artifact, index, desc)?;
        let problem = "its bytes are not those that were written: it was changed after the file was made";
        let changed =
            || failure(place(), problem).expected(format!("SHA-256 {said}"), format!("SHA-256 {found}"));
        Ok((found != *said).then(changed))
    });
    let checked: Vec<Option<Finding>> = checked.collect::<Result<_>>()?;
    Ok(checked.into_iter().flatten().collect())
}

fn sha256(artifact: &GgufSet, index: usize, desc: &TensorDesc) -> Result<String> {
    let mut state = Sha256::new();
    let mut bytes = Vec::new();
    let step = (PIECE / desc.row_bytes().max(1)).max(1);
    let mut first = 0;
    while first < desc.rows() {
        let rows = step.min(desc.rows() - first);
        bytes.resize((rows * desc.row_bytes()) as usize, 0);
        artifact.read_rows(index, first, &mut bytes)?;
        state.update(&bytes);
        first += rows;
    }
    Ok(base::hex(&state.finish()))
}
