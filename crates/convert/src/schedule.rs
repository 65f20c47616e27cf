//! The work of a run as a sequence of blocks: the reading order, and the uses of each block.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use imatrix::{Entry, Importance};
use plan::{Lattice, Origin, Plan, PlannedFile, StoredChange, StoredPiece, StoredScale, StoredTensor};
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use crate::fp8_scales::Largest;
use crate::repack_counts::Count;

/// Maximum input bytes per block. Large enough to make system calls and locks cheap, small enough that a block and
/// its results stay in the L2 cache.
const BLOCK_BYTES: u64 = 1 << 20;

/// A range of an input file that is read at once, or rows that the checkpoint decodes.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
    /// The rows in the range; `None` for bytes that are only hashed.
    pub(crate) rows: Option<TensorRows>,
    /// The rows are decoded from packed weights, whose bytes have been hashed before.
    pub(crate) is_decoded: bool,
}

impl Block {
    /// Bytes that are read from the file: decoded rows are read before.
    pub(crate) fn stored_bytes(&self) -> u64 {
        if self.is_decoded { 0 } else { self.bytes as u64 }
    }
}

/// Whole rows of a tensor that some output uses.
#[derive(Clone, Debug)]
pub(crate) struct TensorRows {
    /// Index in [`Work::wanted`].
    pub(crate) tensor: usize,
    pub(crate) first: u64,
}

/// A tensor of the checkpoint with all its uses.
pub(crate) struct Wanted<'a> {
    pub(crate) stored: StoredTensor,
    pub(crate) cols: usize,
    /// Its values must be finite. False for towers in safetensors and for bounds of clipped linears, which may be infinite, and for
    /// the integers of a draft model's head.
    pub(crate) finite: bool,
    pub(crate) uses: Vec<Use<'a>>,
}

/// One output tensor that is made from a checkpoint tensor.
pub(crate) struct Use<'a> {
    /// Index of the output file, counted over all artifacts.
    pub(crate) target: usize,
    pub(crate) desc: TensorDesc,
    pub(crate) offset: u64,
    /// The end of the padding after the tensor.
    pub(crate) padded_end: u64,
    /// Bytes of the rows of the checkpoint in this output.
    pub(crate) row_bytes: u64,
    pub(crate) via: Option<DType>,
    /// The imatrix entry.
    pub(crate) importance: Option<&'a Entry>,
    /// The 4-bit quantization grid that the values keep.
    pub(crate) lattice: Option<Lattice>,
    /// Counts of the blocks of a tensor on such a grid.
    pub(crate) repacked: Count,
    /// The source and index of the already encoded tensor, after calibrated quantization.
    pub(crate) rounded: Option<(&'a dyn TensorSource, usize)>,
    /// The scales to write with the tensor.
    pub(crate) scale: Option<ScaleTo>,
    /// The change of the values before encoding.
    pub(crate) change: Option<&'a StoredChange>,
}

/// The location of an encoded tensor's scales, in the same file.
#[derive(Debug)]
pub(crate) struct ScaleTo {
    pub(crate) desc: TensorDesc,
    pub(crate) offset: u64,
    /// The end of the padding after the scales.
    pub(crate) padded_end: u64,
    /// Of a per-tensor scale, which is known only after the whole tensor is read.
    pub(crate) largest: Option<Largest>,
}

impl Use<'_> {
    /// Whether the output has the bytes of the checkpoint.
    pub(crate) fn copies(&self, stored: &StoredTensor) -> bool {
        self.desc.dtype == stored.dtype
            && self.scale.is_none()
            && !stored.pieces.are_scaled()
            && self.change.is_none()
            && self.rounded.is_none()
    }
}

impl Wanted<'_> {
    /// Whether one process must have all rows: a scale of the whole tensor depends on each of them.
    pub(crate) fn is_indivisible(&self) -> bool {
        self.uses.iter().any(|to| to.scale.as_ref().is_some_and(|scale| scale.largest.is_some()))
    }
}

/// All tensors that a plan uses, and their ranges in the files.
pub(crate) struct Work<'a> {
    pub(crate) wanted: Vec<Wanted<'a>>,
    /// For each file, the tensor pieces in it, by offset.
    by_file: Vec<Vec<Stretch>>,
    lens: Vec<u64>,
}

/// A range of a file with some rows of a tensor.
#[derive(Clone)]
struct Stretch {
    range: Range<u64>,
    /// Index in [`Work::wanted`].
    tensor: usize,
    /// Index of the first row.
    first: u64,
    /// Number of rows, if they are decoded from the packed weights in the range.
    packed_rows: Option<u64>,
}

impl<'a> Work<'a> {
    /// # Errors
    /// `Malformed` if the imatrix lacks an entry that the plan uses.
    pub(crate) fn new(
        plan: &'a Plan,
        importance: Option<&'a Importance>,
        rounded: &'a [Option<Arc<dyn TensorSource>>],
    ) -> Result<Work<'a>> {
        let mut wanted: Vec<Wanted> = Vec::new();
        let mut number: HashMap<(usize, u64), usize> = HashMap::new();
        let mut by_file = vec![Vec::new(); plan.inputs.len()];
        let numbered = plan.artifacts.iter().enumerate();
        let files = numbered.flat_map(|(n, artifact)| artifact.files.iter().map(move |file| (n, file)));
        let tensors = files.enumerate().flat_map(|(target, (artifact, file))| {
            file.tensors.iter().enumerate().map(move |(n, tensor)| (artifact, target, file, n, tensor))
        });
        for (artifact, target, file, number_there, tensor) in tensors {
            let Origin::Checkpoint(stored) = &tensor.from else { continue };
            if stored.pieces.bytes() == 0 {
                continue;
            }
            let start = stored.pieces.first();
            let key = (start.file, start.offset);
            let at = *number.entry(key).or_insert_with(|| {
                let cols = stored.cols(&tensor.desc) as usize;
                let row = stored.dtype.row_bytes(cols as u64).unwrap_or(0);
                let mut first = 0;
                for piece in stored.pieces.all().iter().filter(|piece| piece.bytes > 0) {
                    let range = piece.offset..piece.offset + piece.bytes;
                    let packed_rows = piece.packed_rows;
                    by_file[piece.file].push(Stretch { range, tensor: wanted.len(), first, packed_rows });
                    first += piece.rows(row);
                }
                wanted.push(Wanted { stored: stored.clone(), cols, finite: false, uses: Vec::new() });
                wanted.len() - 1
            });
            wanted[at].finite |= !tensor.may_be_infinite() && stored.dtype != DType::I64;
            // the plan has checked that rows are whole blocks
            let row_bytes = tensor.desc.dtype.row_bytes(wanted[at].cols as u64).unwrap_or(0);
            wanted[at].uses.push(Use {
                target,
                desc: tensor.desc.clone(),
                offset: tensor.offset,
                padded_end: file.padded_end(number_there),
                row_bytes,
                via: stored.via,
                importance: importance_of(stored, &tensor.desc, importance)?,
                lattice: stored.lattice,
                repacked: Count::default(),
                rounded: rounded.get(artifact).and_then(|source| find(source.as_deref()?, &tensor.desc)),
                scale: scale_to(file, &tensor.desc),
                change: stored.change.as_ref(),
            });
        }
        for stretches in &mut by_file {
            stretches.sort_by_key(|stretch| stretch.range.start);
        }
        Ok(Work { wanted, by_file, lens: plan.inputs.iter().map(|input| input.bytes).collect() })
    }

    /// Blocks that cover every byte of every file once, in order. Those of packed weights are followed by their decoded
    /// rows.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = Block> {
        self.lens.iter().enumerate().flat_map(move |(file, &len)| {
            let mut at = 0;
            let mut stretches = self.by_file[file].iter();
            let mut current: Option<&Stretch> = stretches.next();
            let mut decoded = 0;
            std::iter::from_fn(move || {
                let block = match current {
                    Some(Stretch { range, tensor, first, packed_rows: Some(rows) }) if range.end <= at => {
                        let block = self.decoded(*tensor, (file, at), first + decoded, rows - decoded);
                        decoded += (BLOCK_BYTES / self.row_bytes(*tensor)).max(1);
                        if decoded >= *rows {
                            (current, decoded) = (stretches.next(), 0);
                        }
                        return Some(block);
                    }
                    Some(Stretch { range, packed_rows: Some(_), .. }) if range.start <= at => {
                        let bytes = BLOCK_BYTES.min(range.end - at);
                        Block { file, offset: at, bytes: bytes as usize, rows: None, is_decoded: false }
                    }
                    Some(Stretch { range, tensor, first, .. }) if range.start <= at => {
                        let row = self.row_bytes(*tensor);
                        let rows = (BLOCK_BYTES / row).max(1);
                        let bytes = (rows * row).min(range.end - at);
                        let rows = TensorRows { tensor: *tensor, first: first + (at - range.start) / row };
                        if at + bytes == range.end {
                            current = stretches.next();
                        }
                        Block { file, offset: at, bytes: bytes as usize, rows: Some(rows), is_decoded: false }
                    }
                    next => {
                        let end = next.map_or(len, |stretch| stretch.range.start);
                        let bytes = BLOCK_BYTES.min(end - at);
                        Block { file, offset: at, bytes: bytes as usize, rows: None, is_decoded: false }
                    }
                };
                at += block.bytes as u64;
                (block.bytes > 0).then_some(block)
            })
        })
    }

    /// The blocks of one tensor.
    pub(crate) fn blocks_of(&self, tensor: usize) -> impl Iterator<Item = Block> {
        let row = self.row_bytes(tensor);
        let step = (BLOCK_BYTES / row).max(1) * row;
        let mut first = 0;
        self.wanted[tensor].stored.pieces.all().iter().flat_map(move |piece| {
            let StoredPiece { file, offset, packed_rows, .. } = *piece;
            let start = first;
            let bytes = piece.rows(row) * row;
            first += piece.rows(row);
            (0..bytes.div_ceil(step)).map(move |n| Block {
                file,
                offset: offset + n * step,
                bytes: step.min(bytes - n * step) as usize,
                rows: Some(TensorRows { tensor, first: start + n * step / row }),
                is_decoded: packed_rows.is_some(),
            })
        })
    }

    /// A block of decoded rows, at most `rows` from row `first` on.
    fn decoded(&self, tensor: usize, (file, offset): (usize, u64), first: u64, rows: u64) -> Block {
        let row = self.row_bytes(tensor);
        let bytes = (BLOCK_BYTES / row).max(1).min(rows) * row;
        let rows = Some(TensorRows { tensor, first });
        Block { file, offset, bytes: bytes as usize, rows, is_decoded: true }
    }

    /// The location of the scales of `rows`, and the index of the first scale there. `None` if the tensor has no
    /// scales.
    pub(crate) fn scales_of(&self, rows: &TensorRows) -> Option<(StoredScale, u64)> {
        let row = self.row_bytes(rows.tensor);
        let mut first = 0;
        for piece in self.wanted[rows.tensor].stored.pieces.all() {
            let end = first + piece.rows(row);
            if rows.first < end {
                return Some((piece.scale?, rows.first - first));
            }
            first = end;
        }
        None
    }

    fn row_bytes(&self, tensor: usize) -> u64 {
        let Wanted { stored, cols, .. } = &self.wanted[tensor];
        // whole blocks, and no wanted tensor is empty
        stored.dtype.row_bytes(*cols as u64).unwrap_or(0)
    }
}

/// The index of a tensor in a source.
fn find<'a>(source: &'a dyn TensorSource, desc: &TensorDesc) -> Option<(&'a dyn TensorSource, usize)> {
    Some((source, source.tensors().iter().position(|found| found == desc)?))
}

/// The imatrix entry of a tensor, if the plan says that it uses one.
fn importance_of<'a>(
    stored: &StoredTensor,
    desc: &TensorDesc,
    importance: Option<&'a Importance>,
) -> Result<Option<&'a Entry>> {
    if !stored.uses_imatrix {
        return Ok(None);
    }
    // the plan checked the shape, but the file may have changed since
    let fits = |entry: &&Entry| entry.sums().len() as u64 == desc.cols() * desc.rows() / rows_of_matrix(desc);
    let entry = importance.and_then(|importance| importance.get(&desc.name)).filter(fits);
    entry
        .map(Some)
        .ok_or_else(|| Error::malformed(format!("importance of {}", desc.name), "not that of the plan"))
}

/// The rows of one matrix: of an expert, or of the whole tensor.
pub(crate) fn rows_of_matrix(desc: &TensorDesc) -> u64 {
    desc.shape.iter().rev().nth(1).copied().unwrap_or(1).max(1)
}

/// The location of the scales of `weight`, if `file` has them.
fn scale_to(file: &PlannedFile, weight: &TensorDesc) -> Option<ScaleTo> {
    let of_it = |t: &plan::OutputTensor| matches!(&t.from, Origin::Scales(of) if *of == weight.name);
    let number = file.tensors.iter().position(of_it)?;
    let scale = &file.tensors[number];
    Some(ScaleTo {
        desc: scale.desc.clone(),
        offset: scale.offset,
        padded_end: file.padded_end(number),
        largest: scale.desc.shape.is_empty().then(|| Largest::new(weight.rows())),
    })
}
