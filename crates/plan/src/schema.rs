//! Types for JSON schemas only: the serialised form of values that the plan writes in another form than its types
//! have.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::artifact::{Pieces, StoredPiece};

/// A file's header, given by its length and digest.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the schema is what it is for")]
pub(crate) struct Header {
    /// Length in bytes.
    bytes: u64,
    /// SHA-256 in hexadecimal.
    sha256: String,
}

/// Name, type and shape of a tensor.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the schema is what it is for")]
pub(crate) struct Described {
    /// The tensor's name in the file.
    tensor: String,
    /// The element type.
    #[schemars(rename = "type")]
    dtype: String,
    /// The dimensions, outermost first.
    shape: Vec<u64>,
}

/// One range of a file, or several.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the schema is what it is for")]
enum OneOrMany {
    One(StoredPiece),
    Many {
        /// Total length in bytes.
        bytes: u64,
        /// The ranges, in row order.
        pieces: Vec<StoredPiece>,
    },
}

impl JsonSchema for Pieces {
    fn schema_name() -> Cow<'static, str> {
        "Pieces".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        OneOrMany::json_schema(generator)
    }
}
