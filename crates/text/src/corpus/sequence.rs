//! A token sequence with scored positions.

/// A token sequence that is read on its own, from position 0 on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids; the first is BOS.
    pub tokens: Vec<u32>,
    /// Positions of the tokens to predict, ascending, none of them 0. Each is predicted from those before it.
    pub scored: Vec<usize>,
}

impl AsRef<[u32]> for Sequence {
    fn as_ref(&self) -> &[u32] {
        &self.tokens
    }
}
