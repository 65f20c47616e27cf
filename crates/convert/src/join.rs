//! The artifacts of a job from its parts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use base::{FoundPart, JobParts, OutputFile, Positioned, Progress, Sha256, Task, Unit};
use plan::{ArtifactEntry, CalibrationEntry, FileEntry, FileRange, PartHost, RepackedTensor};
use rayon::prelude::*;
use serde_json::Value;
use tensor::{Error, Result};

use crate::checksum::{Checksum, WrittenRange};
use crate::digests;
use crate::part_outputs::PartOutputs;
use crate::preflight::{EXISTS, is_occupied};
use crate::publish::publish;
use crate::run::Finished;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Options of [`join`].
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// The target folder.
    pub folder: PathBuf,
    /// Replace existing files.
    pub force: bool,
    /// Wait until everything is on disk before the files are renamed.
    pub sync: bool,
}

/// A finished part.
struct Found<'a> {
    part: &'a FoundPart,
    outputs: PartOutputs,
}

/// Makes the artifacts of a conversion from all of its parts, which [`run`](crate::run) has made. Every range is compared with its
/// checksum. Ranges in the target folder stay where they are; those of other folders are copied, and read once. At the end the parts in
/// the target folder are removed.
///
/// # Errors
/// `Malformed` for parts that contradict each other or are damaged, `Target` for outputs that exist and for a part that is
/// still being written, `Io`. After an error no output has appeared, and all parts are still there.
pub fn join(parts: &JobParts, options: &JoinOptions, progress: &dyn Progress) -> Result<Finished> {
    let found = parts.parts.iter().map(|part| Ok(Found { part, outputs: PartOutputs::of(part)? }));
    let found = found.collect::<Result<Vec<_>>>()?;
    let first = &found[0].outputs;
    for other in &found[1..] {
        agree(first, other)?;
    }
    let manifest = options.folder.join(&first.manifest);
    for file in first.artifacts.iter().flat_map(|entry| &entry.outputs) {
        let path = options.folder.join(&file.name);
        if is_occupied(&path, options.force)? {
            return Err(Error::exists(path.display(), EXISTS).help("Use ‹force› to replace it."));
        }
    }

    let here = parts.folder_in(&options.folder);
    fs::create_dir_all(&here).map_err(|e| Error::write(here.display(), &e))?;
    let mut artifacts = first.artifacts.clone();
    let bytes = artifacts.iter().flat_map(|entry| &entry.outputs).map(|file| file.bytes).sum();
    let task = progress.begin("joining", bytes, Unit::Bytes);
    let mut outputs = Vec::<OutputFile>::new();
    for (number, artifact) in artifacts.iter_mut().enumerate() {
        let of_parts = || found.iter().map(move |found| &found.outputs.artifacts[number]);
        artifact.repacked = repacked(of_parts());
        for (at, input) in artifact.inputs.iter_mut().enumerate() {
            *input = joined_input(input, of_parts().map(|entry| &entry.inputs[at]))?;
        }
        artifact.calibration = calibration(of_parts());
        artifact.parts = found
            .iter()
            .map(|found| PartHost { part: found.part.part.to_string(), host: found.part.host.clone() })
            .collect();
        let before = outputs.len();
        let files = artifact.outputs.par_iter().enumerate().map(|(at, file)| {
            let output = open(&here, &options.folder, file)?;
            if artifact.calibration.is_some() {
                // a join that was killed has filled them in
                digests::clear(&output)?;
            }
            let ranges = found.iter().flat_map(|found| {
                found.outputs.written[before + at].iter().map(move |range| (range, found.part))
            });
            let sha256 = assemble(file, &output, (&here, ranges.collect()), &*task)?;
            Ok((output, sha256))
        });
        let files = files.collect::<Result<Vec<_>>>()?;
        for (file, (output, sha256)) in artifact.outputs.iter_mut().zip(files) {
            file.sha256 = sha256;
            outputs.push(output);
        }
    }
    digests::fill_in(&outputs.iter().collect::<Vec<_>>(), &mut artifacts)?;
    if options.sync {
        outputs.iter().try_for_each(OutputFile::sync)?;
    }
    publish(outputs, &artifacts, &manifest, options.sync)?;
    parts.remove_from(&options.folder);
    Ok(Finished { artifacts, manifest, input_bytes: 0 })
}

/// Checks that a part is of the same run as the first one, but for what parts have of their own.
fn agree(first: &PartOutputs, other: &Found<'_>) -> Result<()> {
    let common = |outputs: &PartOutputs| -> Vec<ArtifactEntry> {
        let strip = |file: &FileEntry| FileEntry {
            name: file.name.clone(),
            bytes: file.bytes,
            ..FileEntry::default()
        };
        let entry = |entry: &ArtifactEntry| ArtifactEntry {
            inputs: entry.inputs.iter().map(strip).collect(),
            outputs: entry.outputs.iter().map(strip).collect(),
            repacked: Vec::new(),
            // the tensors are those of the part; vector instructions do not change bytes, and the kernel is that of the job
            calibration: entry.calibration.clone().map(|calibration| CalibrationEntry {
                compute: String::new(),
                tensors: Value::Null,
                ..calibration
            }),
            ..entry.clone()
        };
        outputs.artifacts.iter().map(entry).collect()
    };
    if common(first) == common(&other.outputs) && first.manifest == other.outputs.manifest {
        return Ok(());
    }
    Err(Error::malformed(format!("part {}", other.part.part), "its record contradicts that of part 1")
        .expected("the same recipe, inputs and outputs", other.part.folder.display())
        .help("Run this part again as the others were run."))
}

/// The record of a calibration with the tensors of all parts, each of which has consecutive ones.
fn calibration<'a>(parts: impl Iterator<Item = &'a ArtifactEntry> + Clone) -> Option<CalibrationEntry> {
    let of_part = |entry: &'a ArtifactEntry| entry.calibration.as_ref();
    let tensors = parts.clone().filter_map(of_part).filter_map(|part| part.tensors.as_array()).flatten();
    let tensors = Value::Array(tensors.cloned().collect());
    parts.filter_map(of_part).next().map(|first| CalibrationEntry { tensors, ..first.clone() })
}

/// Counts of repacked tensors, summed over the parts.
fn repacked<'a>(parts: impl Iterator<Item = &'a ArtifactEntry>) -> Vec<RepackedTensor> {
    let mut sums: BTreeMap<String, RepackedTensor> = BTreeMap::new();
    for tensor in parts.flat_map(|entry| &entry.repacked) {
        let zero = || RepackedTensor { tensor: tensor.tensor.clone(), blocks: 0, exact: 0, near: 0 };
        let sum = sums.entry(tensor.tensor.clone()).or_insert_with(zero);
        sum.blocks += tensor.blocks;
        sum.exact += tensor.exact;
        sum.near += tensor.near;
    }
    sums.into_values().collect()
}

/// An input file as the parts have read it: they agree where they have the same range.
fn joined_input<'a>(
    input: &FileEntry,
    parts: impl Iterator<Item = &'a FileEntry> + Clone,
) -> Result<FileEntry> {
    let mut hashes: BTreeMap<(u64, u64), String> = BTreeMap::new();
    for range in parts.clone().flat_map(FileEntry::hashed) {
        let known = hashes.entry((range.offset, range.bytes)).or_insert_with(|| range.sha256.clone());
        if *known != range.sha256 {
            return Err(Error::malformed(&input.name, "it was not the same file for all parts")
                .help("Run the parts again with one checkpoint."));
        }
    }
    if let Some(whole) = parts.clone().find(|part| !part.sha256.is_empty()) {
        return Ok(whole.clone());
    }
    let ranges = hashes.into_iter().map(|((offset, bytes), sha256)| FileRange { offset, bytes, sha256 });
    Ok(FileEntry::of_ranges(input.name.clone(), input.bytes, ranges.collect()))
}

/// Opens the file in which the parts of this folder have written.
fn open(here: &Path, target: &Path, file: &FileEntry) -> Result<OutputFile> {
    let path = here.join(&file.name);
    for folder in [path.parent(), target.join(&file.name).parent()].into_iter().flatten() {
        fs::create_dir_all(folder).map_err(|e| Error::write(folder.display(), &e))?;
    }
    drop(OutputFile::shared(&path)?);
    let output = OutputFile::adopt(&path, &target.join(&file.name))?;
    output.set_len(file.bytes)?;
    Ok(output)
}

/// Completes an output by the ranges of other folders, and checks all ranges. Returns the SHA-256 of the file.
fn assemble(
    file: &FileEntry,
    output: &OutputFile,
    (here, mut ranges): (&Path, Vec<(&WrittenRange, &FoundPart)>),
    task: &dyn Task,
) -> Result<String> {
    ranges.sort_by_key(|(range, _)| range.offset);
    let (mut whole, mut at, mut buffer) = (Sha256::new(), 0, vec![0; PIECE]);
    for (range, found) in ranges {
        let place = || format!("part {}", found.part);
        if range.offset != at || range.bytes > file.bytes - at {
            let problem = format!("{}: its bytes are not those that the other parts leave", file.name);
            return Err(
                Error::malformed(place(), problem).expected(format!("bytes from {at} on"), range.offset)
            );
        }
        let path = found.folder.join(&file.name);
        let away = found.folder.canonicalize().ok() != here.canonicalize().ok();
        let elsewhere = away.then(|| File::open(&path)).transpose();
        let elsewhere = elsewhere.map_err(|e| Error::io(path.display(), &e))?;
        let source = elsewhere.as_ref().unwrap_or(output.file());
        let mut checksum = Checksum::default();
        let end = at + range.bytes;
        while at < end {
            let piece = &mut buffer[..PIECE.min((end - at) as usize)];
            source.read_exact_at(piece, at).map_err(|e| Error::io(path.display(), &e))?;
            checksum.update(piece);
            whole.update(&*piece);
            if elsewhere.is_some() {
                output.write_at(piece, at)?;
            }
            at += piece.len() as u64;
            task.advance(piece.len() as u64);
        }
        if checksum.hex() != range.xxh3 {
            return Err(Error::malformed(place(), format!("{}: its bytes have changed", file.name))
                .within(path.display())
                .expected(format!("checksum {} of {} bytes", range.xxh3, range.bytes), checksum.hex())
                .help("They were damaged, perhaps in a transfer. Copy the folder again, or run this part again."));
        }
    }
    if at != file.bytes {
        return Err(Error::malformed(&file.name, "no part has written its end")
            .expected(format!("{} bytes", file.bytes), at));
    }
    Ok(base::hex(&whole.finish()))
}
