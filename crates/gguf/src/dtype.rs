//! Type numbers of GGUF: `enum ggml_type` of ggml's `ggml.h`.

use gguf_rs_lib::format::GGUFTensorType as Ggml;
use tensor::{DType, Error, Result};

/// Types that this program and GGUF share. Other types of ggml are known by name only.
const TYPES: &[(DType, Ggml)] = &[
    (DType::F32, Ggml::F32),
    (DType::F16, Ggml::F16),
    (DType::BF16, Ggml::BF16),
    (DType::Q4_0, Ggml::Q4_0),
    (DType::Q4_1, Ggml::Q4_1),
    (DType::Q5_0, Ggml::Q5_0),
    (DType::Q5_1, Ggml::Q5_1),
    (DType::Q8_0, Ggml::Q8_0),
    (DType::Q2_K, Ggml::Q2_K),
    (DType::Q3_K, Ggml::Q3_K),
    (DType::Q4_K, Ggml::Q4_K),
    (DType::Q5_K, Ggml::Q5_K),
    (DType::Q6_K, Ggml::Q6_K),
    (DType::IQ4_NL, Ggml::IQ4_NL),
    (DType::IQ4_XS, Ggml::IQ4_XS),
    (DType::MXFP4, Ggml::MXFP4),
    (DType::F64, Ggml::F64),
    (DType::I8, Ggml::I8),
    (DType::I16, Ggml::I16),
    (DType::I32, Ggml::I32),
    (DType::I64, Ggml::I64),
];

/// The number of a type in GGUF.
///
/// # Errors
/// `Unsupported` for types that GGUF cannot hold: unsigned integers, booleans, 8-bit floats.
pub fn type_id(dtype: DType) -> Result<u32> {
    let known = TYPES.iter().find(|(ours, _)| *ours == dtype);
    known
        .map(|&(_, ggml)| ggml as u32)
        .ok_or_else(|| Error::unsupported(format!("type {dtype}"), "GGUF has no such tensor type"))
}

/// The type with the number `id` in GGUF.
///
/// # Errors
/// `Unsupported` for a ggml type that this crate does not handle, `Malformed` for a number that ggml has never assigned
/// or has withdrawn.
pub fn dtype_of(id: u32) -> Result<DType> {
    let ggml = Ggml::from_u32(id)
        .map_err(|_| Error::malformed(format!("type number {id}"), "no tensor type has this number"))?;
    let known = TYPES.iter().find(|(_, theirs)| *theirs == ggml);
    known.map(|&(ours, _)| ours).ok_or_else(|| {
        Error::unsupported(format!("type number {id}"), format!("unsupported type {}", ggml.name()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::Fault;

    #[test]
    fn numbers_are_those_of_ggml_h() {
        // Copied from ggml.h, so that an error in the dependency is noticed.
        let ggml_h = [
            ("f32", 0),
            ("f16", 1),
            ("q4_0", 2),
            ("q4_1", 3),
            ("q5_0", 6),
            ("q5_1", 7),
            ("q8_0", 8),
            ("q2_k", 10),
            ("q3_k", 11),
            ("q4_k", 12),
            ("q5_k", 13),
            ("q6_k", 14),
            ("iq4_nl", 20),
            ("iq4_xs", 23),
            ("i8", 24),
            ("i16", 25),
            ("i32", 26),
            ("i64", 27),
            ("f64", 28),
            ("bf16", 30),
            ("mxfp4", 39),
        ];
        assert_eq!(ggml_h.len(), TYPES.len());
        for (name, id) in ggml_h {
            let dtype: DType = name.parse().unwrap();
            assert_eq!(type_id(dtype).unwrap(), id, "{name}");
            assert_eq!(dtype_of(id).unwrap(), dtype, "{name}");
        }
    }

    #[test]
    fn block_sizes_agree_with_the_dependency() {
        for &(ours, theirs) in TYPES {
            assert_eq!(ours.block_len(), theirs.block_size(), "{ours}");
            assert_eq!(Some(ours.block_bytes()), theirs.block_size_bytes(), "{ours}");
        }
    }

    #[test]
    fn what_we_lack_is_named_and_what_nobody_has_is_malformed() {
        for (id, name) in
            [(9, "Q8_1"), (16, "IQ2_XXS"), (21, "IQ3_S"), (34, "TQ1_0"), (40, "NVFP4"), (42, "Q2_0")]
        {
            let error = dtype_of(id).unwrap_err();
            assert_eq!(error.fault(), Fault::Unsupported);
            assert_eq!(error.problem(), format!("unsupported type {name}"));
        }
        for id in [4, 5, 31, 33, 36, 38, 43, 1 << 31, u32::MAX] {
            assert_eq!(dtype_of(id).unwrap_err().fault(), Fault::Malformed, "{id}");
        }
        for dtype in [DType::U8, DType::U64, DType::BOOL, DType::F8_E4M3] {
            assert_eq!(type_id(dtype).unwrap_err().fault(), Fault::Unsupported);
        }
    }
}
