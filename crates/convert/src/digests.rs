//! Digests of tensors, written into the header when all of them are there.

use std::collections::HashMap;

use plan::Plan;
use rayon::prelude::*;
use tensor::Result;

use crate::target::Target;

/// Fills in the digests that the headers of a plan ask for. `targets` are its files in order, all written; `files` are their
/// SHA-256, of which those of changed files become new ones.
pub(crate) fn fill_in(plan: &Plan, targets: &[Target], files: &mut [String]) -> Result<()> {
    let mut first = 0;
    for artifact in &plan.artifacts {
        let numbers = first..first + artifact.files.len();
        first = numbers.end;
        let asking = artifact.files.iter().zip(numbers.clone()).find_map(|(file, number)| {
            let places = plan::places_of_digests(&file.header);
            (!places.is_empty()).then_some((number, places))
        });
        let Some((number, places)) = asking else { continue };
        let tensors: Vec<_> = artifact
            .files
            .iter()
            .zip(&targets[numbers])
            .flat_map(|(file, target)| file.tensors.iter().map(move |tensor| (target, tensor)))
            .collect();
        let digests: HashMap<&str, String> = tensors
            .par_iter()
            .map(|(target, tensor)| {
                Ok((tensor.desc.name.as_str(), target.digest_of(tensor.offset, tensor.bytes)?))
            })
            .collect::<Result<_>>()?;
        for (name, at) in places {
            if let Some(digest) = digests.get(name.as_str()) {
                targets[number].write_draft(at as u64, digest.as_bytes())?;
            }
        }
        files[number] = targets[number].digest_of(0, targets[number].len())?;
    }
    Ok(())
}
