//! The image and audio parts of a model under one name, whichever it has.

use gemma::towers::Towers;
use tensor::{Error, Result};

use super::audio::MEL_BINS;
use super::{
    Activation, AudioTower, Embedder, Features, ImagePatches, TowerStage, TowerWeights, VisionTower,
};
use crate::Matrix;

/// Everything of a model that reads images and sounds.
pub struct MediaEncoder<'a> {
    vision: Option<VisionTower<'a>>,
    audio: Option<AudioTower<'a>>,
    embedder: Option<Embedder<'a>>,
}

/// The input of a model for a sound, of 16,000 samples a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundInput {
    /// A row of the logarithm of the mel spectrum a frame: its bins.
    Mel {
        /// Values of a frame.
        bins: usize,
    },
    /// A row of samples a soft token.
    Samples {
        /// Samples of a soft token.
        count: usize,
    },
}

impl<'a> MediaEncoder<'a> {
    /// The image and audio parts of this model with these weights.
    pub fn new(towers: &Towers, weights: TowerWeights<'a>) -> MediaEncoder<'a> {
        MediaEncoder {
            vision: towers.vision.map(|config| VisionTower::of(config, weights.clone())),
            audio: towers.audio.map(|config| AudioTower::of(config, weights.clone())),
            embedder: towers.embedders.map(|config| Embedder::of(config, weights)),
        }
    }

    /// The same parts with another activation function in the image tower. The 12B has no activation function.
    pub fn with_activation(self, activation: Activation) -> MediaEncoder<'a> {
        MediaEncoder { vision: self.vision.map(|vision| vision.with_activation(activation)), ..self }
    }

    /// The side of a patch in pixels, and the patches of a soft token along each axis; `None` without images.
    pub fn image_input(&self) -> Option<(usize, usize)> {
        let of_tower = self.vision.as_ref().map(|tower| (tower.config().patch, tower.config().pooling));
        let (side, pooling) = of_tower.or_else(|| Some((self.embedder.as_ref()?.config().patch, 1)))?;
        Some((side as usize, pooling as usize))
    }

    /// The input for a sound; `None` without sounds.
    pub fn sound_input(&self) -> Option<SoundInput> {
        if self.audio.is_some() {
            return Some(SoundInput::Mel { bins: MEL_BINS });
        }
        let count = self.embedder.as_ref()?.config().audio? as usize;
        Some(SoundInput::Samples { count })
    }

    /// The error for an image that the model cannot read.
    pub fn no_images() -> Error {
        Error::unsupported("model", "it reads no images")
    }

    /// The error for a sound that the model cannot read.
    pub fn no_sounds() -> Error {
        Error::unsupported("model", "it reads no sounds")
            .help("26B-A4B and 31B read images only; E2B, E4B and 12B read sounds.")
    }

    /// The soft tokens of an image. `observe` gets the states at every stage of a tower.
    ///
    /// # Errors
    /// `Unsupported` for a model that reads no images, else those of [`VisionTower::encode`] and [`Embedder::encode_patches`].
    pub fn image(&self, image: &ImagePatches, observe: impl FnMut(TowerStage, &Matrix)) -> Result<Features> {
        match (&self.vision, &self.embedder) {
            (Some(vision), _) => vision.encode(image, observe),
            (None, Some(embedder)) => embedder.encode_patches(image),
            (None, None) => Err(MediaEncoder::no_images()),
        }
    }

    /// The soft tokens of a sound, given as [`MediaEncoder::sound_input`] says. `observe` gets the states at every stage of a tower.
    ///
    /// # Errors
    /// `Unsupported` for a model that reads no sounds, else those of [`AudioTower::encode`] and [`Embedder::encode_samples`].
    pub fn sound(&self, sound: &Matrix, observe: impl FnMut(TowerStage, &Matrix)) -> Result<Features> {
        match (&self.audio, &self.embedder) {
            (Some(audio), _) => audio.encode(sound, observe),
            (None, Some(embedder)) => embedder.encode_samples(sound),
            (None, None) => Err(MediaEncoder::no_sounds()),
        }
    }
}
