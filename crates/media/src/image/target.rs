//! Sizes that images are resized to, by the rules of both stacks.
//!
//! Sources: transformers' `models/gemma4/image_processing_pil_gemma4.py` (`get_aspect_ratio_preserving_size`), in f64;
//! llama.cpp's `tools/mtmd/mtmd-image.cpp` (`calc_size_preserved_ratio`), in f32.

use base::{Error, Result};

use super::SOFT_TOKEN_SIDE;

/// The numbers of soft tokens that transformers accepts as a budget.
pub const BUDGETS: [usize; 5] = [70, 140, 280, 560, 1120];

/// Pixels of a soft token.
pub(super) const TOKEN_PIXELS: usize = SOFT_TOKEN_SIDE * SOFT_TOKEN_SIDE;

/// The longest side that llama.cpp resizes to.
const MAX_SIDE: usize = 65_536;

/// transformers: the largest multiples of 48 with at most `budget` soft tokens, each side rounded down by itself.
pub(super) fn transformers(width: usize, height: usize, budget: usize) -> Result<(usize, usize)> {
    let pixels = budget * TOKEN_PIXELS;
    let factor = (pixels as f64 / (width * height) as f64).sqrt();
    let multiple =
        |side: usize| (factor * side as f64 / SOFT_TOKEN_SIDE as f64).floor() as usize * SOFT_TOKEN_SIDE;
    let long = |long: usize, short: usize| (long / short).min(budget) * SOFT_TOKEN_SIDE;
    let target = match (multiple(width), multiple(height)) {
        (0, 0) => (0, 0),
        (_, 0) => (long(width, height), SOFT_TOKEN_SIDE),
        (0, _) => (SOFT_TOKEN_SIDE, long(height, width)),
        both => both,
    };
    if target.0 == 0 || target.0 * target.1 > pixels {
        return Err(Error::unsupported("size", "no size of whole soft tokens fits the budget")
            .expected(format!("1 to {budget} soft tokens"), format!("{width} × {height} pixels")));
    }
    Ok(target)
}

/// llama.cpp: the nearest multiples of 48; only an image outside of the limits is enlarged or reduced.
pub(super) fn llama_cpp(
    width: usize,
    height: usize,
    min_tokens: usize,
    max_tokens: usize,
) -> Result<(usize, usize)> {
    let side = SOFT_TOKEN_SIDE as f32;
    let multiple = |tokens: f32| tokens as usize * SOFT_TOKEN_SIDE;
    let (wide, high) = (width as f32, height as f32);
    let nearest = |pixels: f32| multiple((pixels / side).round()).max(SOFT_TOKEN_SIDE);
    let target = (nearest(wide), nearest(high));
    let (least, most) = (min_tokens * TOKEN_PIXELS, max_tokens * TOKEN_PIXELS);
    let target = if target.0 * target.1 > most {
        let beta = (high * wide / most as f32).sqrt();
        let below = |pixels: f32| multiple((pixels / beta / side).floor()).max(SOFT_TOKEN_SIDE);
        (below(wide), below(high))
    } else if target.0 * target.1 < least {
        let beta = (least as f32 / (high * wide)).sqrt();
        let above = |pixels: f32| multiple((pixels * beta / side).ceil());
        (above(wide), above(high))
    } else {
        target
    };
    if target.0.max(target.1) > MAX_SIDE {
        return Err(Error::limit("size", "the image is too long for llama.cpp's rule")
            .expected(
                format!("a side of at most {MAX_SIDE} after resizing"),
                format!("{} × {}", target.0, target.1),
            )
            .help("Crop the image."));
    }
    Ok(target)
}
