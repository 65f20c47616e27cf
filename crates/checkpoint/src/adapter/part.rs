//! The parts of an adapter: each changes or replaces one tensor of the base.

use std::ops::Range;

use tensor::{Error, Result, TensorDesc};

/// A tensor of the adapter's file.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) desc: TensorDesc,
    /// Offset of the first byte in the file.
    pub(crate) offset: u64,
}

/// The name of a tensor without effect, and the reason.
pub(crate) type Dropped = (String, &'static str);

/// A part of an adapter.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Name of the tensor in transformers.
    pub(crate) target: String,
    pub(crate) change: PartChange,
}

/// What a part does to its tensor.
#[derive(Clone, Debug)]
pub(crate) enum PartChange {
    /// Adds a product of low rank.
    LowRank(LowRank),
    /// Replaces the tensor.
    Replace(Stored),
}

/// A product of two factors: `left` has a row for each row of the tensor and `right` a column for each column.
#[derive(Clone, Debug)]
pub(crate) struct LowRank {
    pub(crate) kind: Kind,
    pub(crate) rank: u64,
    pub(crate) scale: f64,
    pub(crate) left: Factor,
    pub(crate) right: Factor,
    /// Magnitudes of the rows (DoRA).
    pub(crate) magnitude: Option<Stored>,
}

/// The kind of tensor and the program that trained the adapter: they decide the order of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A linear layer of PEFT: the sum is rounded.
    Linear,
    /// A table of PEFT: product and sum are rounded.
    Embedding,
    /// Experts of PEFT: product and sum are rounded.
    Experts,
    /// Any layer of mlx-lm: the scale multiplies one factor; product and sum are rounded.
    Mlx(MlxRows),
}

/// The rows of a tensor that a layer of mlx-lm is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MlxRows {
    All,
    /// The first half of each expert: the gate projection.
    FirstHalf,
    /// The second half of each expert: the up projection.
    SecondHalf,
}

impl MlxRows {
    /// The rows of a matrix of `rows` rows.
    pub(crate) fn of(self, rows: u64) -> Range<u64> {
        match self {
            MlxRows::All => 0..rows,
            MlxRows::FirstHalf => 0..rows / 2,
            MlxRows::SecondHalf => rows / 2..rows,
        }
    }
}

/// A stored factor and the order of its elements.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    pub(crate) stored: Stored,
    pub(crate) order: Order,
}

/// The order in which a factor is stored, against matrix, row, column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Matrix after matrix, row after row.
    Rows,
    /// One matrix, column after column.
    Columns,
    /// Rows of all matrices side by side; in a row, the matrix is the fast index and the rank the slow one.
    MatrixFast,
}

impl Factor {
    /// Checks the shape that the factor has for `matrices` of `rows` and `cols`.
    pub(crate) fn check(&self, matrices: u64, rows: u64, cols: u64) -> Result<()> {
        let shape = &self.stored.desc.shape;
        let fits = match self.order {
            Order::Rows if shape.len() == 3 => shape[..] == [matrices, rows, cols],
            Order::Rows => shape[..] == [matrices * rows, cols],
            Order::Columns => matrices == 1 && shape[..] == [cols, rows],
            Order::MatrixFast => shape[..] == [rows, cols * matrices],
        };
        if fits {
            return Ok(());
        }
        let expected = match self.order {
            Order::Rows => vec![matrices * rows, cols],
            Order::Columns => vec![cols, rows],
            Order::MatrixFast => vec![rows, cols * matrices],
        };
        Err(Error::malformed(format!("tensor {}", self.stored.desc.name), "wrong shape for the base")
            .expected(format!("{expected:?}"), format!("{shape:?}"))
            .help("The adapter belongs to another model."))
    }
}
