//! Keys and values, in file order.

use tensor::{Error, Result};

use crate::value::{Array, Value};

/// The key-value pairs of a file: keys are unique and keep their order.
///
/// A list instead of a map: files have about fifty keys, and their order is part of the bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Vec<(String, Value)>);

impl Metadata {
    /// Metadata without keys.
    pub fn new() -> Self {
        Metadata::default()
    }

    /// Metadata from pairs whose keys the caller has checked to be unique.
    pub(crate) fn from_unique(pairs: Vec<(String, Value)>) -> Self {
        Metadata(pairs)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pairs, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// Sets a key as gguf-py does: an existing key keeps its position, a new one goes to the end. Returns the old
    /// value.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => Some(std::mem::replace(old, value)),
            None => {
                self.0.push((key, value));
                None
            }
        }
    }

    /// Sets a key as ggml does: it goes to the end, even if it existed before. Returns the old value.
    pub fn append(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let key = key.into();
        let old = self.remove(&key);
        self.0.push((key, value.into()));
        old
    }

    /// Removes a key and returns its value; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.0.iter().position(|(k, _)| k == key)?;
        Some(self.0.remove(at).1)
    }

    /// The value of a key as `T` (a number, `bool`, `&str` or a slice), `None` if the key is missing.
    ///
    /// # Errors
    /// `Malformed` if the value has another type. Integers are not converted, as in llama.cpp.
    pub fn typed<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match T::from_value(value) {
            Some(found) => Ok(Some(found)),
            None => Err(Error::malformed(format!("key {key}"), "its value has the wrong type")
                .expected(T::NAME, value.type_name())),
        }
    }

    /// As [`Metadata::typed`], for a mandatory key.
    ///
    /// # Errors
    /// `Malformed` if the key is missing or its value has another type.
    pub fn required<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.typed(key)?.ok_or_else(|| Error::missing(format!("key {key}")))
    }
}

/// A type that [`Metadata::typed`] can return.
pub trait FromValue<'a>: Sized {
    /// Name of the type in errors.
    const NAME: &'static str;
    /// The value, if it has this type.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($variant:ident $type:ty, $name:literal;)*) => {$(
        impl FromValue<'_> for $type {
            const NAME: &'static str = $name;
            fn from_value(value: &Value) -> Option<Self> {
                if let Value::$variant(found) = value { Some(*found) } else { None }
            }
        }

        impl<'a> FromValue<'a> for &'a [$type] {
            const NAME: &'static str = concat!("array of ", $name);
            fn from_value(value: &'a Value) -> Option<Self> {
                if let Value::Array(Array::$variant(found)) = value { Some(found) } else { None }
            }
        }
    )*};
}

from_value! {
    U8 u8, "u8";
    I8 i8, "i8";
    U16 u16, "u16";
    I16 i16, "i16";
    U32 u32, "u32";
    I32 i32, "i32";
    U64 u64, "u64";
    I64 i64, "i64";
    F32 f32, "f32";
    F64 f64, "f64";
    Bool bool, "bool";
}

impl<'a> FromValue<'a> for &'a str {
    const NAME: &'static str = "string";
    fn from_value(value: &'a Value) -> Option<Self> {
        if let Value::Str(found) = value { Some(found) } else { None }
    }
}

impl<'a> FromValue<'a> for &'a [String] {
    const NAME: &'static str = "array of string";
    fn from_value(value: &'a Value) -> Option<Self> {
        if let Value::Array(Array::Str(found)) = value { Some(found) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(metadata: &Metadata) -> Vec<&str> {
        metadata.iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn insert_keeps_the_place_and_append_takes_the_last() {
        let mut m = Metadata::new();
        m.insert("a", 1u32);
        m.insert("b", "x");
        m.insert("c", vec![true]);
        assert_eq!(m.insert("a", 2i32), Some(Value::U32(1)));
        assert_eq!(keys(&m), ["a", "b", "c"]);
        assert_eq!(m.append("a", 3i32), Some(Value::I32(2)));
        assert_eq!(keys(&m), ["b", "c", "a"]);
        assert_eq!(m.remove("c"), Some(vec![true].into()));
        assert_eq!(keys(&m), ["b", "a"]);
    }

    #[test]
    fn getters_want_the_exact_type() {
        let mut m = Metadata::new();
        m.insert("n", 7u32);
        m.insert("s", "text");
        m.insert("t", vec!["a".to_string()]);
        assert_eq!(m.required::<u32>("n").unwrap(), 7);
        assert_eq!(m.required::<&str>("s").unwrap(), "text");
        assert_eq!(m.required::<&[String]>("t").unwrap(), ["a"]);
        assert_eq!(m.typed::<u32>("absent").unwrap(), None);
        assert_eq!(m.required::<u32>("absent").unwrap_err().problem(), "missing");
        let wrong = m.typed::<&[i32]>("t").unwrap_err();
        assert_eq!(wrong.expected_found(), Some(("array of i32", "array of string")));
    }
}
