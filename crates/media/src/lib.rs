//! Images, sounds and videos as the preprocessors of transformers and llama.cpp hand them to the towers.
//!
//! ```
//! use media::{Image, ImagePreprocess, PATCH_SIDE};
//!
//! let image = Image::new(200, 90, vec![128; 200 * 90 * 3])?;
//! // 36 × 15 patches of 16 × 16 pixels and 3 channels, which become 60 soft tokens
//! let patches = ImagePreprocess::Transformers { budget: 70 }.patches(&image, PATCH_SIDE)?;
//! assert_eq!((patches.columns, patches.rows, patches.soft_tokens()), (36, 15, 60));
//! assert_eq!(patches.values.len(), 36 * 15 * 16 * 16 * 3);
//!
//! // llama.cpp keeps the aspect ratio and has other sizes
//! assert_eq!(ImagePreprocess::LLAMA_CPP.target(200, 90)?, (624, 288));
//!
//! // a second of silence: 99 frames of 128 mel bins, 25 soft tokens
//! let mel = media::log_mel(&[0.0; 16_000], media::MelFloor::Add)?;
//! assert_eq!((mel.frames, mel.soft_tokens()), (99, 25));
//! # Ok::<(), base::Error>(())
//! ```
//!
//! | input | becomes | for |
//! |---|---|---|
//! | [`Image`]: PNG, JPEG, WebP | [`Patches`] by [`ImagePreprocess`] | the vision towers (16 pixels), 12B (48 pixels) |
//! | [`Sound`]: WAV, FLAC, MP3, Ogg/Vorbis | [`Mel`] by [`AudioPreprocess`] | the audio towers of E2B and E4B |
//! | [`Sound`] | [`SampleTokens`] | 12B |
//! | [`Video`]: a folder of images, or a file by ffmpeg | [`Frame`]s, and [`VideoPart`]s by [`VideoPreprocess`] | the vision towers |
//!
//! Both stacks are reproduced, because their sizes, floors and frames differ: a comparison of a GGUF with its checkpoint
//! needs one of them on both sides. Files of others are untrusted: sizes and lengths are bounded, and a damaged file is an
//! error, not a shorter sound or a grey area.
//!
//! Not covered: the towers, and the marks and placeholders around soft tokens.

mod audio;
mod image;
mod picture;
mod video;

pub use audio::{
    AudioPreprocess, MAX_SECONDS, MAX_WINDOW, MEL_BINS, MIN_SAMPLES, Mel, MelFloor, MelWindows, SAMPLE_RATE,
    SAMPLES_PER_TOKEN, SampleTokens, Sound, log_mel, mel_filters, sample_tokens, window,
};
pub use base::{Error, Result};
pub use image::{
    BUDGETS, DEFAULT_BUDGET, Image, ImagePreprocess, MAX_IMAGE_BYTES, MAX_PIXELS, PATCH_SIDE, Patches,
    SOFT_TOKEN_SIDE, resize,
};
pub use picture::spectrogram;
pub use video::{
    Frame, MAX_FRAMES, MAX_VIDEO_BYTES, Programs, VIDEO_FRAMES, Video, VideoPart, VideoPreprocess,
    natural_order,
};
