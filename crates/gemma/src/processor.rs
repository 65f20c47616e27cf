//! How a checkpoint asks for its images and sounds to be prepared: the fields of `processor_config.json`.
//!
//! Most values are built into the preparation, `formats/gemma4.processor.toml`. The normalisation of colours is data: of the processor
//! config in transformers, of the keys `clip.vision.image_mean` and `clip.vision.image_std` in llama.cpp.

use gguf::Metadata;
use serde_json::Value as Json;
use tensor::{Error, Result};

use crate::formats;
use crate::towers::Towers;

/// The keys of an mmproj file.
const KEYS: [&str; 2] = ["clip.vision.image_mean", "clip.vision.image_std"];

/// The fields of a processor config.
const FIELDS: [&str; 2] = ["image_mean", "image_std"];

/// What is subtracted from the channels red, green and blue of an image with values from 0 to 1, and by what they are divided then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Mean of each channel.
    pub mean: [f32; 3],
    /// Standard deviation of each channel: finite, and not 0.
    pub deviation: [f32; 3],
}

impl Normalisation {
    /// Leaves every value as it is.
    pub const NONE: Normalisation = Normalisation { mean: [0.0; 3], deviation: [1.0; 3] };

    /// The normalisation of transformers: none, unless `do_normalize` asks for it.
    ///
    /// # Errors
    /// `Malformed` for a missing or impossible mean or standard deviation.
    pub fn of_processor(image_processor: Option<&Json>) -> Result<Normalisation> {
        match image_processor.and_then(|fields| fields.get("do_normalize")?.as_bool()) {
            Some(true) => Normalisation::stated(image_processor),
            _ => Ok(Normalisation::NONE),
        }
    }

    /// The mean and the standard deviation that a processor config states, for the keys of an mmproj file. The converter has no default
    /// either.
    ///
    /// # Errors
    /// `Malformed` for a missing or impossible one.
    pub fn stated(image_processor: Option<&Json>) -> Result<Normalisation> {
        let place = |field: &str| place("image_processor", field);
        let [mean, deviation] = FIELDS.map(|field| {
            let found = image_processor.and_then(|fields| fields.get(field));
            let number = |value: &Json| value.as_f64().map(|number| number as f32);
            let numbers: Option<Vec<f32>> = found.and_then(Json::as_array).and_then(|list| list.iter().map(number).collect());
            <[f32; 3]>::try_from(numbers.unwrap_or_default()).map_err(|_| {
                Error::malformed(place(field), "an mmproj file needs it, and there is no default")
                .expected(
                    "three numbers, one for each colour channel",
                    found.map_or("nothing".to_owned(), Json::to_string),
                )
                .help("Copy processor_config.json from the original model; preprocessor_config.json is read too.")
            })
        });
        Normalisation { mean: mean?, deviation: deviation? }.checked(FIELDS.map(place))
    }

    /// The normalisation of llama.cpp, by the keys of an mmproj file.
    ///
    /// # Errors
    /// `Malformed` for a missing or impossible key.
    pub fn of_mmproj(metadata: &Metadata) -> Result<Normalisation> {
        let read = |key: &str| -> Result<[f32; 3]> {
            let values: &[f32] = metadata.required(key)?;
            values.try_into().map_err(|_| {
                Error::malformed(format!("key {key}"), "wrong number of values")
                    .expected("three numbers, one for each colour channel", values.len())
            })
        };
        let found = Normalisation { mean: read(KEYS[0])?, deviation: read(KEYS[1])? };
        found.checked(KEYS.map(|key| format!("key {key}")))
    }

    fn checked(self, [mean, deviation]: [String; 2]) -> Result<Normalisation> {
        if !self.mean.iter().all(|value| value.is_finite()) {
            return Err(Error::malformed(mean, "not a mean of colours")
                .expected("finite numbers", format!("{:?}", self.mean)));
        }
        if !self.deviation.iter().all(|value| value.is_normal()) {
            return Err(Error::malformed(deviation, "colours are divided by it")
                .expected("finite numbers other than 0", format!("{:?}", self.deviation)));
        }
        Ok(self)
    }
}

/// Refuses a processor config that asks for another preparation of images or sounds than is built in.
///
/// # Errors
/// `Unsupported`, with the first field of another value.
pub(crate) fn check_processor(
    processor: Option<&Json>,
    image_processor: Option<&Json>,
    towers: &Towers,
) -> Result<()> {
    let table = formats::processor();
    if towers.reads_images() {
        check_fields("image_processor", image_processor, &table.image)?;
    }
    let sounds = processor.and_then(|processor| processor.get("feature_extractor"));
    match (&towers.audio, &towers.embedders) {
        (Some(_), _) => check_fields("feature_extractor", sounds, &table.mel),
        (None, Some(embedders)) if embedders.audio.is_some() => {
            check_fields("feature_extractor", sounds, &table.samples)
        }
        _ => Ok(()),
    }
}

fn check_fields(block: &str, fields: Option<&Json>, built_in: &formats::Fields) -> Result<()> {
    for (field, known) in built_in {
        let found = fields.and_then(|fields| fields.get(field)).filter(|value| !value.is_null());
        let Some(found) = found else { continue };
        let same = match (known.as_f64(), found.as_f64()) {
            (Some(known), Some(found)) => (known - found).abs() <= 1e-9 * known.abs(),
            _ => known == found,
        };
        if !same {
            return Err(Error::unsupported(
                place(block, field),
                "images and sounds are prepared with another value, here and in llama.cpp",
            )
            .expected(known, found)
            .help(
                "Restore the value of the original model, if the fine-tune was not trained with this one.",
            ));
        }
    }
    Ok(())
}

fn place(block: &str, field: &str) -> String {
    format!("processor_config.json: {block}.{field}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn transformers_normalises_when_asked() {
        let fields =
            |asked| json!({"do_normalize": asked, "image_mean": [0.5, 0.25, 0.0], "image_std": [0.5, 1, 2]});
        let asked = Normalisation::of_processor(Some(&fields(json!(true)))).unwrap();
        assert_eq!(asked, Normalisation { mean: [0.5, 0.25, 0.0], deviation: [0.5, 1.0, 2.0] });
        for not in [json!(false), json!(null)] {
            assert_eq!(Normalisation::of_processor(Some(&fields(not))).unwrap(), Normalisation::NONE);
        }
        assert_eq!(Normalisation::of_processor(None).unwrap(), Normalisation::NONE);
    }

    #[test]
    fn impossible_values_are_refused() {
        for (field, value) in [
            ("image_std", json!([1, 0, 1])),
            ("image_std", json!([1, 1])),
            ("image_std", json!([1, 1, 1, 1])),
            ("image_std", json!(1)),
            ("image_std", json!([1, 1, "1"])),
            ("image_std", json!([1, "1", 1, 1])),
            ("image_std", json!([1, 1e300, 1])),
            ("image_mean", json!([0, 0, 1e300])),
            ("image_mean", json!(null)),
        ] {
            let mut fields = json!({"image_mean": [0, 0, 0], "image_std": [1, 1, 1]});
            fields[field] = value;
            let error = Normalisation::stated(Some(&fields)).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
