//! The pass over the input: parallel workers, each block read once and encoded for every artifact.
//!
//! Only tensors with a per-tensor scale (SFP8) other than 1 are read again, see `fp8_scales.rs`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use base::Task;
use checkpoint::{Checkpoint, Location, Scale};
use plan::{FileEntry, Plan, RepackedTensor, StoredPiece};
use quant::Simd;
use rayon::prelude::*;
use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::encode::{Flaw, Loaded, Scratch, report};
use crate::hashed_output::{HashedOutput, Written, locked};
use crate::input_hashes::InputHashes;
use crate::run::Options;
use crate::schedule::{Block, ScaleTo, TensorRows, Use, Wanted, Work};
use crate::streamed::{StreamedFiles, check_header};
use crate::{part, repack_counts};

/// Bytes of output between two flushes, so that the disk works while the processors do.
const FLUSH_BYTES: u64 = 64 << 20;

/// The state that the workers share.
struct Pass<'a> {
    checkpoint: &'a Checkpoint,
    /// The files of the checkpoint have headers only.
    is_streamed: bool,
    work: &'a Work<'a>,
    /// For each wanted tensor, its index in the checkpoint if an adapter changes it or it is decoded.
    computed: Vec<Option<usize>>,
    simd: Simd,
    targets: &'a [HashedOutput],
    progress: &'a dyn Task,
    written: AtomicU64,
    stop: AtomicBool,
    /// The error of the earliest failed block.
    failure: Mutex<Option<(usize, Error)>>,
    /// Tensors whose scale is not 1: index of the tensor, index of the use, largest magnitude.
    large: Mutex<Vec<(usize, usize, f32)>>,
}

/// The input. Blocks are taken, read and hashed sequentially.
struct Input<'s, I> {
    blocks: I,
    taken: usize,
    hashes: InputHashes,
    /// The source of the bytes, if they are not in the checkpoint's files.
    stream: Option<&'s mut dyn StreamedFiles>,
}

impl<I> Input<'_, I> {
    fn read(&mut self, checkpoint: &Checkpoint, block: &Block, bytes: &mut [u8]) -> Result<()> {
        let shard = &checkpoint.shards()[block.file];
        let Some(stream) = self.stream.as_mut().filter(|_| !shard.is_adapter) else {
            return checkpoint.read_at(block.file, block.offset, bytes);
        };
        stream.read(&shard.name, block.offset, bytes)?;
        check_header(checkpoint, block.file, block.offset, bytes)
    }
}

/// The results of a pass.
pub(crate) struct Passed {
    pub(crate) inputs: Vec<FileEntry>,
    /// What was written to each target.
    pub(crate) written: Vec<Written>,
    /// Results of repacking tensors from their quantization grid, by target.
    pub(crate) repacked: Vec<Vec<RepackedTensor>>,
}

/// Reads the checkpoint once, or the stream of its files, and writes every tensor of the plan that comes from it; of both, what belongs
/// to the part of the options.
pub(crate) fn convert(
    (checkpoint, stream): (&Checkpoint, Option<&mut dyn StreamedFiles>),
    plan: &Plan,
    options: &Options,
    targets: &[HashedOutput],
    progress: &dyn Task,
) -> Result<Passed> {
    let work = Work::new(plan, options.importance.as_deref(), &options.rounded)?;
    let pass = Pass {
        checkpoint,
        is_streamed: stream.is_some(),
        computed: computed(checkpoint, &work),
        work: &work,
        simd: options.simd,
        targets,
        progress,
        written: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        failure: Mutex::new(None),
        large: Mutex::default(),
    };
    let blocks = part::blocks(&work, &options.groups, options.part.unwrap_or_default());
    let verified = |name: &str| stream.as_ref().and_then(|stream| stream.verified_sha256(name));
    let hashes = InputHashes::new(options.hash_input, checkpoint.shards(), verified);
    let input = Mutex::new(Input { blocks, taken: 0, hashes, stream });
    let ended = (Mutex::new(false), Condvar::new());
    let written = std::thread::scope(|threads| {
        if options.sync {
            threads.spawn(|| pass.flush_until(&ended));
        }
        rayon::scope(|scope| {
            for _ in 0..rayon::current_num_threads() {
                scope.spawn(|_| pass.worker(&input));
            }
        });
        pass.encode_large();
        let written = match locked(&pass.failure).take() {
            Some((_, error)) => Err(error),
            None => targets.par_iter().map(HashedOutput::finish).collect(),
        };
        *locked(&ended.0) = true;
        ended.1.notify_all();
        written
    })?;
    if let Some((_, error)) = locked(&pass.failure).take() {
        return Err(error);
    }
    let hashes = input.into_inner().unwrap_or_else(PoisonError::into_inner).hashes;
    Ok(Passed {
        inputs: hashes.finish(&plan.inputs),
        written,
        repacked: repack_counts::repacked(&work, targets.len()),
    })
}

impl Pass<'_> {
    /// Processes blocks until there are none left.
    fn worker(&self, input: &Mutex<Input<'_, impl Iterator<Item = Block> + Send>>) {
        let mut bytes = Vec::new();
        let (mut loaded, mut scratch) = (Loaded::default(), Scratch::default());
        while !self.stop.load(Ordering::Relaxed) {
            let mut source = locked(input);
            let Some(block) = source.blocks.next() else { return };
            let number = source.taken;
            source.taken += 1;
            bytes.resize(block.bytes, 0);
            let (read, taken) = if block.is_decoded {
                drop(source);
                (self.decode(&block, &mut bytes), 0)
            } else {
                let read = source.read(self.checkpoint, &block, &mut bytes);
                // in order, because the lock is held
                source.hashes.add(block.file, block.offset, &bytes);
                drop(source);
                (read, block.bytes as u64)
            };
            match read.and_then(|()| self.block(&block, &mut bytes, &mut loaded, &mut scratch)) {
                Ok(()) => self.progress.advance(taken),
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

    /// Encodes a block for all its uses.
    fn block(
        &self,
        block: &Block,
        bytes: &mut [u8],
        loaded: &mut Loaded,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let Some(rows) = &block.rows else { return Ok(()) };
        let wanted = &self.work.wanted[rows.tensor];
        if !block.is_decoded && !wanted.uses.iter().all(|to| to.rounded.is_some()) {
            self.merge(rows, bytes)?;
        }
        let bytes = &*bytes;
        if !wanted.uses.iter().all(|to| to.copies(&wanted.stored) || to.rounded.is_some()) {
            self.load(wanted, rows, bytes, loaded)?;
        } else if wanted.finite {
            loaded.check(self.simd, wanted, bytes).map_err(|flaw| self.describe(wanted, flaw))?;
        }
        let loaded = &*loaded;
        let values = loaded.values();
        for (number, to) in wanted.uses.iter().enumerate() {
            if to.copies(&wanted.stored) {
                self.write(to, rows.first, bytes)?;
                continue;
            }
            if let Some((source, index)) = to.rounded {
                let count = wanted.stored.dtype.elements(bytes.len()) / wanted.cols;
                scratch.encoded.resize(count * to.desc.row_bytes() as usize, 0);
                source.read_rows(index, rows.first, &mut scratch.encoded)?;
                self.write(to, rows.first, &scratch.encoded)?;
                continue;
            }
            match &to.scale {
                None => {
                    scratch
                        .encode(self.simd, wanted, to, rows.first, values)
                        .map_err(|flaw| self.describe(wanted, flaw))?;
                    self.write(to, rows.first, &scratch.encoded)?;
                }
                Some(ScaleTo { largest: Some(largest), .. }) => {
                    if quant::sfp8_scale(largest.so_far()) == 1.0 {
                        self.write_provisional(wanted, to, rows.first, values, scratch)?;
                    }
                    let count = (wanted.stored.dtype.elements(bytes.len()) / wanted.cols) as u64;
                    match largest.add(count, loaded.largest()) {
                        Some(most) if quant::sfp8_scale(most) == 1.0 => self.finish(to, 1.0)?,
                        Some(most) => locked(&self.large).push((rows.tensor, number, most)),
                        None => {}
                    }
                }
                Some(scale) => {
                    let scales = scratch.encode_rows(self.simd, wanted, to, values);
                    let scales = scales.map_err(|flaw| self.describe(wanted, flaw))?;
                    let offset = scale.offset + rows.first * scale.desc.row_bytes();
                    let end = padded(offset, scales.len(), &scale.desc, scale.offset, scale.padded_end);
                    self.targets[to.target].write(offset, scales, end)?;
                    self.write(to, rows.first, &scratch.encoded)?;
                }
            }
        }
        Ok(())
    }

    /// Merges adapters into a block.
    fn merge(&self, rows: &TensorRows, bytes: &mut [u8]) -> Result<()> {
        match self.computed[rows.tensor] {
            Some(index) => self.checkpoint.merge_rows(index, rows.first, bytes),
            None => Ok(()),
        }
    }

    /// Reads decoded rows, with adapters.
    fn decode(&self, block: &Block, bytes: &mut [u8]) -> Result<()> {
        let index = |rows: &TensorRows| Some((self.computed[rows.tensor]?, rows.first));
        match block.rows.as_ref().and_then(index) {
            Some((index, first)) => self.checkpoint.read_rows(index, first, bytes),
            None => self.checkpoint.read_at(block.file, block.offset, bytes),
        }
    }

    /// Widens a block to f32, multiplied with its scales if it is encoded.
    fn load(&self, wanted: &Wanted, rows: &TensorRows, bytes: &[u8], loaded: &mut Loaded) -> Result<()> {
        let mut scales = Vec::new();
        if let Some((scale, first)) = self.work.scales_of(rows) {
            scales.resize(bytes.len() / wanted.cols, 0.0);
            let location = Location { shard: scale.file, offset: scale.offset };
            let scale = Scale { dtype: scale.dtype, location, per_row: scale.per_row };
            let read = self.checkpoint.read_scales(&scale, first, &mut scales);
            read.map_err(|e| self.within(wanted, e.within(format!("tensor {}", wanted.stored.tensor))))?;
        }
        let done = loaded.load(self.simd, wanted, bytes, &scales);
        done.map_err(|flaw| self.describe(wanted, flaw))
    }

    fn describe(&self, wanted: &Wanted, flaw: Flaw) -> Error {
        match flaw {
            Flaw::Of(error) => self.within(wanted, error),
            Flaw::NotFinite
                if self.is_streamed
                    || wanted.stored.pieces.are_packed()
                    || !self.checkpoint.adapters().is_empty() =>
            {
                self.within(
                    wanted,
                    Error::malformed(format!("tensor {}", wanted.stored.tensor), "a value is not finite"),
                )
            }
            Flaw::NotFinite => {
                let read = |piece: &StoredPiece, at, out: &mut [u8]| {
                    self.checkpoint.read_at(piece.file, piece.offset + at, out)
                };
                let shard = wanted.stored.pieces.first().file;
                let file = self.checkpoint.shards()[shard].path.display().to_string();
                report(self.simd, wanted, &file, read).unwrap_or_else(|e| e)
            }
        }
    }

    fn within(&self, wanted: &Wanted, error: Error) -> Error {
        error.within(self.checkpoint.shards()[wanted.stored.pieces.first().file].path.display())
    }

    /// Writes rows encoded with a scale of 1, which are final unless the tensor turns out to need another scale.
    fn write_provisional(
        &self,
        wanted: &Wanted,
        to: &Use,
        first: u64,
        values: &[f32],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let encoded = scratch.encode_by(self.simd, wanted, to, 1.0, values);
        encoded.map_err(|flaw| self.describe(wanted, flaw))?;
        self.written.fetch_add(scratch.encoded.len() as u64, Ordering::Relaxed);
        self.targets[to.target].write_provisional(to.offset + first * to.desc.row_bytes(), &scratch.encoded)
    }

    /// Marks a tensor whose rows are all written as done, and writes its scale.
    fn finish(&self, to: &Use, scale: f32) -> Result<()> {
        let target = &self.targets[to.target];
        if let Some(place) = &to.scale {
            target.write(place.offset, &scale.to_le_bytes(), place.padded_end)?;
        }
        target.done(to.offset, to.padded_end);
        target.hash_some(2 * to.desc.byte_len())
    }

    /// Encodes the tensors with a scale other than 1, which is known now: they are read a second time.
    fn encode_large(&self) {
        let mut large = std::mem::take(&mut *locked(&self.large));
        // sorted, so that the reported error does not depend on the threads
        large.sort_by_key(|(tensor, number, _)| (*tensor, *number));
        for (tensor, number, largest) in large {
            let wanted = &self.work.wanted[tensor];
            let to = &wanted.uses[number];
            let scale = quant::sfp8_scale(largest);
            let blocks: Vec<_> = self.work.blocks_of(tensor).collect();
            let encode = |(bytes, loaded, scratch): &mut (Vec<u8>, Loaded, Scratch), block: &Block| {
                let Some(rows) = &block.rows else { return Ok(()) };
                bytes.resize(block.bytes, 0);
                if block.is_decoded {
                    self.decode(block, bytes)?;
                } else {
                    self.checkpoint.read_at(block.file, block.offset, bytes)?;
                    self.merge(rows, bytes)?;
                }
                self.load(wanted, rows, bytes, loaded)?;
                let encoded = scratch.encode_by(self.simd, wanted, to, scale, loaded.values());
                encoded.map_err(|flaw| self.describe(wanted, flaw))?;
                let offset = to.offset + rows.first * to.desc.row_bytes();
                self.targets[to.target].write_provisional(offset, &scratch.encoded)
            };
            let written = blocks.par_iter().try_for_each_init(Default::default, encode);
            if let Err(error) = written.and_then(|()| self.finish(to, scale)) {
                return self.fail(usize::MAX, error);
            }
        }
    }

    fn write(&self, to: &Use, first: u64, bytes: &[u8]) -> Result<()> {
        let target = &self.targets[to.target];
        let write = |row: u64, bytes: &[u8]| {
            let offset = to.offset + row * to.row_bytes;
            let end = padded(offset, bytes.len(), &to.desc, to.offset, to.padded_end);
            target.write(offset, bytes, end)
        };
        match to.change {
            Some(change) if change.moves_rows() => {
                let rows = bytes.chunks_exact(to.row_bytes as usize).zip(first..);
                rows.into_iter().try_for_each(|(bytes, row)| write(change.row(row), bytes))?;
            }
            _ => write(first, bytes)?,
        }
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        // hash twice the bytes written, to catch up with files whose order differs from the input's
        target.hash_some(2 * bytes.len() as u64)
    }

    /// Flushes during the pass, so that little is left to wait for at its end.
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

/// For each wanted tensor, its index in the checkpoint if an adapter changes it or it is decoded.
fn computed(checkpoint: &Checkpoint, work: &Work<'_>) -> Vec<Option<usize>> {
    let is_computed = |index: usize| checkpoint.is_adapted(index) || checkpoint.is_packed(index);
    let changed = checkpoint.tensors().iter().enumerate().filter(|(index, _)| is_computed(*index));
    let changed: HashMap<&str, usize> = changed.map(|(index, desc)| (desc.name.as_str(), index)).collect();
    work.wanted.iter().map(|wanted| changed.get(wanted.stored.tensor.as_str()).copied()).collect()
}

/// The end of `count` bytes at `offset`. It includes the padding after the tensor, which begins at `start`, if the
/// bytes are the tensor's last.
fn padded(offset: u64, count: usize, desc: &TensorDesc, start: u64, padded_end: u64) -> u64 {
    let end = offset + count as u64;
    if end == start + desc.byte_len() { padded_end } else { end }
}
