//! Serde by name for element types, for `#[serde(with)]`.

/// A single type.
pub(crate) mod one {
    use serde::{Deserialize, Deserializer, Serializer};
    use tensor::DType;

    pub(crate) fn serialize<S: Serializer>(dtype: &DType, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(dtype.name())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DType, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A list of types.
pub(crate) mod several {
    use serde::{Deserialize, Deserializer, Serializer};
    use tensor::DType;

    pub(crate) fn serialize<S: Serializer>(types: &[DType], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(types.iter().map(|dtype| dtype.name()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<DType>, D::Error> {
        let names = Vec::<String>::deserialize(from)?;
        names.iter().map(|name| name.parse().map_err(serde::de::Error::custom)).collect()
    }
}

/// An optional type.
pub(crate) mod optional {
    use serde::{Deserializer, Serializer};
    use tensor::DType;

    pub(crate) fn serialize<S: Serializer>(dtype: &Option<DType>, to: S) -> Result<S::Ok, S::Error> {
        match dtype {
            Some(dtype) => super::one::serialize(dtype, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DType>, D::Error> {
        super::one::deserialize(from).map(Some)
    }
}
