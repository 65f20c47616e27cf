//! The models of a skeleton at a width: the operations are done once more, with the numbers of that width.
//!
//! As ai-edge-quantizer writes them: buffers of 1,024 bytes or more follow the flatbuffer, at multiples of 16, unless all of them
//! together have less than 256 KiB.

use quant::{IntegerBits, Integers};
use tensor::{Error, Result};

use super::builder::{Builder, Field};
use super::format::{
    BUFFER, Content, Kind, Model, Parts, REFERENCES, STRING, Streams, TABLE, VECTOR, Values, wrong,
};
use crate::constants::ConstantEncoding;

const IDENTIFIER: [u8; 4] = *b"TFL3";
/// The fewest bytes of a buffer after the flatbuffer, and of all of them.
const APART: u64 = 1 << 10;
const ALL_APART: u64 = 256 << 10;
const ALIGNMENT: u64 = 16;
/// Slots of the table `Buffer`.
const DATA: usize = 0;
const OFFSET: usize = 1;
const SIZE: usize = 2;

/// A tensor of the checkpoint that a skeleton asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkeletonWeight {
    /// Its index in the checkpoint.
    pub tensor: usize,
    /// Number of its values.
    pub elements: u64,
    /// Bits of a value, if it is a matrix that the exporter quantizes.
    pub bits: IntegerBits,
}

/// A model without weights.
pub(super) struct Graph {
    pub(super) model_type: String,
    /// The flatbuffer, and other bytes by their positions. All bytes between them are zero.
    pub(super) pieces: Vec<(u64, Vec<u8>)>,
    pub(super) len: u64,
    /// The buffers that are weights, and the indices of their tensors.
    pub(super) weights: Vec<(usize, usize)>,
}

/// A buffer at a width.
enum Bytes {
    None,
    Known(Vec<u8>),
    /// So many bytes of weights.
    Weights(u64),
}

impl Bytes {
    fn len(&self) -> u64 {
        match self {
            Bytes::None => 0,
            Bytes::Known(bytes) => bytes.len() as u64,
            Bytes::Weights(len) => *len,
        }
    }
}

/// Builds the next model of the streams. `weight` gets the number of the buffer and the name of the tensor.
pub(super) fn build(
    parts: &Parts,
    streams: &mut Streams,
    model: &Model,
    units: u64,
    weight: &dyn Fn(usize, &str) -> Result<SkeletonWeight>,
) -> Result<Graph> {
    let mut weights = Vec::new();
    let mut types = vec![0; model.buffers.len()];
    let mut buffers = Vec::new();
    for (number, content) in model.buffers.iter().enumerate() {
        if let Content::Weight(bits, name) = content {
            let weight = weight(number, text(parts, *name)?)?;
            weights.push((number, weight.tensor));
            let bits = match bits {
                32 => 32,
                _ => {
                    types[number] =
                        ConstantEncoding::Integers(Integers { bits: weight.bits, block: None }).element().0;
                    weight.bits.count() as u64
                }
            };
            buffers.push(Bytes::Weights((weight.elements * bits).div_ceil(8)));
        } else {
            buffers.push(values(parts, content, units)?);
        }
    }
    let apart = |bytes: &Bytes| bytes.len() >= APART;
    let all = buffers.iter().filter(|b| apart(b)).map(|b| b.len().next_multiple_of(ALIGNMENT)).sum::<u64>();
    let is_apart: Vec<bool> = buffers.iter().map(|b| all >= ALL_APART && apart(b)).collect();

    let mut replay =
        Replay { parts, units, builder: Builder::default(), offsets: Vec::new(), places: Vec::new() };
    let mut next = buffers.iter().zip(&is_apart).enumerate();
    for _ in 0..model.operations {
        match streams.kinds.number()? {
            BUFFER => {
                let (number, (bytes, is_apart)) = next.next().ok_or_else(wrong)?;
                replay.buffer(number, bytes, *is_apart)?;
            }
            kind => replay.operation(kind, streams, &types)?,
        }
    }
    let Replay { builder, offsets, places, .. } = replay;
    let root = *offsets.last().ok_or_else(wrong)?;
    let mut flatbuffer = builder.finish(root, IDENTIFIER)?;

    let mut len = (flatbuffer.len() as u64).next_multiple_of(ALIGNMENT);
    let mut pieces = Vec::new();
    let apart = buffers.into_iter().zip(is_apart).enumerate().filter(|(_, (_, is_apart))| *is_apart);
    for (number, (bytes, _)) in apart {
        let size = bytes.len();
        let places = places.iter().find(|(buffer, _)| *buffer == number).map(|(_, places)| places);
        for (from_end, value) in places.ok_or_else(wrong)?.iter().zip([len, size]) {
            let at = flatbuffer.len() - from_end;
            flatbuffer[at..at + size_of::<u64>()].copy_from_slice(&value.to_le_bytes());
        }
        if let Bytes::Known(bytes) = bytes {
            pieces.push((len, bytes));
        }
        len = (len + size).next_multiple_of(ALIGNMENT);
    }
    if pieces.is_empty() && places.is_empty() {
        len = flatbuffer.len() as u64;
    }
    pieces.insert(0, (0, flatbuffer));
    Ok(Graph { model_type: text(parts, model.model_type)?.to_owned(), pieces, len, weights })
}

pub(super) fn text(parts: &Parts, number: usize) -> Result<&str> {
    let bytes = parts.strings.get(number).ok_or_else(wrong)?;
    std::str::from_utf8(bytes).map_err(|_| wrong())
}

/// The bytes of a buffer that is no weight.
fn values(parts: &Parts, content: &Content, units: u64) -> Result<Bytes> {
    Ok(Bytes::Known(match content {
        Content::None | Content::Weight(..) => return Ok(Bytes::None),
        Content::Bytes(bytes) => bytes.clone(),
        Content::Integers(lines) => {
            let mut bytes = Vec::new();
            for line in lines {
                bytes.extend(i32::try_from(line.at(units)?).map_err(|_| wrong())?.to_le_bytes());
            }
            bytes
        }
        Content::Root(width, is_inverse) => {
            let width = width.checked_mul(units).ok_or_else(wrong)? as f64;
            let value = if *is_inverse { width.powf(-0.5) } else { width.sqrt() };
            (value as f32).to_le_bytes().into()
        }
        Content::Repeated(value, count) => value.repeat(count.count(units, value.len())?),
        Content::Frequencies(table, count) => {
            let table = parts.frequencies.get(*table).ok_or_else(wrong)?;
            let count = count.count(units, size_of::<f32>())?;
            if count == 0 || !table.len().is_multiple_of(count) {
                return Err(wrong());
            }
            table.iter().step_by(table.len() / count).flatten().copied().collect()
        }
    }))
}

/// Operations that were done so far.
struct Replay<'a> {
    parts: &'a Parts,
    units: u64,
    builder: Builder,
    /// What each operation made.
    offsets: Vec<usize>,
    /// Buffers after the flatbuffer, and where their offset and size are.
    places: Vec<(usize, Vec<usize>)>,
}

impl Replay<'_> {
    /// The offset of what was made `distance` operations before this one.
    fn before(&self, distance: usize) -> Result<usize> {
        let number = self.offsets.len().checked_sub(distance).ok_or_else(wrong)?;
        self.offsets.get(number).copied().ok_or_else(wrong)
    }

    fn buffer(&mut self, number: usize, bytes: &Bytes, is_apart: bool) -> Result<()> {
        let data = match bytes {
            _ if is_apart => None,
            Bytes::None => None,
            Bytes::Known(bytes) => Some(self.builder.vector(1, 1, bytes)?),
            Bytes::Weights(len) => Some(self.builder.zeros(1, 1, *len as usize)?),
        };
        let fields = match (is_apart, data) {
            (true, _) => vec![(OFFSET, Field::Number(8, 0)), (SIZE, Field::Number(8, 0))],
            (_, Some(data)) => vec![(DATA, Field::Reference(data))],
            (_, None) => Vec::new(),
        };
        let (offset, places) = self.builder.table(&fields)?;
        if is_apart {
            self.places.push((number, places));
        }
        self.offsets.push(offset);
        Ok(())
    }

    fn operation(&mut self, kind: u64, streams: &mut Streams, types: &[u8]) -> Result<()> {
        let offset = match kind {
            TABLE => {
                let layout = self.parts.layouts.get(streams.layouts.index()?).ok_or_else(wrong)?;
                let mut fields = Vec::new();
                for (slot, kind) in layout {
                    fields.push((
                        *slot,
                        match kind {
                            Kind::Number(size) => Field::Number(*size, streams.fields.signed()?),
                            Kind::Reference => Field::Reference(self.before(streams.references.index()?)?),
                            Kind::Type => {
                                let buffer =
                                    usize::try_from(streams.fields.signed()?).map_err(|_| wrong())?;
                                Field::Number(1, i64::from(*types.get(buffer).ok_or_else(wrong)?))
                            }
                        },
                    ));
                }
                self.builder.table(&fields)?.0
            }
            VECTOR => {
                let numbers = self.parts.vectors.get(streams.vectors.step()?).ok_or_else(wrong)?;
                let (size, alignment) = (numbers.size, numbers.alignment);
                match &numbers.values {
                    Values::Zeros(count) => {
                        self.builder.zeros(size, alignment, count.count(self.units, size)?)?
                    }
                    Values::Lines(lines) => {
                        let mut bytes = Vec::new();
                        for line in lines {
                            bytes.extend(&line.at(self.units)?.to_le_bytes()[..size]);
                        }
                        self.builder.vector(size, alignment, &bytes)?
                    }
                    Values::Words(bytes, words) => {
                        let mut bytes = bytes.clone();
                        for (at, len, line) in words {
                            let value = line.at(self.units)?.to_le_bytes();
                            if value[*len..].iter().any(|byte| *byte != 0) {
                                return Err(wrong());
                            }
                            bytes[*at..at + len].copy_from_slice(&value[..*len]);
                        }
                        self.builder.vector(size, alignment, &bytes)?
                    }
                }
            }
            REFERENCES => {
                let count = streams.references.number()?;
                let mut number = None;
                let mut to = Vec::new();
                for _ in 0..count {
                    let step = streams.references.index()?;
                    let next = match number {
                        None => self.offsets.len().checked_sub(step),
                        Some(last) => usize::checked_add(last, step),
                    };
                    let next = next.ok_or_else(wrong)?;
                    to.push(*self.offsets.get(next).ok_or_else(wrong)?);
                    number = Some(next);
                }
                self.builder.references(&to)?
            }
            STRING => {
                let text = self.parts.strings.get(streams.strings.step()?).ok_or_else(wrong)?;
                self.builder.string(text)?
            }
            _ => return Err(Error::malformed("skeleton", "an unknown operation").expected("0 to 4", kind)),
        };
        self.offsets.push(offset);
        Ok(())
    }
}
