//! TFLite models: tensors of every subgraph, their quantization, and where the bytes of every buffer are.
//!
//! Source: `schema.fbs` of ai-edge-litert 2.3.0 (TFL3). Operators are read only as far as the tensors that they use.
//!
//! A buffer holds its bytes in the flatbuffer, or appended after it: then it has their offset from the start of the
//! model, and their size, both u64.

use std::fmt;
use std::ops::Range;

use tensor::{Error, Result};

use crate::flatbuffer::{Flatbuffer, Table};
use crate::source::{Source, within};

const MAGIC: &[u8; 4] = b"TFL3";
/// Bytes that one look at zero points reads.
const CHUNK: u64 = 64 << 10;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ElementType(pub u8);

impl ElementType {
    /// IEEE single precision.
    pub const FLOAT32: ElementType = ElementType(0);
    /// Signed integers of 8 bits.
    pub const INT8: ElementType = ElementType(9);
    /// Signed integers of 4 bits, two a byte.
    pub const INT4: ElementType = ElementType(17);
    /// Signed integers of 2 bits, four a byte.
    pub const INT2: ElementType = ElementType(19);

    /// The name in the schema, where there is one.
    pub const fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 23] = [
            "FLOAT32",
            "FLOAT16",
            "INT32",
            "UINT8",
            "INT64",
            "STRING",
            "BOOL",
            "INT16",
            "COMPLEX64",
            "INT8",
            "FLOAT64",
            "COMPLEX128",
            "UINT64",
            "RESOURCE",
            "VARIANT",
            "UINT32",
            "UINT16",
            "INT4",
            "BFLOAT16",
            "INT2",
            "UINT4",
            "FLOAT8_E4M3FN",
            "FLOAT8_E5M2",
        ];
        if (self.0 as usize) < NAMES.len() { Some(NAMES[self.0 as usize]) } else { None }
    }

    /// Bits of an element, for the types of weights.
    pub(crate) const fn bits(self) -> Option<u64> {
        match self {
            ElementType::FLOAT32 => Some(32),
            ElementType::INT8 => Some(8),
            ElementType::INT4 => Some(4),
            ElementType::INT2 => Some(2),
            _ => None,
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "type {}", self.0),
        }
    }
}

/// The quantization parameters of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// None: the values are the elements.
    None,
    /// f32 scales for the indices of a dimension; one scale for the whole tensor if there is one. All zero points are 0.
    Channel {
        /// Bytes of the scales, in the model.
        scales: Range<u64>,
        /// The dimension.
        dimension: i32,
    },
    /// f16 scales for blocks of a row.
    Block {
        /// The tensor of the same subgraph that holds the scales.
        scales: usize,
        /// Number of values in a block.
        size: u64,
    },
    /// Parameters that this tool does not handle.
    Other,
}

/// A tensor of a subgraph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The name; not unique.
    pub name: String,
    /// Type of the elements.
    pub element: ElementType,
    /// Dimensions, slowest first; negative ones are unknown.
    pub shape: Vec<i32>,
    /// Index of the buffer; an empty one for values that are computed.
    pub buffer: usize,
    /// How elements become values.
    pub quantization: Quantization,
    /// Number of operators of the subgraph that read it, counted once for each input.
    pub uses: usize,
    /// Position of the type in the model, unless it is the default.
    pub(crate) type_at: Option<u64>,
}

/// A graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subgraph {
    /// The name; empty if there is none.
    pub name: String,
    /// The tensors.
    pub tensors: Vec<Tensor>,
    /// Number of operators.
    pub operators: usize,
}

/// Bytes of constants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Bytes of the model; an empty range without data.
    pub range: Range<u64>,
    /// Positions of the u64 that hold offset and size, for bytes after the flatbuffer.
    pub(crate) appended: Option<[u64; 2]>,
    /// Position of the reference to the buffer's table.
    pub(crate) reference: u64,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The graphs: one a signature, and the decompositions of composite operators.
    pub subgraphs: Vec<Subgraph>,
    /// The buffers that tensors refer to.
    pub buffers: Vec<Buffer>,
    /// Size of the model.
    pub len: u64,
    /// Size of the flatbuffer: the position of the first appended buffer.
    pub(crate) flatbuffer_len: u64,
}

impl Model {
    /// Reads a model.
    ///
    /// # Errors
    /// `Malformed`; `Unsupported` for weights outside of the model; `Limit`.
    pub fn read(from: &dyn Source) -> Result<Model> {
        let flatbuffer = Flatbuffer::new(from);
        let magic: [u8; 4] = flatbuffer.bytes(4)?;
        if &magic != MAGIC {
            return Err(Error::malformed("model", "not a TFLite model")
                .expected(MAGIC.escape_ascii(), magic.escape_ascii()));
        }
        let root = flatbuffer.root()?;
        if root.vector(8, 4)?.count > 0 || root.vector(9, 4)?.count > 0 {
            return Err(Error::unsupported("model", "its weights are in a section of their own"));
        }
        let mut buffers = Vec::new();
        for (number, (reference, table)) in root.tables(4)?.into_iter().enumerate() {
            let buffer = read_buffer(&table, reference, from.len());
            buffers.push(buffer.map_err(|e| e.within(format!("buffer {number}")))?);
        }
        check_buffers(&buffers)?;
        let appended = buffers.iter().filter(|buffer| buffer.appended.is_some());
        let flatbuffer_len = appended.map(|buffer| buffer.range.start).min().unwrap_or(from.len());
        let mut subgraphs = Vec::new();
        for (number, (_, table)) in root.tables(2)?.into_iter().enumerate() {
            let subgraph = read_subgraph(from, &table, buffers.len());
            subgraphs.push(subgraph.map_err(|e| e.within(format!("subgraph {number}")))?);
        }
        Ok(Model { subgraphs, buffers, len: from.len(), flatbuffer_len })
    }
}

fn read_buffer(table: &Table<'_>, reference: u64, len: u64) -> Result<Buffer> {
    let (offset, size) = (table.u64(1)?, table.u64(2)?);
    let inline = table.vector(0, 1)?;
    // the runtime's rule: offsets of 0 and 1 mean that there is none
    if offset > 1 {
        within(offset, size, len)?;
        if inline.count > 0 {
            return Err(Error::malformed("data", "bytes in the flatbuffer and after it"));
        }
        let places = [table.place(1, 8)?, table.place(2, 8)?];
        let [Some(offset_at), Some(size_at)] = places else { return Err(Error::missing("size")) };
        return Ok(Buffer { range: offset..offset + size, appended: Some([offset_at, size_at]), reference });
    }
    Ok(Buffer { range: inline.at..inline.at + inline.count, appended: None, reference })
}

/// Bytes of two buffers do not overlap, so that one can be replaced without the other.
fn check_buffers(buffers: &[Buffer]) -> Result<()> {
    let mut ranges: Vec<_> = buffers.iter().map(|buffer| &buffer.range).enumerate().collect();
    ranges.retain(|(_, range)| !range.is_empty());
    ranges.sort_by_key(|(_, range)| range.start);
    for pair in ranges.windows(2) {
        let [(first, before), (second, after)] = pair else { continue };
        if after.start < before.end {
            return Err(Error::malformed(format!("buffer {second}"), format!("it overlaps buffer {first}"))
                .expected(format!("a start of at least {}", before.end), after.start));
        }
    }
    Ok(())
}

fn read_subgraph(from: &dyn Source, table: &Table<'_>, buffers: usize) -> Result<Subgraph> {
    let mut tensors = Vec::new();
    for (number, (_, table)) in table.tables(0)?.into_iter().enumerate() {
        let tensor = read_tensor(from, &table, buffers);
        tensors.push(tensor.map_err(|e| e.within(format!("tensor {number}")))?);
    }
    let count = tensors.len();
    for (number, tensor) in tensors.iter().enumerate() {
        if let Quantization::Block { scales, .. } = tensor.quantization
            && scales >= count
        {
            return Err(Error::malformed(format!("tensor {number}"), "there is no such tensor of scales")
                .expected(format!("less than {count}"), scales));
        }
    }
    let operators = table.tables(3)?;
    for (number, (_, operator)) in operators.iter().enumerate() {
        for input in operator.i32s(1)? {
            // −1 is an input that is left out
            let Ok(input) = usize::try_from(input) else { continue };
            let place = || Error::malformed(format!("operator {number}"), "there is no such input");
            let tensor = tensors
                .get_mut(input)
                .ok_or_else(|| place().expected(format!("less than {count}"), input))?;
            tensor.uses += 1;
        }
    }
    Ok(Subgraph { name: table.string(4)?.unwrap_or_default(), tensors, operators: operators.len() })
}

fn read_tensor(from: &dyn Source, table: &Table<'_>, buffers: usize) -> Result<Tensor> {
    let buffer = table.u32(2)? as usize;
    if buffer >= buffers {
        return Err(Error::malformed("buffer", "there is no such buffer")
            .expected(format!("less than {buffers}"), buffer));
    }
    if table.u32(10)? > 0 {
        return Err(Error::unsupported("buffer", "its weights are in a section of their own"));
    }
    let quantization = table.table(4)?.map_or(Ok(Quantization::None), |q| read_quantization(from, &q))?;
    // a sparse tensor has other bytes than its shape says
    let quantization = if table.place(6, 4)?.is_some() { Quantization::Other } else { quantization };
    Ok(Tensor {
        name: table.string(3)?.unwrap_or_default(),
        element: ElementType(table.u8(1)?),
        shape: table.i32s(0)?,
        buffer,
        quantization,
        uses: 0,
        type_at: table.place(1, 1)?,
    })
}

/// `details` of a BlockwiseQuantization.
const BLOCKWISE: u8 = 2;

fn read_quantization(from: &dyn Source, table: &Table<'_>) -> Result<Quantization> {
    let scales = table.vector(2, 4)?;
    match table.u8(4)? {
        0 if scales.count == 0 => Ok(Quantization::None),
        0 => {
            let zero_points = table.vector(3, 8)?;
            // they are read in large pieces, which take less time than other items
            table.count(zero_points.count / 64)?;
            if !is_zero(from, zero_points.at..zero_points.at + 8 * zero_points.count)? {
                return Ok(Quantization::Other);
            }
            let range = scales.at..scales.at + 4 * scales.count;
            Ok(Quantization::Channel { scales: range, dimension: table.i32(6)? })
        }
        BLOCKWISE => {
            let details = table.table(5)?.ok_or_else(|| Error::missing("details"))?;
            let (scales, size) = (details.i32(0)?, details.i32(2)?);
            match (usize::try_from(scales), u64::try_from(size)) {
                (Ok(scales), Ok(size)) if size > 0 && details.i32(1)? <= 0 => {
                    Ok(Quantization::Block { scales, size })
                }
                _ => Ok(Quantization::Other),
            }
        }
        _ => Ok(Quantization::Other),
    }
}

fn is_zero(from: &dyn Source, range: Range<u64>) -> Result<bool> {
    let mut at = range.start;
    while at < range.end {
        let len = CHUNK.min(range.end - at);
        if crate::source::read(from, at, len)?.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += len;
    }
    Ok(true)
}
