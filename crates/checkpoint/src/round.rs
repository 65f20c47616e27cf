//! Rounding of f32 values to the type of a tensor.

use quant::Simd;
use tensor::DType;

/// Rounds values to a float type. `bytes` is memory for the encoded values.
pub(crate) fn round(simd: Simd, dtype: DType, values: &mut [f32], bytes: &mut Vec<u8>) {
    if dtype == DType::F32 {
        return;
    }
    bytes.resize(values.len() * dtype.block_bytes(), 0);
    quant::encode(simd, dtype, values.len(), values, None, bytes);
    quant::decode(simd, dtype, bytes, values);
}
