//! From an image to patches: the two ways that the stacks have.

use std::fmt;
use std::str::FromStr;

use base::{Error, Result};

use super::target::{self, BUDGETS, TOKEN_PIXELS};
use super::{Image, MAX_PIXELS, Patches, resize};

/// transformers' default of the largest number of soft tokens of an image.
pub const DEFAULT_BUDGET: usize = 280;

/// How an image is resized before it is cut into patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePreprocess {
    /// transformers: turned upright by its EXIF orientation, stretched to the largest size within a budget of soft
    /// tokens; small images are enlarged.
    Transformers {
        /// Maximum number of soft tokens, one of [`BUDGETS`].
        budget: usize,
    },
    /// llama.cpp: as stored in the file, sides rounded to multiples of 48, resized further only outside of the limits,
    /// aspect ratio kept with black borders.
    LlamaCpp {
        /// `--image-min-tokens`.
        min_tokens: usize,
        /// `--image-max-tokens`.
        max_tokens: usize,
    },
}

impl ImagePreprocess {
    /// transformers' default: a budget of 280 soft tokens.
    pub const TRANSFORMERS: ImagePreprocess = ImagePreprocess::Transformers { budget: DEFAULT_BUDGET };
    /// llama.cpp's default: 70 to 1120 soft tokens.
    pub const LLAMA_CPP: ImagePreprocess = ImagePreprocess::LlamaCpp { min_tokens: 70, max_tokens: 1120 };

    /// The name without its numbers: `transformers` or `llama.cpp`.
    pub const fn name(&self) -> &'static str {
        match self {
            ImagePreprocess::Transformers { .. } => "transformers",
            ImagePreprocess::LlamaCpp { .. } => "llama.cpp",
        }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// `Recipe` for a budget that transformers does not have, for limits of 0 or in the wrong order, and for images of
    /// more than [`MAX_PIXELS`].
    pub fn check(&self) -> Result<()> {
        match *self {
            ImagePreprocess::Transformers { budget } if !BUDGETS.contains(&budget) => {
                let known = BUDGETS.map(|budget| budget.to_string()).join(", ");
                Err(Error::recipe("image budget", "not a budget of soft tokens that transformers has")
                    .expected(format!("one of {known}"), budget))
            }
            ImagePreprocess::LlamaCpp { min_tokens, max_tokens } => {
                let most = MAX_PIXELS as usize / TOKEN_PIXELS;
                if min_tokens == 0 || min_tokens > max_tokens || max_tokens > most {
                    return Err(Error::recipe("image tokens", "impossible limits").expected(
                        format!("1 ≤ minimum ≤ maximum ≤ {most}"),
                        format!("{min_tokens} and {max_tokens}"),
                    ));
                }
                Ok(())
            }
            ImagePreprocess::Transformers { .. } => Ok(()),
        }
    }

    /// Width and height that an image of `width` × `height` pixels is resized to: multiples of 48. For transformers, the
    /// size of the upright image.
    ///
    /// # Errors
    /// Those of [`ImagePreprocess::check`]; `Malformed` for a side of 0; `Limit` for more than [`MAX_PIXELS`], and for an
    /// image so long that llama.cpp refuses it.
    pub fn target(&self, width: usize, height: usize) -> Result<(usize, usize)> {
        self.check()?;
        super::check_sides(width as u64, height as u64, "image")?;
        match *self {
            ImagePreprocess::Transformers { budget } => target::transformers(width, height, budget),
            ImagePreprocess::LlamaCpp { min_tokens, max_tokens } => {
                target::llama_cpp(width, height, min_tokens, max_tokens)
            }
        }
    }

    /// The resized image, with sides that are multiples of 48.
    ///
    /// # Errors
    /// Those of [`ImagePreprocess::target`].
    pub fn resized(&self, image: &Image) -> Result<Image> {
        match self {
            ImagePreprocess::Transformers { .. } => {
                let image = image.upright();
                let (width, height) = self.target(image.width(), image.height())?;
                resize(&image, width, height)
            }
            ImagePreprocess::LlamaCpp { .. } => {
                let target = self.target(image.width(), image.height())?;
                fitted(image, target)
            }
        }
    }

    /// The patches of an image for a tower: `side` is 16 for the vision towers, 48 for 12B.
    ///
    /// # Errors
    /// Those of [`ImagePreprocess::target`] and of [`Patches::of`].
    pub fn patches(&self, image: &Image, side: usize) -> Result<Patches> {
        Patches::of(&self.resized(image)?, side)
    }
}

impl FromStr for ImagePreprocess {
    type Err = Error;

    /// The defaults of `transformers` or `llama.cpp`.
    fn from_str(name: &str) -> Result<ImagePreprocess> {
        let known = [ImagePreprocess::TRANSFORMERS, ImagePreprocess::LLAMA_CPP];
        known.into_iter().find(|known| known.name() == name).ok_or_else(|| {
            Error::recipe("image preprocessing", "unknown name")
                .expected("transformers or llama.cpp", format!("{name:?}"))
        })
    }
}

impl fmt::Display for ImagePreprocess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImagePreprocess::Transformers { budget } => write!(f, "transformers, {budget} soft tokens"),
            ImagePreprocess::LlamaCpp { min_tokens, max_tokens } => {
                write!(f, "llama.cpp, {min_tokens} to {max_tokens} soft tokens")
            }
        }
    }
}

/// The image inside of `target` with its aspect ratio, centred on black; the arithmetic is in f32, as in llama.cpp's
/// `img_tool::resize` with `PAD_CEIL`.
fn fitted(image: &Image, (width, height): (usize, usize)) -> Result<Image> {
    if (image.width(), image.height()) == (width, height) {
        return resize(image, width, height);
    }
    let scale = (width as f32 / image.width() as f32).min(height as f32 / image.height() as f32);
    let inner = |side: usize, most: usize| ((side as f32 * scale).ceil() as usize).clamp(1, most);
    let inside = resize(image, inner(image.width(), width), inner(image.height(), height))?;
    let mut rgb = vec![0; width * height * 3];
    let (left, top) = ((width - inside.width()) / 2, (height - inside.height()) / 2);
    for (row, pixels) in inside.rgb().chunks_exact(inside.width() * 3).enumerate() {
        let start = ((top + row) * width + left) * 3;
        rgb[start..start + pixels.len()].copy_from_slice(pixels);
    }
    Image::new(width, height, rgb)
}
