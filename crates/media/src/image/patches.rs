//! A resized image as rows of patch values.

use base::{Error, Result};

use super::Image;

/// Pixels of the side of a patch of the vision towers.
pub const PATCH_SIDE: usize = 16;

/// Pixels of the side of a soft token: 3 × 3 patches are pooled, and a patch of 12B has this side.
pub const SOFT_TOKEN_SIDE: usize = 48;

/// The factor of transformers' processor config, nearly 1/255.
const RESCALE_FACTOR: f64 = 0.003_921_568_627_450_98;

/// The patches of an image in row-major order of their grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// Patches in a row of the grid.
    pub columns: usize,
    /// Rows of the grid.
    pub rows: usize,
    /// Pixels of the side of a patch.
    pub side: usize,
    /// `columns · rows` patches of `side · side · 3` values, in \[0, 1\] unless they are [normalised](Self::normalised): row, column, channel inside of a patch.
    pub values: Vec<f32>,
}

impl Patches {
    /// Cuts an image into patches of `side` × `side` pixels. Patch i is at column `i % columns`, row `i / columns`, which
    /// are transformers' position ids x and y. transformers' padding to the budget is left out: no result depends on it.
    ///
    /// # Errors
    /// `Malformed` if the sides of the image are no multiples of 48 pixels, or `side` is not 16 or 48.
    pub fn of(image: &Image, side: usize) -> Result<Patches> {
        if side != PATCH_SIDE && side != SOFT_TOKEN_SIDE {
            return Err(Error::malformed("patch side", "no tower has it")
                .expected(format!("{PATCH_SIDE} or {SOFT_TOKEN_SIDE} pixels"), side));
        }
        let (width, height) = (image.width(), image.height());
        if width % SOFT_TOKEN_SIDE != 0 || height % SOFT_TOKEN_SIDE != 0 {
            return Err(Error::malformed("image", "its size is not one of whole soft tokens")
                .expected(format!("multiples of {SOFT_TOKEN_SIDE} pixels"), format!("{width} × {height}"))
                .help("Resize it with ImagePreprocess::resized."));
        }
        let levels: [f32; 256] = std::array::from_fn(|level| (level as f64 * RESCALE_FACTOR) as f32);
        let mut values = Vec::with_capacity(width * height * 3);
        for band in image.rgb().chunks_exact(width * 3 * side) {
            for column in 0..width / side {
                for line in band.chunks_exact(width * 3) {
                    let piece = &line[column * side * 3..(column + 1) * side * 3];
                    values.extend(piece.iter().map(|level| levels[usize::from(*level)]));
                }
            }
        }
        Ok(Patches { columns: width / side, rows: height / side, side, values })
    }

    /// Subtracts the mean of each colour channel, and divides by its standard deviation.
    #[must_use]
    pub fn normalised(mut self, mean: [f32; 3], deviation: [f32; 3]) -> Patches {
        for pixel in self.values.chunks_exact_mut(3) {
            for channel in 0..3 {
                pixel[channel] = (pixel[channel] - mean[channel]) / deviation[channel];
            }
        }
        self
    }

    /// Values of a patch: 768, or 6912 for 12B.
    pub fn patch_len(&self) -> usize {
        self.side * self.side * 3
    }

    /// Number of soft tokens that the image becomes.
    pub fn soft_tokens(&self) -> usize {
        (self.columns * self.side / SOFT_TOKEN_SIDE) * (self.rows * self.side / SOFT_TOKEN_SIDE)
    }
}
