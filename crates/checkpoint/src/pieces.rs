//! Locations of the rows of a tensor: one contiguous range of a file for most, many ranges for joined tensors.

use tensor::{DType, TensorDesc};

use crate::adapter::delta::Change;
use crate::float8::Scale;
use crate::open::Location;

/// Rows of a tensor that are contiguous in one shard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// Position of the first row.
    pub location: Location,
    /// Number of rows.
    pub rows: u64,
    /// Scale by which the decoded values are multiplied, for 8-bit floats.
    pub scale: Option<Scale>,
    /// For rows that the checkpoint decodes; `location` is then that of the codes.
    pub packed: Option<PackedRows>,
}

/// Rows that the checkpoint decodes, because they are not contiguous bytes of a file or because an adapter changes them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PackedRows {
    pub(crate) by: Decoder,
    /// The first row of the piece in that weight.
    pub(crate) first: u64,
    /// The part of the codes that this piece accounts for, in bytes: proportional to its rows. It orders the reads;
    /// the bytes of a row may lie elsewhere.
    pub bytes: u64,
}

/// How rows are decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Decoder {
    /// As a packed weight of the checkpoint, by its index.
    Packed(usize),
    /// As 8-bit floats with the scale of the piece.
    Scaled,
    /// As a convolution whose channels are stored last.
    ChannelsLast,
}

/// A tensor as presented, and the pieces that hold its rows, in row order.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) desc: TensorDesc,
    /// The stored type, if it differs from the presented one.
    pub(crate) code: Option<DType>,
    pub(crate) pieces: Vec<Piece>,
    /// Changes of the rows by adapters, in order.
    pub(crate) changes: Vec<Change>,
}

impl Entry {
    /// A tensor as its shard stores it.
    pub(crate) fn stored(desc: TensorDesc, location: Location) -> Entry {
        let rows = desc.rows();
        Entry {
            desc,
            code: None,
            pieces: vec![Piece { location, rows, scale: None, packed: None }],
            changes: Vec::new(),
        }
    }

    /// Index of the shard that holds the first row.
    pub(crate) fn shard(&self) -> usize {
        self.pieces.first().map_or(0, |piece| piece.location.shard)
    }

    /// Whether the checkpoint decodes the rows.
    pub(crate) fn is_packed(&self) -> bool {
        self.pieces.iter().any(|piece| piece.packed.is_some())
    }

    /// Lets the checkpoint decode 8-bit floats, so that the values can change.
    pub(crate) fn decode_here(&mut self) {
        let row_bytes = self.row_bytes();
        for piece in self.pieces.iter_mut().filter(|piece| piece.scale.is_some() && piece.packed.is_none()) {
            piece.packed = Some(PackedRows { by: Decoder::Scaled, first: 0, bytes: piece.rows * row_bytes });
        }
    }

    /// Stored bytes of a row.
    pub(crate) fn row_bytes(&self) -> u64 {
        // rows are whole blocks: the description was checked, and encodings have blocks of one element
        self.code.unwrap_or(self.desc.dtype).row_bytes(self.desc.cols()).unwrap_or(0)
    }

    /// The pieces of `count` rows from row `first` on.
    pub(crate) fn rows(&self, first: u64, count: u64) -> Vec<Piece> {
        within(&self.pieces, self.row_bytes(), first, count)
    }
}

/// The parts of `pieces` that hold `count` rows from row `first` on; a stored row has `row_bytes`.
pub(crate) fn within(pieces: &[Piece], row_bytes: u64, first: u64, count: u64) -> Vec<Piece> {
    let mut found = Vec::new();
    let (mut at, end) = (0, first + count);
    for piece in pieces {
        let (from, to) = (first.max(at), end.min(at + piece.rows));
        if from < to {
            let skipped = from - at;
            let mut part = Piece { rows: to - from, ..*piece };
            match part.packed.as_mut() {
                Some(packed) => {
                    let bytes = u128::from(packed.bytes);
                    let at = |row: u64| (bytes * u128::from(row) / u128::from(piece.rows)) as u64;
                    let (start, end) = (at(skipped), at(skipped + part.rows));
                    part.location.offset += start;
                    packed.first += skipped;
                    packed.bytes = end - start;
                }
                None => part.location.offset += skipped * row_bytes,
            }
            if let Some(scale) = part.scale.as_mut().filter(|scale| scale.per_row) {
                scale.location.offset += skipped * scale.dtype.block_bytes() as u64;
            }
            found.push(part);
        }
        at += piece.rows;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_pieces() {
        let piece = |offset, rows| {
            let location = Location { shard: 0, offset };
            Piece { location, rows, scale: None, packed: None }
        };
        let pieces = [piece(100, 4), piece(40, 2), piece(0, 3)];
        assert_eq!(within(&pieces, 10, 0, 9), pieces);
        assert_eq!(within(&pieces, 10, 3, 4), [piece(130, 1), piece(40, 2), piece(0, 1)]);
        assert_eq!(within(&pieces, 10, 4, 0), []);
    }

    #[test]
    fn rows_of_packed_pieces() {
        let packed = |first, bytes| Some(PackedRows { by: Decoder::Packed(7), first, bytes });
        let piece = |offset, rows, packed| {
            let location = Location { shard: 0, offset };
            Piece { location, rows, scale: None, packed }
        };
        let whole = [piece(100, 6, packed(0, 20))];
        let parts: Vec<_> =
            [(0, 2), (2, 1), (3, 3)].iter().flat_map(|&(f, n)| within(&whole, 99, f, n)).collect();
        let expected =
            [piece(100, 2, packed(0, 6)), piece(106, 1, packed(2, 4)), piece(110, 3, packed(3, 10))];
        assert_eq!(parts, expected);
    }
}
