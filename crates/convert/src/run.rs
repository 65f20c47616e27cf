//! A run: all outputs appear together at the end, or none does. Their content is the work of `pipeline.rs`.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Progress, Publication, Unit};
use checkpoint::{Checkpoint, Companion};
use imatrix::Importance;
use plan::{
    Artifact, ArtifactEntry, CalibrationEntry, FileEntry, HubSource, Manifest, Origin, Plan, PlannedFile,
};
use quant::Simd;
use tensor::{Error, Result, TensorSource};

use crate::hashed_output::HashedOutput;
use crate::manifest;
use crate::pipeline::{Passed, convert};
use crate::preflight::{check, outputs, vacant};
use crate::streamed::{self, StreamedFiles};
use crate::{digests, repack_counts};

/// Options of a run.
#[derive(Clone)]
pub struct Options {
    /// The folder to write to; created if missing.
    pub folder: PathBuf,
    /// The file name that the user gave, if the target is a file.
    pub named: Option<String>,
    /// Replace existing files.
    pub force: bool,
    /// Wait until everything is on disk before the files are renamed. Without it, a power failure may lose data that
    /// the system has not written yet; a killed run still cannot leave half a file.
    pub sync: bool,
    /// The vector instructions to use.
    pub simd: Simd,
    /// The imatrix that the plan was made with.
    pub importance: Option<Arc<Importance>>,
    /// For each artifact of the plan, the tensors that calibrated quantization has already encoded, if any.
    pub rounded: Vec<Option<Arc<dyn TensorSource>>>,
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
    /// The path of the manifest.
    pub manifest: PathBuf,
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
    let mut targets = Vec::with_capacity(outputs.len());
    for output in &outputs {
        let path = options.folder.join(&output.name);
        if let Some(folder) = path.parent().filter(|_| output.name.contains('/')) {
            fs::create_dir_all(folder).map_err(|e| Error::write(folder.display(), &e))?;
        }
        let target = HashedOutput::create(&path, output.bytes)?;
        if target.took_over() {
            progress.note(&format!("{}: an unfinished file of an earlier run is replaced", output.name));
        }
        write_fixed(&target, output, checkpoint)?;
        targets.push(target);
    }
    // checked again, now that no other run can be making the same outputs
    vacant(plan, options)?;

    let (passed, companions) = std::thread::scope(|threads| {
        let companions = threads.spawn(|| companions(checkpoint));
        let names: Vec<_> = plan.artifacts.iter().map(|artifact| artifact.recipe.as_str()).collect();
        let bytes = plan.inputs.iter().map(|input| input.bytes).sum();
        let task = progress.begin(&names.join(", "), bytes, Unit::Bytes);
        let stream = stream.as_mut().map(|stream| &mut **stream as &mut dyn StreamedFiles);
        let passed = convert((checkpoint, stream), plan, options, &targets, &*task);
        (passed, companions.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let Passed { mut inputs, mut digests, repacked } = passed?;
    // adapters have entries of their own
    inputs.truncate(checkpoint.shards().iter().filter(|shard| !shard.is_adapter).count());
    inputs.extend(companions?);
    digests::fill_in(plan, &options.rounded, &targets, &mut digests)?;
    checkpoint.check_unchanged()?;
    stream.map_or(Ok(()), StreamedFiles::finish)?;
    if options.sync {
        targets.iter().try_for_each(HashedOutput::flush)?;
    }
    let mut files = outputs.iter().zip(digests).map(|(output, sha256)| FileEntry {
        name: output.name.clone(),
        bytes: output.bytes,
        sha256,
    });
    let mut repacked = repacked.into_iter();
    let artifacts: Vec<_> = plan
        .artifacts
        .iter()
        .enumerate()
        .map(|(number, artifact)| {
            let outputs: Vec<FileEntry> = files.by_ref().take(artifact.files.len()).collect();
            // a copy has the bytes of the original
            let copies = artifact.files.iter().zip(&outputs).filter_map(|(file, output)| {
                let name = file.copy.clone().filter(|name| inputs.iter().all(|input| input.name != *name))?;
                Some(FileEntry { name, ..output.clone() })
            });
            ArtifactEntry {
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
            }
        })
        .collect();
    drop(files);
    for entry in &artifacts {
        repack_counts::notes(&entry.recipe, &entry.repacked).iter().for_each(|note| progress.note(note));
    }
    let manifest = options.manifest();
    publish(targets, plan, &artifacts, options)?;
    Ok(Finished { artifacts, manifest })
}

/// Renames all outputs and the manifest to their final names, or none. All steps that can run out of space precede
/// the first output.
fn publish(
    targets: Vec<HashedOutput>,
    plan: &Plan,
    artifacts: &[ArtifactEntry],
    options: &Options,
) -> Result<()> {
    let manifest_path = &options.manifest();
    let fail = |e: std::io::Error| Error::write(options.folder.display(), &e);
    let folder = base::lockable(&options.folder).map_err(fail)?;
    // another run may be adding to the manifest; the lock is released with the file
    folder.lock().map_err(fail)?;
    let mut manifest = manifest::read(manifest_path)?;
    // the old files will be replaced: their entries must not outlive them
    let forgot = manifest.forget(artifacts.iter().flat_map(|a| &a.outputs).map(|file| file.name.as_str()));
    let without = forgot.then(|| manifest::stage(&manifest, manifest_path)).transpose()?;
    let mut outputs = targets.into_iter().map(HashedOutput::into_output);
    let sets: Vec<Vec<base::OutputFile>> =
        plan.artifacts.iter().map(|artifact| outputs.by_ref().take(artifact.files.len()).collect()).collect();

    let mut publication = Publication::new();
    if let Some(without) = without {
        publication.place(without)?;
    }
    // after the other one is in place
    manifest.artifacts.extend_from_slice(artifacts);
    let manifest = manifest::stage(&manifest, manifest_path)?;
    let heads: Vec<_> = plan.artifacts.iter().map(head).collect();
    for (set, head) in sets.iter().zip(&heads) {
        head.and_then(|head| set.get(head)).map_or(Ok(()), |file| publication.set_aside(file.path()))?;
    }
    for (mut set, head) in sets.into_iter().zip(heads) {
        let last = head.map(|head| set.remove(head));
        set.into_iter().chain(last).try_for_each(|file| publication.place(file))?;
    }
    publication.place(manifest)?;
    publication.commit(options.sync)
}

/// Index of the file without which no reader opens the set: the config of a folder, the first part of a split.
fn head(artifact: &Artifact) -> Option<usize> {
    if artifact.files.len() < 2 {
        return None;
    }
    Some(artifact.files.iter().position(|file| file.name == "config.json").unwrap_or(0))
}

/// Size and SHA-256 of the companion files of the checkpoint that were read besides the weights. The caller checks
/// that they have not changed since.
fn companions(checkpoint: &Checkpoint) -> Result<Vec<FileEntry>> {
    let entry = |file: &Companion| {
        let read = manifest::file_entry(&checkpoint.dir().join(&file.name))?;
        Ok(FileEntry { name: file.name.clone(), ..read })
    };
    checkpoint.companions().iter().map(entry).collect()
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
