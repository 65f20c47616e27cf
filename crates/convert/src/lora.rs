//! Products of low rank as pairs of tensors in a GGUF adapter, in the layout of llama.cpp's `convert_lora_to_gguf.py`:
//! `NAME.lora_a` is the right factor and `NAME.lora_b` the left one.

use checkpoint::{Checkpoint, LowRankProduct};
use gemma::AdapterPair;
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

/// The types of adapters. Factors whose rows are not whole blocks of [`DType::Q8_0`] are F16.
pub const LORA_TYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::Q8_0];

/// Name, type and shape of both factors of the product for the tensor called `name` in a GGUF.
///
/// # Errors
/// Those of [`TensorDesc::new`].
pub fn lora_tensors(name: &str, product: &LowRankProduct, dtype: DType) -> Result<[TensorDesc; 2]> {
    let LowRankProduct { stack, rows, cols, rank, .. } = *product;
    let desc = |end: &str, rows: u64, cols: u64| {
        let dtype = if cols.is_multiple_of(dtype.block_len() as u64) { dtype } else { DType::F16 };
        let shape: Vec<u64> = stack.into_iter().chain([rows, cols]).collect();
        TensorDesc::new(format!("{name}.{end}"), dtype, shape)
    };
    Ok([desc("lora_a", rank, cols)?, desc("lora_b", rows, rank)?])
}

/// The bytes of both factors of a product, the left one multiplied by `factor` and by the scale of the output. Both are in memory.
///
/// # Errors
/// Those of [`Checkpoint::low_rank_factors`]; `Unsupported` for values that the type cannot hold.
pub fn lora_bytes(
    checkpoint: &Checkpoint,
    pair: &AdapterPair,
    factor: f64,
    descs: &[TensorDesc; 2],
) -> Result<[Vec<u8>; 2]> {
    let Some(mut factors) = checkpoint.low_rank_factors(pair.index)? else {
        return Err(Error::unsupported(format!("tensor {}", pair.name), "no product of low rank"));
    };
    if factor != 1.0 {
        factors.left.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
    }
    if let Some(index) = pair.output_scale {
        let rows = checkpoint.tensors()[index].rows();
        let scales = quant::decode_rows(checkpoint.simd(), checkpoint, index, 0..rows)?;
        let matrix = factors.left.len() / scales.len().max(1);
        for (values, scale) in factors.left.chunks_mut(matrix.max(1)).zip(scales) {
            values.iter_mut().for_each(|value| *value *= scale);
        }
    }
    let encoded = |desc: &TensorDesc, values: &[f32]| {
        let mut bytes = vec![0; desc.byte_len() as usize];
        quant::encode(checkpoint.simd(), desc.dtype, desc.cols() as usize, values, None, &mut bytes);
        match quant::invalid_block(desc.dtype, &bytes) {
            None => Ok(bytes),
            Some(_) => Err(Error::unsupported(
                format!("tensor {}", desc.name),
                format!("it has values that {} cannot hold", desc.dtype),
            )
            .help("Choose f32 or bf16.")),
        }
    };
    Ok([encoded(&descs[0], &factors.right)?, encoded(&descs[1], &factors.left)?])
}
