//! The run: one pass over the input, many workers, outputs that appear together at the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use checkpoint::Checkpoint;
use plan::{ArtifactEntry, FileEntry, Manifest, Origin, OutputFile, Plan};
use quant::Simd;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tensor::{Error, Result};

use crate::blocks::{Block, Use, Work};
use crate::encode::{Flaw, Scratch, report};
use crate::manifest;
use crate::target::{Target, locked};

/// After so many bytes of output the disk is asked to begin, so that it works while the processors do.
const FLUSH_BYTES: u64 = 64 << 20;

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder to write to; made if it is not there.
    pub folder: PathBuf,
    /// The file name that was asked for, if it was not a folder.
    pub named: Option<String>,
    /// Replace files that are there.
    pub force: bool,
    /// Wait until everything is on the disk before a file gets its name. Without, a power cut may lose what the
    /// system had not written yet; a killed run still cannot leave half a file.
    pub sync: bool,
    /// The vector instructions to use.
    pub simd: Simd,
    /// The recipe of each artifact of the plan, for the manifest.
    pub settings: Vec<serde_json::Value>,
    /// Name and version of the tool, for the manifest.
    pub tool: String,
}

/// Told what happens; called from many threads.
pub trait Progress: Sync {
    /// So many more bytes of the checkpoint have been read and dealt with.
    fn advance(&self, bytes: u64);
    /// Something that a user should know.
    fn note(&self, text: &str);
}

/// What a run has made.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The entries of the artifacts in the manifest, in the order of the plan.
    pub artifacts: Vec<ArtifactEntry>,
    /// Where the manifest is.
    pub manifest: PathBuf,
}

/// Executes `plan` on the current rayon pool.
///
/// # Errors
/// `Malformed` for values that are not finite or an input that changes, `Unsupported` for values too large for their
/// type, `Target` for a place that cannot be written, `Io`. No output has appeared then.
pub fn run(
    checkpoint: &Checkpoint,
    plan: &Plan,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Finished> {
    let outputs: Vec<&OutputFile> = plan.artifacts.iter().flat_map(|artifact| &artifact.files).collect();
    let manifest_path = Manifest::path(&options.folder, options.named.as_deref());
    prepare(plan, &outputs, options, &manifest_path)?;

    let mut targets = Vec::with_capacity(outputs.len());
    for output in &outputs {
        let target = Target::create(&options.folder.join(&output.name), output.bytes)?;
        if target.took_over {
            progress.note(&format!("{}: an unfinished file of an earlier run is made anew", output.name));
        }
        write_fixed(&target, output)?;
        targets.push(target);
    }
    // again, now that no other run can be making them
    vacant(plan, &outputs, options, &manifest::read(&manifest_path)?)?;

    let (inputs, digests) = convert(checkpoint, plan, options, &targets, progress)?;
    checkpoint.check_unchanged()?;
    if options.sync {
        targets.iter().try_for_each(Target::flush)?;
    }
    let mut files = targets.iter().zip(digests).map(|(target, sha256)| FileEntry {
        name: target.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
        bytes: target.len(),
        sha256,
    });
    let artifacts: Vec<_> = plan
        .artifacts
        .iter()
        .enumerate()
        .map(|(number, artifact)| ArtifactEntry {
            recipe: artifact.recipe.clone(),
            settings: options.settings.get(number).cloned().unwrap_or_default(),
            tool: options.tool.clone(),
            plan_sha256: plan.only(number).digest(),
            inputs: inputs.clone(),
            outputs: files.by_ref().take(artifact.files.len()).collect(),
        })
        .collect();
    drop(files);
    publish(targets, &artifacts, options, &manifest_path)?;
    Ok(Finished { artifacts, manifest: manifest_path })
}

/// Gives all outputs and the manifest their names. What can run out of space comes before the first of them.
fn publish(
    targets: Vec<Target>,
    artifacts: &[ArtifactEntry],
    options: &Options,
    manifest_path: &Path,
) -> Result<()> {
    let fail = |e: std::io::Error| Error::write(options.folder.display(), &e);
    let folder = File::open(&options.folder).map_err(fail)?;
    // a run beside this one may be adding to the manifest; the lock goes with the file
    folder.lock().map_err(fail)?;
    let mut manifest = manifest::read(manifest_path)?;
    // the old files are about to go: their entries must not outlive them
    if manifest.forget(artifacts.iter().flat_map(|a| &a.outputs).map(|file| file.name.as_str())) {
        manifest::stage(&manifest, manifest_path)?.publish()?;
    }
    manifest.artifacts.extend_from_slice(artifacts);
    let manifest = manifest::stage(&manifest, manifest_path)?;
    for mut target in targets {
        target.publish()?;
    }
    manifest.publish()?;
    folder.sync_all().map_err(fail)
}

/// Makes the folder, and refuses a target that cannot take the output before anything is read.
fn prepare(plan: &Plan, outputs: &[&OutputFile], options: &Options, manifest_path: &Path) -> Result<()> {
    let folder = &options.folder;
    fs::create_dir_all(folder).map_err(|e| Error::write(folder.display(), &e))?;
    vacant(plan, outputs, options, &manifest::read(manifest_path)?)?;
    let needed: u64 = outputs.iter().map(|output| output.bytes).sum();
    // what cannot be asked is left to the writes themselves
    if let Ok(disk) = rustix::fs::statvfs(folder) {
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < needed {
            return Err(Error::target(folder.display(), "the disk is too full")
                .expected(format!("{needed} bytes free"), free)
                .help("Free some space, or choose another target."));
        }
    }
    Ok(())
}

/// Refuses outputs that are there already, unless they may be replaced.
fn vacant(plan: &Plan, outputs: &[&OutputFile], options: &Options, manifest: &Manifest) -> Result<()> {
    for output in outputs {
        let path = options.folder.join(&output.name);
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => {
                return Err(Error::target(path.display(), "a folder has the name of the output")
                    .help("Move it away, or choose another target."));
            }
            Ok(_) if !options.force => return Err(exists(plan, manifest, &path, output)),
            _ => {}
        }
    }
    Ok(())
}

/// What to say about an output that is there already: whether it is what would be written.
fn exists(plan: &Plan, manifest: &Manifest, path: &Path, output: &OutputFile) -> Error {
    let error = Error::target(path.display(), "the output exists already");
    let Some(entry) = manifest.entry_of(&output.name) else {
        return error.help("Use --force to replace it. No manifest says what it is.");
    };
    let planned = (0..plan.artifacts.len()).any(|number| plan.only(number).digest() == entry.plan_sha256);
    let complete = fs::metadata(path).is_ok_and(|found| found.len() == output.bytes);
    error.help(match (planned, complete) {
        (true, true) => {
            "It is complete and was made by this very plan. If the weights are still those whose SHA-256 is in its manifest, \
             it can be used as it is. --force makes it anew."
        }
        (true, false) => {
            "It was made by this very plan, but its size has changed since. Use --force to replace it."
        }
        (false, _) => "It was made by another plan (see its manifest). Use --force to replace it.",
    })
}

/// Writes what does not come from the checkpoint: the header and generated tensors.
fn write_fixed(target: &Target, output: &OutputFile) -> Result<()> {
    target.write(0, &output.header, output.header.len() as u64)?;
    for (at, tensor) in output.tensors.iter().enumerate() {
        if let Origin::Generated(values) = &tensor.from {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            target.write(tensor.offset, &bytes, output.padded_end(at))?;
        }
    }
    Ok(())
}

/// All that the workers share.
struct Pass<'a> {
    checkpoint: &'a Checkpoint,
    work: &'a Work,
    simd: Simd,
    targets: &'a [Target],
    progress: &'a dyn Progress,
    written: AtomicU64,
    stop: AtomicBool,
    /// The failure of the earliest block.
    failure: Mutex<Option<(usize, Error)>>,
}

/// The input: blocks are taken, read and hashed one after the other.
struct Input<I> {
    blocks: I,
    taken: usize,
    hashes: Vec<Sha256>,
}

/// Reads the checkpoint once and writes every tensor of the plan that comes from it. Returns the hashes of the inputs and
/// of the targets.
fn convert(
    checkpoint: &Checkpoint,
    plan: &Plan,
    options: &Options,
    targets: &[Target],
    progress: &dyn Progress,
) -> Result<(Vec<FileEntry>, Vec<String>)> {
    let work = Work::new(plan);
    let pass = Pass {
        checkpoint,
        work: &work,
        simd: options.simd,
        targets,
        progress,
        written: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let input =
        Mutex::new(Input { blocks: work.blocks(), taken: 0, hashes: vec![Sha256::new(); plan.inputs.len()] });
    let ended = (Mutex::new(false), Condvar::new());
    let digests = std::thread::scope(|threads| {
        if options.sync {
            threads.spawn(|| pass.flush_until(&ended));
        }
        rayon::scope(|scope| {
            for _ in 0..rayon::current_num_threads() {
                scope.spawn(|_| pass.worker(&input));
            }
        });
        let digests = match locked(&pass.failure).take() {
            Some((_, error)) => Err(error),
            None => targets.par_iter().map(Target::digest).collect(),
        };
        *locked(&ended.0) = true;
        ended.1.notify_all();
        digests
    })?;
    if let Some((_, error)) = locked(&pass.failure).take() {
        return Err(error);
    }
    let hashes = input.into_inner().unwrap_or_else(PoisonError::into_inner).hashes;
    let entry = |(input, hash): (&plan::InputFile, Sha256)| FileEntry {
        name: input.name.clone(),
        bytes: input.bytes,
        sha256: plan::hex(&hash.finalize()),
    };
    Ok((plan.inputs.iter().zip(hashes).map(entry).collect(), digests))
}

impl Pass<'_> {
    /// Takes blocks until there are no more.
    fn worker(&self, input: &Mutex<Input<impl Iterator<Item = Block>>>) {
        let mut bytes = Vec::new();
        let mut scratch = Scratch::default();
        while !self.stop.load(Ordering::Relaxed) {
            let mut source = locked(input);
            let Some(block) = source.blocks.next() else { return };
            let number = source.taken;
            source.taken += 1;
            bytes.resize(block.bytes, 0);
            let read = self.checkpoint.read_at(block.file, block.offset, &mut bytes);
            // in order, because the lock is held
            source.hashes[block.file].update(&bytes);
            drop(source);
            match read.and_then(|()| self.block(&block, &bytes, &mut scratch)) {
                Ok(()) => self.progress.advance(block.bytes as u64),
                Err(error) => return self.fail(number, error),
            }
        }
    }

    fn fail(&self, number: usize, error: Error) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failure = locked(&self.failure);
        if failure.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
            *failure = Some((number, error));
        }
    }

    /// Encodes a block for everything that uses it.
    fn block(&self, block: &Block, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
        let Some(rows) = &block.rows else { return Ok(()) };
        let wanted = &self.work.wanted[rows.tensor];
        let file = &self.checkpoint.shards()[wanted.stored.file].path;
        let describe = |flaw| match flaw {
            Flaw::Overflow(error) => error.within(file.display()),
            Flaw::NotFinite => {
                let read = |at, out: &mut [u8]| {
                    self.checkpoint.read_at(wanted.stored.file, wanted.stored.offset + at, out)
                };
                report(wanted, &file.display().to_string(), read).unwrap_or_else(|e| e)
            }
        };
        scratch.load(self.simd, wanted, bytes).map_err(describe)?;
        for to in &wanted.uses {
            if to.desc.dtype == wanted.stored.dtype {
                self.write(to, rows.first, bytes)?;
            } else {
                scratch.encode(self.simd, wanted, to).map_err(describe)?;
                self.write(to, rows.first, &scratch.encoded)?;
            }
        }
        Ok(())
    }

    fn write(&self, to: &Use, first: u64, bytes: &[u8]) -> Result<()> {
        let target = &self.targets[to.target];
        let offset = to.offset + first * to.desc.row_bytes();
        let mut end = offset + bytes.len() as u64;
        if end == to.offset + to.desc.byte_len() {
            end = to.padded_end;
        }
        target.write(offset, bytes, end)?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        // twice what was written, so that a file that comes in another order than its input is caught up with
        target.hash_some(2 * bytes.len() as u64)
    }

    /// Keeps the disk busy during the pass, so that little is left to wait for at its end.
    fn flush_until(&self, (ended, signal): &(Mutex<bool>, Condvar)) {
        let mut flushed = 0;
        let mut over = locked(ended);
        while !*over {
            over = signal
                .wait_timeout(over, Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            let written = self.written.load(Ordering::Relaxed);
            if !*over && written - flushed >= FLUSH_BYTES {
                flushed = written;
                drop(over);
                for target in self.targets {
                    if let Err(error) = target.flush() {
                        self.fail(usize::MAX, error);
                    }
                }
                over = locked(ended);
            }
        }
    }
}
