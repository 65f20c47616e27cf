//! Validation of the sampling values of `generation_config.json`.
//!
//! They go into a GGUF as defaults, which programs use without a check. A value out of range is refused with its
//! name. Sources: huggingface/transformers `generation/configuration_utils.py`, llama.cpp `common/common.h`.

use serde_json::Value;
use tensor::{Error, Result};

/// The name of the file.
const FILE: &str = "generation_config.json";

/// The range of a sampling value: minimum, maximum, and whether it is a whole number.
struct Bound {
    key: &'static str,
    least: f64,
    most: f64,
    whole: bool,
}

const fn number(key: &'static str, least: f64, most: f64) -> Bound {
    Bound { key, least, most, whole: false }
}

const fn count(key: &'static str, least: f64) -> Bound {
    Bound { key, least, most: i32::MAX as f64, whole: true }
}

/// The largest number that a GGUF can store.
const MOST: f64 = f32::MAX as f64;

const BOUNDS: &[Bound] = &[
    number("temperature", 0.0, MOST),
    count("top_k", 0.0),
    number("top_p", 0.0, 1.0),
    number("min_p", 0.0, 1.0),
    number("typical_p", 0.0, 1.0),
    number("xtc_probability", 0.0, 1.0),
    number("xtc_threshold", 0.0, 1.0),
    // a penalty divides or multiplies a logit
    number("repetition_penalty", f32::MIN_POSITIVE as f64, MOST),
    number("penalty_repeat", f32::MIN_POSITIVE as f64, MOST),
    count("penalty_last_n", -1.0),
    count("mirostat", 0.0),
    number("mirostat_tau", 0.0, MOST),
    number("mirostat_eta", 0.0, MOST),
];

/// Keys of token ids, or lists of them.
const IDS: [&str; 3] = ["eos_token_id", "bos_token_id", "pad_token_id"];

/// Checks all sampling values that are present.
///
/// # Errors
/// `Malformed`, with the first value that is out of range.
pub(crate) fn check(generation: &Value) -> Result<()> {
    for bound in BOUNDS {
        let Some(value) = generation.get(bound.key).filter(|value| !value.is_null()) else { continue };
        let within = |number: f64| (bound.least..=bound.most).contains(&number);
        let right = match bound.whole {
            true => value.as_i64().is_some_and(|number| within(number as f64)),
            false => value.as_f64().is_some_and(within),
        };
        if !right {
            let what = if bound.whole { "an integer" } else { "a number" };
            let range = match bound.most {
                1.0 => format!("{what} from {} to 1", bound.least),
                _ if bound.least > 0.0 => format!("{what} above 0"),
                most => format!("{what} from {} to {most}", bound.least),
            };
            return Err(Error::malformed(format!("{FILE}: {}", bound.key), "not a valid sampling value")
                .expected(range, value));
        }
    }
    for key in IDS {
        let right = |value: &Value| value.as_u64().is_some_and(|id| u32::try_from(id).is_ok());
        let wrong = match generation.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::Array(ids)) => ids.iter().find(|id| !right(id)),
            Some(id) => Some(id).filter(|id| !right(id)),
        };
        if let Some(wrong) = wrong {
            return Err(Error::malformed(format!("{FILE}: {key}"), "not a token id")
                .expected("an integer from 0, or a list of them", wrong));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_in_and_out_of_range() {
        let good = json!({"temperature": 0, "top_k": 64, "top_p": 0.95, "min_p": null, "repetition_penalty": 1.1,
            "penalty_last_n": -1, "do_sample": true});
        check(&good).unwrap();
        for (key, value) in [
            ("temperature", json!(-0.1)),
            ("temperature", json!("hot")),
            ("temperature", json!(1e39)),
            ("top_p", json!(1.5)),
            ("top_p", json!(-0.5)),
            ("top_k", json!(-1)),
            ("top_k", json!(2.5)),
            ("top_k", json!(1u64 << 40)),
            ("min_p", json!(2)),
            ("repetition_penalty", json!(0)),
            ("repetition_penalty", json!(-1.0)),
        ] {
            let error = check(&json!({ key: value })).unwrap_err();
            assert_eq!(error.place(), format!("generation_config.json: {key}"), "{value}");
        }
    }
}
