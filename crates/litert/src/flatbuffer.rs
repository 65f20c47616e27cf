//! Bounded access to flatbuffers, without a schema: tables, their fields by slot, vectors and strings.
//!
//! Every position is checked against the length before it is read, and the number of items and text bytes in all is
//! limited: many offsets may lead to one vector, so that the length of the file bounds neither time nor memory.
//!
//! Source: "FlatBuffers internals" of google/flatbuffers. A table begins with the (signed) distance back to its vtable;
//! the vtable has its own size, that of the table, and the offset of each field in the table, 0 if absent. Tables,
//! vectors and strings are referred to by an unsigned 32-bit distance forward.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use tensor::{Error, Result};

use crate::source::{Source, within};

/// Bytes of a page, the unit of reading.
const PAGE: u64 = 4096;
/// Pages in memory: 16 MiB. A graph of E2B has 6 MB.
const MAX_PAGES: usize = 4096;
/// Limit of vector items and text bytes in all. A graph of E2B has 9,831 tensors and 6,374 operators.
const MAX_ITEMS: u64 = 1 << 25;

/// A flatbuffer that begins at byte 0 of a source.
pub(crate) struct Flatbuffer<'a> {
    from: &'a dyn Source,
    pages: RefCell<HashMap<u64, Vec<u8>>>,
    items: Cell<u64>,
}

impl<'a> Flatbuffer<'a> {
    pub(crate) fn new(from: &'a dyn Source) -> Self {
        Flatbuffer { from, pages: RefCell::default(), items: Cell::new(0) }
    }

    /// The root table.
    pub(crate) fn root(&self) -> Result<Table<'_>> {
        Table::at(self, u64::from(u32::from_le_bytes(self.bytes(0)?)))
    }

    /// The bytes at a position.
    pub(crate) fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        within(at, N as u64, self.from.len())?;
        let mut out = [0; N];
        let mut done = 0;
        while done < N {
            let (page, begin) = ((at + done as u64) / PAGE, ((at + done as u64) % PAGE) as usize);
            let mut pages = self.pages.borrow_mut();
            if pages.len() >= MAX_PAGES && !pages.contains_key(&page) {
                pages.clear();
            }
            let bytes = match pages.entry(page) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let len = PAGE.min(self.from.len() - page * PAGE);
                    new.insert(crate::source::read(self.from, page * PAGE, len)?)
                }
            };
            let bytes = &bytes[begin..];
            let count = bytes.len().min(N - done);
            out[done..done + count].copy_from_slice(&bytes[..count]);
            done += count;
        }
        Ok(out)
    }

    fn u16(&self, at: u64) -> Result<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: u64) -> Result<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    /// The position to which the reference at `at` leads.
    fn follow(&self, at: u64) -> Result<u64> {
        match self.u32(at)? {
            0 => Err(Error::malformed(format!("byte {at}"), "a reference to itself")),
            distance => Ok(at + u64::from(distance)),
        }
    }

    fn count(&self, items: u64) -> Result<()> {
        let items = self.items.get().saturating_add(items);
        self.items.set(items);
        if items > MAX_ITEMS {
            return Err(Error::limit("flatbuffer", "implausibly many items")
                .expected(format!("at most {MAX_ITEMS}"), items));
        }
        Ok(())
    }
}

/// A table.
#[derive(Clone, Copy)]
pub(crate) struct Table<'f> {
    of: &'f Flatbuffer<'f>,
    at: u64,
    len: u64,
    vtable: u64,
    slots: u64,
}

impl<'f> Table<'f> {
    fn at(of: &'f Flatbuffer<'_>, at: u64) -> Result<Table<'f>> {
        let wrong = |problem: &str| Error::malformed(format!("table at byte {at}"), problem);
        let distance = i64::from(i32::from_le_bytes(of.bytes(at)?));
        let vtable =
            u64::try_from(at as i64 - distance).map_err(|_| wrong("its vtable lies before the start"))?;
        let (size, len) = (u64::from(of.u16(vtable)?), u64::from(of.u16(vtable + 2)?));
        if size < 4 || !size.is_multiple_of(2) || len < 4 {
            return Err(wrong("impossible sizes in its vtable"));
        }
        within(vtable, size, of.from.len())?;
        within(at, len, of.from.len())?;
        Ok(Table { of, at, len, vtable, slots: (size - 4) / 2 })
    }

    /// The position of a field of `size` bytes; `None` if it is absent and has its default.
    pub(crate) fn place(&self, slot: u64, size: u64) -> Result<Option<u64>> {
        if slot >= self.slots {
            return Ok(None);
        }
        let offset = u64::from(self.of.u16(self.vtable + 4 + 2 * slot)?);
        if offset == 0 {
            return Ok(None);
        }
        within(offset, size, self.len)?;
        Ok(Some(self.at + offset))
    }

    fn scalar<const N: usize>(&self, slot: u64) -> Result<[u8; N]> {
        self.place(slot, N as u64)?.map_or(Ok([0; N]), |at| self.of.bytes(at))
    }

    /// Counts items that the caller reads on its own.
    pub(crate) fn count(&self, items: u64) -> Result<()> {
        self.of.count(items)
    }

    /// A byte; 0 if absent, like all numbers.
    pub(crate) fn u8(&self, slot: u64) -> Result<u8> {
        Ok(self.scalar::<1>(slot)?[0])
    }

    pub(crate) fn u16(&self, slot: u64) -> Result<u16> {
        self.scalar(slot).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&self, slot: u64) -> Result<u32> {
        self.scalar(slot).map(u32::from_le_bytes)
    }

    pub(crate) fn i32(&self, slot: u64) -> Result<i32> {
        self.scalar(slot).map(i32::from_le_bytes)
    }

    pub(crate) fn u64(&self, slot: u64) -> Result<u64> {
        self.scalar(slot).map(u64::from_le_bytes)
    }

    pub(crate) fn table(&self, slot: u64) -> Result<Option<Table<'f>>> {
        self.place(slot, 4)?.map(|at| Table::at(self.of, self.of.follow(at)?)).transpose()
    }

    /// A vector of items of `size` bytes; empty if absent.
    pub(crate) fn vector(&self, slot: u64, size: u64) -> Result<Vector> {
        let Some(at) = self.place(slot, 4)? else { return Ok(Vector { at: 0, count: 0 }) };
        let at = self.of.follow(at)?;
        let count = u64::from(self.of.u32(at)?);
        within(at + 4, count * size, self.of.from.len())?;
        Ok(Vector { at: at + 4, count })
    }

    /// The tables of a vector, and the positions of the references to them.
    pub(crate) fn tables(&self, slot: u64) -> Result<Vec<(u64, Table<'f>)>> {
        let vector = self.vector(slot, 4)?;
        self.of.count(vector.count)?;
        let at = |n| vector.at + 4 * n;
        (0..vector.count).map(|n| Ok((at(n), Table::at(self.of, self.of.follow(at(n))?)?))).collect()
    }

    /// A vector of 32-bit integers.
    pub(crate) fn i32s(&self, slot: u64) -> Result<Vec<i32>> {
        let vector = self.vector(slot, 4)?;
        self.of.count(vector.count)?;
        (0..vector.count).map(|n| self.of.bytes(vector.at + 4 * n).map(i32::from_le_bytes)).collect()
    }

    /// A string; `None` if absent.
    pub(crate) fn string(&self, slot: u64) -> Result<Option<String>> {
        let vector = self.vector(slot, 1)?;
        if vector.at == 0 {
            return Ok(None);
        }
        self.of.count(vector.count)?;
        let bytes = crate::source::read(self.of.from, vector.at, vector.count)?;
        let wrong = |_| Error::malformed(format!("string at byte {}", vector.at), "not valid UTF-8");
        String::from_utf8(bytes).map(Some).map_err(wrong)
    }
}

/// The position of the first item of a vector, and the number of items. All items are within the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vector {
    pub(crate) at: u64,
    pub(crate) count: u64,
}
