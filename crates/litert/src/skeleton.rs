//! Graph skeletons: how to build the models of one architecture at any width, without an exporter.
//!
//! For one list of layers, an export has the same graph at every width: shapes are lines of the width, and weights are what a
//! checkpoint has. A skeleton holds the operations of a flatbuffers builder that make the graph, and these lines.
//! `cargo xtask skeleton` makes one from two small exports. [`Skeleton::bundle`] is a bundle with zeros as weights, which
//! [`Transplant`](crate::Transplant) fills.
//!
//! Width: all of them (hidden size, feed-forward, heads, per-layer embeddings, vocabulary) are multiples of one unit.

mod builder;
mod format;
mod graph;
mod recognition;

use std::collections::{BTreeMap, BTreeSet};

use tensor::{Error, Result, TensorSource};

use crate::bundle::{Bundle, SectionType};
use crate::constants::constants;
use crate::mapping::{Assignment, Mapped};
use crate::source::{Source, within};
use crate::tflite::Model;
use format::{Content, Parts, Streams};

pub use graph::SkeletonWeight;

/// A graph skeleton.
#[derive(Clone, Debug)]
pub struct Skeleton {
    parts: Parts,
    streams: Streams,
}

/// The sections of a bundle that are no model.
#[derive(Clone, Debug, Default)]
pub struct SkeletonSections {
    /// The LlmMetadata.
    pub metadata: Vec<u8>,
    /// The tokenizer, [packed](crate::pack_tokenizer).
    pub tokenizer: Vec<u8>,
    /// What distinguishes the bundle from others.
    pub id: [u8; 16],
}

/// A bundle whose weights are zero, and the tensors that belong there.
#[derive(Debug)]
pub struct EmptyBundle {
    /// Its header.
    pub bundle: Bundle,
    /// Its bytes.
    pub source: SparseSource,
    /// Where the weights are.
    pub mapped: Vec<Mapped>,
}

impl Skeleton {
    /// Reads a skeleton.
    ///
    /// # Errors
    /// `Malformed` for other data, `Limit`.
    pub fn read(packed: &[u8]) -> Result<Skeleton> {
        let (parts, streams) = format::read(packed)?;
        Ok(Skeleton { parts, streams })
    }

    /// The description that was recorded with it (JSON).
    pub fn description(&self) -> &[u8] {
        &self.parts.description
    }

    /// The number of units in the full width.
    pub fn full_units(&self) -> u64 {
        self.parts.full
    }

    /// The names of the weights. [`GraphTensorName`](crate::GraphTensorName) reads them.
    ///
    /// # Errors
    /// `Malformed` for a damaged skeleton.
    pub fn weights(&self) -> Result<BTreeSet<&str>> {
        let buffers = self.parts.models.iter().flat_map(|model| &model.buffers);
        let names = buffers.filter_map(|content| match content {
            Content::Weight(_, name) => Some(graph::text(&self.parts, *name)),
            _ => None,
        });
        names.collect()
    }

    /// The bundle at a width of so many units. `weight` finds a tensor by its name among those of [`weights`](Self::weights), `tensors` has
    /// it.
    ///
    /// # Errors
    /// Those of `weight`; `Malformed` for tensors of other shapes than the graph's.
    pub fn bundle(
        &self,
        units: u64,
        weight: &dyn Fn(&str) -> Result<SkeletonWeight>,
        sections: SkeletonSections,
        tensors: &dyn TensorSource,
    ) -> Result<EmptyBundle> {
        let mut streams = self.streams.clone();
        let mut models = BTreeMap::new();
        for model in &self.parts.models {
            let graph = graph::build(&self.parts, &mut streams, model, units, &|_, name| weight(name))?;
            models.insert(graph.model_type.clone(), graph);
        }
        let plain = |bytes: &[u8]| (bytes.len() as u64, vec![(0, bytes.to_vec())], Vec::new());
        let header = Bundle::of_header(&self.parts.header)?;
        let mut contents = Vec::new();
        for section in &header.sections {
            contents.push(match section.content {
                SectionType::METADATA => plain(&sections.metadata),
                SectionType::TOKENIZER => plain(&sections.tokenizer),
                SectionType::MODEL => {
                    let graph = section.model_type().and_then(|model_type| models.remove(model_type));
                    let graph = graph.ok_or_else(|| Error::missing(section.title()))?;
                    (graph.len, graph.pieces, graph.weights)
                }
                _ => plain(&self.parts.executor),
            });
        }
        let lengths: Vec<u64> = contents.iter().map(|(len, ..)| *len).collect();
        let layout = header.with_lengths(&lengths);
        let mut source = SparseSource { len: layout.file_len, pieces: BTreeMap::new() };
        source.pieces.insert(0, named(layout.header, &header, sections.id));
        let mut weights = Vec::new();
        for (section, (range, (_, pieces, of_model))) in layout.ranges.iter().zip(contents).enumerate() {
            source.pieces.extend(pieces.into_iter().map(|(at, bytes)| (range.start + at, bytes)));
            weights.push((section, of_model));
        }
        let bundle = Bundle::read(&source)?;
        let mut mapped = Vec::new();
        for (section, weights) in weights.into_iter().filter(|(_, weights)| !weights.is_empty()) {
            let part = bundle.part(&source, &bundle.sections[section])?;
            let title = bundle.sections[section].title();
            let found = assign(section, Model::read(&part)?, &weights, tensors);
            mapped.push(found.map_err(|e| e.within(title))?);
        }
        Ok(EmptyBundle { bundle, source, mapped })
    }
}

/// The header with an id and a time of its own: the same for the same input.
fn named(mut header: Vec<u8>, bundle: &Bundle, id: [u8; 16]) -> Vec<u8> {
    let hex = base::hex(&id);
    let uuid = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    let time = "1970-01-01T00:00:00.000000+00:00";
    for (key, value) in [("uuid", uuid.as_str()), ("creation_timestamp", time)] {
        let old = bundle.items.iter().find(|(name, _)| name == key).map(|(_, old)| old.to_string());
        let Some(old) = old.filter(|old| old.len() == value.len()) else { continue };
        if let Some(at) = header.windows(old.len()).position(|bytes| bytes == old.as_bytes()) {
            header[at..at + value.len()].copy_from_slice(value.as_bytes());
        }
    }
    header
}

/// The constants of the weights.
fn assign(
    section: usize,
    model: Model,
    weights: &[(usize, usize)],
    tensors: &dyn TensorSource,
) -> Result<Mapped> {
    let mut assignments = Vec::new();
    for constant in constants(&model)? {
        let Some((_, tensor)) = weights.iter().find(|(buffer, _)| *buffer == constant.buffer) else {
            continue;
        };
        let desc = &tensors.tensors()[*tensor];
        if (desc.rows(), desc.cols()) != (constant.rows, constant.cols) || constant.encoding.is_none() {
            return Err(Error::malformed(format!("tensor {}", desc.name), "it does not fit the graph")
                .expected(constant.title(), format!("{:?}", desc.shape)));
        }
        assignments.push(Assignment { constant, tensors: vec![*tensor], is_equal: true });
    }
    if assignments.len() != weights.len() {
        return Err(Error::malformed("skeleton", "weights that are no constants")
            .expected(weights.len(), assignments.len()));
    }
    Ok(Mapped { section, model, assignments, folded: Vec::new() })
}

/// Bytes that are zero but for some pieces.
#[derive(Clone, Debug)]
pub struct SparseSource {
    len: u64,
    /// By their positions. They do not overlap.
    pieces: BTreeMap<u64, Vec<u8>>,
}

impl Source for SparseSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        within(offset, out.len() as u64, self.len)?;
        out.fill(0);
        let end = offset + out.len() as u64;
        for (start, bytes) in self.pieces.range(..end).rev() {
            let stop = start + bytes.len() as u64;
            if stop <= offset {
                break;
            }
            let (from, to) = (offset.max(*start), end.min(stop));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }
}
