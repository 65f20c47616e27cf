//! The metadata keys of an mmproj file: the table `formats/gemma4-mmproj.keys.toml`, filled with the values of a checkpoint.

use gguf::Metadata;
use serde_json::Value as Json;
use tensor::{Error, Result};

use super::{Fact, KeySources, fact, fill};
use crate::formats;
use crate::processor::Normalisation;
use crate::towers::{MEL_BINS, Towers};

/// The sources of an mmproj file's metadata.
#[derive(Clone, Copy, Debug)]
pub struct MmprojSources<'a> {
    /// The sources of the `general.*` keys. Parameters are those of the mmproj file.
    pub general: &'a KeySources<'a>,
    /// The parts that read images and sounds.
    pub towers: &'a Towers,
    /// The content of `config.json`.
    pub json: &'a Json,
    /// The fields for images, see [`ModelSpec::image_processor`](crate::ModelSpec::image_processor).
    pub image_processor: Option<&'a Json>,
    /// `clip.use_gelu` is written: llama.cpp then computes the activation that the model was trained with.
    pub exact_gelu: bool,
}

/// The side of an image that the converter writes for every model; no program reads it.
const IMAGE_SIZE: u64 = 224;

/// The values for keys that the config does not have, from the converter.
const EPS: f64 = 1e-6;

/// The metadata of an mmproj file, in file order. `file_type` is llama.cpp's number of the preset.
///
/// # Errors
/// `Malformed` for a processor config without mean and standard deviation or a value that does not fit its type; `Recipe` for an
/// override that does not fit or has an unknown key.
pub fn mmproj_metadata(from: &MmprojSources<'_>, file_type: u32) -> Result<Metadata> {
    agreed(from.image_processor)?;
    let stated = |field: &str| from.image_processor.and_then(|fields| fields.get(field)).cloned();
    let table = formats::mmproj_keys();
    let own = |name: &str| match name {
        "image_mean" | "image_std" => stated(name).map(Fact::from),
        _ => tower_fact(from, name).or_else(|| fact(from.general, name, file_type)),
    };
    fill(from.general, table, table.key.iter().collect(), &own)
}

fn tower_fact(from: &MmprojSources<'_>, name: &str) -> Option<Fact> {
    let Towers { vision, audio, embedders, hidden } = from.towers;
    let config = |section: &str, key: &str| from.json.get(section)?.get(key).filter(|value| !value.is_null());
    let reads_sounds = from.towers.reads_sounds();
    // the 12B has no towers: embedded patches and samples go to the projector, and its converter writes zeros
    let of_vision = |size: fn(&crate::towers::Vision) -> u64| vision.as_ref().map_or(0, size);
    let of_audio = |size: fn(&crate::towers::Audio) -> u64| audio.as_ref().map_or(0, size);
    if name.starts_with("audio_") && !reads_sounds {
        return None;
    }
    Some(match name {
        "architecture" => formats::mmproj_keys().architecture.clone().into(),
        "type" => "mmproj".into(),
        "reads_images" => true.into(),
        "reads_sounds" if !reads_sounds => return None,
        "reads_sounds" => true.into(),
        "hidden" | "audio_projection" => (*hidden).into(),
        "image_size" => IMAGE_SIZE.into(),
        "patch_size" => embedders.map_or(of_vision(|v| v.patch), |embedders| embedders.patch_size).into(),
        "vision_hidden" => embedders.map_or(of_vision(|v| v.hidden), |embedders| embedders.hidden).into(),
        "vision_ffn" => of_vision(|v| v.ffn).into(),
        "vision_layers" => of_vision(|v| v.layers as u64).into(),
        "vision_heads" => of_vision(|v| v.heads).into(),
        "audio_hidden" => embedders.and_then(|e| e.audio).unwrap_or(of_audio(|a| a.hidden)).into(),
        "audio_ffn" => (4 * of_audio(|a| a.hidden)).into(),
        "audio_layers" => of_audio(|a| a.layers as u64).into(),
        "audio_heads" => of_audio(|a| a.heads).into(),
        "vision_projector" if embedders.is_some() => "gemma4uv".into(),
        "vision_projector" => "gemma4v".into(),
        "audio_projector" if embedders.is_some() => "gemma4ua".into(),
        "audio_projector" => "gemma4a".into(),
        "vision_eps" => {
            config("vision_config", "layer_norm_eps").map_or(EPS.into(), |eps| eps.clone().into())
        }
        "audio_eps" => config("audio_config", "layer_norm_eps").map_or(EPS.into(), |eps| eps.clone().into()),
        "mel_bins" if !reads_sounds => return None,
        "mel_bins" => {
            config("audio_config", "input_feat_size").map_or(MEL_BINS.into(), |bins| bins.clone().into())
        }
        "exact_gelu" if from.exact_gelu => true.into(),
        _ => return None,
    })
}

/// llama.cpp always normalises by the keys, transformers by `do_normalize`.
fn agreed(image_processor: Option<&Json>) -> Result<()> {
    let (theirs, own) =
        (Normalisation::stated(image_processor)?, Normalisation::of_processor(image_processor)?);
    if theirs == own {
        return Ok(());
    }
    Err(Error::unsupported(
        "processor_config.json: image_processor.do_normalize",
        "llama.cpp would normalise images by image_mean and image_std, and transformers does not",
    )
    .expected("true, or a mean of 0 and a standard deviation of 1", format!("{:?} and {:?}", theirs.mean, theirs.deviation))
    .help("Set do_normalize to true if the model was trained with it, else image_mean to [0, 0, 0] and image_std to [1, 1, 1]."))
}
