//! Scales, zero points and biases: one value for each row and group of columns.

use tensor::{DType, Result};

use super::codes::{awq_code, code_at};
use super::parts::StoredPart;
use crate::Checkpoint;

/// Form of the values in their tensor.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// One value an element: floats as such, 8-bit codes by this table.
    Plain { table: Vec<f32> },
    /// As [`Plain`](Form::Plain), then divided by the scale of the tensor.
    Divided { table: Vec<f32>, by: f32 },
    /// As [`Plain`](Form::Plain), then multiplied with the scale of the tensor.
    Multiplied { table: Vec<f32>, by: f32 },
    /// 8-bit codes by a table, multiplied with one of the `scales` for every `block` codes, plus `offset`: bitsandbytes.
    Nested { table: Vec<f32>, scales: Vec<f32>, block: u64, offset: f32 },
    /// Codes packed in 32-bit words along the rows of the weight, in each row of the file: GPTQ. `plus_one`: 1 is added.
    Along { bits: u32, plus_one: bool },
    /// The same in AWQ's order, 4 bits.
    AwqAlong,
    /// Codes packed in 32-bit words along the rows of the weight, in each column of the file, less half their range:
    /// compressed-tensors.
    Down { bits: u32 },
}

/// Position of the value of a row and group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    /// In the same row of the tensor.
    Rows,
    /// In row `matrix · grid_rows + row / height` of the tensor, for each matrix of `rows` rows.
    Blocks { rows: u64, grid_rows: u64, height: u64 },
    /// In column `row` of the tensor.
    Columns,
    /// One value for all.
    One,
}

/// Values by row and group of columns.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    pub(crate) part: StoredPart,
    pub(crate) form: Form,
    pub(crate) place: Place,
    /// Values of a row.
    pub(crate) groups: u64,
}

impl Grid {
    /// Floats, with a row for each row of the weight.
    pub(crate) fn rows(part: StoredPart, groups: u64) -> Grid {
        Grid { part, form: Form::Plain { table: Vec::new() }, place: Place::Rows, groups }
    }

    /// Floats, with a column for each row of the weight.
    pub(crate) fn columns(part: StoredPart, groups: u64) -> Grid {
        Grid { place: Place::Columns, ..Grid::rows(part, groups) }
    }

    /// The values of some rows, row after row.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read_at`].
    pub(crate) fn read(&self, checkpoint: &Checkpoint, first: u64, rows: u64) -> Result<Vec<f32>> {
        match &self.form {
            Form::Plain { table } => self.plain(checkpoint, table, first, rows),
            Form::Divided { table, by } => {
                let mut values = self.plain(checkpoint, table, first, rows)?;
                values.iter_mut().for_each(|value| *value /= by);
                Ok(values)
            }
            Form::Multiplied { table, by } => {
                let mut values = self.plain(checkpoint, table, first, rows)?;
                values.iter_mut().for_each(|value| *value *= by);
                Ok(values)
            }
            Form::Nested { table, scales, block, offset } => {
                let mut values = self.plain(checkpoint, table, first, rows)?;
                for (value, at) in values.iter_mut().zip(first * self.groups..) {
                    *value = *value * scales[(at / block) as usize] + offset;
                }
                Ok(values)
            }
            Form::Along { bits, plus_one } => self.along(checkpoint, *bits, *plus_one, first, rows),
            Form::AwqAlong => self.awq_along(checkpoint, first, rows),
            Form::Down { bits } => self.down(checkpoint, *bits, first, rows),
        }
    }

    fn plain(&self, checkpoint: &Checkpoint, table: &[f32], first: u64, rows: u64) -> Result<Vec<f32>> {
        let (groups, size) = (self.groups, self.part.desc.dtype.block_bytes() as u64);
        let mut bytes;
        match self.place {
            Place::One => {
                let one = self.decoded(checkpoint, table, &self.part.read(checkpoint, 0, size)?);
                return Ok(vec![one[0]; (rows * groups) as usize]);
            }
            Place::Rows => {
                bytes = self.part.read(checkpoint, first * groups * size, rows * groups * size)?;
            }
            Place::Blocks { rows: matrix, grid_rows, height } => {
                bytes = vec![0; (rows * groups * size) as usize];
                for (row, out) in (first..).zip(bytes.chunks_exact_mut((groups * size) as usize)) {
                    let at = row / matrix * grid_rows + row % matrix / height;
                    self.part.read_into(checkpoint, at * groups * size, out)?;
                }
            }
            Place::Columns => {
                bytes = vec![0; (rows * groups * size) as usize];
                let (width, size) = (self.width(), size as usize);
                for group in 0..groups {
                    let at = (group * width + first) * size as u64;
                    let strip = self.part.read(checkpoint, at, rows * size as u64)?;
                    for (row, found) in strip.chunks_exact(size).enumerate() {
                        let at = (row * groups as usize + group as usize) * size;
                        bytes[at..at + size].copy_from_slice(found);
                    }
                }
            }
        }
        Ok(self.decoded(checkpoint, table, &bytes))
    }

    fn decoded(&self, checkpoint: &Checkpoint, table: &[f32], bytes: &[u8]) -> Vec<f32> {
        if !table.is_empty() {
            return bytes.iter().map(|byte| table[usize::from(*byte)]).collect();
        }
        let dtype = self.part.desc.dtype;
        let mut values = vec![0.0; bytes.len() / dtype.block_bytes()];
        quant::decode(checkpoint.simd, dtype, bytes, &mut values);
        values
    }

    /// Elements of a row of the file.
    fn width(&self) -> u64 {
        self.part.desc.cols()
    }

    fn along(
        &self,
        checkpoint: &Checkpoint,
        bits: u32,
        plus_one: bool,
        first: u64,
        rows: u64,
    ) -> Result<Vec<f32>> {
        let (groups, wide) = (self.groups as usize, u64::from(bits));
        let words = first * wide / 32..((first + rows) * wide).div_ceil(32);
        let mut values = vec![0.0; rows as usize * groups];
        for group in 0..groups {
            let at = (group as u64 * self.width() + words.start) * 4;
            let mut strip = self.part.read(checkpoint, at, (words.end - words.start) * 4)?;
            // as GPTQModel: with carries between the codes of a word, where no code spans two words
            if plus_one && bits != 3 {
                let ones = (0..32).step_by(bits as usize).fold(0u32, |ones, bit| ones | 1 << bit);
                for word in strip.as_chunks_mut::<4>().0 {
                    *word = u32::from_le_bytes(*word).wrapping_add(ones).to_le_bytes();
                }
            }
            for row in 0..rows {
                let mut code = code_at(&strip, (first + row) * wide - words.start * 32, bits);
                if plus_one && bits == 3 {
                    code = (code + 1) & 7;
                }
                values[row as usize * groups + group] = code as f32;
            }
        }
        Ok(values)
    }

    fn awq_along(&self, checkpoint: &Checkpoint, first: u64, rows: u64) -> Result<Vec<f32>> {
        let groups = self.groups as usize;
        let words = first / 8..(first + rows).div_ceil(8);
        let mut values = vec![0.0; rows as usize * groups];
        for group in 0..groups {
            let at = (group as u64 * self.width() + words.start) * 4;
            let strip = self.part.read(checkpoint, at, (words.end - words.start) * 4)?;
            for row in 0..rows {
                let code = awq_code(&strip, (first + row - words.start * 8) as usize);
                values[row as usize * groups + group] = code as f32;
            }
        }
        Ok(values)
    }

    fn down(&self, checkpoint: &Checkpoint, bits: u32, first: u64, rows: u64) -> Result<Vec<f32>> {
        let (groups, wide) = (self.groups, u64::from(bits));
        let words = first * wide / 32..((first + rows) * wide).div_ceil(32);
        let bytes =
            self.part.read(checkpoint, words.start * groups * 4, (words.end - words.start) * groups * 4)?;
        let half = f32::from(1u16 << (bits - 1));
        let mut values = Vec::with_capacity((rows * groups) as usize);
        let mut stream = Vec::new();
        for group in 0..groups as usize {
            let column = bytes.chunks_exact(groups as usize * 4).map(|row| &row[group * 4..group * 4 + 4]);
            stream.clear();
            column.for_each(|word| stream.extend_from_slice(word));
            let code = |row| code_at(&stream, (first + row) * wide - words.start * 32, bits) as f32 - half;
            values.extend((0..rows).map(code));
        }
        // from group after group to row after row
        let at = |index: usize| (index % groups as usize) * rows as usize + index / groups as usize;
        Ok((0..values.len()).map(|index| values[at(index)]).collect())
    }
}

/// Table of the values of an 8-bit type; empty for floats, which have none.
pub(crate) fn table(dtype: DType) -> Vec<f32> {
    match dtype {
        DType::I8 => super::codes::twos_complement(8),
        DType::U8 => super::codes::e8m0(),
        _ => Vec::new(),
    }
}
