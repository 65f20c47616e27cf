//! Bicubic resizing, byte for byte as Pillow does it.
//!
//! Source: Pillow's `src/libImaging/Resample.c`; llama.cpp's `img_tool::resize_pillow` is a copy of it. Coefficients are
//! computed in f64, normalised, and rounded to 22 fractional bits; rows first, then columns, each pass rounded and
//! clipped to 8 bits.
//!
//! Pillow 13 does the columns first where the height shrinks much more than the width, for speed. The result differs by
//! rounding; llama.cpp and Pillow up to 12 always do the rows first.

use base::{Error, Result};
use rayon::prelude::*;

use super::Image;

/// Fractional bits of a coefficient: 32, less 8 of a pixel, less 2 for sums outside of 0 … 255.
const PRECISION: u32 = 32 - 8 - 2;

/// Radius of the filter in output pixels.
const SUPPORT: f64 = 2.0;

/// Maximum number of pixels of a result or of the image between the two passes. An image of [`super::MAX_PIXELS`] never
/// reaches it at the sizes that [`super::ImagePreprocess`] asks for, unless its shape is extreme.
const MAX_RESIZED: usize = 1 << 29;

/// The image with another size. Equal to `image.resize((width, height), Image.Resampling.BICUBIC)` of Pillow
/// up to 12.
///
/// # Errors
/// `Malformed` for a side of 0, `Limit` for a result of more than [`super::MAX_PIXELS`], and for more than 2²⁹ pixels
/// between the two passes.
pub fn resize(image: &Image, width: usize, height: usize) -> Result<Image> {
    super::check_sides(width as u64, height as u64, "size")?;
    if width.saturating_mul(image.height()) > MAX_RESIZED {
        return Err(Error::limit("size", "too many pixels between the two passes of resizing")
            .expected(format!("at most {MAX_RESIZED}"), format!("{width} × {}", image.height())));
    }
    let mut rgb = None;
    if width != image.width() {
        rgb = Some(horizontal(image.rgb(), image.width(), image.height(), width));
    }
    if height != image.height() {
        rgb = Some(vertical(rgb.as_deref().unwrap_or(image.rgb()), width, image.height(), height));
    }
    Image::new(width, height, rgb.unwrap_or_else(|| image.rgb().to_vec()))
}

/// The input pixels of one output pixel, and their weights.
struct Coefficients {
    /// First input pixel and number of input pixels of each output pixel.
    spans: Vec<(usize, usize)>,
    /// Weights of the output pixels, `stride` for each.
    weights: Vec<i32>,
    stride: usize,
}

impl Coefficients {
    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`.
    fn new(from: usize, to: usize) -> Coefficients {
        let scale = from as f64 / to as f64;
        // Antialiasing: the filter is as wide as an output pixel when the image shrinks.
        let widening = scale.max(1.0);
        let support = SUPPORT * widening;
        let stride = support.ceil() as usize * 2 + 1;
        let mut coefficients =
            Coefficients { spans: Vec::with_capacity(to), weights: vec![0; to * stride], stride };
        let mut exact = Vec::with_capacity(stride);
        for (out, weights) in coefficients.weights.chunks_exact_mut(stride).enumerate() {
            let center = (out as f64 + 0.5) * scale;
            // Truncation toward zero, as in C; the first is never negative after it.
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let inverse = 1.0 / widening;
            exact.clear();
            exact.extend((0..end - first).map(|x| bicubic(((x + first) as f64 - center + 0.5) * inverse)));
            let sum: f64 = exact.iter().sum();
            for (weight, exact) in weights.iter_mut().zip(&exact) {
                let exact = if sum == 0.0 { *exact } else { exact / sum };
                let scaled = exact * f64::from(1 << PRECISION);
                *weight = if exact < 0.0 { (scaled - 0.5) as i32 } else { (scaled + 0.5) as i32 };
            }
            coefficients.spans.push((first, end - first));
        }
        coefficients
    }

    fn of(&self, out: usize) -> (usize, &[i32]) {
        let (first, count) = self.spans[out];
        (first, &self.weights[out * self.stride..][..count])
    }
}

/// The cubic filter with a = −0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

const HALF: i32 = 1 << (PRECISION - 1);

fn clipped(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn horizontal(rgb: &[u8], from: usize, height: usize, to: usize) -> Vec<u8> {
    let coefficients = Coefficients::new(from, to);
    let mut result = vec![0; to * height * 3];
    result.par_chunks_exact_mut(to * 3).zip(rgb.par_chunks_exact(from * 3)).for_each(|(line, source)| {
        let (pixels, _) = line.as_chunks_mut::<3>();
        let (source, _) = source.as_chunks::<3>();
        for (out, pixel) in pixels.iter_mut().enumerate() {
            let (first, weights) = coefficients.of(out);
            let mut sums = [HALF; 3];
            for (source, weight) in source[first..].iter().zip(weights) {
                for (sum, level) in sums.iter_mut().zip(source) {
                    *sum += i32::from(*level) * weight;
                }
            }
            *pixel = sums.map(clipped);
        }
    });
    result
}

fn vertical(rgb: &[u8], width: usize, from: usize, to: usize) -> Vec<u8> {
    let coefficients = Coefficients::new(from, to);
    let line = width * 3;
    let mut result = vec![0; line * to];
    result.par_chunks_exact_mut(line).enumerate().for_each_init(
        || vec![0; line],
        |sums, (out, target)| {
            let (first, weights) = coefficients.of(out);
            sums.fill(HALF);
            for (source, weight) in rgb[first * line..].chunks_exact(line).zip(weights) {
                for (sum, level) in sums.iter_mut().zip(source) {
                    *sum += i32::from(*level) * weight;
                }
            }
            for (target, sum) in target.iter_mut().zip(&*sums) {
                *target = clipped(*sum);
            }
        },
    );
    result
}
