//! A bundle of LiteRT-LM against its checkpoint: the rows of each constant are decoded and compared, and the rows of the
//! checkpoint are rounded once more, which gives the bytes of the constant.

use std::collections::HashMap;
use std::path::Path;

use eval::HashedFile;
use gemma::{Found, Inventory};
use litert::{Bundle, BundleScales, ConstantEncoding, Mapped, Source, StoredConstant, rows_at_once};
use plan::ArtifactEntry;
use quant::Simd;
use rayon::prelude::*;
use tensor::{Result, TensorSource};

use crate::artifact::{Part as FilePart, name};
use crate::errors::GROUP;
use crate::manifest::describing;
use crate::provenance::changed;
use crate::row_errors::RowErrors;
use crate::summary::{Measured, collect};
use crate::sums::Sums;
use crate::{Compared, Finding, Severity, Step, TensorError, Tensors};

/// The file with its SHA-256, and its entry in the manifest beside it. A file that is not the one of the manifest is a finding.
///
/// # Errors
/// `Io`.
pub fn bundle_file(path: &Path) -> Result<(HashedFile, Option<ArtifactEntry>, Vec<Finding>)> {
    let file = HashedFile::read(path, &|_| ())?;
    let part = FilePart { name: name(path), path: path.to_owned(), len: file.bytes };
    let (mut findings, mut hashes) = (Vec::new(), HashMap::from([(path.to_owned(), file.sha256.clone())]));
    let described = describing(std::slice::from_ref(&part), &mut hashes, &mut findings)?;
    let entry = described.map(|described| {
        let called = described.renamed.get(&part.name).unwrap_or(&part.name);
        let listed = described.entry.outputs.iter().find(|output| output.name == *called);
        findings.extend(listed.and_then(|listed| changed(listed, &part.name, &file)));
        described.entry
    });
    Ok((file, entry, findings))
}

/// Number of weights that [`of_bundle`] compares.
pub fn bundle_weights(mapped: &[Mapped]) -> u64 {
    let constants = mapped.iter().flat_map(|mapped| &mapped.assignments).map(|one| &one.constant);
    constants.map(|constant| constant.rows * constant.cols).sum()
}

/// A constant and the tensor that it holds.
struct Held<'a> {
    found: &'a Found,
    model_type: &'a str,
    stored: StoredConstant<'a>,
    encoding: ConstantEncoding,
    bytes: u64,
}

/// Compares the constants of a bundle with the tensors of `base` that they are mapped to. `inventory` is that of `base`. `scales` says how the
/// bundle was rounded; without it only the errors of the weights are known.
///
/// Constants that are not those of rounding the checkpoint are failures, unless no integer constant is: then the bundle was
/// rounded in another way, and a note says so. `progress` gets numbers of weights.
///
/// # Errors
/// Those of reading.
pub fn of_bundle(
    (bundle, from): (&Bundle, &dyn Source),
    mapped: &[Mapped],
    (base, inventory): (&dyn TensorSource, &Inventory),
    scales: Option<&BundleScales>,
    simd: Simd,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Tensors, Vec<Finding>)> {
    let by_index: HashMap<usize, &Found> = inventory.text.iter().map(|found| (found.index, found)).collect();
    let mut measured = Vec::new();
    for Mapped { section, model, assignments, .. } in mapped {
        let section = &bundle.sections[*section];
        let part = bundle.part(from, section)?;
        for assignment in assignments {
            let constant = &assignment.constant;
            let (Some(encoding), Some(stored)) =
                (constant.encoding, StoredConstant::new(model, &part, constant))
            else {
                continue;
            };
            let Some(&found) = by_index.get(&assignment.tensors[0]) else { continue };
            let model_type = section.model_type().unwrap_or_default();
            let bytes = stored.bytes();
            let held = Held { found, model_type, stored, encoding, bytes };
            measured.push((encoding, held.measure(base, scales, simd, progress)?));
        }
    }
    let is_integer = |encoding: &ConstantEncoding| *encoding != ConstantEncoding::Float32;
    let is_equal = |measured: &Measured| measured.error.differing == 0;
    let findings = if scales.is_none() {
        let problem = "the importance matrix that the scales were searched with is not at hand: codes and scales are not compared, only the \
                       errors of the weights are known. Give it with ‹importance›";
        vec![Finding::new(Severity::Note, Step::Tensors, "constants", problem)]
    } else if measured.iter().any(|(encoding, one)| is_integer(encoding) && is_equal(one)) {
        measured.iter().filter(|(_, one)| !is_equal(one)).map(|(_, one)| wrong(one)).collect()
    } else if measured.iter().all(|(_, one)| is_equal(one)) {
        Vec::new()
    } else {
        let rule = match scales {
            Some(BundleScales::Search(_)) => "a search of scales with this importance",
            _ => "min-max rounding",
        };
        let problem = format!(
            "no constant has the bytes of {rule}: the bundle was rounded in another way, such as by quantization-aware training. Only the \
             errors of its weights are known"
        );
        vec![Finding::new(Severity::Note, Step::Tensors, "constants", problem)]
    };
    Ok((collect(measured.into_iter().map(|(_, one)| one)), findings))
}

fn wrong(Measured { error, sums, .. }: &Measured) -> Finding {
    let TensorError { name, differing, blocks, .. } = error;
    let problem = format!(
        "{differing} of {blocks} rows are not those that rounding the checkpoint gives; the cosine of all rows is {:.4}",
        sums.cosine()
    );
    Finding::new(Severity::Failure, Step::Tensors, format!("constant of {name}"), problem)
}

impl Held<'_> {
    fn measure(
        &self,
        base: &dyn TensorSource,
        scales: Option<&BundleScales>,
        simd: Simd,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Measured> {
        let index = self.found.index;
        let desc = &base.tensors()[index];
        let (rows, cols) = (desc.rows(), desc.cols());
        let step = rows_at_once(cols);
        let pieces: Vec<u64> = (0..rows).step_by(step as usize).collect();
        let compared = pieces.into_par_iter().map(|first| {
            let count = step.min(rows - first);
            let x = quant::decode_rows(simd, base, index, first..first + count)?;
            let y = self.stored.values(first, count)?;
            let mut errors = RowErrors::default();
            let pairs = x.chunks_exact(cols as usize).zip(y.chunks_exact(cols as usize));
            for (row, (x, y)) in (first..).zip(pairs) {
                let blocks: Vec<_> =
                    x.chunks(GROUP).zip(y.chunks(GROUP)).map(|(x, y)| Sums::of(x, y)).collect();
                errors.add_row(row, &blocks);
            }
            progress(count * cols);
            let differing =
                scales.map_or(Ok(0), |scales| self.stored.differing(first, &x, scales.of(index)))?;
            Ok((errors, differing))
        });
        let (mut whole, mut differing) = (RowErrors::default(), 0);
        for (errors, rows) in compared.collect::<Result<Vec<_>>>()? {
            whole.add(errors);
            differing += rows;
        }
        let slot = &self.found.slot;
        let is_head = slot.role == "token_embd" && self.model_type == "tf_lite_prefill_decode";
        let error = TensorError {
            name: if is_head { format!("{} (head)", desc.name) } else { desc.name.clone() },
            role: if is_head { "output" } else { slot.role }.to_owned(),
            layer: slot.layer,
            dtype: self.encoding.element().to_string(),
            bytes: self.bytes,
            weights: rows * cols,
            worst_block: whole.worst,
            compared: if differing == 0 && scales.is_some() { Compared::Bytes } else { Compared::Limits },
            blocks: rows,
            differing,
            ..TensorError::default()
        };
        Ok(Measured { error, sums: whole.sums, base_bytes: desc.byte_len() })
    }
}
