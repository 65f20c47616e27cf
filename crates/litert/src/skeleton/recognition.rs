//! Bundles that a skeleton made: the graph is that of the skeleton, byte for byte, so that the names of the skeleton say which constant
//! is which tensor. Values, which may be equal, need not.

use std::ops::Range;

use quant::IntegerBits;
use tensor::{Result, TensorSource};

use super::graph::{build, text};
use super::{Skeleton, SkeletonWeight, SparseSource, assign};
use crate::bundle::{Bundle, Section, SectionType};
use crate::constants::{Constant, ConstantEncoding, Scales, constants};
use crate::mapping::Mapped;
use crate::source::{self, Source};
use crate::tflite::Model;

impl Skeleton {
    /// The weights of a bundle that was made of this skeleton at a width of so many units, with any types; `None` for another graph.
    /// `weight` gives index and number of values of a tensor by its name among those of [`weights`](Self::weights), `tensors` has it.
    ///
    /// # Errors
    /// Those of `weight` and of reading.
    pub fn recognise(
        &self,
        (bundle, from): (&Bundle, &dyn Source),
        units: u64,
        weight: &dyn Fn(&str) -> Result<(usize, u64)>,
        tensors: &dyn TensorSource,
    ) -> Result<Option<Vec<Mapped>>> {
        let mut streams = self.streams.clone();
        let mut mapped = Vec::new();
        for model in &self.parts.models {
            let model_type = text(&self.parts, model.model_type)?;
            let is_it = |section: &Section| {
                section.content == SectionType::MODEL && section.model_type() == Some(model_type)
            };
            let Some(section) = bundle.sections.iter().position(is_it) else { return Ok(None) };
            let part = bundle.part(from, &bundle.sections[section])?;
            let stored = constants(&Model::read(&part)?)?;
            let with_type = |buffer: usize, name: &str| {
                let (tensor, elements) = weight(name)?;
                Ok(SkeletonWeight { tensor, elements, bits: bits(&stored, buffer) })
            };
            let graph = build(&self.parts, &mut streams, model, units, &with_type)?;
            let made = SparseSource { len: graph.len, pieces: graph.pieces.into_iter().collect() };
            let found = assign(section, Model::read(&made)?, &graph.weights, tensors)?;
            if !is_filled(&made, &part, &found)? {
                return Ok(None);
            }
            mapped.push(found);
        }
        Ok(Some(mapped))
    }
}

/// Bits of the integers in a buffer; any for others.
fn bits(constants: &[Constant], buffer: usize) -> IntegerBits {
    match constants.iter().find(|constant| constant.buffer == buffer).map(|constant| constant.encoding) {
        Some(Some(ConstantEncoding::Integers(integers))) => integers.bits,
        _ => IntegerBits::Four,
    }
}

/// True if a model is the empty one with other bytes in the place of its weights and their scales.
fn is_filled(empty: &SparseSource, model: &dyn Source, mapped: &Mapped) -> Result<bool> {
    if empty.len() != model.len() {
        return Ok(false);
    }
    let mut holes: Vec<Range<u64>> = Vec::new();
    for Constant { buffer, scales, .. } in mapped.assignments.iter().map(|assignment| &assignment.constant) {
        let range = |buffer: usize| mapped.model.buffers[buffer].range.clone();
        holes.push(range(*buffer));
        holes.extend(scales.iter().map(|scales| match scales {
            Scales::Vector(bytes) => bytes.clone(),
            Scales::Buffer(buffer) => range(*buffer),
        }));
    }
    for (at, piece) in &empty.pieces {
        let end = at + piece.len() as u64;
        let mut found = source::read(model, *at, piece.len() as u64)?;
        for hole in holes.iter().map(|hole| hole.start.max(*at)..hole.end.min(end)) {
            // weights are zero in the empty model
            if !hole.is_empty() {
                found[(hole.start - at) as usize..(hole.end - at) as usize].fill(0);
            }
        }
        if found != *piece {
            return Ok(false);
        }
    }
    Ok(true)
}
