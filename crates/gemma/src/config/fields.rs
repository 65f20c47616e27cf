//! Access to config fields by name: the value in the file, or the default of the config class, checked on access.
//!
//! An absent key has the default of transformers' class (`formats/gemma4.defaults.toml`). The value of a present key
//! must have the class's type: null, a fraction for a count, or a number outside the range of f32 is refused with the
//! name of the key, and never replaced.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use tensor::{Error, Result};

use super::field;
use crate::config::ModelKind;
use crate::formats::{self, Class};

/// Maximum of a count: a GGUF stores counts as 32-bit numbers.
pub(crate) const MOST: u64 = u32::MAX as u64;

/// The fields of one object of a config, as a transformers class reads them.
pub(crate) struct Fields<'a> {
    json: &'a Map<String, Value>,
    class: &'static Class,
    /// The class's name, for messages.
    pub(crate) class_name: &'static str,
}

impl<'a> Fields<'a> {
    /// The fields of the whole file, and those of the text model.
    ///
    /// # Errors
    /// `Malformed` if `model_type` and `architectures`, or the two model types, contradict each other; `Unsupported`
    /// for a model type outside Gemma 4.
    pub(crate) fn of(
        json: &'a Value,
        architecture: &str,
        kind: ModelKind,
    ) -> Result<(Fields<'a>, Fields<'a>)> {
        let object = |value: &'a Value, key: &str| {
            value.as_object().ok_or_else(|| {
                Error::malformed(field(key), "not an object").expected("fields by name", value)
            })
        };
        let whole = object(json, "")?;
        let nested = json.get("text_config").filter(|text| !text.is_null());
        let text = nested.map_or(Ok(whole), |text| object(text, "text_config"))?;

        let by_architecture = formats::defaults().model_type.get(architecture).map(String::as_str);
        let model_type = match whole.get("model_type") {
            None => by_architecture.unwrap_or_default(),
            Some(Value::String(name)) => name,
            Some(other) => {
                return Err(Error::malformed(field("model_type"), "not a name").expected("a string", other));
            }
        };
        let outer = class_of("model_type", model_type)?;
        if let Some(expected) = by_architecture
            && class_of("architectures", expected)? != outer
        {
            return Err(Error::malformed(field("model_type"), "contradicts architectures")
                .expected(format!("{expected}, for {architecture}"), model_type));
        }
        let inner = nested.and_then(|text| text.get("model_type")).and_then(Value::as_str);
        if let Some(inner) = inner
            && class_of("text_config.model_type", inner)? != outer
        {
            return Err(Error::malformed(field("text_config.model_type"), "contradicts model_type")
                .expected(format!("{outer}, for {model_type}"), inner));
        }
        // for a text model alone, or a draft whose model_type is that of its text model, the architecture decides the
        // outer class
        let whole_class = match kind {
            ModelKind::Draft => by_architecture.unwrap_or(model_type),
            _ => model_type,
        };
        Ok((Fields::new(whole, whole_class), Fields::new(text, outer)))
    }

    fn new(json: &'a Map<String, Value>, class: &str) -> Fields<'a> {
        let table = &formats::defaults().class;
        match table.get_key_value(class) {
            Some((name, class)) => Fields { json, class, class_name: name },
            None => unreachable!("formats/gemma4.defaults.toml: class {class:?}; the table is tested"),
        }
    }

    /// The value of a key in the file.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key)
    }

    /// The value of a key in the file, unless it is null.
    pub(crate) fn given(&self, key: &str) -> Option<&'a Value> {
        self.get(key).filter(|value| !value.is_null())
    }

    /// Whether the class lacks this key.
    pub(crate) fn is_unknown(&self, key: &str) -> bool {
        self.class.unknown.iter().any(|unknown| unknown == key)
    }

    /// The value of a key, or the class's default if it is absent; `None` for an optional key without a value.
    fn value(&self, key: &str) -> Result<Option<Value>> {
        match self.json.get(key) {
            Some(Value::Null) if self.class.optional.iter().any(|optional| optional == key) => Ok(None),
            // null is no value for a key that the class lacks
            Some(Value::Null) if !self.class.default.contains_key(key) => Ok(None),
            Some(Value::Null) => {
                let default =
                    self.class.default.get(key).map_or_else(String::new, |d| format!(", such as {d}"));
                Err(Error::malformed(field(key), "null, where transformers wants a value")
                    .expected(format!("a value{default}"), "null"))
            }
            Some(value) => Ok(Some(value.clone())),
            None => Ok(self.class.default.get(key).cloned()),
        }
    }

    /// A count in `range`.
    pub(crate) fn count(&self, key: &str, range: RangeInclusive<u64>) -> Result<u64> {
        self.optional_count(key, range)?.ok_or_else(|| {
            Error::malformed(field(key), format!("missing, and {} has no default for it", self.class_name))
        })
    }

    /// A count in `range`; `None` without a value.
    pub(crate) fn optional_count(&self, key: &str, range: RangeInclusive<u64>) -> Result<Option<u64>> {
        self.value(key)?.map(|value| as_count(key, &value, range)).transpose()
    }

    /// A boolean; false if the class lacks the key.
    pub(crate) fn flag(&self, key: &str) -> Result<bool> {
        let value = self.value(key)?.unwrap_or(Value::Bool(false));
        value.as_bool().ok_or_else(|| {
            Error::malformed(field(key), "neither true nor false").expected("true or false", value)
        })
    }

    /// A string; `None` without a value.
    pub(crate) fn text(&self, key: &str) -> Result<Option<String>> {
        match self.value(key)? {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Error::malformed(field(key), "not a string").expected("a string", other)),
        }
    }

    /// A number above zero; `None` without a value.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f32>> {
        self.value(key)?.map(|value| as_number(key, &value, f32::MIN_POSITIVE)).transpose()
    }

    /// A number of at least zero; `None` without a value.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f32>> {
        self.value(key)?.map(|value| as_number(key, &value, 0.0)).transpose()
    }
}

/// The class of the text model's fields for a model type.
fn class_of(key: &str, model_type: &str) -> Result<&'static str> {
    let known = &formats::defaults().text_class;
    known.get(model_type).map(String::as_str).ok_or_else(|| {
        let names = known.keys().cloned().collect::<Vec<_>>().join(", ");
        Error::unsupported(field(key), "not a model type of Gemma 4").expected(names, model_type)
    })
}

/// A whole number in `range`.
pub(crate) fn as_count(key: &str, value: &Value, range: RangeInclusive<u64>) -> Result<u64> {
    let number = value.as_u64();
    if let Some(number) = number.filter(|number| range.contains(number)) {
        return Ok(number);
    }
    let (problem, expected) = match (number, *range.end()) {
        // no upper bound in the message: the tensor sizes tell if a size is too large for this model
        (Some(0), MOST) => ("no such size", format!("at least {}", range.start())),
        (Some(_), _) => ("no such number", format!("{} to {}", range.start(), range.end())),
        (None, _) => ("not a whole number", format!("an integer from {} to {}", range.start(), range.end())),
    };
    Err(Error::malformed(field(key), problem).expected(expected, value))
}

/// A number of at least `least` that f32 can represent.
pub(crate) fn as_number(key: &str, value: &Value, least: f32) -> Result<f32> {
    let number = value.as_f64().map(|number| number as f32);
    if let Some(number) = number.filter(|&number| number.is_finite() && number >= least) {
        return Ok(number);
    }
    let (problem, bound) = match number {
        None => ("not a number", "a number"),
        Some(number) if !number.is_finite() => ("beyond what a single-precision number can hold", "a number"),
        Some(_) if least > 0.0 => ("has to be above zero", "a number above 0"),
        Some(_) => ("has to be zero or above", "a number from 0"),
    };
    Err(Error::malformed(field(key), problem).expected(format!("{bound}, at most {:e}", f32::MAX), value))
}
