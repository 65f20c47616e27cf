//! Products on AMX tiles (Intel, from Sapphire Rapids on): 16 × 16 sums of products of BF16 pairs in one instruction,
//! some fifteen times what AVX-512 does in f32.
//!
//! A tile has 16 rows of 64 bytes. `TDPBF16PS c, a, b` adds to `c[m][n]` the products of row m of `a` (32 columns) with
//! column n of `b`, whose row k holds the columns 2k and 2k + 1 of each n. Weights are `a`, tokens are `b`. Source: Intel's Software Developer's Manual, volume 2.
//!
//! The intrinsics are not stable in Rust, hence the assembly. All tile state is made and released inside one block of
//! it, so that nothing of it outlives a call.

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// BF16 columns of a tile.
pub(crate) const TILE_COLS: usize = 32;
/// Sums of a call of [`multiply`]: 2 × 2 tiles.
pub(crate) const SUMS: usize = 4 * TILE_ROWS * TILE_ROWS;

/// Two tiles of rows of weights against two groups of tokens, over `steps` tiles of columns.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    /// BF16 weights, tile after tile.
    pub(crate) high: &'a [u16],
    /// What `high` leaves of the weights, in the same layout; none if they are BF16.
    pub(crate) low: Option<&'a [u16]>,
    /// Where the second tile of rows begins.
    pub(crate) second: usize,
    /// A group of tokens as packed: 3 parts with plain BF16 weights, else 2.
    pub(crate) left: &'a [u32],
    /// The next one.
    pub(crate) right: &'a [u32],
    pub(crate) steps: usize,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;
    use std::sync::LazyLock;

    use super::{Block, SUMS, TILE_COLS, TILE_ROWS};

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
                && __cpuid_count(0, 0).eax >= 7
                && __cpuid_count(7, 0).edx & TILE_AND_BF16 == TILE_AND_BF16
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

    /// Adds the products to `sums`: tiles (rows 0–15, left), (0–15, right), (16–31, left), (16–31, right).
    ///
    /// # Panics
    /// When slices are too short or the CPU has no tiles.
    pub(crate) fn multiply(block: Block<'_>, sums: &mut [f32; SUMS]) {
        let Block { high, low, second, left, right, steps } = block;
        assert!(is_available());
        let rows = second + steps * TILE_ROWS * TILE_COLS;
        let parts = if low.is_some() { 2 } else { 3 };
        let tokens = steps * parts * TILE_ROWS * TILE_COLS / 2;
        assert!(high.len() >= rows && low.is_none_or(|low| low.len() >= rows), "rows of weights");
        assert!(left.len() >= tokens && right.len() >= tokens, "packed tokens");
        if steps == 0 {
            return;
        }
        // the four sums of the tiles that are loaded
        macro_rules! step {
            () => {
                "tdpbf16ps tmm0, tmm4, tmm6
                 tdpbf16ps tmm1, tmm4, tmm7
                 tdpbf16ps tmm2, tmm5, tmm6
                 tdpbf16ps tmm3, tmm5, tmm7"
            };
        }
        macro_rules! begin {
            () => {
                "ldtilecfg [{config}]
                 tileloadd tmm0, [{sums} + {line}]
                 tileloadd tmm1, [{sums} + {line} + 1024]
                 tileloadd tmm2, [{sums} + {line} + 2048]
                 tileloadd tmm3, [{sums} + {line} + 3072]"
            };
        }
        macro_rules! end {
            () => {
                "tilestored [{sums} + {line}], tmm0
                 tilestored [{sums} + {line} + 1024], tmm1
                 tilestored [{sums} + {line} + 2048], tmm2
                 tilestored [{sums} + {line} + 3072], tmm3
                 tilerelease"
            };
        }
        // the smallest parts first
        match low {
            // SAFETY: the lengths have been checked; tile state begins and ends inside the block
            None => unsafe {
                asm!(
                    begin!(),
                    "2:",
                    "tileloadd tmm4, [{a} + {line}]",
                    "tileloadd tmm5, [{b} + {line}]",
                    "tileloadd tmm6, [{left} + {line} + 2048]",
                    "tileloadd tmm7, [{right} + {line} + 2048]",
                    step!(),
                    "tileloadd tmm6, [{left} + {line} + 1024]",
                    "tileloadd tmm7, [{right} + {line} + 1024]",
                    step!(),
                    "tileloadd tmm6, [{left} + {line}]",
                    "tileloadd tmm7, [{right} + {line}]",
                    step!(),
                    "add {a}, 1024",
                    "add {b}, 1024",
                    "add {left}, 3072",
                    "add {right}, 3072",
                    "dec {steps}",
                    "jnz 2b",
                    end!(),
                    config = in(reg) &raw const CONFIG,
                    sums = in(reg) sums.as_mut_ptr(),
                    line = in(reg) 64usize,
                    a = inout(reg) high.as_ptr() => _,
                    b = inout(reg) high[second..].as_ptr() => _,
                    left = inout(reg) left.as_ptr() => _,
                    right = inout(reg) right.as_ptr() => _,
                    steps = inout(reg) steps => _,
                    options(nostack),
                );
            },
            // SAFETY: as above
            Some(low) => unsafe {
                asm!(
                    begin!(),
                    "2:",
                    "tileloadd tmm4, [{a} + {line}]",
                    "tileloadd tmm5, [{b} + {line}]",
                    "tileloadd tmm6, [{left} + {line} + 1024]",
                    "tileloadd tmm7, [{right} + {line} + 1024]",
                    step!(),
                    "tileloadd tmm6, [{left} + {line}]",
                    "tileloadd tmm7, [{right} + {line}]",
                    step!(),
                    "tileloadd tmm4, [{c} + {line}]",
                    "tileloadd tmm5, [{d} + {line}]",
                    step!(),
                    "add {a}, 1024",
                    "add {b}, 1024",
                    "add {c}, 1024",
                    "add {d}, 1024",
                    "add {left}, 2048",
                    "add {right}, 2048",
                    "dec {steps}",
                    "jnz 2b",
                    end!(),
                    config = in(reg) &raw const CONFIG,
                    sums = in(reg) sums.as_mut_ptr(),
                    line = in(reg) 64usize,
                    a = inout(reg) high.as_ptr() => _,
                    b = inout(reg) high[second..].as_ptr() => _,
                    c = inout(reg) low.as_ptr() => _,
                    d = inout(reg) low[second..].as_ptr() => _,
                    left = inout(reg) left.as_ptr() => _,
                    right = inout(reg) right.as_ptr() => _,
                    steps = inout(reg) steps => _,
                    options(nostack),
                );
            },
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use amx::{is_available, multiply};

/// No tiles on this system.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) fn is_available() -> bool {
    false
}

/// # Panics
/// Always: there are no tiles on this system.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) fn multiply(_: Block<'_>, _: &mut [f32; SUMS]) {
    panic!("no tiles on this system");
}
