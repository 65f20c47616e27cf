//! Observer hooks: inputs and outputs of the matrices of a layer, for importance matrices and error feedback.

use tensor::Result;

use crate::Matrix;

/// The input of a matrix of a layer.
pub struct Input<'a> {
    /// Role of the matrix, see [`gemma::Slot`].
    pub role: &'static str,
    /// Layer of the matrix.
    pub layer: usize,
    /// The expert, for weights of a mixture of experts.
    pub expert: Option<Expert<'a>>,
    /// The rows, as wide as the weights.
    pub x: &'a Matrix,
}

/// One expert of a mixture, and the rows of the batch that went to it.
pub struct Expert<'a> {
    /// Its number.
    pub number: usize,
    /// For each row of the input: its row in the batch, and its router weight.
    pub tokens: &'a [(usize, f32)],
}

/// The two branches of a layer with a mixture of experts, before they are added.
pub struct Mixture<'a> {
    /// Sum of the experts' outputs, weighted by the router.
    pub experts: &'a Matrix,
    /// The same after its norm.
    pub experts_normed: &'a Matrix,
    /// Output of the dense network after its norm.
    pub dense_normed: &'a Matrix,
}

/// Gets the inputs and outputs of the matrix products of a layer. Experts call it from several threads, each expert once a
/// batch. An error ends the forward pass.
pub trait Observer: Sync {
    /// The residual stream before a part of a layer (attention, feed-forward, per-layer embedding).
    ///
    /// # Errors
    /// Any error of the observer.
    fn residual(&self, _hidden: &Matrix) -> Result<()> {
        Ok(())
    }

    /// Called before a product.
    ///
    /// # Errors
    /// Any error of the observer.
    fn input(&self, input: &Input<'_>) -> Result<()>;

    /// Called after a product, not those of experts.
    ///
    /// # Errors
    /// Any error of the observer.
    fn output(&self, _input: &Input<'_>, _y: &Matrix) -> Result<()> {
        Ok(())
    }

    /// Called at the end of a mixture of experts.
    ///
    /// # Errors
    /// Any error of the observer.
    fn mixture(&self, _mixture: &Mixture<'_>) -> Result<()> {
        Ok(())
    }
}
