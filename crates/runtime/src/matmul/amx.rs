//! Products on AMX tiles (Intel, from Sapphire Rapids on): 16 × 16 sums of products of BF16 pairs in one instruction,
//! some fifteen times what AVX-512 does in f32.
//!
//! A tile has 16 rows of 64 bytes. `TDPBF16PS c, a, b` adds to `c[m][n]` the products of row m of `a` (32 columns) with
//! column n of `b`, whose row k holds the columns 2k and 2k + 1 of each n. Tokens are `a`; weights are `b`, which is
//! their tile transposed, a pair of columns a unit. Source: Intel's Software Developer's Manual, volume 2.
//!
//! The intrinsics are not stable in Rust, hence the assembly. All tile state is made and released inside one block of
//! it, so that nothing of it outlives a call.

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// BF16 columns of a tile.
pub(crate) const TILE_COLS: usize = 32;

/// 16 rows of 64 bytes. A row that straddled two lines of the cache would load at half the speed.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Tile<Row>(pub(crate) [Row; TILE_ROWS]);

/// BF16 values.
pub(crate) type Values = Tile<[u16; TILE_COLS]>;
/// Sums of two tiles of tokens and two of weights: (0, 0), (0, 1), (1, 0), (1, 1).
pub(crate) type Sums = [Tile<[f32; TILE_ROWS]>; 4];

impl Values {
    pub(crate) const ZERO: Values = Tile([[0; TILE_COLS]; TILE_ROWS]);
}

/// All zeros.
pub(crate) const NO_SUMS: Sums = [Tile([[0.0; TILE_ROWS]; TILE_ROWS]); 4];

/// How factors are made of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// Tokens in three parts, weights in one: they are BF16.
    ThreeByOne,
    /// Both in two parts, of which the product of the lower ones is left out.
    TwoByTwo,
}

impl Parts {
    /// Parts of a token's values.
    pub(crate) fn of_tokens(self) -> usize {
        match self {
            Parts::ThreeByOne => 3,
            Parts::TwoByTwo => 2,
        }
    }

    /// Parts of a weight's values.
    pub(crate) fn of_weights(self) -> usize {
        match self {
            Parts::ThreeByOne => 1,
            Parts::TwoByTwo => 2,
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles {
    use std::arch::asm;
    use std::arch::x86_64::{
        __cpuid_count, _mm512_loadu_si512, _mm512_permutex2var_epi32, _mm512_setzero_si512,
        _mm512_storeu_si512,
    };

    /// One leaf of the processor's identification. The call is unsafe up to Rust 1.89 and safe in later versions.
    #[allow(unused_unsafe)]
    fn cpuid(leaf: u32) -> std::arch::x86_64::CpuidResult {
        // SAFETY: every x86-64 processor has the instruction
        unsafe { __cpuid_count(leaf, 0) }
    }
    use std::sync::LazyLock;

    use super::{Parts, Sums, TILE_ROWS, Values};

    /// What `LDTILECFG` reads: palette 1, eight tiles of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Config([u8; 64]);

    static CONFIG: Config = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = 16;
            tile += 1;
        }
        Config(bytes)
    };

    pub(crate) fn is_available() -> bool {
        static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
            const TILE_AND_BF16: u32 = 1 << 24 | 1 << 22;
            // AVX-512 implies that the kernel saves registers by XSAVE
            quant::Simd::Avx512.is_available()
                && cpuid(0).eax >= 7
                && cpuid(7).edx & TILE_AND_BF16 == TILE_AND_BF16
                && permitted()
        });
        *AVAILABLE
    }

    /// Asks Linux for the tile registers, once for the process: their state is large, so they are not free to all.
    fn permitted() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XTILEDATA: i64 = 18;
        let result: i64;
        // SAFETY: a system call that touches no memory; it fails on a kernel that does not know it
        unsafe {
            asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XTILEDATA,
                out("rcx") _, out("r11") _, options(nostack));
        }
        result == 0
    }

    /// Turns tiles of rows of weights into second factors: pairs of columns become rows.
    ///
    /// # Panics
    /// When the CPU has no tiles.
    pub(crate) fn transpose(tiles: &mut [Values]) {
        assert!(is_available());
        // SAFETY: a CPU with tiles has AVX-512
        unsafe { transpose_avx512(tiles) }
    }

    /// Swaps the off-diagonal quarters of each square of 2, 4, 8 and 16.
    #[target_feature(enable = "avx512f")]
    fn transpose_avx512(tiles: &mut [Values]) {
        for tile in tiles {
            let mut rows = [_mm512_setzero_si512(); TILE_ROWS];
            for (row, values) in rows.iter_mut().zip(&tile.0) {
                // SAFETY: a row has 64 bytes
                *row = unsafe { _mm512_loadu_si512(values.as_ptr().cast()) };
            }
            for (bit, [upper, lower]) in SWAPS.iter().enumerate() {
                // SAFETY: they have 64 bytes each
                let (upper, lower) = unsafe {
                    (_mm512_loadu_si512(upper.as_ptr().cast()), _mm512_loadu_si512(lower.as_ptr().cast()))
                };
                for first in (0..TILE_ROWS).filter(|row| row >> bit & 1 == 0) {
                    let (a, b) = (rows[first], rows[first | 1 << bit]);
                    rows[first] = _mm512_permutex2var_epi32(a, upper, b);
                    rows[first | 1 << bit] = _mm512_permutex2var_epi32(a, lower, b);
                }
            }
            for (values, row) in tile.0.iter_mut().zip(rows) {
                // SAFETY: a row has 64 bytes
                unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), row) };
            }
        }
    }

    /// For squares of 2, 4, 8 and 16: of two rows side by side, the lanes that make the upper and the lower one.
    const SWAPS: [[[u32; TILE_ROWS]; 2]; 4] = {
        let mut swaps = [[[0; TILE_ROWS]; 2]; 4];
        let mut bit = 0;
        while bit < 4 {
            let mut lane = 0;
            while lane < TILE_ROWS {
                let (at, step) = (lane as u32, 1 << bit);
                let left = at & step == 0;
                swaps[bit][0][lane] = if left { at } else { 16 + at - step };
                swaps[bit][1][lane] = if left { at + step } else { 16 + at };
                lane += 1;
            }
            bit += 1;
        }
        swaps
    };

    /// Adds the products of two tiles of tokens with pairs of tiles of weights, over `steps` tiles of columns.
    /// In both factors, step by step, there is part by part, the largest first, a pair of tiles. A pair of weights has
    /// all its steps before the next one.
    ///
    /// # Panics
    /// When there are other numbers of tiles, or the CPU has none.
    pub(crate) fn multiply(
        parts: Parts,
        steps: usize,
        tokens: &[Values],
        weights: &[Values],
        sums: &mut [Sums],
    ) {
        assert!(is_available());
        assert_eq!(tokens.len(), 2 * parts.of_tokens() * steps, "tiles of tokens");
        assert_eq!(weights.len(), 2 * parts.of_weights() * steps * sums.len(), "tiles of weights");
        if steps == 0 || sums.is_empty() {
            return;
        }
        // loads stand between products, which take as long; the smallest parts come first
        macro_rules! products {
            ($($step:expr),* $(,)?) => {
                asm!(
                    "ldtilecfg [{config}]",
                    "2:",
                    "mov {x}, {tokens}",
                    "mov {step}, {steps}",
                    "tileloadd tmm0, [{sums} + {line}]",
                    "tileloadd tmm1, [{sums} + {line} + 1024]",
                    "tileloadd tmm2, [{sums} + {line} + 2048]",
                    "tileloadd tmm3, [{sums} + {line} + 3072]",
                    "3:",
                    $($step,)*
                    "dec {step}",
                    "jnz 3b",
                    "tilestored [{sums} + {line}], tmm0",
                    "tilestored [{sums} + {line} + 1024], tmm1",
                    "tilestored [{sums} + {line} + 2048], tmm2",
                    "tilestored [{sums} + {line} + 3072], tmm3",
                    "add {sums}, 4096",
                    "dec {pairs}",
                    "jnz 2b",
                    "tilerelease",
                    config = in(reg) &raw const CONFIG,
                    line = in(reg) 64usize,
                    tokens = in(reg) tokens.as_ptr(),
                    x = out(reg) _,
                    w = inout(reg) weights.as_ptr() => _,
                    steps = in(reg) steps,
                    step = out(reg) _,
                    pairs = inout(reg) sums.len() => _,
                    sums = inout(reg) sums.as_mut_ptr() => _,
                    options(nostack),
                )
            };
        }
        match parts {
            // SAFETY: the lengths have been checked; tile state begins and ends inside the block
            Parts::ThreeByOne => unsafe {
                products!(
                    "tileloadd tmm4, [{x} + {line} + 4096]",
                    "tileloadd tmm6, [{w} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{w} + {line} + 1024]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{x} + {line} + 5120]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tileloadd tmm4, [{x} + {line} + 2048]",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{x} + {line} + 3072]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tileloadd tmm4, [{x} + {line}]",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{x} + {line} + 1024]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {x}, 6144",
                    "add {w}, 2048",
                )
            },
            // SAFETY: as above
            Parts::TwoByTwo => unsafe {
                products!(
                    "tileloadd tmm4, [{x} + {line} + 2048]",
                    "tileloadd tmm6, [{w} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{w} + {line} + 1024]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{x} + {line} + 3072]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tileloadd tmm4, [{x} + {line}]",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{x} + {line} + 1024]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tileloadd tmm6, [{w} + {line} + 2048]",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{w} + {line} + 3072]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {x}, 4096",
                    "add {w}, 4096",
                )
            },
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn pairs_of_columns_become_rows() {
            if testkit::available("kernel", [crate::Kernel::AmxBf16], crate::Kernel::is_available).is_empty()
            {
                return;
            }
            let mut tile = Values::ZERO;
            for (row, values) in tile.0.iter_mut().enumerate() {
                values.iter_mut().enumerate().for_each(|(col, value)| *value = (100 * row + col) as u16);
            }
            let mut turned = [tile];
            transpose(&mut turned);
            for (row, pair) in (0..16).flat_map(|row| (0..16).map(move |pair| (row, pair))) {
                assert_eq!(turned[0].0[pair][2 * row..][..2], tile.0[row][2 * pair..][..2], "{row}, {pair}");
            }
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use tiles::{is_available, multiply, transpose};

/// No tiles on this system.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod none {
    use super::{Parts, Sums, Values};

    pub(crate) fn is_available() -> bool {
        false
    }

    /// # Panics
    /// Always.
    pub(crate) fn transpose(_: &mut [Values]) {
        panic!("no tiles on this system");
    }

    /// # Panics
    /// Always.
    pub(crate) fn multiply(_: Parts, _: usize, _: &[Values], _: &[Values], _: &mut [Sums]) {
        panic!("no tiles on this system");
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) use none::{is_available, multiply, transpose};
