//! Tensor descriptions, and the two traits that read and write rows.

use crate::{DType, Error, Result};

/// Name, type and shape of a tensor, without data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDesc {
    /// Name in the container.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions, slowest first (row-major, as in a checkpoint; GGUF stores them reversed). Empty for a scalar.
    pub shape: Vec<u64>,
}

impl TensorDesc {
    /// Checks that the size of the tensor fits into 63 bits and that rows are whole blocks, so that the other methods
    /// cannot overflow.
    ///
    /// # Errors
    /// `Malformed`, naming the tensor.
    pub fn new(name: impl Into<String>, dtype: DType, shape: impl Into<Vec<u64>>) -> Result<Self> {
        let desc = TensorDesc { name: name.into(), dtype, shape: shape.into() };
        let elements = desc.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let Some(row) = dtype.row_bytes(desc.cols()) else {
            return Err(Error::malformed(
                format!("tensor {}", desc.name),
                "a row is not a whole number of blocks",
            )
            .expected(format!("a multiple of {} for {dtype}", dtype.block_len()), desc.cols()));
        };
        match elements.and_then(|_| row.checked_mul(desc.rows())) {
            Some(bytes) if bytes <= i64::MAX as u64 => Ok(desc),
            _ => Err(Error::malformed(
                format!("tensor {}", desc.name),
                format!("its shape {:?} is too large", desc.shape),
            )),
        }
    }

    /// Number of elements in a row: the last dimension, 1 for a scalar.
    pub fn cols(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows: the product of all dimensions except the last.
    pub fn rows(&self) -> u64 {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Size of a row in bytes.
    pub fn row_bytes(&self) -> u64 {
        self.cols() / self.dtype.block_len() as u64 * self.dtype.block_bytes() as u64
    }

    /// Size of the tensor in bytes.
    pub fn byte_len(&self) -> u64 {
        self.row_bytes() * self.rows()
    }
}

/// Tensors that can be read row by row, from any thread.
pub trait TensorSource: Send + Sync {
    /// The tensors, in the order of the container.
    fn tensors(&self) -> &[TensorDesc];

    /// Fills `out` (a whole number of rows) with the rows of tensor `index` from row `first` on, in the type of its
    /// description.
    ///
    /// # Errors
    /// `Io`, or `Malformed` if the rows do not exist.
    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()>;

    /// The bytes of `count` rows of tensor `index` from row `first` on, as [`read_rows`](Self::read_rows) gives them, without a
    /// copy. `None` where the source has them neither in memory nor mapped, and for rows that do not exist.
    fn mapped_rows(&self, index: usize, first: u64, count: u64) -> Option<&[u8]> {
        let _ = (index, first, count);
        None
    }
}

/// Tensors that can be written row by row, in any order, from any thread.
pub trait TensorSink: Send + Sync {
    /// Writes whole rows of tensor `index` from row `first` on.
    ///
    /// # Errors
    /// `Target` if the rows cannot be written.
    fn write_rows(&self, index: usize, first: u64, rows: &[u8]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let t = TensorDesc::new("x", DType::Q4_0, [2, 3, 64]).unwrap();
        assert_eq!((t.rows(), t.cols(), t.row_bytes(), t.byte_len()), (6, 64, 36, 216));
        let scalar = TensorDesc::new("s", DType::BF16, []).unwrap();
        assert_eq!((scalar.rows(), scalar.cols(), scalar.byte_len()), (1, 1, 2));
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert!(TensorDesc::new("x", DType::Q4_0, [33]).is_err());
        assert!(TensorDesc::new("x", DType::F32, [1 << 40, 1 << 40]).is_err());
        assert!(TensorDesc::new("x", DType::F64, [0, u64::MAX, u64::MAX]).is_err());
    }
}
