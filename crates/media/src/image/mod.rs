//! A decoded image: 8-bit RGB, and the orientation that its file asks for.

mod decode;
mod jpeg;
mod patches;
mod preprocess;
mod resize;
mod target;

use std::borrow::Cow;
use std::path::Path;

use base::{Error, Result};
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

pub use patches::{PATCH_SIDE, Patches, SOFT_TOKEN_SIDE};
pub use preprocess::{DEFAULT_BUDGET, ImagePreprocess};
pub use resize::resize;
pub use target::BUDGETS;

/// Maximum number of pixels of an image. A larger one is refused before it is decoded.
pub const MAX_PIXELS: u64 = 100_000_000;

/// Maximum size of an image file in bytes.
pub const MAX_IMAGE_BYTES: u64 = 512 << 20;

/// An image in 8-bit RGB.
#[derive(Clone, PartialEq)]
pub struct Image {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
    orientation: Orientation,
}

impl Image {
    /// An image from the bytes of its rows: `height` rows of `width` pixels of red, green, blue.
    ///
    /// # Errors
    /// `Malformed` for a side of 0, or bytes that do not fit; `Limit` for more than [`MAX_PIXELS`].
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Image> {
        check_sides(width as u64, height as u64, "image")?;
        if rgb.len() != width * height * 3 {
            return Err(Error::malformed("image", "the bytes do not fit the size")
                .expected(format!("{width} × {height} × 3 bytes"), rgb.len()));
        }
        Ok(Image { width, height, rgb, orientation: Orientation::NoTransforms })
    }

    /// Reads a PNG, JPEG or WebP file; see [`Image::decode`].
    ///
    /// # Errors
    /// Those of [`Image::decode`] and of [`Error::io`]; the place is the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Image> {
        let path = path.as_ref();
        let bytes = base::read_bounded(path, MAX_IMAGE_BYTES)?;
        Image::decode(&bytes, path.display())
    }

    /// Decodes the bytes of a PNG, JPEG or WebP file; `place` names them in errors.
    ///
    /// Pillow's `convert("RGB")` and stb_image's three channels agree in the following, which is what is done: alpha is
    /// dropped and not blended, grey is copied to three channels, palettes are looked up, of 16 bits the upper 8 are
    /// taken, gamma and ICC profiles are ignored. Of an animation the first image is taken: of a PNG the one that
    /// readers without animation show. CMYK in a JPEG is inverted, by Adobe's convention; stb_image expects Adobe's marker
    /// for that.
    ///
    /// llama.cpp has ffmpeg decode WebP, if it is installed.
    ///
    /// PNG and lossless WebP have the same bytes as in Pillow. JPEG and lossy WebP depend on the decoder's arithmetic, in
    /// Pillow and in llama.cpp too; the values differ by a few levels.
    ///
    /// # Errors
    /// `Unsupported` for another format, and for a grey PNG of 16 bits without alpha: Pillow makes every value over 255
    /// white, stb_image takes the upper 8 bits. `Limit` for more than [`MAX_PIXELS`]. `Malformed` for damaged and
    /// truncated files.
    pub fn decode(bytes: &[u8], place: impl std::fmt::Display) -> Result<Image> {
        decode::decode(bytes).map_err(|error| error.within(place))
    }

    /// Width in pixels, as stored.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels, as stored.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The rows of the image: red, green, blue of each pixel.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The EXIF orientation, 1 to 8; 1 is upright, and the value where a file has none.
    pub fn orientation(&self) -> u8 {
        self.orientation.to_exif()
    }

    /// The image turned as its EXIF orientation says. Pillow's `exif_transpose` does it, llama.cpp does not.
    pub fn upright(&self) -> Cow<'_, Image> {
        if self.orientation == Orientation::NoTransforms {
            return Cow::Borrowed(self);
        }
        let Some(pixels) = RgbImage::from_raw(self.width as u32, self.height as u32, self.rgb.clone()) else {
            unreachable!("the bytes fit the size: both constructors check it");
        };
        let mut turned = DynamicImage::ImageRgb8(pixels);
        turned.apply_orientation(self.orientation);
        let (width, height) = (turned.width() as usize, turned.height() as usize);
        let rgb = turned.into_rgb8().into_raw();
        Cow::Owned(Image { width, height, rgb, orientation: Orientation::NoTransforms })
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} × {}, orientation {})", self.width, self.height, self.orientation())
    }
}

/// Sides that make an image of 1 to [`MAX_PIXELS`] pixels.
pub(crate) fn check_sides(width: u64, height: u64, place: &str) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(Error::malformed(place, "an image without pixels")
            .expected("at least 1 × 1", format!("{width} × {height}")));
    }
    if width.saturating_mul(height) > MAX_PIXELS {
        return Err(Error::limit(place, "too many pixels")
            .expected(format!("at most {MAX_PIXELS}"), format!("{width} × {height}"))
            .help("Reduce the image first."));
    }
    Ok(())
}
