//! The constants of a model that may be weights: a buffer, and what all tensors say about it.
//!
//! Every subgraph has tensors of its own for a constant. They share its buffer, and each has a copy of its scales.

use std::collections::BTreeMap;
use std::ops::Range;

use quant::{IntegerBits, IntegerScales, Integers};
use tensor::{Error, Result};

use crate::tflite::{ElementType, Model, Quantization, Tensor};

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConstantEncoding {
    /// f32 values.
    Float32,
    /// Codes, and scales in another place.
    Integers(Integers),
}

impl ConstantEncoding {
    /// True if rows of `cols` values can be encoded one by one.
    pub(crate) fn fits(self, cols: usize) -> bool {
        match self {
            ConstantEncoding::Float32 => cols > 0,
            ConstantEncoding::Integers(integers) => integers.fits(cols),
        }
    }

    /// Bytes of the codes and of the scales of a row.
    pub(crate) fn row_bytes(self, cols: usize) -> (usize, usize) {
        match self {
            ConstantEncoding::Float32 => (4 * cols, 0),
            ConstantEncoding::Integers(integers) => (integers.code_bytes(cols), integers.scale_bytes(cols)),
        }
    }

    /// Encodes whole rows: codes and scales. With `keep_grid`, rows that are codes times a scale keep both.
    pub(crate) fn encode(
        self,
        cols: usize,
        x: &[f32],
        rule: IntegerScales<'_>,
        keep_grid: bool,
    ) -> (Vec<u8>, Vec<u8>) {
        match self {
            ConstantEncoding::Float32 => (x.iter().flat_map(|x| x.to_le_bytes()).collect(), Vec::new()),
            ConstantEncoding::Integers(integers) => {
                let rows = x.len() / cols;
                let mut codes = vec![0; rows * integers.code_bytes(cols)];
                let mut scales = vec![0; rows * integers.scale_bytes(cols)];
                integers.encode(cols, x, rule, &mut codes, &mut scales);
                if keep_grid {
                    integers.keep_grid(cols, x, &mut codes, &mut scales);
                }
                (codes, scales)
            }
        }
    }

    /// Decodes whole rows.
    pub(crate) fn decode(self, cols: usize, codes: &[u8], scales: &[u8]) -> Vec<f32> {
        match self {
            ConstantEncoding::Float32 => {
                codes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
            ConstantEncoding::Integers(integers) => {
                let mut out = vec![0.0; codes.len() * integers.bits.per_byte()];
                integers.decode(cols, codes, scales, &mut out);
                out
            }
        }
    }

    /// The type of the elements.
    pub fn element(self) -> ElementType {
        match self {
            ConstantEncoding::Float32 => ElementType::FLOAT32,
            ConstantEncoding::Integers(integers) => match integers.bits {
                IntegerBits::Two => ElementType::INT2,
                IntegerBits::Four => ElementType::INT4,
                IntegerBits::Eight => ElementType::INT8,
            },
        }
    }
}

/// A copy of the scales of a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// A vector in the flatbuffer: bytes of the model.
    Vector(Range<u64>),
    /// A buffer.
    Buffer(usize),
}

impl Scales {
    fn order(&self) -> (u64, usize) {
        match self {
            Scales::Vector(range) => (range.start, 0),
            Scales::Buffer(buffer) => (0, *buffer),
        }
    }
}

/// A constant that may be a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constant {
    /// Index of its buffer.
    pub buffer: usize,
    /// Name of the first tensor, for messages.
    pub name: String,
    /// Number of rows: all dimensions but the last.
    pub rows: u64,
    /// Number of values in a row.
    pub cols: u64,
    /// How the values are stored; `None` for quantization that this tool does not handle.
    pub encoding: Option<ConstantEncoding>,
    /// The largest number of inputs of operators that read it in a subgraph.
    pub uses: usize,
    /// The copies of its scales.
    pub(crate) scales: Vec<Scales>,
    /// Positions of the types of its tensors.
    pub(crate) types_at: Vec<u64>,
}

impl Constant {
    /// How the values are stored, in words: `INT4 in blocks of 32`.
    pub fn kind(&self) -> String {
        match self.encoding {
            None => "another quantization".into(),
            Some(encoding @ ConstantEncoding::Integers(Integers { block: Some(size), .. })) => {
                format!("{} in blocks of {size}", encoding.element())
            }
            Some(encoding @ ConstantEncoding::Integers(_)) => format!("{} a row", encoding.element()),
            Some(ConstantEncoding::Float32) => ElementType::FLOAT32.to_string(),
        }
    }

    /// The end of the name, which is a long path of Python modules, and the shape; for messages.
    pub fn title(&self) -> String {
        let parts: Vec<_> = self.name.trim_end_matches(';').split('/').collect();
        let classes = parts[parts.len().saturating_sub(3)..].iter().map(|part| part.rsplit('.').next());
        let name = classes.map(Option::unwrap_or_default).collect::<Vec<_>>().join("/");
        format!("{name} [{}, {}]", self.rows, self.cols)
    }
}

/// The constants of a model that may be weights, in the order of their buffers: all f32 and quantized ones.
///
/// # Errors
/// `Malformed` if the size of a buffer does not fit its tensors, or tensors disagree; `Unsupported` for scales that two
/// constants share.
pub fn constants(model: &Model) -> Result<Vec<Constant>> {
    let mut found: BTreeMap<usize, (Constant, BTreeMap<usize, usize>)> = BTreeMap::new();
    for (number, subgraph) in model.subgraphs.iter().enumerate() {
        for tensor in &subgraph.tensors {
            let Some(read) = constant(model, &subgraph.tensors, tensor)? else { continue };
            let uses = |uses: &mut BTreeMap<usize, usize>| *uses.entry(number).or_default() += tensor.uses;
            if let Some((known, by_subgraph)) = found.get_mut(&tensor.buffer) {
                if (known.rows * known.cols, known.encoding) != (read.rows * read.cols, read.encoding) {
                    let place = format!("tensor {}", tensor.name);
                    return Err(Error::malformed(place, "it shares a buffer with a tensor of another kind")
                        .expected(known.title(), read.title()));
                }
                uses(by_subgraph);
                known.scales.extend(read.scales);
                known.types_at.extend(read.types_at);
            } else {
                let mut by_subgraph = BTreeMap::new();
                uses(&mut by_subgraph);
                found.insert(tensor.buffer, (read, by_subgraph));
            }
        }
    }
    let mut constants = Vec::new();
    for (mut constant, uses) in found.into_values() {
        constant.uses = uses.into_values().max().unwrap_or(0);
        constant.types_at.sort_unstable();
        constant.types_at.dedup();
        constant.scales.sort_by_key(Scales::order);
        constant.scales.dedup();
        constants.push(constant);
    }
    check_scales(model, &constants)?;
    Ok(constants)
}

/// A tensor with scales whose values are computed: its scales were measured on texts, and belong to the old weights.
pub fn static_activation(model: &Model) -> Option<&Tensor> {
    let tensors = model.subgraphs.iter().flat_map(|subgraph| &subgraph.tensors);
    tensors.into_iter().find(|tensor| {
        tensor.quantization != Quantization::None && model.buffers[tensor.buffer].range.is_empty()
    })
}

/// What a tensor says about its buffer; `None` if it is no weight.
fn constant(model: &Model, subgraph: &[Tensor], tensor: &Tensor) -> Result<Option<Constant>> {
    let buffer = &model.buffers[tensor.buffer].range;
    let Some(bits) = tensor.element.bits() else { return Ok(None) };
    let unused = tensor.element != ElementType::FLOAT32 && tensor.quantization == Quantization::None;
    if buffer.is_empty() || unused {
        return Ok(None);
    }
    let place = || format!("tensor {}", tensor.name);
    let shape: Option<Vec<u64>> = tensor.shape.iter().map(|n| u64::try_from(*n).ok()).collect();
    let elements = shape.as_ref().and_then(|s| s.iter().try_fold(1u64, |n, d| n.checked_mul(*d)));
    let expected = elements.and_then(|n| n.checked_mul(bits)).map(|bits| bits.div_ceil(8));
    let found = buffer.end - buffer.start;
    let (Some(shape), true) = (shape, expected == Some(found)) else {
        return Err(Error::malformed(
            place(),
            format!("its buffer does not fit its shape {:?}", tensor.shape),
        )
        .expected(expected.map_or("a possible size".into(), |n| format!("{n} bytes")), found));
    };
    let cols = shape.last().copied().unwrap_or(1);
    let rows = shape.iter().rev().skip(1).product();
    let bits = match tensor.element {
        ElementType::INT8 => Some(IntegerBits::Eight),
        ElementType::INT4 => Some(IntegerBits::Four),
        ElementType::INT2 => Some(IntegerBits::Two),
        _ => None,
    };
    let (encoding, scales) = match (bits, &tensor.quantization) {
        (None, Quantization::None) => (Some(ConstantEncoding::Float32), None),
        (Some(bits), Quantization::Channel { scales, dimension: 0 })
            if scales.end - scales.start == 4 * rows && shape.len() == 2 =>
        {
            let encoding = ConstantEncoding::Integers(Integers { bits, block: None });
            (Some(encoding), Some(Scales::Vector(scales.clone())))
        }
        (Some(bits), Quantization::Block { scales, size }) => {
            let buffer = subgraph[*scales].buffer;
            let range = &model.buffers[buffer].range;
            let expected = if cols.is_multiple_of(*size) { rows * (cols / size) * 2 } else { 0 };
            let found = range.end - range.start;
            if found != expected || expected == 0 {
                return Err(Error::malformed(place(), "its scales do not fit its shape")
                    .expected(format!("{expected} bytes"), found));
            }
            let encoding = ConstantEncoding::Integers(Integers { bits, block: Some(*size as usize) });
            (Some(encoding), Some(Scales::Buffer(buffer)))
        }
        _ => (None, None),
    };
    Ok(Some(Constant {
        buffer: tensor.buffer,
        name: tensor.name.clone(),
        rows,
        cols,
        encoding: encoding.filter(|encoding| encoding.fits(cols as usize)),
        uses: 0,
        scales: scales.into_iter().collect(),
        types_at: tensor.type_at.into_iter().collect(),
    }))
}

/// The scales of two constants do not overlap, and are not a constant themselves.
fn check_scales(model: &Model, constants: &[Constant]) -> Result<()> {
    let mut ranges: Vec<(Range<u64>, usize)> = Vec::new();
    for (number, constant) in constants.iter().enumerate() {
        ranges.push((model.buffers[constant.buffer].range.clone(), number));
        ranges.extend(constant.scales.iter().map(|scales| match scales {
            Scales::Vector(range) => (range.clone(), number),
            Scales::Buffer(buffer) => (model.buffers[*buffer].range.clone(), number),
        }));
    }
    ranges.sort_by_key(|(range, _)| range.start);
    for pair in ranges.windows(2) {
        let [(before, a), (after, b)] = pair else { continue };
        if after.start < before.end {
            let (a, b) = (&constants[*a], &constants[*b]);
            return Err(Error::unsupported(
                format!("constant {}", b.name),
                "it shares bytes with another one",
            )
            .expected("bytes of its own", format!("bytes of {}", a.name)));
        }
    }
    Ok(())
}
