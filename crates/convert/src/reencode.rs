//! One tensor encoded as a run would encode it, for whoever wants to know what bytes a checkpoint gives.

use imatrix::Entry;
use plan::{Pieces, StoredTensor};
use quant::Simd;
use tensor::{DType, TensorDesc};

use crate::encode::Scratch;
use crate::fp8_scales::Largest;
use crate::repack_counts::Count;
use crate::schedule::{ScaleTo, Use, Wanted, rows_of_matrix};

/// The steps from the values of the checkpoint to the bytes of an artifact.
#[derive(Clone, Copy, Debug, Default)]
pub struct Steps<'a> {
    /// The type that the values are rounded to first.
    pub via: Option<DType>,
    /// The values lie on a 4-bit lattice, and are repacked.
    pub lattice: bool,
    /// What steers the rounding.
    pub importance: Option<&'a Entry>,
    /// The scales that are stored apart.
    pub scales: Scales,
}

/// Scales that are stored apart from the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scales {
    /// None: the type brings its own, or needs none.
    #[default]
    None,
    /// One a row.
    Rows,
    /// One for the tensor.
    Tensor,
}

/// Encodes rows of one tensor.
pub struct Encoding<'a> {
    wanted: Wanted<'a>,
    to: Use<'a>,
}

/// Buffers that an encoding overwrites.
#[derive(Default)]
pub struct Buffers(Scratch);

impl<'a> Encoding<'a> {
    /// For a tensor of this name, type and shape. `None` when the importance is of another shape.
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
        };
        let scale = |largest| ScaleTo { desc: desc.clone(), offset: 0, padded_end: 0, largest };
        let to = Use {
            target: 0,
            desc: desc.clone(),
            offset: 0,
            padded_end: 0,
            via: steps.via,
            importance: steps.importance,
            lattice: steps.lattice.then(Count::default),
            rounded: None,
            scale: match steps.scales {
                Scales::None => None,
                Scales::Rows => Some(scale(None)),
                Scales::Tensor => Some(scale(Some(Largest::new(desc.rows())))),
            },
        };
        // what does not fit into the type is for the caller to see in the bytes
        let wanted = Wanted { stored, cols: desc.cols() as usize, finite: false, uses: Vec::new() };
        Some(Encoding { wanted, to })
    }

    /// The bytes of whole rows from row `first` on, and those of their scales if each row has one. `scale` is the scale of
    /// the tensor, where there is one for all of it.
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
        // no error without `finite`
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
