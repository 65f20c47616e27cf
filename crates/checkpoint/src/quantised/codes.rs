//! Codes of 1 to 8 bits and the values that they stand for, in the layouts in which they are packed.

use tensor::Result;

use super::parts::StoredPart;
use crate::Checkpoint;

/// Position of the codes in their tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Layout {
    /// Rows of so many bits, each a stream of codes from the low bits on.
    Rows { bits: u64 },
    /// The same, with the two codes of a byte exchanged: bitsandbytes.
    HighFirst { bits: u64 },
    /// A column of 32-bit words is a row of the weight, each a stream of codes: GPTQ. `width`: words of a row of the file.
    Columns { width: u64 },
    /// A row of the file is a column of the weight; each word has one code of eight rows, in AWQ's order.
    Awq { width: u64 },
}

/// AWQ's place of row `i` of eight in a word, counted in codes. Source: AutoAWQ `packing_utils.py`.
pub(crate) const AWQ_ORDER: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The codes of a weight.
#[derive(Clone, Debug)]
pub(crate) struct Codes {
    pub(crate) part: StoredPart,
    pub(crate) layout: Layout,
    /// Bits of a code.
    pub(crate) bits: u32,
    /// Codes of a row.
    pub(crate) cols: u64,
    /// The value of each code.
    pub(crate) values: Vec<f32>,
}

impl Codes {
    /// The values of the codes of some rows, without scale.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read_at`].
    pub(crate) fn read(&self, checkpoint: &Checkpoint, first: u64, rows: u64) -> Result<Vec<f32>> {
        let mut out = vec![0.0; (rows * self.cols) as usize];
        match self.layout {
            Layout::Rows { bits } | Layout::HighFirst { bits } => {
                let start = first * bits / 8;
                let end = ((first + rows) * bits).div_ceil(8);
                let mut bytes = self.part.read(checkpoint, start, end - start)?;
                if matches!(self.layout, Layout::HighFirst { .. }) {
                    bytes.iter_mut().for_each(|byte| *byte = byte.rotate_left(4));
                }
                self.unpack(&bytes, first * bits - start * 8, bits, &mut out);
            }
            Layout::Columns { width } => {
                let words = (self.cols * u64::from(self.bits)).div_ceil(32);
                let (rows, row_bytes) = (rows as usize, words as usize * 4);
                let mut bytes = vec![0; rows * row_bytes];
                let mut strip = vec![0; rows * 4];
                for word in 0..words {
                    self.part.read_into(checkpoint, (word * width + first) * 4, &mut strip)?;
                    for (row, found) in strip.as_chunks::<4>().0.iter().enumerate() {
                        bytes[row * row_bytes + word as usize * 4..][..4].copy_from_slice(found);
                    }
                }
                self.unpack(&bytes, 0, words * 32, &mut out);
            }
            Layout::Awq { width } => {
                let words = first / 8..(first + rows).div_ceil(8);
                let mut strip = vec![0; (words.end - words.start) as usize * 4];
                for col in 0..self.cols {
                    self.part.read_into(checkpoint, (col * width + words.start) * 4, &mut strip)?;
                    for row in 0..rows {
                        let code = awq_code(&strip, (first + row - words.start * 8) as usize);
                        out[(row * self.cols + col) as usize] = self.values[code];
                    }
                }
            }
        }
        Ok(out)
    }

    /// Unpacks whole rows of `row_bits` bits each, the first of which begins at bit `start`.
    fn unpack(&self, bytes: &[u8], start: u64, row_bits: u64, out: &mut [f32]) {
        for (row, out) in out.chunks_exact_mut(self.cols as usize).enumerate() {
            let mut at = start + row as u64 * row_bits;
            for value in out {
                *value = self.values[code_at(bytes, at, self.bits)];
                at += u64::from(self.bits);
            }
        }
    }
}

/// The code of `bits` bits, 8 at most, from bit `at` of a stream on.
pub(crate) fn code_at(bytes: &[u8], at: u64, bits: u32) -> usize {
    let byte = (at / 8) as usize;
    let high = bytes.get(byte + 1).copied().unwrap_or(0);
    let pair = u16::from_le_bytes([bytes[byte], high]);
    usize::from(pair >> (at % 8)) & ((1 << bits) - 1)
}

/// The 4-bit code of column `at` of a row of AWQ's words.
pub(crate) fn awq_code(words: &[u8], at: usize) -> usize {
    let nibble = AWQ_ORDER[at % 8] as usize;
    let byte = words[at / 8 * 4 + nibble / 2];
    usize::from(byte >> (nibble % 2 * 4)) & 15
}

/// Values of unsigned codes.
pub(crate) fn unsigned(bits: u32) -> Vec<f32> {
    (0..1u16 << bits).map(f32::from).collect()
}

/// Values of codes with an offset of half their range: −2^(bits−1) to 2^(bits−1) − 1.
pub(crate) fn offset_binary(bits: u32) -> Vec<f32> {
    let half = f32::from(1u16 << (bits - 1));
    (0..1u16 << bits).map(|code| f32::from(code) - half).collect()
}

/// Values of codes in two's complement.
pub(crate) fn twos_complement(bits: u32) -> Vec<f32> {
    let half = 1i32 << (bits - 1);
    (0..1i32 << bits).map(|code| ((code ^ half) - half) as f32).collect()
}

/// Values of FP4 (E2M1) codes.
pub(crate) fn e2m1() -> Vec<f32> {
    let positive = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    positive.into_iter().chain(positive.map(|value: f32| -value)).collect()
}

/// Values of FP8 (E4M3) codes.
pub(crate) fn e4m3() -> Vec<f32> {
    let (codes, mut values) = ((0..=255).collect::<Vec<u8>>(), vec![0.0; 256]);
    quant::decode(quant::Simd::detect(), tensor::DType::F8_E4M3, &codes, &mut values);
    values
}

/// Values of E8M0 codes: 2^(code − 127). The code 255 is not a number.
pub(crate) fn e8m0() -> Vec<f32> {
    let power = |code: u32| match code {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        code => f32::from_bits(code << 23),
    };
    (0..256).map(power).collect()
}
