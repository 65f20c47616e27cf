//! A bundle with the weights of another checkpoint of the same shape: planned first, then written in one pass.
//!
//! The graph, the other sections and the header stay as they are, byte for byte; with other types only positions change.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use base::{OutputFile, Progress, Unit};
use quant::{IntegerBits, IntegerScales, Integers};
use rayon::prelude::*;
use tensor::{Error, Result, TensorSource};

use crate::bundle::{Bundle, BundleLayout};
use crate::constants::{Constant, ConstantEncoding, Scales};
use crate::mapping::Mapped;
use crate::retype::{ModelLayout, Retyped, layout};
use crate::source::{self, Source};
use crate::weights::{Weights, rows_at_once};

/// Bytes that are copied at a time.
const CHUNK: u64 = 1 << 20;

/// The types of constants in the new bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleTypes {
    /// As in the old bundle.
    Keep,
    /// Integers with fewer bits get as many.
    AtLeast(IntegerBits),
    /// All integers get as many bits.
    Exactly(IntegerBits),
}

impl fmt::Display for BundleTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BundleTypes::Keep => f.pad("keep"),
            BundleTypes::AtLeast(bits) => write!(f, "at least {} bits", bits.count()),
            BundleTypes::Exactly(bits) => write!(f, "{} bits", bits.count()),
        }
    }
}

impl BundleTypes {
    /// The new encoding of rows of `cols` values.
    fn choose(self, encoding: ConstantEncoding, cols: u64) -> ConstantEncoding {
        let ConstantEncoding::Integers(old) = encoding else { return encoding };
        let bits = match self {
            BundleTypes::Keep => old.bits,
            BundleTypes::AtLeast(bits) => bits.max(old.bits),
            BundleTypes::Exactly(bits) => bits,
        };
        let new = Integers { bits, ..old };
        if new.fits(cols as usize) { ConstantEncoding::Integers(new) } else { encoding }
    }
}

/// How the scales of all integers of a bundle are chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum BundleScales {
    /// By the rule of the exporter.
    MinMax,
    /// By a search, with the weights of columns of tensors by their index in the checkpoint; tensors without have equal weights.
    Search(BTreeMap<usize, Vec<f32>>),
}

impl BundleScales {
    /// The rule for a tensor.
    pub fn of(&self, tensor: usize) -> IntegerScales<'_> {
        match self {
            BundleScales::MinMax => IntegerScales::MinMax,
            BundleScales::Search(weights) => IntegerScales::Search(weights.get(&tensor).map(Vec::as_slice)),
        }
    }
}

/// A constant to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Index of the tensor in the new checkpoint.
    pub tensor: usize,
    /// How it is stored in the old bundle.
    pub before: ConstantEncoding,
    /// How it will be stored.
    pub after: ConstantEncoding,
    rows: u64,
    cols: u64,
    /// Positions in the file of the codes, and of each copy of the scales.
    codes_at: u64,
    scales_at: Vec<u64>,
}

impl Replacement {
    /// Bytes of codes and one copy of scales in an encoding.
    fn bytes(&self, encoding: ConstantEncoding) -> u64 {
        let (codes, scales) = encoding.row_bytes(self.cols as usize);
        self.rows * (codes + scales) as u64
    }

    /// Bytes by which the file grows because of another type.
    pub fn growth(&self) -> u64 {
        self.bytes(self.after).saturating_sub(self.bytes(self.before))
    }

    /// The ranges of the file that it fills.
    fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let (codes, scales) = self.after.row_bytes(self.cols as usize);
        let range = |at: u64, row: usize| at..at + self.rows * row as u64;
        std::iter::once(range(self.codes_at, codes))
            .chain(self.scales_at.iter().map(move |at| range(*at, scales)))
    }
}

/// Every byte of the new bundle, placed.
#[derive(Debug)]
pub struct Transplant {
    /// The constants that are written.
    pub replacements: Vec<Replacement>,
    /// Size of the file.
    pub file_len: u64,
    /// Bytes of the old bundle, and their position in the new one.
    copies: Vec<(Range<u64>, u64)>,
    /// Small pieces, written over copied bytes.
    patches: Vec<(u64, Vec<u8>)>,
}

impl Transplant {
    /// Places the weights of `tuned` where those of `base` are. `counterparts` has, for a tensor of `base`, the index of the
    /// same tensor in `tuned`; `types` gives the types for a tensor of `base`.
    ///
    /// # Errors
    /// `Malformed` for a tensor that `tuned` lacks or that has another shape; `Unsupported` for tensors that share a constant and are
    /// no longer equal, for one that equals a constant of the graph and changes, and for a factor that the exporter left out and that
    /// is no longer 1; those of reading.
    pub fn plan(
        bundle: &Bundle,
        mapped: &[Mapped],
        base: &dyn TensorSource,
        tuned: &dyn TensorSource,
        counterparts: &BTreeMap<usize, usize>,
        types: &dyn Fn(usize) -> BundleTypes,
    ) -> Result<Transplant> {
        let pair = Pair { base, tuned, counterparts };
        let mut lengths: Vec<u64> = bundle.sections.iter().map(|s| s.range.end - s.range.start).collect();
        let mut models: BTreeMap<usize, (&Mapped, ModelLayout)> = BTreeMap::new();
        for mapped in mapped {
            pair.check(mapped).map_err(|e| e.within(bundle.sections[mapped.section].title()))?;
            let layout = model_layout(mapped, types)?;
            lengths[mapped.section] = layout.len;
            models.insert(mapped.section, (mapped, layout));
        }
        let BundleLayout { header, ranges, file_len } = bundle.with_lengths(&lengths);
        let mut plan =
            Transplant { replacements: Vec::new(), file_len, copies: Vec::new(), patches: vec![(0, header)] };
        for (number, (section, range)) in bundle.sections.iter().zip(&ranges).enumerate() {
            match models.get(&number) {
                None => plan.copies.push((section.range.clone(), range.start)),
                Some((mapped, layout)) => {
                    plan.add_model(&pair, mapped, layout, types, [section.range.start, range.start])
                }
            }
        }
        let mut holes: Vec<_> = plan.replacements.iter().flat_map(Replacement::ranges).collect();
        holes.sort_by_key(|hole| hole.start);
        plan.copies = plan.copies.into_iter().flat_map(|copy| without(copy, &holes)).collect();
        Ok(plan)
    }

    fn add_model(
        &mut self,
        pair: &Pair<'_>,
        mapped: &Mapped,
        layout: &ModelLayout,
        types: &dyn Fn(usize) -> BundleTypes,
        [old, new]: [u64; 2],
    ) {
        let copies = layout.copies.iter().map(|(from, to)| (old + from.start..old + from.end, new + to));
        self.copies.extend(copies);
        self.patches.extend(layout.patches.iter().map(|(at, bytes)| (new + at, bytes.clone())));
        for assignment in &mapped.assignments {
            let Constant { buffer, rows, cols, scales, .. } = &assignment.constant;
            let Some(before) = assignment.constant.encoding else { continue };
            let place = |scales: &Scales| match scales {
                Scales::Vector(range) => range.start,
                Scales::Buffer(buffer) => layout.position(&mapped.model, *buffer),
            };
            self.replacements.push(Replacement {
                tensor: pair.counterparts[&assignment.tensors[0]],
                before,
                after: types(assignment.tensors[0]).choose(before, *cols),
                rows: *rows,
                cols: *cols,
                codes_at: new + layout.position(&mapped.model, *buffer),
                scales_at: scales.iter().map(|scales| new + place(scales)).collect(),
            });
        }
    }

    /// Writes the bundle. `from` is the old one; `scales` has indices of `tuned`. The threads of rayon encode.
    ///
    /// # Errors
    /// Those of reading and writing; `Malformed` for weights that are not finite.
    pub fn write(
        &self,
        from: &dyn Source,
        tuned: &dyn TensorSource,
        scales: &BundleScales,
        out: &OutputFile,
        progress: &dyn Progress,
    ) -> Result<()> {
        out.set_len(self.file_len)?;
        let task = progress.begin("bundle", self.file_len, Unit::Bytes);
        for (range, to) in &self.copies {
            for start in range.clone().step_by(CHUNK as usize) {
                let len = CHUNK.min(range.end - start);
                out.write_at(&source::read(from, start, len)?, to + (start - range.start))?;
                task.advance(len);
            }
        }
        for (at, bytes) in &self.patches {
            out.write_at(bytes, *at)?;
        }
        let pieces: Vec<(&Replacement, u64)> = self.replacements.iter().flat_map(pieces).collect();
        pieces.into_par_iter().try_for_each(|(replacement, first)| {
            task.advance(replacement.write(tuned, first, scales, out)?);
            Ok(())
        })
    }
}

/// The first rows of the pieces that are encoded at once.
fn pieces(replacement: &Replacement) -> impl Iterator<Item = (&Replacement, u64)> {
    let step = rows_at_once(replacement.cols) as usize;
    (0..replacement.rows).step_by(step).map(move |first| (replacement, first))
}

impl Replacement {
    /// Writes the piece of rows that begins at `first`; returns its bytes.
    fn write(
        &self,
        tuned: &dyn TensorSource,
        first: u64,
        scales: &BundleScales,
        out: &OutputFile,
    ) -> Result<u64> {
        let count = rows_at_once(self.cols).min(self.rows - first);
        let weights = Weights::new(tuned, self.tensor)?;
        let values = weights.rows(first, count)?;
        let rule = scales.of(self.tensor);
        let (codes, scales) = self.after.encode(self.cols as usize, &values, rule, weights.may_be_grid());
        let (code_bytes, scale_bytes) = self.after.row_bytes(self.cols as usize);
        out.write_at(&codes, self.codes_at + first * code_bytes as u64)?;
        for at in &self.scales_at {
            out.write_at(&scales, at + first * scale_bytes as u64)?;
        }
        Ok((codes.len() + scales.len() * self.scales_at.len()) as u64)
    }
}

fn model_layout(mapped: &Mapped, types: &dyn Fn(usize) -> BundleTypes) -> Result<ModelLayout> {
    let mut retyped = Vec::new();
    for assignment in &mapped.assignments {
        let Constant { buffer, rows, cols, encoding, types_at, .. } = &assignment.constant;
        let Some(before) = *encoding else { continue };
        let after = types(assignment.tensors[0]).choose(before, *cols);
        if after != before {
            let (codes, _) = after.row_bytes(*cols as usize);
            retyped.push(Retyped {
                buffer: *buffer,
                len: rows * codes as u64,
                element: after.element(),
                types_at,
            });
        }
    }
    layout(&mapped.model, &retyped)
}

/// The parts of a copy whose targets are outside of `holes`, which are in order.
fn without((from, to): (Range<u64>, u64), holes: &[Range<u64>]) -> Vec<(Range<u64>, u64)> {
    let end = to + (from.end - from.start);
    let mut parts = Vec::new();
    let mut at = to;
    let first = holes.partition_point(|hole| hole.end <= to);
    for hole in holes[first..].iter().take_while(|hole| hole.start < end) {
        parts.push(at..hole.start.max(at));
        at = hole.end.max(at);
    }
    parts.push(at..end.max(at));
    parts.retain(|part| !part.is_empty());
    let source = |at: u64| from.start + (at - to);
    parts.into_iter().map(|part| (source(part.start)..source(part.end), part.start)).collect()
}

/// The checkpoint of the bundle and the new one.
struct Pair<'a> {
    base: &'a dyn TensorSource,
    tuned: &'a dyn TensorSource,
    counterparts: &'a BTreeMap<usize, usize>,
}

impl<'a> Pair<'a> {
    fn weights(&self, index: usize) -> Result<(Weights<'a>, Weights<'a>)> {
        let base = Weights::new(self.base, index)?;
        let desc = base.desc();
        let place = format!("tensor {}", desc.name);
        let tuned = self.counterparts.get(&index).ok_or_else(|| Error::missing(&place))?;
        let tuned = Weights::new(self.tuned, *tuned)?;
        if (tuned.desc().rows(), tuned.desc().cols()) != (desc.rows(), desc.cols()) {
            return Err(Error::malformed(place, "another shape than in the base checkpoint")
                .expected(format!("{:?}", desc.shape), format!("{:?}", tuned.desc().shape)));
        }
        Ok((base, tuned))
    }

    fn check(&self, mapped: &Mapped) -> Result<()> {
        for &index in &mapped.folded {
            let (base, tuned) = self.weights(index)?;
            let value = tuned.rows(0, 1)?;
            if value != [1.0] {
                let place = format!("tensor {}", base.desc().name);
                return Err(Error::unsupported(place, "the graph has no place for it")
                    .expected("1, which the exporter leaves out", value[0])
                    .help("Only a new export has an operator for it."));
            }
        }
        for assignment in &mapped.assignments {
            let (base, tuned) = self.weights(assignment.tensors[0])?;
            let place = || format!("tensor {}", base.desc().name);
            let equal = mapped.assignments.iter().filter(|other| other.tensors == assignment.tensors);
            let uses: usize = equal.map(|equal| equal.constant.uses).sum();
            if uses > assignment.tensors.len() && !tuned.equal(&base)? {
                return Err(Error::unsupported(place(), "the graph uses its values for something else, too")
                    .expected("the values of the base checkpoint", "others")
                    .help("Equal constants cannot be told apart. Only a new export has one of its own."));
            }
            for &other in &assignment.tensors[1..] {
                let (_, other) = self.weights(other)?;
                if !tuned.equal(&other)? {
                    return Err(Error::unsupported(place(), "it shares a constant with another tensor")
                        .expected(format!("the values of {}", other.desc().name), "others")
                        .help("They are equal in the base checkpoint, and the bundle holds them once."));
                }
            }
        }
        Ok(())
    }
}
