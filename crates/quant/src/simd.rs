//! The SIMD levels for which codecs are compiled, and the choice among them.

/// A SIMD level. All levels give the same bytes at different speeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Simd {
    /// One block at a time: the specification.
    Scalar,
    /// Four lanes, with the instructions that every CPU of the target has (SSE2, NEON).
    Baseline,
    /// Eight lanes; needs AVX2.
    Avx2,
    /// Sixteen lanes; needs AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Simd {
    /// All levels, slowest first.
    pub const ALL: [Simd; 4] = [Simd::Scalar, Simd::Baseline, Simd::Avx2, Simd::Avx512];

    /// Name of the level, as shown in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Simd::Scalar => "scalar",
            Simd::Baseline => "baseline",
            Simd::Avx2 => "avx2",
            Simd::Avx512 => "avx512",
        }
    }

    /// The best level of this CPU.
    pub fn detect() -> Simd {
        if Simd::Avx512.is_available() {
            Simd::Avx512
        } else if Simd::Avx2.is_available() {
            Simd::Avx2
        } else {
            Simd::Baseline
        }
    }

    /// The levels that this CPU supports, slowest first.
    pub fn available() -> Vec<Simd> {
        Simd::ALL.into_iter().filter(|level| level.is_available()).collect()
    }

    /// True if this CPU supports the level. Cheap: the standard library caches the CPU's features.
    pub fn is_available(self) -> bool {
        match self {
            Simd::Scalar | Simd::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Simd::Avx2 | Simd::Avx512 => false,
        }
    }
}
