//! Q2_K: 16 groups of 16 values x = d·scale·code − dmin·min. Sixteen bytes of 4-bit scale (low) and minimum (high),
//! 64 bytes of 2-bit codes, f16 d and dmin.

use tensor::DType;

use super::superblocks::{Block, Minima, QK_K, encode_minima, pack_pairs_of_bits, unpack_pairs_of_bits};
use super::{Codec, Rows, invalid_f16};
use crate::float::f16_at;
use crate::lanes::Lanes;
use crate::search::Steps;

pub(super) struct Q2K;

const BYTES: usize = DType::Q2_K.block_bytes();

const SHAPE: Minima = Minima {
    nmax: 3,
    top: 15,
    cut: u8::MAX,
    steps: Steps { first: -0.5, delta: 0.1, count: 15, absolute: true },
    plus_mean: false,
    sigma2: 1.0,
};

#[inline(always)]
fn pack(block: &Block) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    for (out, (scale, min)) in out.iter_mut().zip(block.scales.iter().zip(&block.mins)) {
        *out = scale | min << 4;
    }
    out[16..80].copy_from_slice(&pack_pairs_of_bits(&block.codes));
    out[80..82].copy_from_slice(&block.d.to_le_bytes());
    out[82..].copy_from_slice(&block.dmin.to_le_bytes());
    out
}

impl Codec for Q2K {
    const DTYPE: DType = DType::Q2_K;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        encode_minima::<V, 16, 16, BYTES>(&SHAPE, rows, out, pack);
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<QK_K>().0) {
            let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
            let codes = unpack_pairs_of_bits(&block[16..]);
            let groups = out.as_chunks_mut::<16>().0.iter_mut().zip(codes.as_chunks::<16>().0);
            for ((out, codes), scale) in groups.zip(&block[..16]) {
                let (scale, min) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
                for (v, &code) in out.iter_mut().zip(codes) {
                    *v = scale * f32::from(code) - min;
                }
            }
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        invalid_f16::<BYTES>(bytes, &[80, 82])
    }
}
