//! Construction of a flatbuffer from its end to its start, with the bytes that the flatbuffers package of Python writes.
//!
//! Source: `flatbuffers/builder.py` 25.12. Offsets count bytes from the end of the buffer.

use std::collections::HashMap;

use tensor::{Error, Result};

/// Size of a reference and of a count.
const WORD: usize = 4;

/// A flatbuffer under construction.
#[derive(Default)]
pub(super) struct Builder {
    /// The bytes, last one first.
    reversed: Vec<u8>,
    /// The known vtables, and their offsets.
    vtables: HashMap<Vec<u16>, usize>,
    /// The largest alignment so far.
    alignment: usize,
}

/// A field of a table.
pub(super) enum Field {
    /// A number of 1, 2, 4 or 8 bytes.
    Number(usize, i64),
    /// The offset of what it refers to.
    Reference(usize),
}

impl Builder {
    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.reversed.len()
    }

    /// Pads, so that `size` bytes are aligned after `following` more.
    fn align(&mut self, size: usize, following: usize) {
        self.alignment = self.alignment.max(size);
        let end = (self.len() + following).next_multiple_of(size);
        self.reversed.resize(end - following, 0);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.reversed.extend(bytes.iter().rev());
    }

    fn number(&mut self, size: usize, value: i64) {
        self.align(size, 0);
        self.put(&value.to_le_bytes()[..size]);
    }

    fn reference(&mut self, to: usize) -> Result<()> {
        self.align(WORD, 0);
        let distance = (self.len() + WORD).checked_sub(to).and_then(|distance| u32::try_from(distance).ok());
        let distance = distance.ok_or_else(|| Error::limit("flatbuffer", "a reference beyond its reach"))?;
        self.put(&distance.to_le_bytes());
        Ok(())
    }

    fn count(&mut self, count: usize) -> Result<usize> {
        let count = u32::try_from(count).map_err(|_| Error::limit("flatbuffer", "too many items"))?;
        self.put(&count.to_le_bytes());
        Ok(self.len())
    }

    /// A vector of items of `size` bytes.
    pub(super) fn vector(&mut self, size: usize, alignment: usize, bytes: &[u8]) -> Result<usize> {
        self.align(WORD, bytes.len());
        self.align(alignment, bytes.len());
        self.put(bytes);
        self.count(bytes.len() / size)
    }

    /// A vector of `count` items of `size` bytes, all zero.
    pub(super) fn zeros(&mut self, size: usize, alignment: usize, count: usize) -> Result<usize> {
        self.align(WORD, size * count);
        self.align(alignment, size * count);
        self.reversed.resize(self.len() + size * count, 0);
        self.count(count)
    }

    /// A vector of references.
    pub(super) fn references(&mut self, to: &[usize]) -> Result<usize> {
        self.align(WORD, WORD * to.len());
        for to in to.iter().rev() {
            self.reference(*to)?;
        }
        self.count(to.len())
    }

    /// A string.
    pub(super) fn string(&mut self, text: &[u8]) -> Result<usize> {
        self.align(WORD, text.len() + 1);
        self.put(&[0]);
        self.put(text);
        self.count(text.len())
    }

    /// A table: its fields by slot, in the order in which they are written. Returns its offset, and those of the fields.
    pub(super) fn table(&mut self, fields: &[(usize, Field)]) -> Result<(usize, Vec<usize>)> {
        let end = self.len();
        let mut offsets = Vec::new();
        for (_, field) in fields {
            match field {
                Field::Number(size, value) => self.number(*size, *value),
                Field::Reference(to) => self.reference(*to)?,
            }
            offsets.push(self.len());
        }
        self.align(WORD, 0);
        self.put(&[0; WORD]);
        let at = self.len();
        let slots = fields.iter().map(|(slot, _)| slot + 1).max().unwrap_or(0);
        let mut vtable = vec![0; slots + 2];
        vtable[0] = 2 * (slots as u16 + 2);
        vtable[1] = (at - end) as u16;
        for ((slot, _), offset) in fields.iter().zip(&offsets) {
            vtable[slot + 2] = (at - offset) as u16;
        }
        let vtable_at = match self.vtables.get(&vtable) {
            Some(known) => *known,
            None => {
                vtable.iter().rev().for_each(|entry| self.number(2, i64::from(*entry)));
                self.vtables.insert(vtable, self.len());
                self.len()
            }
        };
        // a positive distance leads back to the vtable
        let distance = (vtable_at as i64 - at as i64) as i32;
        for (place, byte) in self.reversed[at - WORD..at].iter_mut().rev().zip(distance.to_le_bytes()) {
            *place = byte;
        }
        Ok((at, offsets))
    }

    /// The flatbuffer with its root and identifier.
    pub(super) fn finish(mut self, root: usize, identifier: [u8; 4]) -> Result<Vec<u8>> {
        self.align(self.alignment, 2 * WORD);
        self.align(WORD, WORD);
        self.put(&identifier);
        self.reference(root)?;
        self.reversed.reverse();
        Ok(self.reversed)
    }
}
