//! The table of element types of checkpoints and GGUF files.
//!
//! Layouts of the block types: ggml's `ggml-common.h`. The encoding of values is in `quant`; the type numbers of the
//! containers are in `gguf` and `checkpoint`.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

macro_rules! dtypes {
    ($($variant:ident $name:literal $block:literal $bytes:literal $doc:literal;)*) => {
        /// The type of a tensor's elements. Block types store `block_len` elements in `block_bytes` bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types, reason = "ggml spells its types so")]
        pub enum DType { $(#[doc = $doc] $variant,)* }

        impl DType {
            /// All types, in the order of the table.
            pub const ALL: &[DType] = &[$(DType::$variant),*];

            /// The lower-case name used in recipes, on the command line and in reports.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }

            /// Elements per block; 1 for plain types.
            pub const fn block_len(self) -> usize {
                match self { $(DType::$variant => $block,)* }
            }

            /// Bytes per block.
            pub const fn block_bytes(self) -> usize {
                match self { $(DType::$variant => $bytes,)* }
            }
        }
    };
}

dtypes! {
    // variant  name     elements bytes
    F32    "f32"    1   4   "IEEE single precision.";
    F16    "f16"    1   2   "IEEE half precision.";
    BF16   "bf16"   1   2   "The upper half of an f32.";
    Q4_0   "q4_0"   32  18  "4-bit codes, one f16 scale.";
    Q4_1   "q4_1"   32  20  "4-bit codes, f16 scale and minimum.";
    Q5_0   "q5_0"   32  22  "5-bit codes, one f16 scale.";
    Q5_1   "q5_1"   32  24  "5-bit codes, f16 scale and minimum.";
    Q8_0   "q8_0"   32  34  "8-bit codes, one f16 scale.";
    Q2_K   "q2_k"   256 84  "2-bit codes, 4-bit scales and minima per 16.";
    Q3_K   "q3_k"   256 110 "3-bit codes, 6-bit scales per 16.";
    Q4_K   "q4_k"   256 144 "4-bit codes, 6-bit scales and minima per 32.";
    Q5_K   "q5_k"   256 176 "5-bit codes, 6-bit scales and minima per 32.";
    Q6_K   "q6_k"   256 210 "6-bit codes, 8-bit scales per 16.";
    IQ4_NL "iq4_nl" 32  18  "4-bit codes into a fixed non-linear table, one f16 scale.";
    IQ4_XS "iq4_xs" 256 136 "4-bit codes as in iq4_nl, 6-bit scales per 32.";
    MXFP4  "mxfp4"  32  17  "FP4 (E2M1) codes, one E8M0 scale.";
    F64    "f64"    1   8   "IEEE double precision.";
    I8     "i8"     1   1   "Signed integer.";
    I16    "i16"    1   2   "Signed integer.";
    I32    "i32"    1   4   "Signed integer.";
    I64    "i64"    1   8   "Signed integer.";
    U8     "u8"     1   1   "Unsigned integer.";
    U16    "u16"    1   2   "Unsigned integer.";
    U32    "u32"    1   4   "Unsigned integer.";
    U64    "u64"    1   8   "Unsigned integer.";
    BOOL   "bool"   1   1   "Boolean, one byte.";
    F8_E4M3 "f8_e4m3" 1 1   "8-bit float, 4 exponent bits, no infinities.";
    F8_E5M2 "f8_e5m2" 1 1   "8-bit float, 5 exponent bits.";
    SFP8   "sfp8"   1   1   "gemma.cpp's 8-bit float: 3 or 2 mantissa bits, depending on the magnitude.";
}

impl DType {
    /// Bytes of a row of `cols` elements. `None` if `cols` is not a whole number of blocks.
    pub const fn row_bytes(self, cols: u64) -> Option<u64> {
        let block = self.block_len() as u64;
        if !cols.is_multiple_of(block) {
            return None;
        }
        (cols / block).checked_mul(self.block_bytes() as u64)
    }

    /// Number of elements in `bytes` bytes of whole blocks.
    pub const fn elements(self, bytes: usize) -> usize {
        bytes / self.block_bytes() * self.block_len()
    }

    /// True for types that pack several elements into a block.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    /// Parses a name in upper or lower case, because users write both `Q4_0` and `q4_0`.
    fn from_str(text: &str) -> Result<DType> {
        let lower = text.to_ascii_lowercase();
        DType::ALL.iter().copied().find(|t| t.name() == lower).ok_or_else(|| {
            let known: Vec<_> = DType::ALL.iter().map(|t| t.name()).collect();
            Error::recipe(format!("type {text:?}"), "no such type").expected(known.join(", "), text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_are_unique() {
        for &t in DType::ALL {
            assert_eq!(t.name().to_uppercase().parse::<DType>().unwrap(), t);
        }
        assert_eq!("q9_9".parse::<DType>().unwrap_err().fault(), crate::Fault::Recipe);
    }

    #[test]
    fn rows_must_be_whole_blocks() {
        assert_eq!(DType::Q6_K.row_bytes(1536), Some(1260));
        assert_eq!(DType::Q6_K.row_bytes(704), None);
        assert_eq!(DType::Q4_0.row_bytes(704), Some(396));
        assert_eq!(DType::BF16.row_bytes(3), Some(6));
    }
}
