//! Where the rows of a tensor lie: most are one stretch of one file, joined ones are many.

use tensor::{DType, TensorDesc};

use crate::float8::Scale;
use crate::open::Location;

/// Some rows of a tensor that lie together in one shard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// Where the first of them begins.
    pub location: Location,
    /// How many there are.
    pub rows: u64,
    /// What their values are multiplied with, if they are coded.
    pub scale: Option<Scale>,
}

/// A tensor as it is presented, with the pieces that it is made of, in the order of its rows.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) desc: TensorDesc,
    /// The type of its bytes, if they are not of the type that it is presented in.
    pub(crate) code: Option<DType>,
    pub(crate) pieces: Vec<Piece>,
}

impl Entry {
    /// A tensor as its shard has it.
    pub(crate) fn stored(desc: TensorDesc, location: Location) -> Entry {
        let rows = desc.rows();
        Entry { desc, code: None, pieces: vec![Piece { location, rows, scale: None }] }
    }

    /// The shard of its first row.
    pub(crate) fn shard(&self) -> usize {
        self.pieces.first().map_or(0, |piece| piece.location.shard)
    }

    /// Bytes of a row where it lies.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.desc.cols() * self.code.unwrap_or(self.desc.dtype).block_bytes() as u64
    }

    /// The pieces of some of its rows.
    pub(crate) fn rows(&self, first: u64, count: u64) -> Vec<Piece> {
        within(&self.pieces, self.row_bytes(), first, count)
    }
}

/// The parts of `pieces`, whose rows have `row_bytes`, that hold `count` rows from `first` on.
pub(crate) fn within(pieces: &[Piece], row_bytes: u64, first: u64, count: u64) -> Vec<Piece> {
    let mut found = Vec::new();
    let (mut at, end) = (0, first + count);
    for piece in pieces {
        let (from, to) = (first.max(at), end.min(at + piece.rows));
        if from < to {
            let skipped = from - at;
            let mut part = Piece { rows: to - from, ..*piece };
            part.location.offset += skipped * row_bytes;
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
        let piece = |offset, rows| Piece { location: Location { shard: 0, offset }, rows, scale: None };
        let pieces = [piece(100, 4), piece(40, 2), piece(0, 3)];
        assert_eq!(within(&pieces, 10, 0, 9), pieces);
        assert_eq!(within(&pieces, 10, 3, 4), [piece(130, 1), piece(40, 2), piece(0, 1)]);
        assert_eq!(within(&pieces, 10, 4, 0), []);
    }
}
