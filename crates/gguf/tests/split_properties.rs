//! Properties of any split: all tensors once and in order, each aligned and directly after the previous one, and a
//! header that reads back as it was written.

use gguf::{DEFAULT_ALIGNMENT, Header, Layout, Metadata, SplitBy, ggml_shape, split};
use proptest::collection::vec;
use proptest::prelude::*;
use tensor::{DType, TensorDesc};

fn tensors() -> impl Strategy<Value = Vec<TensorDesc>> {
    let dtype = prop::sample::select(vec![
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q6_K,
        DType::Q8_0,
    ]);
    let tensor = (dtype, 1u64..5, vec(1u64..6, 0..3));
    vec(tensor, 0..40).prop_map(|tensors| {
        let desc = |(number, (dtype, blocks, outer)): (usize, (DType, u64, Vec<u64>))| {
            let mut shape = outer;
            shape.push(blocks * dtype.block_len() as u64);
            TensorDesc::new(format!("blk.{number}.weight"), dtype, shape).unwrap()
        };
        tensors.into_iter().enumerate().map(desc).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parts_hold_everything_once_in_order(tensors in tensors(), bytes in 1u64..20_000, most in 1usize..12, by_bytes: bool) {
        let by = if by_bytes { SplitBy::Bytes(bytes) } else { SplitBy::Tensors(most) };
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", "gemma4");
        let Ok(parts) = split(&metadata, tensors.clone(), by) else {
            // The only reason for refusal is a first tensor that is too large alone.
            prop_assert!(matches!(by, SplitBy::Bytes(limit) if tensors[0].byte_len().next_multiple_of(DEFAULT_ALIGNMENT) > limit));
            return Ok(());
        };
        let all: Vec<&str> = parts.iter().flat_map(|part| &part.tensors).map(|tensor| tensor.name.as_str()).collect();
        prop_assert_eq!(all, tensors.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>());
        for (number, part) in parts.iter().enumerate() {
            let padded = |tensor: &TensorDesc| tensor.byte_len().next_multiple_of(DEFAULT_ALIGNMENT);
            match by {
                SplitBy::Tensors(most) => prop_assert!(part.tensors.len() <= most),
                SplitBy::Bytes(limit) => {
                    let sum: u64 = part.tensors.iter().map(padded).sum();
                    prop_assert!(sum <= limit || part.tensors.len() == 1, "{} of {}", sum, limit);
                }
            }
            prop_assert_eq!(part.metadata.typed::<u16>("split.no").unwrap(), Some(number as u16));
            prop_assert_eq!(part.metadata.typed::<u16>("split.count").unwrap(), Some(parts.len() as u16));
            prop_assert_eq!(part.metadata.typed::<i32>("split.tensors.count").unwrap(), Some(tensors.len() as i32));

            let layout = Layout::new(&part.metadata, part.tensors.clone()).unwrap();
            let mut end = layout.header.len() as u64;
            prop_assert!(end.is_multiple_of(DEFAULT_ALIGNMENT));
            for placed in &layout.tensors {
                prop_assert!(placed.offset.is_multiple_of(DEFAULT_ALIGNMENT));
                prop_assert_eq!(placed.offset, end);
                prop_assert_eq!(&placed.desc.shape[..], ggml_shape(&placed.desc.shape));
                end = placed.offset + padded(&placed.desc);
            }
            prop_assert_eq!(layout.len, end);
            let header = Header::read(&mut layout.header.as_slice(), layout.len).unwrap();
            prop_assert_eq!(&header.metadata, &part.metadata);
            prop_assert_eq!(&header.tensors, &layout.tensors);
        }
    }
}
