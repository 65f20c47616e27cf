//! The work of a run, cut into blocks: what to read in which order, and whom it is for.

use std::collections::HashMap;
use std::ops::Range;

use plan::{Origin, Plan, Stored};
use tensor::{DType, TensorDesc};

/// Input bytes that a worker takes at a time. Large enough to make system calls and locks cheap, small enough that
/// a block and what is made of it stay in the second-level cache's reach.
const BLOCK_BYTES: u64 = 1 << 20;

/// A stretch of an input file that is read at once.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
    /// The rows it holds; `None` for bytes that are only hashed.
    pub(crate) rows: Option<Rows>,
}

/// Whole rows of a tensor that somebody wants.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// Number in [`Work::wanted`].
    pub(crate) tensor: usize,
    pub(crate) first: u64,
}

/// A tensor of the checkpoint with everything that is made of it.
pub(crate) struct Wanted {
    pub(crate) stored: Stored,
    pub(crate) cols: usize,
    pub(crate) uses: Vec<Use>,
}

/// One tensor to make of a tensor of the checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    /// Number of the output file, counted over all artifacts.
    pub(crate) target: usize,
    pub(crate) desc: TensorDesc,
    pub(crate) offset: u64,
    /// Where the padding after it ends.
    pub(crate) padded_end: u64,
    pub(crate) via: Option<DType>,
}

/// All tensors that a plan makes something of, and the stretches of the files they are in.
pub(crate) struct Work {
    pub(crate) wanted: Vec<Wanted>,
    /// A file each: the tensors in it by offset.
    by_file: Vec<Vec<(Range<u64>, usize)>>,
    lens: Vec<u64>,
}

impl Work {
    pub(crate) fn new(plan: &Plan) -> Work {
        let mut wanted: Vec<Wanted> = Vec::new();
        let mut number: HashMap<(usize, u64), usize> = HashMap::new();
        let mut by_file = vec![Vec::new(); plan.inputs.len()];
        let files = plan.artifacts.iter().flat_map(|a| &a.files).enumerate();
        let tensors =
            files.flat_map(|(i, f)| f.tensors.iter().enumerate().map(move |(n, t)| (i, f.padded_end(n), t)));
        for (target, padded_end, tensor) in tensors {
            let Origin::Checkpoint(stored) = &tensor.from else { continue };
            if stored.bytes == 0 {
                continue;
            }
            let key = (stored.file, stored.offset);
            let at = *number.entry(key).or_insert_with(|| {
                by_file[stored.file].push((stored.offset..stored.offset + stored.bytes, wanted.len()));
                let cols = tensor.desc.cols() as usize;
                wanted.push(Wanted { stored: stored.clone(), cols, uses: Vec::new() });
                wanted.len() - 1
            });
            wanted[at].uses.push(Use {
                target,
                desc: tensor.desc.clone(),
                offset: tensor.offset,
                padded_end,
                via: stored.via,
            });
        }
        for tensors in &mut by_file {
            tensors.sort_by_key(|(range, _)| range.start);
        }
        Work { wanted, by_file, lens: plan.inputs.iter().map(|input| input.bytes).collect() }
    }

    /// Every byte of every file once, in order.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = Block> {
        self.lens.iter().enumerate().flat_map(move |(file, &len)| {
            let mut at = 0;
            let mut tensors = self.by_file[file].iter();
            let mut current: Option<&(Range<u64>, usize)> = tensors.next();
            std::iter::from_fn(move || {
                let block = match current {
                    Some((range, tensor)) if range.start <= at => {
                        let row = self.row_bytes(*tensor);
                        let rows = (BLOCK_BYTES / row).max(1);
                        let bytes = (rows * row).min(range.end - at);
                        let rows = Rows { tensor: *tensor, first: (at - range.start) / row };
                        if at + bytes == range.end {
                            current = tensors.next();
                        }
                        Block { file, offset: at, bytes: bytes as usize, rows: Some(rows) }
                    }
                    next => {
                        let end = next.map_or(len, |(range, _)| range.start);
                        let bytes = BLOCK_BYTES.min(end - at);
                        Block { file, offset: at, bytes: bytes as usize, rows: None }
                    }
                };
                at += block.bytes as u64;
                (block.bytes > 0).then_some(block)
            })
        })
    }

    fn row_bytes(&self, tensor: usize) -> u64 {
        let Wanted { stored, cols, .. } = &self.wanted[tensor];
        // plain types have blocks of one element; no wanted tensor is empty
        *cols as u64 * stored.dtype.block_bytes() as u64
    }
}
