//! The layout of a model in which some buffers get another size.
//!
//! The flatbuffer keeps every position: types, offsets and sizes are overwritten. A buffer that was in the flatbuffer
//! gets a new table at the end of it, since a table with its bytes inside has no room for offset and size; its old bytes
//! stay unused. Then follow the appended buffers in their old order, at multiples of 16, as ai-edge-quantizer writes them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use tensor::{Error, Result};

use crate::tflite::{ElementType, Model};

/// Unit of positions of appended buffers.
const ALIGNMENT: u64 = 16;

/// A buffer with another type.
pub(crate) struct Retyped<'a> {
    pub(crate) buffer: usize,
    /// Its new size in bytes.
    pub(crate) len: u64,
    pub(crate) element: ElementType,
    /// Positions of the types of its tensors.
    pub(crate) types_at: &'a [u64],
}

/// Where the bytes of a model go.
#[derive(Debug, Default)]
pub(crate) struct ModelLayout {
    pub(crate) len: u64,
    /// Bytes of the old model, and their new position.
    pub(crate) copies: Vec<(Range<u64>, u64)>,
    /// Bytes that replace copied ones, or follow them.
    pub(crate) patches: Vec<(u64, Vec<u8>)>,
    /// The new positions of appended buffers.
    moved: BTreeMap<usize, u64>,
}

impl ModelLayout {
    /// The new position of a buffer.
    pub(crate) fn position(&self, model: &Model, buffer: usize) -> u64 {
        self.moved.get(&buffer).copied().unwrap_or(model.buffers[buffer].range.start)
    }
}

/// The layout of the model with other types of some buffers; without any, that of the model.
///
/// # Errors
/// `Limit` if the flatbuffer exceeds the 4 GiB that its references reach.
pub(crate) fn layout(model: &Model, retyped: &[Retyped<'_>]) -> Result<ModelLayout> {
    if retyped.is_empty() {
        return Ok(ModelLayout { len: model.len, copies: vec![(0..model.len, 0)], ..ModelLayout::default() });
    }
    let head = model.flatbuffer_len;
    let mut layout = ModelLayout { len: head, copies: vec![(0..head, 0)], ..ModelLayout::default() };
    let mut places: BTreeMap<usize, [u64; 2]> = BTreeMap::new();
    for (number, buffer) in model.buffers.iter().enumerate() {
        places.extend(buffer.appended.map(|places| (number, places)));
    }
    for one in retyped {
        layout.patches.extend(one.types_at.iter().map(|at| (*at, vec![one.element.0])));
        if let Entry::Vacant(inside) = places.entry(one.buffer) {
            let at = layout.new_table(model.buffers[one.buffer].reference)?;
            inside.insert([at + OFFSET, at + SIZE]);
        }
    }
    let new_len = |buffer| retyped.iter().find(|one| one.buffer == buffer).map(|one| one.len);
    let mut order: Vec<_> = places.into_iter().collect();
    order.sort_by_key(|(buffer, _)| {
        let buffer = &model.buffers[*buffer];
        (buffer.appended.is_none(), buffer.range.start)
    });
    for (buffer, [offset_at, size_at]) in order {
        let range = model.buffers[buffer].range.clone();
        let at = layout.len.next_multiple_of(ALIGNMENT);
        let len = new_len(buffer).unwrap_or(range.end - range.start);
        layout.patches.push((offset_at, at.to_le_bytes().into()));
        layout.patches.push((size_at, len.to_le_bytes().into()));
        layout.moved.insert(buffer, at);
        if new_len(buffer).is_none() {
            layout.copies.push((range, at));
        }
        layout.len = at + len;
    }
    Ok(layout)
}

/// Positions of the fields in a [new table](ModelLayout::new_table).
const OFFSET: u64 = 8;
const SIZE: u64 = 16;

impl ModelLayout {
    /// Appends a `Buffer` without bytes inside, and lets `reference` lead to it. Returns its position.
    fn new_table(&mut self, reference: u64) -> Result<u64> {
        // its size, the size of the table, the slots `data`, `offset` and `size`; then padding
        let vtable: [u16; 8] = [10, 24, 0, OFFSET as u16, SIZE as u16, 0, 0, 0];
        let vtable_at = self.len.next_multiple_of(8);
        let at = vtable_at + size_of_val(&vtable) as u64;
        let mut bytes: Vec<u8> = vtable.iter().flat_map(|slot| slot.to_le_bytes()).collect();
        bytes.extend((at - vtable_at).to_le_bytes()); // as i32, and padding
        bytes.extend([0; 16]);
        let distance = u32::try_from(at - reference)
            .map_err(|_| Error::limit("model", "a flatbuffer beyond 4 GiB").expected(u32::MAX, at))?;
        self.patches.push((reference, distance.to_le_bytes().into()));
        self.len = vtable_at + bytes.len() as u64;
        self.patches.push((vtable_at, bytes));
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tflite::Buffer;

    fn buffer(range: Range<u64>, appended: Option<[u64; 2]>, reference: u64) -> Buffer {
        Buffer { range, appended, reference }
    }

    /// A flatbuffer of 100 bytes with one buffer in it, and two after it, at 112 and 144.
    #[test]
    fn appended_buffers_move_up_and_one_inside_gets_a_table() {
        let buffers = vec![
            buffer(144..154, Some([24, 32]), 8),
            buffer(112..132, Some([40, 48]), 12),
            buffer(80..84, None, 16),
        ];
        let model = Model { subgraphs: Vec::new(), buffers, len: 154, flatbuffer_len: 112 };
        let retyped = |buffer, len, types_at| Retyped { buffer, len, element: ElementType::INT8, types_at };
        let moved = layout(&model, &[retyped(1, 40, &[60, 61]), retyped(2, 8, &[])]).unwrap();
        // a vtable at 112, the table at 128, up to 152
        assert_eq!([1, 0, 2].map(|n| moved.position(&model, n)), [160, 208, 224]);
        assert_eq!(moved.len, 232);
        assert_eq!(moved.copies, [(0..112, 0), (144..154, 208)]);
        let value =
            |at: u64| moved.patches.iter().find(|(place, _)| *place == at).map(|(_, bytes)| bytes.as_slice());
        assert_eq!((value(60), value(61)), (Some([9].as_slice()), Some([9].as_slice())));
        assert_eq!(value(16), Some((128u32 - 16).to_le_bytes().as_slice()));
        let numbers = [(40, 160), (48, 40), (24, 208), (32, 10), (136, 224), (144, 8)];
        for (at, number) in numbers {
            assert_eq!(value(at), Some((number as u64).to_le_bytes().as_slice()), "{at}");
        }
    }

    #[test]
    fn without_other_types_nothing_moves() {
        let buffers = vec![buffer(144..154, Some([24, 32]), 8)];
        let model = Model { subgraphs: Vec::new(), buffers, len: 160, flatbuffer_len: 144 };
        let same = layout(&model, &[]).unwrap();
        assert_eq!((same.len, same.position(&model, 0)), (160, 144));
        assert_eq!((same.copies, same.patches), (vec![(0..160, 0)], Vec::new()));
    }
}
