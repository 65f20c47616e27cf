//! Convolutions whose input channels are stored last, as MLX has them: [out, height, width, in] and [out, taps, 1]. They are
//! presented as transformers has them, [out, in, height, width] and [out, 1, taps]. Source: mlx-vlm `models/gemma4/gemma4.py`,
//! `sanitize`.

use tensor::{Result, TensorDesc};

use crate::Checkpoint;
use crate::pieces::{Decoder, Entry, PackedRows, Piece};
use crate::table::table;

/// Presents the convolutions with the channels before the kernel. Returns a note about them.
pub(crate) fn before_kernel(entries: &mut [Entry]) -> Result<Option<String>> {
    let mut names = Vec::new();
    for entry in entries.iter_mut().filter(|entry| is_last(entry)) {
        let TensorDesc { name, dtype, shape, .. } = &entry.desc;
        let Some((&channels, kernel)) = shape[1..].split_last() else { continue };
        let shape = [&[shape[0], channels], kernel].concat();
        let desc = TensorDesc::new(name, *dtype, shape)?;
        let packed = PackedRows { by: Decoder::ChannelsLast, first: 0, bytes: desc.byte_len() };
        let location = entry.pieces[0].location;
        entry.pieces = vec![Piece { location, rows: desc.rows(), scale: None, packed: Some(packed) }];
        names.push(name.clone());
        entry.desc = desc;
    }
    let text = |first: &String| {
        format!(
            "{} convolutions have their input channels last, as MLX stores them ({first}): they are transposed",
            names.len()
        )
    };
    Ok(names.first().map(text))
}

/// Whether the last dimension is that of the input channels. Kernels of two dimensions are square; those of one are
/// depthwise, with one channel.
fn is_last(entry: &Entry) -> bool {
    let desc = &entry.desc;
    let is_plain = entry.code.is_none() && !entry.is_packed() && desc.elements() > 0;
    let is_convolution = table().convolutions.iter().any(|suffix| desc.name.ends_with(suffix.as_str()));
    is_plain
        && is_convolution
        && match desc.shape[..] {
            [_, height, width, channels] => height == width && width != channels,
            [_, taps, channels] => channels == 1 && taps != 1,
            _ => false,
        }
}

impl Checkpoint {
    /// Reads rows from row `first` on of a convolution whose channels are stored last.
    pub(crate) fn read_channels(
        &self,
        desc: &TensorDesc,
        piece: &Piece,
        first: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let size = desc.dtype.block_bytes();
        let (channels, kernel) = (desc.shape[1] as usize, desc.shape[2..].iter().product::<u64>() as usize);
        let start = piece.location.offset - first * desc.row_bytes();
        let mut matrix = vec![0; channels * kernel * size];
        let mut loaded = None;
        let elements = (first * desc.cols()) as usize..;
        for (element, out) in elements.zip(out.chunks_exact_mut(size)) {
            let (number, at) = (element / (channels * kernel), element % (channels * kernel));
            if loaded != Some(number) {
                self.read_at(piece.location.shard, start + (number * matrix.len()) as u64, &mut matrix)?;
                loaded = Some(number);
            }
            let stored = at % kernel * channels + at / kernel;
            out.copy_from_slice(&matrix[stored * size..][..size]);
        }
        Ok(())
    }
}
