//! Q4_K: 8 groups of 32 values x = d·scale·code − dmin·min. F16 d and dmin, twelve bytes of 6-bit scales and minima,
//! 128 bytes of nibbles.

use tensor::DType;

use super::superblocks::{
    Block, Minima, QK_K, encode_minima, pack_nibbles, pack_scales, unpack_nibbles, unpack_scales,
};
use super::{Codec, Rows, invalid_f16};
use crate::float::f16_at;
use crate::lanes::Lanes;
use crate::search::Steps;

pub(super) struct Q4K;

const BYTES: usize = DType::Q4_K.block_bytes();

const SHAPE: Minima = Minima {
    nmax: 15,
    top: 63,
    cut: 63,
    steps: Steps { first: -1.0, delta: 0.1, count: 20, absolute: false },
    plus_mean: true,
    sigma2: 2.0,
};

#[inline(always)]
pub(crate) fn pack(block: &Block) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    out[..2].copy_from_slice(&block.d.to_le_bytes());
    out[2..4].copy_from_slice(&block.dmin.to_le_bytes());
    out[4..16].copy_from_slice(&pack_scales(&block.scales, &block.mins));
    out[16..].copy_from_slice(&pack_nibbles(&block.codes));
    out
}

impl Codec for Q4K {
    const DTYPE: DType = DType::Q4_K;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        encode_minima::<V, 8, 32, BYTES>(&SHAPE, rows, out, pack);
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<QK_K>().0) {
            let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
            let codes = unpack_nibbles(&block[16..]);
            let scales = unpack_scales(&block[4..]);
            let groups = out.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<32>().0).zip(scales);
            for ((out, codes), (scale, min)) in groups {
                let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
                for (v, &code) in out.iter_mut().zip(codes) {
                    *v = scale * f32::from(code) - min;
                }
            }
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        invalid_f16::<BYTES>(bytes, &[0, 2])
    }
}
