//! Tensor digests, written into the header after all tensors.

use std::collections::HashMap;
use std::sync::Arc;

use plan::{FileEntry, Plan};
use rayon::prelude::*;
use tensor::{Result, TensorSource};

use crate::hashed_output::HashedOutput;

/// Fills in the digests in the headers of artifacts with calibrated tensors (`rounded`). `targets` are the completely
/// written files of the plan, in order, and `files` their entries, of which this updates the SHA-256 of changed files.
pub(crate) fn fill_in(
    plan: &Plan,
    rounded: &[Option<Arc<dyn TensorSource>>],
    targets: &[HashedOutput],
    files: &mut [FileEntry],
) -> Result<()> {
    let mut first = 0;
    for (number, artifact) in plan.artifacts.iter().enumerate() {
        let (start, count) = (first, artifact.files.len());
        first += count;
        if rounded.get(number).is_none_or(Option::is_none) {
            continue;
        }
        let places: Vec<_> = artifact.files.iter().zip(&targets[start..start + count]).collect();
        let tensors: Vec<_> =
            places.iter().flat_map(|(file, target)| file.tensors.iter().map(move |t| (target, t))).collect();
        let digests: HashMap<&str, String> = tensors
            .par_iter()
            .map(|(target, tensor)| {
                Ok((tensor.desc.name.as_str(), target.digest_of(tensor.offset, tensor.bytes)?))
            })
            .collect::<Result<_>>()?;
        for ((file, target), entry) in places.into_iter().zip(&mut files[start..]) {
            if let Some(header) = plan::with_digests(file, &digests)? {
                target.write_provisional(0, &header)?;
                entry.sha256 = target.digest_of(0, file.bytes)?;
            }
        }
    }
    Ok(())
}
