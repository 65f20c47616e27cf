//! How the values of tower tensors change on the way to an mmproj file.
//!
//! Source: `modify_tensors` of Gemma4VisionAudioModel and Gemma4UnifiedVisionAudioModel in ggml-org/llama.cpp
//! `conversion/gemma.py`.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// A change of the values of a tensor on the way to an mmproj file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TowerChange {
    /// Columns (row, column, channel) of a patch become (channel, row, column), and a row a tensor of three dimensions.
    ChannelsFirst,
    /// The same order of the columns in the same shape.
    ColumnsChannelsFirst,
    /// `[positions, 2, hidden]` becomes `[2, positions, hidden]`.
    PlanesFirst,
    /// `ln(1 + eˣ)`, with the values of torch.
    Softplus,
    /// A dimension of length 1 is removed.
    Squeeze,
}

/// Colour channels of an image.
const CHANNELS: usize = 3;

impl TowerChange {
    /// The dimensions afterwards, slowest first.
    pub fn shape(self, shape: &[u64]) -> Vec<u64> {
        match (self, shape) {
            (TowerChange::ChannelsFirst, &[outputs, columns]) => {
                let side = (columns / CHANNELS as u64).isqrt();
                vec![outputs, CHANNELS as u64, side, side]
            }
            (TowerChange::PlanesFirst, &[positions, planes, hidden]) => vec![planes, positions, hidden],
            (TowerChange::Squeeze, _) => shape.iter().copied().filter(|&length| length != 1).collect(),
            _ => shape.to_vec(),
        }
    }

    /// Whether values or their order change, not the shape alone.
    pub fn moves_values(self) -> bool {
        self != TowerChange::Squeeze
    }

    /// Changes whole rows of a tensor into `out`, which has their length. Rows have `cols` values.
    pub fn rows(self, cols: usize, values: &[f32], out: &mut [f32]) {
        match self {
            TowerChange::ChannelsFirst | TowerChange::ColumnsChannelsFirst => {
                let pixels = cols / CHANNELS;
                for (row, changed) in values.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
                    for (at, value) in changed.iter_mut().enumerate() {
                        *value = row[at % pixels * CHANNELS + at / pixels];
                    }
                }
            }
            TowerChange::Softplus => {
                out.iter_mut().zip(values).for_each(|(changed, &value)| *changed = softplus(value));
            }
            TowerChange::PlanesFirst | TowerChange::Squeeze => out.copy_from_slice(values),
        }
    }

    /// The row of the tensor with the dimensions `shape` that is row `row` afterwards: the inverse of [`row`](Self::row).
    pub fn origin(self, shape: &[u64], row: u64) -> u64 {
        match (self, shape) {
            (TowerChange::PlanesFirst, &[positions, planes, _]) => row % positions * planes + row / positions,
            _ => row,
        }
    }

    /// The row afterwards of row `row` of a tensor with the dimensions `shape`.
    pub fn row(self, shape: &[u64], row: u64) -> u64 {
        match (self, shape) {
            (TowerChange::PlanesFirst, &[positions, planes, _]) => row % planes * positions + row / planes,
            _ => row,
        }
    }
}

/// `ln(1 + eˣ)` as torch 2.15 computes it on a CPU with AVX2: `x` above 20, else rounded correctly, but for the values of
/// `formats/torch-softplus.tsv`. The values are of BF16; a few others may be 1 ulp from torch's.
pub fn softplus(x: f32) -> f32 {
    static EXCEPTIONS: LazyLock<HashMap<u16, f32>> = LazyLock::new(|| {
        let rows = include_str!("../../../../formats/torch-softplus.tsv").lines();
        let rows = rows.filter(|row| !row.starts_with('#')).filter_map(|row| row.split_once('\t'));
        let parsed = rows.map(|(x, y)| {
            let y = u32::from_str_radix(y, 16).expect("formats/torch-softplus.tsv is tested");
            (u16::from_str_radix(x, 16).expect("formats/torch-softplus.tsv is tested"), f32::from_bits(y))
        });
        parsed.collect()
    });
    let bits = x.to_bits();
    let exception = (bits & 0xffff == 0).then(|| EXCEPTIONS.get(&((bits >> 16) as u16))).flatten();
    match exception {
        Some(&value) => value,
        None if x > 20.0 => x,
        None => f64::from(x).exp().ln_1p() as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every exception is 1 ulp beside the correctly rounded value, so the table is of this function.
    #[test]
    fn exceptions_of_softplus_are_beside_the_rounded_value() {
        let text = testkit::read("golden/multimodal/softplus-bf16-exceptions.tsv");
        let text = String::from_utf8(text).unwrap();
        let rows: Vec<_> = text.lines().filter(|row| !row.starts_with('#')).collect();
        assert_eq!(rows.len(), 1311);
        for row in rows {
            let [x, torch, rounded] = row.split('\t').collect::<Vec<_>>()[..] else { panic!("{row}") };
            let x = f32::from_bits(u32::from_str_radix(x, 16).unwrap() << 16);
            assert_eq!(format!("{:08x}", softplus(x).to_bits()), torch, "{row}");
            let ours = (f64::from(x).exp().ln_1p() as f32).to_bits();
            assert_eq!(format!("{ours:08x}"), rounded, "{row}");
        }
    }

    #[test]
    fn channels_come_first() {
        // two rows of a patch of 2 × 2 pixels: the value says row, pixel and channel
        let value = |row: usize, pixel: usize, channel: usize| (100 * row + 10 * pixel + channel) as f32;
        let mut values = Vec::new();
        let mut wanted = Vec::new();
        for row in 0..2 {
            (0..12).for_each(|at| values.push(value(row, at / 3, at % 3)));
            (0..12).for_each(|at| wanted.push(value(row, at % 4, at / 4)));
        }
        let mut changed = vec![0.0; 24];
        TowerChange::ChannelsFirst.rows(12, &values, &mut changed);
        assert_eq!(changed, wanted);
        assert_eq!(TowerChange::ChannelsFirst.shape(&[2, 12]), [2, 3, 2, 2]);
    }

    #[test]
    fn planes_come_first() {
        let shape = [5, 2, 7];
        assert_eq!(TowerChange::PlanesFirst.shape(&shape), [2, 5, 7]);
        let rows: Vec<_> = (0..10).map(|row| TowerChange::PlanesFirst.row(&shape, row)).collect();
        assert_eq!(rows, [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]);
        let back = rows.into_iter().map(|row| TowerChange::PlanesFirst.origin(&shape, row));
        assert!(back.eq(0..10));
    }
}
