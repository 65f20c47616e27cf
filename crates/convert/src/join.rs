//! The artifacts of a job from its parts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use base::{OutputFile, Positioned, Progress, Sha256, Task, Unit};
use plan::{ArtifactEntry, FileEntry, FileRange, PartHost, RepackedTensor};
use rayon::prelude::*;
use tensor::{Error, Result};

use crate::part::Part;
use crate::part_folder::{PREFIX, PartRecord, read_record};
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
struct Found {
    part: Part,
    record: PartRecord,
    /// The folder with its ranges.
    folder: PathBuf,
}

/// Makes the artifacts of a job from all of its parts, which are in `folders`: the targets of [`run`](crate::run) with a part, or the
/// folders `parts-ID` in them. Every range is compared with its SHA-256. Ranges in the target folder stay where they are; those of other
/// folders are copied, and read once. At the end the parts in the target folder are removed.
///
/// # Errors
/// `Malformed` for parts that are missing, contradict each other or are damaged, `Target` for outputs that exist and for a part that is
/// still being written, `Io`. After an error no output has appeared, and all parts are still there.
pub fn join(folders: &[PathBuf], options: &JoinOptions, progress: &dyn Progress) -> Result<Finished> {
    let found = complete(find(folders)?)?;
    let (first, job) = (&found[0].record, &found[0].record.job);
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

    let here = options.folder.join(format!("{PREFIX}{job}"));
    fs::create_dir_all(&here).map_err(|e| Error::write(here.display(), &e))?;
    let mut artifacts = first.artifacts.clone();
    let bytes = artifacts.iter().flat_map(|entry| &entry.outputs).map(|file| file.bytes).sum();
    let task = progress.begin("joining", bytes, Unit::Bytes);
    let mut outputs = Vec::new();
    for (number, artifact) in artifacts.iter_mut().enumerate() {
        let of_parts = || found.iter().map(move |found| &found.record.artifacts[number]);
        artifact.repacked = repacked(of_parts());
        for (at, input) in artifact.inputs.iter_mut().enumerate() {
            *input = joined_input(input, of_parts().map(|entry| &entry.inputs[at]))?;
        }
        artifact.parts = found
            .iter()
            .map(|found| PartHost { part: found.part.to_string(), host: found.record.host.clone() })
            .collect();
        let files = artifact.outputs.par_iter().enumerate().map(|(at, file)| {
            let output = open(&here, &options.folder, file)?;
            let ranges = found.iter().flat_map(|found| {
                let ranges = &found.record.artifacts[number].outputs[at];
                ranges.hashed().into_iter().map(move |range| (range, found))
            });
            let sha256 = assemble(file, &output, (&here, ranges.collect()), &*task)?;
            Ok((output, sha256))
        });
        let files = files.collect::<Result<Vec<_>>>()?;
        for (file, (output, sha256)) in artifact.outputs.iter_mut().zip(files) {
            *file = FileEntry { sha256, ranges: Vec::new(), ..file.clone() };
            outputs.push(output);
        }
    }
    if options.sync {
        outputs.iter().try_for_each(OutputFile::sync)?;
    }
    publish(outputs, &artifacts, &manifest, options.sync)?;
    // the outputs are complete: what is left takes only space
    let _ = fs::remove_dir_all(&here);
    Ok(Finished { artifacts, manifest, input_bytes: 0 })
}

/// The finished parts in folders.
fn find(folders: &[PathBuf]) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for folder in folders {
        let within = is_part_folder(folder);
        let of_jobs = if within { vec![folder.clone()] } else { entries(folder, is_part_folder)? };
        for job in of_jobs {
            for path in entries(&job, is_record)? {
                let (part, record) = read_record(&path)?;
                found.push(Found { part, record, folder: job.clone() });
            }
        }
    }
    if found.is_empty() {
        let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        return Err(Error::malformed(folders.join(", "), "no finished part of a job is here")
            .expected("a folder to which `‹part› I/N` has written", "none")
            .help("Give the folders that were the targets of the parts."));
    }
    Ok(found)
}

fn is_part_folder(path: &Path) -> bool {
    base::file_name(path).starts_with(PREFIX) && path.is_dir()
}

fn is_record(path: &Path) -> bool {
    let name = base::file_name(path);
    name.starts_with("part-") && name.ends_with(".json")
}

/// The entries of a folder that are wanted, by name.
fn entries(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let fail = |e| Error::io(folder.display(), &e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if wanted(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The parts of the one job that is complete, in order, each once.
fn complete(found: Vec<Found>) -> Result<Vec<Found>> {
    let mut sets: BTreeMap<(String, u32), BTreeMap<u32, Found>> = BTreeMap::new();
    for found in found {
        let set = sets.entry((found.record.job.clone(), found.part.count())).or_default();
        if let Some(twin) = set.get(&found.part.number()) {
            same_ranges(twin, &found)?;
            continue;
        }
        set.insert(found.part.number(), found);
    }
    let describe = |((job, count), set): (&(String, u32), &BTreeMap<u32, Found>)| {
        let missing: Vec<_> = (1..=*count).filter(|number| !set.contains_key(number)).collect();
        let missing: Vec<_> = missing.iter().map(|number| format!("{number}/{count}")).collect();
        let recipes = set.values().next().map_or_else(Vec::new, |found| recipes(&found.record));
        match missing.is_empty() {
            true => format!("{PREFIX}{job} ({}): complete, {count} parts", recipes.join(", ")),
            false => {
                format!("{PREFIX}{job} ({}): parts {} are missing", recipes.join(", "), missing.join(", "))
            }
        }
    };
    let states: Vec<String> = sets.iter().map(describe).collect();
    let jobs: Vec<&String> = sets.keys().map(|(job, _)| job).collect();
    if jobs.iter().any(|job| *job != jobs[0]) {
        return Err(Error::malformed("parts", "they belong to different jobs")
            .expected("parts of one checkpoint, recipe and version of gemma-convert", states.join("; "))
            .help("Give the folder parts-ID of one of them."));
    }
    let mut complete = sets.into_iter().filter(|((_, count), set)| set.len() == *count as usize);
    match complete.next() {
        Some((_, set)) => Ok(set.into_values().collect()),
        None => Err(Error::malformed("parts", "the job is not complete")
            .expected("every part from 1/N to N/N", states.join("; "))
            .help("Run the missing parts; the others stay.")),
    }
}

fn recipes(record: &PartRecord) -> Vec<String> {
    record.artifacts.iter().map(|entry| entry.recipe.clone()).collect()
}

/// Checks that a part which is there twice has the same ranges in both places.
fn same_ranges(a: &Found, b: &Found) -> Result<()> {
    let outputs = |found: &Found| -> Vec<FileEntry> {
        found.record.artifacts.iter().flat_map(|entry| entry.outputs.clone()).collect()
    };
    if outputs(a) == outputs(b) {
        return Ok(());
    }
    Err(Error::malformed(format!("part {}", a.part), "it is there twice, with different bytes")
        .expected(format!("what {} has", a.folder.display()), format!("{}", b.folder.display()))
        .help("Leave one of the folders out."))
}

/// Checks that a part is of the same run as the first one, but for what parts have of their own.
fn agree(first: &PartRecord, other: &Found) -> Result<()> {
    let common = |record: &PartRecord| -> Vec<ArtifactEntry> {
        let strip = |file: &FileEntry| FileEntry {
            name: file.name.clone(),
            bytes: file.bytes,
            ..FileEntry::default()
        };
        let entry = |entry: &ArtifactEntry| ArtifactEntry {
            inputs: entry.inputs.iter().map(strip).collect(),
            outputs: entry.outputs.iter().map(strip).collect(),
            repacked: Vec::new(),
            ..entry.clone()
        };
        record.artifacts.iter().map(entry).collect()
    };
    if common(first) == common(&other.record) && first.manifest == other.record.manifest {
        return Ok(());
    }
    Err(Error::malformed(format!("part {}", other.part), "its record contradicts that of part 1")
        .expected("the same recipe, inputs and outputs", other.folder.display())
        .help("Run this part again as the others were run."))
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
    (here, mut ranges): (&Path, Vec<(FileRange, &Found)>),
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
        let mut of_range = Sha256::new();
        let end = at + range.bytes;
        while at < end {
            let piece = &mut buffer[..PIECE.min((end - at) as usize)];
            source.read_exact_at(piece, at).map_err(|e| Error::io(path.display(), &e))?;
            of_range.update(&*piece);
            whole.update(&*piece);
            if elsewhere.is_some() {
                output.write_at(piece, at)?;
            }
            at += piece.len() as u64;
            task.advance(piece.len() as u64);
        }
        let found_hash = base::hex(&of_range.finish());
        if found_hash != range.sha256 {
            return Err(Error::malformed(place(), format!("{}: its bytes have changed", file.name))
                .within(path.display())
                .expected(format!("SHA-256 {} of {} bytes", range.sha256, range.bytes), found_hash)
                .help("They were damaged, perhaps in a transfer. Copy the folder again, or run this part again."));
        }
    }
    if at != file.bytes {
        return Err(Error::malformed(&file.name, "no part has written its end")
            .expected(format!("{} bytes", file.bytes), at));
    }
    Ok(base::hex(&whole.finish()))
}
