//! Unpacks stored blocks to lanes, type by type. The values equal those of the type's `decode`.

use tensor::DType;

use super::lanes::Widen;
use crate::types::q6_k;
use crate::types::superblocks::unpack_scales;

/// A stored type whose blocks are unpacked to lanes.
pub(super) trait Unpack {
    /// Bytes and values of a block; for the plain types, of 32 values.
    const BYTES: usize;
    const LEN: usize;
    /// Data that all values of a block share.
    type Block<'a, W>;
    /// True for a plain type, whose last block in a row may be incomplete.
    const PLAIN: bool = false;

    fn open<W: Widen>(bytes: &[u8]) -> Self::Block<'_, W>;

    /// Values `32 n` to `32 n + 31`.
    fn lanes<W: Widen>(block: &Self::Block<'_, W>, n: usize) -> [W; 2];
}

pub(super) struct Q4_0;
pub(super) struct Q8_0;
pub(super) struct Q4K;
pub(super) struct Q6K;
pub(super) struct F16;
pub(super) struct Bf16;

/// Sixteen bytes from `at` on.
#[inline(always)]
fn sixteen(bytes: &[u8], at: usize) -> &[u8; 16] {
    bytes[at..].first_chunk().expect("within the block")
}

impl Unpack for Q4_0 {
    const BYTES: usize = DType::Q4_0.block_bytes();
    const LEN: usize = DType::Q4_0.block_len();
    type Block<'a, W> = (W, &'a [u8]);

    #[inline(always)]
    fn open<W: Widen>(bytes: &[u8]) -> (W, &[u8]) {
        (W::half([bytes[0], bytes[1]]), bytes)
    }

    #[inline(always)]
    fn lanes<W: Widen>((d, bytes): &(W, &[u8]), _: usize) -> [W; 2] {
        let (values, codes) = (W::centred(*d), sixteen(bytes, 2));
        [W::low_nibbles(codes, values), W::high_nibbles(codes, values)]
    }
}

impl Unpack for Q8_0 {
    const BYTES: usize = DType::Q8_0.block_bytes();
    const LEN: usize = DType::Q8_0.block_len();
    type Block<'a, W> = (W, &'a [u8]);

    #[inline(always)]
    fn open<W: Widen>(bytes: &[u8]) -> (W, &[u8]) {
        (W::half([bytes[0], bytes[1]]), bytes)
    }

    #[inline(always)]
    fn lanes<W: Widen>((d, bytes): &(W, &[u8]), _: usize) -> [W; 2] {
        [W::signed(sixteen(bytes, 2)).mul(*d), W::signed(sixteen(bytes, 18)).mul(*d)]
    }
}

impl Unpack for Q4K {
    const BYTES: usize = DType::Q4_K.block_bytes();
    const LEN: usize = DType::Q4_K.block_len();
    /// Scales, minima, and the bytes of the block.
    type Block<'a, W> = ([f32; 16], [f32; 16], &'a [u8]);

    #[inline(always)]
    fn open<W: Widen>(bytes: &[u8]) -> Self::Block<'_, W> {
        let (mut scales, mut mins) = ([0; 16], [0; 16]);
        for (group, pair) in unpack_scales(&bytes[4..16]).into_iter().enumerate() {
            (scales[group], mins[group]) = pair;
        }
        let (d, dmin) = (W::half([bytes[0], bytes[1]]), W::half([bytes[2], bytes[3]]));
        (W::signed(&scales).mul(d).store(), W::signed(&mins).mul(dmin).store(), bytes)
    }

    #[inline(always)]
    fn lanes<W: Widen>((scales, mins, bytes): &Self::Block<'_, W>, n: usize) -> [W; 2] {
        let line = W::line(W::splat(scales[n]), W::splat(mins[n]));
        // two groups share 32 bytes
        let at = 16 + 32 * (n / 2);
        let (a, b) = (sixteen(bytes, at), sixteen(bytes, at + 16));
        if n.is_multiple_of(2) {
            [W::low_nibbles(a, line), W::low_nibbles(b, line)]
        } else {
            [W::high_nibbles(a, line), W::high_nibbles(b, line)]
        }
    }
}

impl Unpack for Q6K {
    const BYTES: usize = DType::Q6_K.block_bytes();
    const LEN: usize = DType::Q6_K.block_len();
    /// The scale of each group, and the codes.
    type Block<'a, W> = ([f32; 16], [u8; 256]);

    #[inline(always)]
    fn open<W: Widen>(bytes: &[u8]) -> ([f32; 16], [u8; 256]) {
        let d = W::half([bytes[208], bytes[209]]);
        let bytes: &[u8; Self::BYTES] = bytes.first_chunk().expect("a block");
        let mut codes = q6_k::unpack(bytes);
        for code in &mut codes {
            *code = code.wrapping_sub(32);
        }
        (W::signed(sixteen(bytes, 192)).mul(d).store(), codes)
    }

    #[inline(always)]
    fn lanes<W: Widen>((scales, codes): &([f32; 16], [u8; 256]), n: usize) -> [W; 2] {
        let (a, b) = (sixteen(codes, 32 * n), sixteen(codes, 32 * n + 16));
        [W::splat(scales[2 * n]).mul(W::signed(a)), W::splat(scales[2 * n + 1]).mul(W::signed(b))]
    }
}

/// 16 values of two bytes, from value `16 n` on.
#[inline(always)]
fn words(bytes: &[u8], n: usize) -> &[u8; 32] {
    bytes[32 * n..].first_chunk().expect("within the block")
}

impl Unpack for F16 {
    const BYTES: usize = 64;
    const LEN: usize = 32;
    const PLAIN: bool = true;
    type Block<'a, W> = &'a [u8];

    #[inline(always)]
    fn open<W: Widen>(bytes: &[u8]) -> &[u8] {
        bytes
    }

    #[inline(always)]
    fn lanes<W: Widen>(bytes: &&[u8], _: usize) -> [W; 2] {
        [W::f16(words(bytes, 0)), W::f16(words(bytes, 1))]
    }
}

impl Unpack for Bf16 {
    const BYTES: usize = 64;
    const LEN: usize = 32;
    const PLAIN: bool = true;
    type Block<'a, W> = &'a [u8];

    #[inline(always)]
    fn open<W: Widen>(bytes: &[u8]) -> &[u8] {
        bytes
    }

    #[inline(always)]
    fn lanes<W: Widen>(bytes: &&[u8], _: usize) -> [W; 2] {
        [W::bf16(words(bytes, 0)), W::bf16(words(bytes, 1))]
    }
}
