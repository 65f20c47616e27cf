//! Images, sounds and videos as the preprocessors of transformers and llama.cpp hand them to the towers.

mod audio;
mod image;

pub use audio::{
    AudioPreprocess, MAX_SECONDS, MAX_WINDOW, MEL_BINS, MIN_SAMPLES, Mel, MelFloor, MelWindows, SAMPLE_RATE,
    SAMPLES_PER_TOKEN, SampleTokens, Sound, log_mel, mel_filters, sample_tokens, window,
};
pub use image::{
    BUDGETS, Image, ImagePreprocess, MAX_IMAGE_BYTES, MAX_PIXELS, PATCH_SIDE, Patches, SOFT_TOKEN_SIDE, resize,
};
