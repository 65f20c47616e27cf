//! For JSON schemas: what the plan writes in another form than its types have.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::artifact::{Pieces, StoredPiece};

/// A file's header, by its length and digest.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the schema is what it is for")]
pub(crate) struct Header {
    /// Length.
    bytes: u64,
    /// SHA-256 in hexadecimal.
    sha256: String,
}

/// Name, type and shape of a tensor.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the schema is what it is for")]
pub(crate) struct Described {
    /// Its name in the file.
    tensor: String,
    /// Its element type.
    #[schemars(rename = "type")]
    dtype: String,
    /// Its dimensions, the outermost first.
    shape: Vec<u64>,
}

/// One stretch of a file, or several.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the schema is what it is for")]
enum OneOrMany {
    One(StoredPiece),
    Many {
        /// Bytes of all of them.
        bytes: u64,
        /// In the order of the rows.
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
