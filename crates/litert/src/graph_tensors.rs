//! Tensors that a graph has in another form than the checkpoint: the rows of several ones after each other (the exporter's `fuse_qkv` and
//! `fuse_gate_up`), or a quotient (a head that is divided by the soft cap of the logits).

use std::fmt;

use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use crate::weights::put;

/// A tensor of a graph, as a skeleton names it: `a`, `a+b+c` for rows of several tensors, `a/30` for a quotient.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphTensorName<'n> {
    /// The names of its tensors in the checkpoint, without the prefix of the text model.
    pub parts: Vec<&'n str>,
    /// All values are multiplied by its inverse, both in f32, as the exporter's compiler folds a division.
    pub divisor: f32,
}

impl<'n> GraphTensorName<'n> {
    /// Reads a name.
    ///
    /// # Errors
    /// `Malformed` for a divisor that is no positive number.
    pub fn parse(name: &'n str) -> Result<GraphTensorName<'n>> {
        let (parts, divisor) = match name.split_once('/') {
            None => (name, 1.0),
            Some((parts, divisor)) => {
                let number =
                    divisor.parse().ok().filter(|divisor: &f32| divisor.is_normal() && *divisor > 0.0);
                let wrong =
                    || Error::malformed("skeleton", "a divisor").expected("a positive number", divisor);
                (parts, number.ok_or_else(wrong)?)
            }
        };
        Ok(GraphTensorName { parts: parts.split('+').collect(), divisor })
    }
}

impl fmt::Display for GraphTensorName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("+"))?;
        if self.divisor == 1.0 { Ok(()) } else { write!(f, "/{}", self.divisor) }
    }
}

/// The tensors of a checkpoint, and after them those that a graph has in another form.
pub struct GraphTensors<'a> {
    checkpoint: &'a dyn TensorSource,
    tensors: Vec<TensorDesc>,
    made: Vec<Made>,
}

/// A tensor in another form.
#[derive(Clone, Debug)]
struct Made {
    /// Indices in the checkpoint, and the first row of each in this tensor.
    parts: Vec<(usize, u64)>,
    divisor: f32,
}

/// Where the rows of a tensor of the checkpoint are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RowsOf {
    /// The index of the tensor that has them.
    pub(crate) index: usize,
    /// Its row that is the first one.
    pub(crate) first: u64,
    /// What its values are multiplied by to get those of the checkpoint.
    pub(crate) factor: f32,
}

impl<'a> GraphTensors<'a> {
    /// The tensors of a checkpoint alone.
    pub fn new(checkpoint: &'a dyn TensorSource) -> GraphTensors<'a> {
        GraphTensors { checkpoint, tensors: checkpoint.tensors().to_vec(), made: Vec::new() }
    }

    /// The index of a tensor of the graph, which is added if the checkpoint does not have it in this form. `parts` are indices in the
    /// checkpoint.
    ///
    /// # Errors
    /// `Malformed` for parts whose rows have other lengths than those of the first one.
    pub fn add(&mut self, parts: &[usize], divisor: f32) -> Result<usize> {
        if let ([index], 1.0) = (parts, divisor) {
            return Ok(*index);
        }
        let descs: Vec<&TensorDesc> = parts.iter().map(|part| &self.checkpoint.tensors()[*part]).collect();
        let names = descs.iter().map(|desc| desc.name.as_str()).collect();
        let name = GraphTensorName { parts: names, divisor }.to_string();
        let (cols, dtype) = (descs[0].cols(), descs[0].dtype);
        if let Some(other) = descs.iter().find(|desc| desc.cols() != cols) {
            return Err(Error::malformed(format!("tensor {name}"), "its parts have rows of other lengths")
                .expected(cols, other.cols()));
        }
        let is_same = divisor == 1.0 && descs.iter().all(|desc| desc.dtype == dtype);
        let mut made = Made { parts: Vec::new(), divisor };
        let mut rows = 0;
        for (part, desc) in parts.iter().zip(&descs) {
            made.parts.push((*part, rows));
            rows += desc.rows();
        }
        let desc = TensorDesc::new(name, if is_same { dtype } else { DType::F32 }, [rows, cols])?;
        self.tensors.push(desc);
        self.made.push(made);
        Ok(self.tensors.len() - 1)
    }

    /// Tensors that have the rows of a tensor of the checkpoint: itself, and all that are made of it.
    pub(crate) fn with_rows_of(&self, index: usize) -> impl Iterator<Item = RowsOf> + '_ {
        let own = self.checkpoint.tensors().len();
        let made = self.made.iter().enumerate().flat_map(move |(number, made)| {
            let parts = made.parts.iter().filter(move |(part, _)| *part == index);
            parts.map(move |(_, first)| RowsOf { index: own + number, first: *first, factor: made.divisor })
        });
        std::iter::once(RowsOf { index, first: 0, factor: 1.0 }).chain(made)
    }

    /// Rows of a tensor in another form that lie in one of its parts.
    fn read_part(
        &self,
        made: &Made,
        desc: &TensorDesc,
        part: usize,
        first: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let own = &self.checkpoint.tensors()[part];
        if own.dtype == desc.dtype && made.divisor == 1.0 {
            return self.checkpoint.read_rows(part, first, out);
        }
        let count = out.len() as u64 / desc.row_bytes();
        let rows = quant::decode_rows(quant::Simd::detect(), self.checkpoint, part, first..first + count)?;
        put(rows.iter().map(|value| value * made.divisor.recip()), out);
        Ok(())
    }
}

impl TensorSource for GraphTensors<'_> {
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let Some(number) = index.checked_sub(self.checkpoint.tensors().len()) else {
            return self.checkpoint.read_rows(index, first, out);
        };
        let (made, desc) = (&self.made[number], &self.tensors[index]);
        let count = out.len() as u64 / desc.row_bytes();
        if first + count > desc.rows() {
            return Err(Error::malformed(format!("tensor {}", desc.name), "it has fewer rows")
                .expected(format!("at most {}", desc.rows()), first + count));
        }
        let mut rest = out;
        for (part, start) in &made.parts {
            let end = start + self.checkpoint.tensors()[*part].rows();
            let (from, to) = (first.max(*start), (first + count).min(end));
            if from < to {
                let (rows, after) = rest.split_at_mut(((to - from) * desc.row_bytes()) as usize);
                self.read_part(made, desc, *part, from - start, rows)?;
                rest = after;
            }
        }
        Ok(())
    }

    fn mapped_rows(&self, index: usize, first: u64, count: u64) -> Option<&[u8]> {
        let is_own = index < self.checkpoint.tensors().len();
        is_own.then(|| self.checkpoint.mapped_rows(index, first, count)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use testkit::MemoryTensors;

    use super::*;

    fn tensors(types: [DType; 2]) -> MemoryTensors {
        let mut tensors = MemoryTensors::new();
        for (n, dtype) in types.into_iter().enumerate() {
            let desc = TensorDesc::new(["a", "b"][n], dtype, [2 + n as u64, 2]).unwrap();
            let values = (0..desc.elements()).map(|k| (10 * n as u64 + k) as f32);
            let bytes = match dtype {
                DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
                _ => values.flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect(),
            };
            tensors.add(desc, bytes);
        }
        tensors
    }

    fn rows(graph: &GraphTensors<'_>, index: usize, first: u64, count: u64) -> Vec<f32> {
        quant::decode_rows(quant::Simd::detect(), graph, index, first..first + count).unwrap()
    }

    /// Rows of two tensors, of one type and of two, in one read.
    #[test]
    fn rows_follow_each_other() {
        for types in [[DType::BF16; 2], [DType::BF16, DType::F32]] {
            let tensors = tensors(types);
            let mut graph = GraphTensors::new(&tensors);
            let index = graph.add(&[1, 0], 1.0).unwrap();
            let desc = &graph.tensors()[index];
            assert_eq!(
                (desc.name.as_str(), desc.shape.as_slice(), desc.dtype),
                ("b+a", &[5, 2][..], types[1])
            );
            assert_eq!(rows(&graph, index, 1, 3), [12.0, 13.0, 14.0, 15.0, 0.0, 1.0]);
            assert_eq!(rows(&graph, index, 4, 1), [2.0, 3.0]);
            assert!(graph.read_rows(index, 4, &mut vec![0; 2 * desc.row_bytes() as usize]).is_err());
            let first =
                |of: usize| graph.with_rows_of(of).map(|rows| (rows.index, rows.first)).collect::<Vec<_>>();
            assert_eq!((first(0), first(1)), (vec![(0, 0), (2, 3)], vec![(1, 0), (2, 0)]));
        }
    }

    #[test]
    fn a_quotient_is_a_product_with_the_inverse() {
        let tensors = tensors([DType::BF16; 2]);
        let mut graph = GraphTensors::new(&tensors);
        let index = graph.add(&[1], 30.0).unwrap();
        assert_eq!(
            (graph.tensors()[index].name.as_str(), graph.tensors()[index].dtype),
            ("b/30", DType::F32)
        );
        assert_eq!(rows(&graph, index, 0, 1), [10.0 * (1.0 / 30.0), 11.0 * (1.0 / 30.0)]);
        assert_eq!(graph.with_rows_of(1).map(|rows| rows.factor).collect::<Vec<_>>(), [1.0, 30.0]);
        assert_eq!(graph.add(&[1], 1.0).unwrap(), 1);
    }

    #[test]
    fn names_are_read_and_written() {
        for name in ["a", "a+b+c", "a/30", "a+b/0.5"] {
            assert_eq!(GraphTensorName::parse(name).unwrap().to_string(), name);
        }
        for name in ["a/", "a/0", "a/-1", "a/x", "a/inf", "a/NaN"] {
            assert!(GraphTensorName::parse(name).is_err(), "{name}");
        }
    }
}
