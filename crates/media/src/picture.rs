//! Small pictures of images and sounds for reports, as PNG.

use base::{Error, Result};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::{Image, MelFloor, log_mel, resize};

/// The longer side of a picture, in pixels.
const SIDE: usize = 160;
/// Samples of a sound that its picture shows at most: 30 seconds.
const SAMPLES: usize = 30 * crate::SAMPLE_RATE as usize;

impl Image {
    /// A small PNG of the image, upright.
    ///
    /// # Errors
    /// `Limit` for an image too narrow to be made small.
    pub fn picture(&self) -> Result<Vec<u8>> {
        let image = self.upright();
        let longer = image.width().max(image.height());
        let small = |side: usize| (side * SIDE.min(longer)).div_ceil(longer);
        let image = resize(&image, small(image.width()), small(image.height()))?;
        png(image.rgb(), image.width(), image.height(), ExtendedColorType::Rgb8)
    }
}

/// A small PNG of a sound's log-mel spectrogram, low frequencies at the bottom, from its quietest value in black to its loudest in white.
/// Of a long sound it shows the first 30 seconds.
///
/// # Errors
/// Those of [`log_mel`].
pub fn spectrogram(samples: &[f32]) -> Result<Vec<u8>> {
    let mel = log_mel(&samples[..samples.len().min(SAMPLES)], MelFloor::Add)?;
    let bins = mel.values.len() / mel.frames;
    let width = mel.frames.min(2 * SIDE);
    let loudest = |column: usize, bin: usize| {
        let frames = column * mel.frames / width..((column + 1) * mel.frames / width);
        frames.map(|frame| mel.values[frame * bins + bin]).fold(f32::NEG_INFINITY, f32::max)
    };
    let shown: Vec<f32> =
        (0..bins).rev().flat_map(|bin| (0..width).map(move |column| loudest(column, bin))).collect();
    let (low, high) =
        shown.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    let grey = |x: &f32| (255.0 * (x - low) / (high - low).max(f32::MIN_POSITIVE)) as u8;
    let grey: Vec<u8> = shown.iter().map(grey).collect();
    png(&grey, width, bins, ExtendedColorType::L8)
}

fn png(bytes: &[u8], width: usize, height: usize, color: ExtendedColorType) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    PngEncoder::new(&mut out)
        .write_image(bytes, width as u32, height as u32, color)
        .map_err(|e| Error::unsupported("picture", e.to_string()))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_small_and_keep_the_shape() {
        let picture = |width, height| {
            let image = Image::new(width, height, vec![90; 3 * width * height]).unwrap();
            let picture = Image::decode(&image.picture().unwrap(), "picture").unwrap();
            (picture.width(), picture.height())
        };
        assert_eq!(picture(640, 320), (160, 80));
        assert_eq!(picture(3, 5), (3, 5));
        assert_eq!(picture(1, 1000), (1, 160));
    }

    #[test]
    fn a_tone_is_a_bright_line() {
        let tone = |n: usize| (n as f32 * 2.0 * std::f32::consts::PI * 1000.0 / 16_000.0).sin();
        let samples: Vec<f32> = (0..16_000).map(tone).collect();
        let picture = Image::decode(&spectrogram(&samples).unwrap(), "picture").unwrap();
        assert_eq!((picture.width(), picture.height()), (99, 128));
        let column: Vec<u8> = picture.rgb().chunks_exact(3 * 99).map(|row| row[3 * 50]).collect();
        let brightest = column.iter().enumerate().max_by_key(|(_, value)| **value).unwrap().0;
        // 1 kHz is in the lower half of the mel scale up to 8 kHz
        assert!((70..110).contains(&brightest), "row {brightest}");
        assert!(spectrogram(&vec![0.0; 40 * 16_000]).is_ok());
    }
}
