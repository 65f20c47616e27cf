//! Metadata values: twelve scalar types and arrays of each, and their bytes.
//!
//! Arrays of arrays are not supported: `docs/gguf.md` allows them, ggml refuses them, and no tool writes them.

use gguf_rs_lib::format::GGUFValueType as Kind;
use tensor::{Error, Result};

use crate::input::Input;

/// A type of scalar values and of array items.
pub(crate) trait Item: Sized {
    /// Minimum encoded size in bytes.
    const MIN_BYTES: u64;
    /// True if each item has an allocation of its own.
    const IS_TEXT: bool = false;
    fn put(&self, out: &mut Vec<u8>);
    fn take(input: &mut Input) -> Result<Self>;
}

macro_rules! numbers {
    ($($type:ident)*) => {$(
        impl Item for $type {
            const MIN_BYTES: u64 = size_of::<$type>() as u64;
            fn put(&self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
            fn take(input: &mut Input) -> Result<Self> {
                input.bytes().map($type::from_le_bytes)
            }
        }
    )*};
}

numbers! { u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 }

impl Item for bool {
    const MIN_BYTES: u64 = 1;
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(input: &mut Input) -> Result<Self> {
        match u8::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(input.malformed("not a boolean").expected("0 or 1", other)),
        }
    }
}

impl Item for String {
    const MIN_BYTES: u64 = 8;
    const IS_TEXT: bool = true;
    fn put(&self, out: &mut Vec<u8>) {
        put_str(self, out);
    }
    fn take(input: &mut Input) -> Result<Self> {
        input.string(u64::MAX)
    }
}

/// Appends a string in GGUF form: its length as u64, then its bytes.
pub(crate) fn put_str(text: &str, out: &mut Vec<u8>) {
    (text.len() as u64).put(out);
    out.extend(text.as_bytes());
}

fn take_kind(input: &mut Input) -> Result<Kind> {
    let id = input.u32()?;
    Kind::from_u32(id).map_err(|_| input.malformed(format!("no value type has the number {id}")))
}

fn take_items<T: Item>(input: &mut Input, count: u64) -> Result<Vec<T>> {
    input.expect(count, T::MIN_BYTES)?;
    if T::IS_TEXT {
        input.expect_texts(count)?;
    }
    let mut items = Vec::with_capacity(input.room::<T>(count));
    for _ in 0..count {
        items.push(T::take(input)?);
    }
    Ok(items)
}

macro_rules! kinds {
    ($($variant:ident $type:ty, $kind:ident $doc:literal;)*) => {
        /// A metadata value.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Value {
            $(#[doc = $doc] $variant($type),)*
            /// Any number of values of one type.
            Array(Array),
        }

        /// An array of values of one type.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Array { $(#[doc = $doc] $variant(Vec<$type>),)* }

        $(
            impl From<$type> for Value {
                fn from(value: $type) -> Value {
                    Value::$variant(value)
                }
            }

            impl From<Vec<$type>> for Value {
                fn from(items: Vec<$type>) -> Value {
                    Value::Array(Array::$variant(items))
                }
            }
        )*

        impl Array {
            /// Number of items.
            pub fn len(&self) -> usize {
                match self { $(Array::$variant(items) => items.len(),)* }
            }

            fn kind(&self) -> Kind {
                match self { $(Array::$variant(_) => Kind::$kind,)* }
            }

            fn write(&self, out: &mut Vec<u8>) {
                match self { $(Array::$variant(items) => items.iter().for_each(|item| item.put(out)),)* }
            }

            fn read(input: &mut Input) -> Result<Array> {
                let kind = take_kind(input)?;
                let count = input.u64()?;
                match kind {
                    $(Kind::$kind => take_items(input, count).map(Array::$variant),)*
                    Kind::Array => Err(Error::unsupported(&input.place, "an array of arrays")),
                }
            }
        }

        impl Value {
            fn kind(&self) -> Kind {
                match self { $(Value::$variant(_) => Kind::$kind,)* Value::Array(_) => Kind::Array }
            }

            /// Appends the type number and the value.
            pub(crate) fn write(&self, out: &mut Vec<u8>) {
                (self.kind() as u32).put(out);
                match self {
                    $(Value::$variant(value) => value.put(out),)*
                    Value::Array(array) => {
                        (array.kind() as u32).put(out);
                        (array.len() as u64).put(out);
                        array.write(out);
                    }
                }
            }

            fn scalar(kind: &str, text: &str) -> Option<Value> {
                $(if kind == Kind::$kind.name() { return text.parse().ok().map(Value::$variant); })*
                None
            }

            fn list(kind: &str, text: &str) -> Option<Value> {
                $(if kind == Kind::$kind.name() {
                    return serde_json::from_str::<Vec<$type>>(text).ok().map(|items| Value::Array(Array::$variant(items)));
                })*
                None
            }

            /// The names of the scalar types.
            pub fn type_names() -> impl Iterator<Item = &'static str> {
                [$(Kind::$kind.name()),*].into_iter()
            }

            /// Reads the type number and the value.
            pub(crate) fn read(input: &mut Input) -> Result<Value> {
                match take_kind(input)? {
                    $(Kind::$kind => <$type>::take(input).map(Value::$variant),)*
                    Kind::Array => Array::read(input).map(Value::Array),
                }
            }
        }
    };
}

kinds! {
    U8 u8, U8 "Unsigned, 8 bits.";
    I8 i8, I8 "Signed, 8 bits.";
    U16 u16, U16 "Unsigned, 16 bits.";
    I16 i16, I16 "Signed, 16 bits.";
    U32 u32, U32 "Unsigned, 32 bits.";
    I32 i32, I32 "Signed, 32 bits.";
    U64 u64, U64 "Unsigned, 64 bits.";
    I64 i64, I64 "Signed, 64 bits.";
    F32 f32, F32 "IEEE single precision.";
    F64 f64, F64 "IEEE double precision.";
    Bool bool, Bool "A boolean, one byte: 0 or 1.";
    Str String, String "UTF-8 text.";
}

impl Array {
    /// True when there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Value {
    /// The value that a text has as this type: a [type name](Self::type_name), or `[u32]` for `array of u32`. A string is the text
    /// itself, an array a JSON list.
    ///
    /// # Errors
    /// `Recipe` for an unknown type, and for a text that is no value of the type. Numbers that are not finite are none.
    pub fn from_text(type_name: &str, text: &str) -> Result<Value> {
        let item = type_name.strip_prefix("array of ");
        let item = item.or_else(|| type_name.strip_prefix('[')?.strip_suffix(']'));
        let kind = item.unwrap_or(type_name);
        if Value::type_names().all(|name| name != kind) {
            let known: Vec<_> = Value::type_names().collect();
            return Err(Error::recipe(format!("type {type_name:?}"), "GGUF has no such type of values")
                .expected(format!("{}, or one of them in brackets", known.join(", ")), type_name));
        }
        let value = if item.is_some() { Value::list(kind, text) } else { Value::scalar(kind, text) };
        let is_finite = |value: &Value| match value {
            Value::F32(number) => number.is_finite(),
            Value::F64(number) => number.is_finite(),
            _ => true,
        };
        value.filter(is_finite).ok_or_else(|| {
            let expected = if item.is_some() { format!("a JSON list of {kind}") } else { kind.to_owned() };
            Error::recipe(format!("{text:?}"), "not a value of the key's type").expected(expected, text)
        })
    }

    /// Name of the type, such as `u32` or `array of string`.
    pub fn type_name(&self) -> String {
        match self {
            Value::Array(array) => format!("array of {}", array.kind().name()),
            _ => self.kind().name().into(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Str(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_values_of_every_type() {
        for name in Value::type_names() {
            let text = match name {
                "bool" => "true",
                _ => "7",
            };
            assert_eq!(Value::from_text(name, text).unwrap().type_name(), name);
            let list = format!("[{}]", if name == "string" { "\"a\"" } else { text });
            let of = format!("array of {name}");
            assert_eq!(Value::from_text(&of, &list).unwrap().type_name(), of);
            assert_eq!(Value::from_text(&format!("[{name}]"), &list).unwrap().type_name(), of);
        }
        assert_eq!(Value::from_text("string", " \"as it is\" ").unwrap(), Value::from(" \"as it is\" "));
        for (name, text) in [
            ("u8", "256"),
            ("i32", "1.5"),
            ("f32", "inf"),
            ("bool", "1"),
            ("[u32]", "1"),
            ("u7", "1"),
            ("", ""),
        ] {
            assert_eq!(
                Value::from_text(name, text).unwrap_err().fault(),
                tensor::Fault::Recipe,
                "{name} {text}"
            );
        }
    }
}
