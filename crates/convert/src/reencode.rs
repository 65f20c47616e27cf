//! Encoding of a single tensor as in a run, for callers that need the expected bytes.

use imatrix::Entry;
use plan::{Lattice, Pieces, StoredTensor};
use quant::Simd;
use tensor::{DType, TensorDesc};

use crate::encode::Scratch;
use crate::fp8_scales::Largest;
use crate::repack_counts::Count;
use crate::schedule::{ScaleTo, Use, Wanted, rows_of_matrix};

/// The steps from the checkpoint's values to an artifact's bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Steps<'a> {
    /// The intermediate type that the values are rounded to first.
    pub via: Option<DType>,
    /// The 4-bit quantization grid that the values keep.
    pub lattice: Option<Lattice>,
    /// The imatrix entry.
    pub importance: Option<&'a Entry>,
    /// Kind of the separately stored scales.
    pub scales: Scales,
}

/// Kinds of scales that are stored as tensors of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scales {
    /// None: the type contains its scales, or needs none.
    #[default]
    None,
    /// One per row.
    Rows,
    /// One per tensor.
    Tensor,
}

/// An encoder for the rows of one tensor.
pub struct Encoding<'a> {
    wanted: Wanted<'a>,
    to: Use<'a>,
}

/// Reusable buffers of an encoder.
#[derive(Default)]
pub struct Buffers(Scratch);

impl<'a> Encoding<'a> {
    /// An encoder for a tensor of this name, type and shape. `None` if the imatrix entry has another shape or is all
    /// zeros.
    pub fn new(desc: &TensorDesc, steps: Steps<'a>) -> Option<Encoding<'a>> {
        let fits = |entry: &Entry| {
            entry.sums().len() as u64 == desc.cols() * desc.rows() / rows_of_matrix(desc)
                && entry.blank().is_none()
        };
        if !steps.importance.is_none_or(fits) {
            return None;
        }
        let stored = StoredTensor {
            tensor: desc.name.clone(),
            dtype: DType::F32,
            pieces: Pieces::new(Vec::new()),
            via: steps.via,
            uses_imatrix: steps.importance.is_some(),
            lattice: steps.lattice,
            change: None,
        };
        let scale = |largest| ScaleTo { desc: desc.clone(), offset: 0, padded_end: 0, largest };
        let to = Use {
            target: 0,
            desc: desc.clone(),
            offset: 0,
            padded_end: 0,
            row_bytes: desc.row_bytes(),
            via: steps.via,
            importance: steps.importance,
            lattice: steps.lattice,
            repacked: Count::default(),
            rounded: None,
            scale: match steps.scales {
                Scales::None => None,
                Scales::Rows => Some(scale(None)),
                Scales::Tensor => Some(scale(Some(Largest::new(desc.rows())))),
            },
            change: None,
        };
        // overflow is not an error here: the caller sees it in the bytes
        let wanted = Wanted { stored, cols: desc.cols() as usize, finite: false, uses: Vec::new() };
        Some(Encoding { wanted, to })
    }

    /// The bytes of whole rows from row `first` on, and the bytes of their scales if each row has one. `scale` is the
    /// tensor's scale, for per-tensor scales.
    pub fn encode<'b>(
        &self,
        simd: Simd,
        first: u64,
        values: &[f32],
        scale: f32,
        buffers: &'b mut Buffers,
    ) -> (&'b [u8], &'b [u8]) {
        let Encoding { wanted, to } = self;
        let scratch = &mut buffers.0;
        // without `finite` there is no error
        match &to.scale {
            None => drop(scratch.encode(simd, wanted, to, first, values)),
            Some(ScaleTo { largest: Some(_), .. }) => {
                drop(scratch.encode_by(simd, wanted, to, scale, values));
            }
            Some(_) => {
                drop(scratch.encode_rows(simd, wanted, to, values));
                return (&scratch.encoded, scratch.scale_bytes());
            }
        }
        (&scratch.encoded, &[])
    }
}
