//! PNG, JPEG and WebP files to 8-bit RGB, within bounds.

use std::io::Cursor;

use base::{Error, Result};
use image::error::ImageError;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{Image, check_sides, jpeg};

/// Maximum memory of a decoder in bytes: the pixels of the largest image at 16 bits with alpha, and its buffers.
const MAX_DECODER_BYTES: u64 = 1 << 30;

const FORMATS: &str = "PNG, JPEG or WebP";

pub(super) fn decode(bytes: &[u8]) -> Result<Image> {
    let format = format(bytes)?;
    match format {
        ImageFormat::Jpeg => jpeg::expect_whole(bytes)?,
        ImageFormat::Png => check_png(bytes)?,
        ImageFormat::WebP => expect_whole_webp(bytes)?,
        _ => {}
    }
    let failed = |error| failure(format, &error);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // Sides are checked below, for an error that names our limit.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    check_sides(width.into(), height.into(), "size")?;
    // A damaged EXIF block is none, as in Pillow.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let pixels = DynamicImage::from_decoder(decoder).map_err(failed)?;
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    Ok(Image { width, height, rgb: rgb(pixels), orientation })
}

fn format(bytes: &[u8]) -> Result<ImageFormat> {
    let found = image::guess_format(bytes).ok();
    match found {
        Some(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => Ok(format),
        _ => {
            let found = match found {
                Some(other) => format!("{other:?}"),
                None if bytes.is_empty() => "an empty file".to_owned(),
                None => "other bytes at the beginning".to_owned(),
            };
            Err(Error::unsupported("format", "not an image of a known format")
                .expected(FORMATS, found)
                .help("Convert it to PNG first."))
        }
    }
}

/// Looks at the header of a PNG: its size, before a decoder takes memory for its rows, and grey of 16 bits, of which
/// Pillow and stb_image make different images.
fn check_png(bytes: &[u8]) -> Result<()> {
    // After the signature of 8 bytes, IHDR: length, name, width, height (4 each), depth, colour type.
    let Some(&[a, b, c, d, e, f, g, h, depth, colour]) = bytes.get(16..).and_then(<[u8]>::first_chunk) else {
        return Ok(());
    };
    check_sides(u32::from_be_bytes([a, b, c, d]).into(), u32::from_be_bytes([e, f, g, h]).into(), "size")?;
    if (depth, colour) == (16, 0) {
        return Err(Error::unsupported(
            "pixels",
            "grey of 16 bits, which transformers and llama.cpp read differently",
        )
        .expected("8 bits", "16 bits")
        .help("Convert the image to 8 bits, with the range of grey that matters."));
    }
    Ok(())
}

/// Compares the length in the header of a WebP file with the file, whose last bytes a decoder may not need.
fn expect_whole_webp(bytes: &[u8]) -> Result<()> {
    let Some(size) = bytes.get(4..).and_then(<[u8]>::first_chunk) else { return Ok(()) };
    let declared = u64::from(u32::from_le_bytes(*size)) + 8;
    if declared > bytes.len() as u64 {
        return Err(Error::malformed("WebP image", "truncated")
            .expected(format!("{declared} bytes"), bytes.len())
            .help("Get the file again; it was not transferred or saved to its end."));
    }
    Ok(())
}

/// Three channels of 8 bits: without alpha, and the upper byte of 16 bits.
fn rgb(pixels: DynamicImage) -> Vec<u8> {
    fn upper<const N: usize>(values: &[u16], pick: [usize; 3]) -> Vec<u8> {
        let (pixels, _) = values.as_chunks::<N>();
        pixels.iter().flat_map(|pixel| pick.map(|channel| (pixel[channel] >> 8) as u8)).collect()
    }
    match pixels {
        DynamicImage::ImageRgb16(image) => upper::<3>(image.as_raw(), [0, 1, 2]),
        DynamicImage::ImageRgba16(image) => upper::<4>(image.as_raw(), [0, 1, 2]),
        DynamicImage::ImageLumaA16(image) => upper::<2>(image.as_raw(), [0, 0, 0]),
        DynamicImage::ImageLuma16(image) => upper::<1>(image.as_raw(), [0, 0, 0]),
        other => other.into_rgb8().into_raw(),
    }
}

fn failure(format: ImageFormat, error: &ImageError) -> Error {
    match error {
        ImageError::Limits(_) => Error::limit("memory", error)
            .expected(format!("at most {MAX_DECODER_BYTES} bytes"), "more")
            .help("Reduce the image first."),
        ImageError::Unsupported(_) => Error::unsupported(format!("{format:?} image"), error)
            .help("Save it again as PNG with 8 bits per channel."),
        _ => Error::malformed(format!("{format:?} image"), format!("damaged or truncated: {error}")),
    }
}
