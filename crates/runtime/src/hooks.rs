//! What goes into each matrix, for who wants to learn from it: importance and error feedback are made of nothing else.

use tensor::Result;

use crate::Matrix;

/// Rows that are about to be multiplied with the weights of a layer.
pub struct Input<'a> {
    /// What the weights do, see [`gemma::Slot`].
    pub role: &'static str,
    /// Their layer.
    pub layer: usize,
    /// Of the weights of a mixture of experts: whose.
    pub expert: Option<Expert<'a>>,
    /// The rows, as wide as the weights.
    pub x: &'a Matrix,
}

/// One expert of a mixture, and the rows of the batch that went to it.
pub struct Expert<'a> {
    /// Its number.
    pub number: usize,
    /// For each row of the input: which of the batch it is, and how much the router makes of it.
    pub tokens: &'a [(usize, f32)],
}

/// What a layer with experts has made, whose two parts are added.
pub struct Mixture<'a> {
    /// Of the experts: Σ of what each gives, times what the router makes of it.
    pub experts: &'a Matrix,
    /// The same, behind its norm.
    pub experts_normed: &'a Matrix,
    /// Of the dense network, behind its norm.
    pub dense_normed: &'a Matrix,
}

/// Sees the products of a layer. Those of experts come from several threads, each expert's of a batch once. An error of
/// any of these ends the pass.
pub trait Observer: Sync {
    /// What a part of a layer (attention, feed-forward, per-layer embedding) begins with, and is added to: the residual
    /// stream.
    ///
    /// # Errors
    /// Whatever the observer says.
    fn residual(&self, _hidden: &Matrix) -> Result<()> {
        Ok(())
    }

    /// Called before a product.
    ///
    /// # Errors
    /// Whatever the observer says.
    fn input(&self, input: &Input<'_>) -> Result<()>;

    /// Called after a product, not those of experts.
    ///
    /// # Errors
    /// Whatever the observer says.
    fn output(&self, _input: &Input<'_>, _y: &Matrix) -> Result<()> {
        Ok(())
    }

    /// Called at the end of a mixture of experts.
    ///
    /// # Errors
    /// Whatever the observer says.
    fn mixture(&self, _mixture: &Mixture<'_>) -> Result<()> {
        Ok(())
    }
}
