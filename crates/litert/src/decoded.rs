//! The weights of a bundle as f32 tensors, in the order of a checkpoint.

use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use crate::bundle::Bundle;
use crate::graph_tensors::{GraphTensors, RowsOf};
use crate::mapping::Mapped;
use crate::source::FileSource;
use crate::stored::StoredConstant;
use crate::weights::put;

/// A tensor of the checkpoint in a bundle.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// Number of the model in the mapping, and of the assignment in it; which of its rows.
    Assignment(usize, usize, RowsOf),
    /// A factor of 1, which the graph leaves out.
    One,
    /// Nowhere.
    None,
}

/// A bundle, read as the tensors of a checkpoint.
pub struct DecodedWeights {
    file: FileSource,
    bundle: Bundle,
    mapped: Vec<Mapped>,
    tensors: Vec<TensorDesc>,
    places: Vec<Place>,
}

impl DecodedWeights {
    /// The tensors `wanted`: the description of each, its index in the checkpoint, and the model that has it, as its number
    /// in `mapped`. A tensor that the model lacks cannot be read. `graph` has the tensors of `mapped`.
    ///
    /// # Errors
    /// `Malformed` for an impossible shape.
    pub fn new<'d>(
        file: FileSource,
        bundle: Bundle,
        mapped: Vec<Mapped>,
        graph: &GraphTensors<'_>,
        wanted: impl IntoIterator<Item = (&'d TensorDesc, usize, usize)>,
    ) -> Result<DecodedWeights> {
        let (mut tensors, mut places) = (Vec::new(), Vec::new());
        for (desc, index, model) in wanted {
            tensors.push(TensorDesc::new(&desc.name, DType::F32, desc.shape.clone())?);
            let found = mapped.get(model);
            let assignment = graph.with_rows_of(index).find_map(|rows| {
                let number = found?.assignments.iter().position(|a| a.tensors.contains(&rows.index))?;
                Some((number, rows))
            });
            places.push(match assignment {
                Some((number, rows)) => Place::Assignment(model, number, rows),
                None if found.is_some_and(|m| m.folded.contains(&index)) => Place::One,
                None => Place::None,
            });
        }
        Ok(DecodedWeights { file, bundle, mapped, tensors, places })
    }
}

impl TensorSource for DecodedWeights {
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let desc = &self.tensors[index];
        let count = out.len() as u64 / desc.row_bytes();
        let values = match self.places[index] {
            Place::One => vec![1.0],
            Place::Assignment(model, number, rows) => {
                let Mapped { section, model, assignments, .. } = &self.mapped[model];
                let part = self.bundle.part(&self.file, &self.bundle.sections[*section])?;
                let stored = StoredConstant::new(model, &part, &assignments[number].constant);
                let values =
                    stored.map_or(Ok(Vec::new()), |stored| stored.values(rows.first + first, count))?;
                values.into_iter().map(|value| value * rows.factor).collect()
            }
            Place::None => Vec::new(),
        };
        if values.len() * size_of::<f32>() != out.len() {
            return Err(Error::malformed(format!("tensor {}", desc.name), "the bundle has no such weights"));
        }
        put(values, out);
        Ok(())
    }
}
