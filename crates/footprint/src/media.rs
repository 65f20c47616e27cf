//! The image and the sound of a run, and the towers that read them.

use gemma::Config;
use gemma::towers::{Audio, Towers, Vision};
use plan::{Artifact, OTHER};
use schemars::JsonSchema;
use serde::Serialize;
use tensor::{DType, Error, Result};

use super::{Conditions, is_gguf};

/// The side of a soft token of an image, in pixels. The runtime refuses towers with others.
const SOFT_TOKEN_SIDE: u64 = ::media::SOFT_TOKEN_SIDE as u64;

/// Samples a second.
pub(crate) const SAMPLE_RATE: u64 = ::media::SAMPLE_RATE as u64;

/// Mel bins of a frame, of which there are 100 a second: four for a soft token.
pub(crate) const MEL_BINS: u64 = ::media::MEL_BINS as u64;

/// Soft tokens of a second of sound.
const TOKENS_PER_SECOND: u64 = 25;

/// Tokens that mark the begin and the end of an image or a sound.
const MARKS: u64 = 2;

/// Seconds of sound that an audio tower reads at a time. The embedder of the 12B has no limit.
const WINDOW_SECONDS: u64 = 30;

/// An image and a sound of a run, and the towers that read them.
#[derive(Clone, Copy, Debug)]
pub struct Media {
    pub(crate) image: Option<ImageReader>,
    pub(crate) sound: Option<SoundReader>,
    /// Bytes of the towers in an mmproj file. A folder of safetensors has its own.
    mmproj: u64,
    /// Whether the matrices are BF16.
    pub(crate) is_bf16: bool,
    image_tokens: u64,
    seconds: u64,
}

/// The part of a model that reads images.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ImageReader {
    Tower(Vision),
    Embedder,
}

/// The part of a model that reads sounds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SoundReader {
    Tower(Audio),
    /// With the samples of a soft token.
    Embedder(u64),
}

/// The image and the sound that an estimate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MediaTokens {
    /// Soft tokens of the image; 0 for none.
    pub image: u64,
    /// Soft tokens of the sound; 0 for none.
    pub sound: u64,
    /// Seconds of the sound.
    pub seconds: u64,
    /// Tokens of the context that image and sound take, with their begin and end.
    pub context: u64,
}

impl Media {
    /// An image of `image_tokens` soft tokens and a sound of `seconds`, each if the towers read such, with the
    /// weights of an mmproj file or, without one, of the artifact itself.
    pub fn new(towers: &Towers, mmproj: Option<&Artifact>, image_tokens: u64, seconds: u64) -> Media {
        let image = towers.vision.map(ImageReader::Tower);
        let sound = towers.audio.map(SoundReader::Tower);
        let media = Media {
            image: image.or(towers.embedders.map(|_| ImageReader::Embedder)),
            sound: sound.or(towers.embedders.and_then(|of| of.audio).map(SoundReader::Embedder)),
            mmproj: mmproj.map_or(0, payload),
            // the towers of a folder are BF16, as those of a checkpoint
            is_bf16: mmproj.is_none_or(|file| file.tensors().any(|tensor| tensor.desc.dtype == DType::BF16)),
            image_tokens: 0,
            seconds: 0,
        };
        let image_tokens = if media.image.is_some() { image_tokens } else { 0 };
        let seconds = if media.sound.is_some() { seconds } else { 0 };
        Media { image_tokens, seconds, ..media }
    }

    /// Soft tokens and their share of the context.
    pub fn tokens(&self) -> MediaTokens {
        let (image, sound) = (self.image_tokens, self.seconds * TOKENS_PER_SECOND);
        let with_marks = |tokens| if tokens > 0 { tokens + MARKS } else { 0 };
        MediaTokens { image, sound, seconds: self.seconds, context: with_marks(image) + with_marks(sound) }
    }

    /// Seconds of sound that are in memory as a spectrum or as rows of samples.
    pub(crate) fn seconds_together(&self) -> u64 {
        match self.sound {
            Some(SoundReader::Tower(_)) => self.seconds.min(WINDOW_SECONDS),
            _ => self.seconds,
        }
    }

    /// Soft tokens of the sound that are computed together.
    pub(crate) fn sound_together(&self) -> u64 {
        self.seconds_together() * TOKENS_PER_SECOND
    }

    /// Patches of the image: inputs of the tower or of the embedder.
    pub(crate) fn patches(&self) -> u64 {
        let side = match self.image {
            Some(ImageReader::Tower(vision)) => vision.patch,
            _ => SOFT_TOKEN_SIDE,
        };
        (SOFT_TOKEN_SIDE / side.max(1)).pow(2) * self.image_tokens
    }

    /// Values of the pixels of the image.
    pub(crate) fn pixels(&self) -> u64 {
        3 * SOFT_TOKEN_SIDE.pow(2) * self.image_tokens
    }

    /// Bytes of the towers that go with an artifact: of a safetensors folder, its own.
    pub(crate) fn weights(&self, artifact: &Artifact) -> u64 {
        if is_gguf(artifact) { self.mmproj } else { own_towers(artifact) }
    }
}

/// Bytes of the tensors with their padding: an mmproj file has a thousand scalars, which llama.cpp pads in memory too.
fn payload(artifact: &Artifact) -> u64 {
    artifact.files.iter().map(|file| file.bytes - file.header.len() as u64).sum()
}

/// Bytes of the towers in an artifact: 0 for a GGUF, and for safetensors of the text model alone.
pub fn own_towers(artifact: &Artifact) -> u64 {
    artifact.tensors().filter(|tensor| tensor.role == OTHER).map(|tensor| tensor.bytes).sum()
}

impl Conditions {
    /// The same with an image and a sound. A model whose images are one block in sliding layers computes an image in
    /// one batch.
    ///
    /// # Errors
    /// `Recipe` for a context without room for their soft tokens.
    pub fn with_media(self, config: &Config, media: Media) -> Result<Conditions> {
        let MediaTokens { image, context, .. } = media.tokens();
        if context >= self.context {
            return Err(Error::recipe("‹context›", "no room for the soft tokens of an image and a sound")
                .expected(format!("more than {context} tokens"), self.context));
        }
        let batch = if config.image_blocks { self.batch.max(image) } else { self.batch };
        Ok(Conditions { batch, media: Some(media), ..self })
    }

    /// The shortest context: a token after image and sound.
    pub(crate) fn least_context(&self) -> u64 {
        1 + self.media.map_or(0, |media| media.tokens().context)
    }
}
