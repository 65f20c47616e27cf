//! The metadata keys of an mmproj file: the table `formats/gemma4-mmproj.keys.toml`, filled with the values of a checkpoint.

use gguf::Metadata;
use serde_json::Value as Json;
use tensor::{Error, Result};

use super::{Fact, KeySources, fact, fill};
use crate::formats;
use crate::towers::Towers;

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
const MEL_BINS: u64 = 128;

/// The metadata of an mmproj file, in file order. `file_type` is llama.cpp's number of the preset.
///
/// # Errors
/// `Malformed` for a processor config without mean and standard deviation or a value that does not fit its type; `Recipe` for an
/// override that does not fit or has an unknown key.
pub fn mmproj_metadata(from: &MmprojSources<'_>, file_type: u32) -> Result<Metadata> {
    let (mean, deviation) = (
        normalisation(from.image_processor, "image_mean")?,
        normalisation(from.image_processor, "image_std")?,
    );
    let table = formats::mmproj_keys();
    let own = |name: &str| match name {
        "image_mean" => Some(mean.clone().into()),
        "image_std" => Some(deviation.clone().into()),
        _ => tower_fact(from, name).or_else(|| fact(from.general, name, file_type)),
    };
    fill(from.general, table, table.key.iter().collect(), &own)
}

fn tower_fact(from: &MmprojSources<'_>, name: &str) -> Option<Fact> {
    let Towers { vision, audio, embedders, hidden } = from.towers;
    let config = |section: &str, key: &str| from.json.get(section)?.get(key).filter(|value| !value.is_null());
    let reads_sounds = audio.is_some() || embedders.is_some_and(|embedders| embedders.audio.is_some());
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

/// Mean or standard deviation of the colour channels. The converter has no default either.
fn normalisation(image_processor: Option<&Json>, field: &str) -> Result<Json> {
    let found = image_processor.and_then(|fields| fields.get(field));
    let is_good = |value: &&Json| {
        value.as_array().is_some_and(|list| list.len() == 3 && list.iter().all(Json::is_number))
    };
    found.filter(is_good).cloned().ok_or_else(|| {
        Error::malformed(
            format!("processor_config.json: image_processor.{field}"),
            "an mmproj file needs it, and there is no default",
        )
        .expected(
            "three numbers, one for each colour channel",
            found.map_or("nothing".to_owned(), Json::to_string),
        )
        .help("Copy processor_config.json from the original model; preprocessor_config.json is read too.")
    })
}
