//! A token sequence with scored positions.

use std::ops::Range;

/// A token sequence that is read on its own, from position 0 on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids; the first is BOS. In the places of soft tokens they have no meaning.
    pub tokens: Vec<u32>,
    /// Positions of the tokens to predict, ascending, none of them 0. Each is predicted from those before it.
    pub scored: Vec<usize>,
    /// The places of soft tokens, ascending.
    pub media: Vec<SoftSpan>,
}

/// The place of an image's or a sound's soft tokens in a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoftSpan {
    /// Positions of the soft tokens.
    pub positions: Range<usize>,
    /// The number of the file among all files of the corpus.
    pub file: usize,
    /// An image; otherwise a sound.
    pub is_image: bool,
}

impl Sequence {
    /// Cuts the sequence at this length, and before an image or a sound of which the end would be missing.
    pub(super) fn truncate(&mut self, length: usize) {
        // the begin token goes with its soft tokens
        let cut = self.media.iter().find(|span| span.positions.end > length);
        let length = cut.map_or(length, |span| length.min(span.positions.start.saturating_sub(1)));
        self.tokens.truncate(length);
        self.scored.retain(|&position| position < length);
        self.media.retain(|span| span.positions.end <= length);
    }
}

impl AsRef<[u32]> for Sequence {
    fn as_ref(&self) -> &[u32] {
        &self.tokens
    }
}
