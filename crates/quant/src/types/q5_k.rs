//! Q5_K: 8 groups of 32 values x = d·scale·code − dmin·min. F16 d and dmin, twelve bytes of 6-bit scales and minima,
//! 32 bytes of fifth bits, 128 bytes of nibbles.

use tensor::DType;

use super::superblocks::{
    Block, Minima, QK_K, encode_minima, pack_nibbles, pack_scales, unpack_nibbles, unpack_scales,
};
use super::{Codec, Rows, invalid_f16};
use crate::float::f16_at;
use crate::lanes::Lanes;
use crate::search::Steps;

pub(super) struct Q5K;

const BYTES: usize = DType::Q5_K.block_bytes();

const SHAPE: Minima = Minima {
    nmax: 31,
    top: 63,
    cut: 63,
    steps: Steps { first: -0.5, delta: 0.1, count: 15, absolute: false },
    plus_mean: true,
    sigma2: 2.0,
};

#[inline(always)]
pub(crate) fn pack(block: &Block) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    out[..2].copy_from_slice(&block.d.to_le_bytes());
    out[2..4].copy_from_slice(&block.dmin.to_le_bytes());
    out[4..16].copy_from_slice(&pack_scales(&block.scales, &block.mins));
    for (group, codes) in block.codes.as_chunks::<32>().0.iter().enumerate() {
        for (bits, code) in out[16..48].iter_mut().zip(codes) {
            *bits |= (code >> 4) << group;
        }
    }
    out[48..].copy_from_slice(&pack_nibbles(&block.codes));
    out
}

impl Codec for Q5K {
    const DTYPE: DType = DType::Q5_K;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        encode_minima::<V, 8, 32, BYTES>(&SHAPE, rows, out, pack);
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<QK_K>().0) {
            let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
            let codes = unpack_nibbles(&block[48..]);
            let scales = unpack_scales(&block[4..]);
            let groups = out.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<32>().0).zip(scales);
            for (group, ((out, codes), (scale, min))) in groups.enumerate() {
                let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
                for ((v, &low), bits) in out.iter_mut().zip(codes).zip(&block[16..48]) {
                    let code = low | (bits >> group & 1) << 4;
                    *v = scale * f32::from(code) - min;
                }
            }
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        invalid_f16::<BYTES>(bytes, &[0, 2])
    }
}
