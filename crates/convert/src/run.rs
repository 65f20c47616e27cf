//! A run: all outputs appear together at the end, or none does. Their content is the work of `pipeline.rs`.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Part, Progress, Unit};
use checkpoint::Checkpoint;
use imatrix::Importance;
use plan::{
    Artifact, ArtifactEntry, CalibrationEntry, FileEntry, HubSource, Manifest, Origin, Plan, PlannedFile,
    RepackedTensor,
};
use quant::Simd;
use tensor::{Error, Result, TensorSource};

use crate::checksum::WrittenRange;
use crate::hashed_output::{HashedOutput, Written};
use crate::input_hashes::HashInput;
use crate::manifest;
use crate::part::{TensorGroup, run_size};
use crate::part_outputs::{PartOutputs, part_folder};
use crate::pipeline::{Passed, convert};
use crate::preflight::{check, outputs, vacant};
use crate::publish::publish;
use crate::streamed::{self, StreamedFiles};
use crate::{digests, repack_counts};

/// Options of a run.
#[derive(Clone)]
pub struct Options {
    /// The folder to write to; created if missing.
    pub folder: PathBuf,
    /// The part of the outputs to make; `None` for all of them. Parts become files by [`join`](crate::join).
    pub part: Option<Part>,
    /// The file name that the user gave, if the target is a file.
    pub named: Option<String>,
    /// Replace existing files.
    pub force: bool,
    /// Wait until everything is on disk before the files are renamed. Without it, a power failure may lose data that
    /// the system has not written yet; a killed run still cannot leave half a file.
    pub sync: bool,
    /// Whether files of weights are hashed as they are read.
    pub hash_input: HashInput,
    /// The vector instructions to use.
    pub simd: Simd,
    /// The imatrix that the plan was made with.
    pub importance: Option<Arc<Importance>>,
    /// For each artifact of the plan, the tensors that calibrated quantization has already encoded, if any.
    pub rounded: Vec<Option<Arc<dyn TensorSource>>>,
    /// All tensors that calibrated quantization encodes, of a part the others' too.
    pub groups: Vec<TensorGroup>,
    /// What the outputs depend on besides checkpoint, plan and tool, or digests of it, by name: `text`, `kernel`.
    pub depends_on: Vec<(&'static str, String)>,
    /// For each artifact, the record of its calibration, for the manifest.
    pub calibrations: Vec<Option<CalibrationEntry>>,
    /// For each artifact, inputs besides the checkpoint and the imatrix, for the manifest.
    pub inputs: Vec<Vec<FileEntry>>,
    /// For each artifact, its recipe, for the manifest.
    pub settings: Vec<serde_json::Value>,
    /// The repository of the hub from which the checkpoint came, for the manifest.
    pub source: Option<HubSource>,
    /// Name and version of the tool, for the manifest.
    pub tool: String,
}

impl Options {
    /// The path of the manifest.
    pub fn manifest(&self) -> PathBuf {
        Manifest::path(&self.folder, self.named.as_deref())
    }
}

/// The results of a run.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The manifest entries of the artifacts, in plan order.
    pub artifacts: Vec<ArtifactEntry>,
    /// The path of the manifest; of a part, that of its record.
    pub manifest: PathBuf,
    /// Bytes of the checkpoint that were read.
    pub input_bytes: u64,
}

/// Executes `plan` on the current rayon pool.
///
/// # Errors
/// `Malformed` for values that are not finite or an input that changes, `Unsupported` for values that overflow their
/// type, `Target` for a target that cannot be written, `Io`. After an error no output has appeared.
pub fn run(
    checkpoint: &Checkpoint,
    plan: &Plan,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Finished> {
    run_from((checkpoint, None), plan, options, progress)
}

/// As [`run`], of a checkpoint whose files come in order and are not on the disk.
///
/// # Errors
/// Those of [`run`] and of the stream; `Recipe` for a plan that reads a part of the weights twice.
pub fn run_streamed(
    checkpoint: &Checkpoint,
    stream: &mut dyn StreamedFiles,
    plan: &Plan,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Finished> {
    streamed::check(plan)?;
    run_from((checkpoint, Some(stream)), plan, options, progress)
}

fn run_from(
    (checkpoint, mut stream): (&Checkpoint, Option<&mut dyn StreamedFiles>),
    plan: &Plan,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Finished> {
    check(checkpoint, plan, options)?;
    let outputs = outputs(plan);
    let parts = part_folder(checkpoint, plan, options)?;
    let folder = parts.as_ref().map_or(options.folder.as_path(), |parts| parts.path());
    let mut targets = Vec::with_capacity(outputs.len());
    for output in &outputs {
        let path = folder.join(&output.name);
        if let Some(folder) = path.parent().filter(|_| output.name.contains('/')) {
            fs::create_dir_all(folder).map_err(|e| Error::write(folder.display(), &e))?;
        }
        let target = match parts {
            Some(_) => HashedOutput::shared(&path, output.bytes)?,
            None => HashedOutput::create(&path, output.bytes)?,
        };
        if target.took_over() {
            progress.note(&format!("{}: an unfinished file of an earlier run is replaced", output.name));
        }
        // one of the parts writes what needs no weights
        if options.part.is_none_or(|part| part.number() == 1) {
            write_fixed(&target, output, checkpoint)?;
        }
        targets.push(target);
    }
    // checked again, now that no other run can be making the same outputs
    vacant(plan, options)?;

    let input_bytes = run_size(plan, options)?.input;
    let (passed, companions) = std::thread::scope(|threads| {
        let companions = threads.spawn(|| companions(checkpoint));
        let names: Vec<_> = plan.artifacts.iter().map(|artifact| artifact.recipe.as_str()).collect();
        let task = progress.begin(&names.join(", "), input_bytes, Unit::Bytes);
        let stream = stream.as_mut().map(|stream| &mut **stream as &mut dyn StreamedFiles);
        let passed = convert((checkpoint, stream), plan, options, &targets, &*task);
        (passed, companions.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let Passed { mut inputs, written, repacked } = passed?;
    // adapters have entries of their own
    inputs.truncate(checkpoint.shards().iter().filter(|shard| !shard.is_adapter).count());
    inputs.extend(companions?);
    let (files, written): (Vec<_>, Vec<_>) = outputs.iter().zip(written).map(output_entry).unzip();
    let mut artifacts = entries((checkpoint, plan), options, &inputs, files, repacked)?;
    if options.part.is_none() {
        digests::fill_in(&targets.iter().map(HashedOutput::output).collect::<Vec<_>>(), &mut artifacts)?;
    }
    checkpoint.check_unchanged()?;
    stream.map_or(Ok(()), StreamedFiles::finish)?;
    if options.sync {
        targets.iter().try_for_each(HashedOutput::flush)?;
    }
    if let Some(parts) = parts {
        let outputs = PartOutputs { manifest: base::file_name(&options.manifest()), artifacts, written };
        let record = parts.record(&outputs, options.sync)?;
        return Ok(Finished { artifacts: outputs.artifacts, manifest: record, input_bytes });
    }
    for entry in &artifacts {
        repack_counts::notes(&entry.recipe, &entry.repacked).iter().for_each(|note| progress.note(note));
    }
    let outputs = targets.into_iter().map(HashedOutput::into_output).collect();
    publish(outputs, &artifacts, &options.manifest(), options.sync)?;
    Ok(Finished { artifacts, manifest: options.manifest(), input_bytes })
}

/// The entry of an output, with its SHA-256 if all of it was written, and the ranges that a part has written.
fn output_entry((output, written): (&&PlannedFile, Written)) -> (FileEntry, Vec<WrittenRange>) {
    let entry =
        |sha256| FileEntry { name: output.name.clone(), bytes: output.bytes, sha256, ..FileEntry::default() };
    match written {
        Written::Whole(sha256) => (entry(sha256), Vec::new()),
        Written::Ranges(ranges) => (entry(String::new()), ranges),
    }
}

/// The manifest entries of the artifacts. `files` are all outputs, and `repacked` the counts of each, in plan order.
fn entries(
    (checkpoint, plan): (&Checkpoint, &Plan),
    options: &Options,
    inputs: &[FileEntry],
    files: Vec<FileEntry>,
    repacked: Vec<Vec<RepackedTensor>>,
) -> Result<Vec<ArtifactEntry>> {
    let (mut files, mut repacked) = (files.into_iter(), repacked.into_iter());
    let entry = |(number, artifact): (usize, &Artifact)| {
        let outputs: Vec<FileEntry> = files.by_ref().take(artifact.files.len()).collect();
        let copies = artifact.files.iter().zip(&outputs).filter_map(|(file, output)| {
            let name = file.copy.as_ref().filter(|name| inputs.iter().all(|input| input.name != **name))?;
            Some(match output.sha256.as_str() {
                // of a part, which has no hashes of outputs
                "" => companion(checkpoint, name),
                // a copy has the bytes of the original
                _ => Ok(FileEntry { name: name.clone(), ..output.clone() }),
            })
        });
        let copies = copies.collect::<Result<Vec<_>>>()?;
        Ok(ArtifactEntry {
            recipe: artifact.recipe.clone(),
            settings: options.settings.get(number).cloned().unwrap_or_default(),
            tool: options.tool.clone(),
            plan_sha256: plan.only(number).digest(),
            source: options.source.clone(),
            adapters: plan.adapters.clone(),
            target: plan.target.clone(),
            importance: artifact.importance.as_ref().map(|source| source.keys.clone()),
            allocation: artifact.allocation.clone(),
            calibration: options.calibrations.get(number).cloned().flatten(),
            repacked: repacked.by_ref().take(artifact.files.len()).flatten().collect(),
            inputs: inputs
                .iter()
                .cloned()
                .chain(copies)
                .chain(options.inputs.get(number).into_iter().flatten().cloned())
                .chain(artifact.importance.iter().flat_map(|source| &source.file).cloned())
                .collect(),
            outputs,
            parts: Vec::new(),
        })
    };
    plan.artifacts.iter().enumerate().map(entry).collect()
}

/// Size and SHA-256 of the companion files of the checkpoint that were read besides the weights. The caller checks
/// that they have not changed since.
fn companions(checkpoint: &Checkpoint) -> Result<Vec<FileEntry>> {
    checkpoint.companions().iter().map(|file| companion(checkpoint, &file.name)).collect()
}

/// Size and SHA-256 of a file of the checkpoint, by its name there.
fn companion(checkpoint: &Checkpoint, name: &str) -> Result<FileEntry> {
    let read = manifest::file_entry(&checkpoint.dir().join(name))?;
    Ok(FileEntry { name: name.to_owned(), ..read })
}

/// Writes everything that needs no weights of the checkpoint: headers, generated tensors, copies of whole files.
fn write_fixed(target: &HashedOutput, output: &PlannedFile, checkpoint: &Checkpoint) -> Result<()> {
    if let Some(name) = &output.copy {
        return copy(target, &checkpoint.dir().join(name), output.bytes);
    }
    target.write(0, &output.header, output.header.len() as u64)?;
    for (at, tensor) in output.tensors.iter().enumerate() {
        if let Origin::Generated(values) = &tensor.from {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            target.write(tensor.offset, &bytes, output.padded_end(at))?;
        }
    }
    Ok(())
}

/// Copies a file whose length was `len` bytes when the plan was made.
fn copy(target: &HashedOutput, from: &Path, len: u64) -> Result<()> {
    let io = |e: std::io::Error| Error::io(from.display(), &e);
    let mut file = File::open(from).map_err(io)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let count = file.read(&mut buffer).map_err(io)?;
        if at + count as u64 > len || count == 0 && at < len {
            return Err(Error::malformed(from.display(), "the file was changed while it was being read")
                .expected(format!("{len} bytes"), at + count as u64)
                .help("Start again when nothing writes to it."));
        }
        if count == 0 {
            return Ok(());
        }
        target.write(at, &buffer[..count], at + count as u64)?;
        at += count as u64;
    }
}
