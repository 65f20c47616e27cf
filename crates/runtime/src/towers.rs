//! The image and audio towers: patches of images and spectra of sounds become soft tokens of the text model.
//!
//! ```
//! # let folder = testkit::fixtures("checkpoints/e2b");
//! use checkpoint::Checkpoint;
//! use gemma::{ModelSpec, towers::Towers};
//! use runtime::towers::{ImagePatches, MediaEncoder, TowerForm, TowerWeights};
//! use runtime::{Compute, Matrix};
//! use tensor::TensorSource;
//!
//! let checkpoint = Checkpoint::open(&folder)?;
//! let config = ModelSpec::open(&checkpoint)?.config;
//! let towers = Towers::from_json(checkpoint.config(), &config)?.expect("a model with towers");
//! let tensors = towers.find(checkpoint.tensors())?;
//! let weights = TowerWeights::new(&checkpoint, &tensors, TowerForm::Checkpoint, Compute::detect())?;
//! let encoder = MediaEncoder::new(&towers, weights);
//!
//! // 6 × 3 patches of 16 × 16 pixels: an image of 96 × 48
//! let image = ImagePatches { columns: 6, rows: 3, values: Matrix::zeros((18, 768)) };
//! let features = encoder.image(&image, |_, _| ())?;
//! assert_eq!(features.soft_tokens.dim(), (2, config.hidden as usize));
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `media.rs` | the parts that a model has, under one name |
//! | `vision.rs`, `vision/` | the image tower; its attention |
//! | `audio.rs`, `audio/` | the audio tower; subsampling, attention, convolution |
//! | `embedders.rs` | the 12B, which embeds patches and samples without a tower |
//! | `projector.rs` | from an output of a tower to a soft token |
//! | `linear.rs` | products with clipped inputs and outputs |
//! | `patches.rs` | the patches of an image, in the order of the columns of the weights |
//! | `weights.rs` | tensors by role, of a checkpoint or an mmproj file |
//!
//! The source of the formulas is `models/gemma4/modeling_gemma4.py` and `models/gemma4_unified/modeling_gemma4_unified.py` of
//! huggingface/transformers. Where llama.cpp computes something else, the caller chooses: see [`Activation`].
//!
//! Not in this module: how an image is resized and cut into patches, and how a spectrum is computed.

mod audio;
mod embedders;
mod linear;
mod media;
mod patches;
mod projector;
mod vision;
mod weights;

use std::fmt;

use tensor::{Error, Result};

use crate::{Matrix, RowMajor};

pub use audio::AudioTower;
pub use embedders::Embedder;
pub use media::{MediaEncoder, SoundInput};
pub use patches::ImagePatches;
pub use vision::{Activation, TOWER_QUERIES, VisionTower};
pub use weights::{TowerForm, TowerWeights};

/// What a tower makes of an image or a sound.
#[derive(Clone, Debug)]
pub struct Features {
    /// The output of the tower, `[soft tokens, width of the tower]`: the input of the projector.
    pub encoder: Matrix,
    /// `[soft tokens, hidden]`: they replace embeddings in the text model, and are not scaled.
    pub soft_tokens: Matrix,
}

/// A point in the computation of a tower. Each shows the residual stream, `Attention` excepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TowerStage {
    /// Image: after patches and positions.
    Patches,
    /// Audio: after the subsampling.
    Subsampling,
    /// Audio: after the first feed-forward network of a block.
    FeedForward1(usize),
    /// Audio: the output of the attention of a block, before its norm.
    Attention(usize),
    /// Audio: after the convolution of a block.
    Convolution(usize),
    /// Audio: after the second feed-forward network of a block.
    FeedForward2(usize),
    /// After a block.
    Block(usize),
}

impl fmt::Display for TowerStage {
    /// `patch_embd`, `subsample`, `block0.feed_forward1`, `block0.self_attn`, `block0.lconv1d`, `block0.feed_forward2`, `block0`:
    /// the modules of transformers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TowerStage::Patches => write!(f, "patch_embd"),
            TowerStage::Subsampling => write!(f, "subsample"),
            TowerStage::FeedForward1(block) => write!(f, "block{block}.feed_forward1"),
            TowerStage::Attention(block) => write!(f, "block{block}.self_attn"),
            TowerStage::Convolution(block) => write!(f, "block{block}.lconv1d"),
            TowerStage::FeedForward2(block) => write!(f, "block{block}.feed_forward2"),
            TowerStage::Block(block) => write!(f, "block{block}"),
        }
    }
}

/// Refuses values that are not finite.
fn check_finite(tower: &str, stage: impl fmt::Display, x: &Matrix) -> Result<()> {
    let Some(bad) = quant::first_beyond(x.values(), f32::MAX) else { return Ok(()) };
    let problem = format!("the state in row {} is not finite", bad / x.ncols());
    Err(Error::malformed(format!("{tower}, {stage}"), problem).expected("numbers", x.values()[bad]))
}
