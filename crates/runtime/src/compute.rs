//! The arithmetic of a process: results of calibration and evaluation depend on it, so their files name it.

use std::fmt;

use quant::Simd;
use tensor::{Error, Result};

use crate::Kernel;

/// Vector instructions and the kernel of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compute {
    /// Vector instructions of codecs and element-wise functions. They do not change a result.
    pub simd: Simd,
    /// The kernel of matrix products. Sums of another kernel have other last bits.
    pub kernel: Kernel,
}

impl Compute {
    /// The fastest arithmetic of this machine.
    pub fn detect() -> Compute {
        Compute { simd: Simd::detect(), kernel: Kernel::detect() }
    }

    /// Whether this machine has the vector instructions and the kernel.
    ///
    /// # Errors
    /// `Unsupported`, naming what is missing.
    pub fn check(&self) -> Result<()> {
        let missing =
            |place: String| Err(Error::unsupported(place, "this CPU or its operating system lacks it"));
        if !self.simd.is_available() {
            return missing(format!("vector instructions {}", self.simd.name()));
        }
        if !self.kernel.is_available() {
            return missing(format!("kernel {}", self.kernel.name()));
        }
        Ok(())
    }
}

impl fmt::Display for Compute {
    /// `avx512, amx`: the level of vector instructions, then the kernel.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.simd.name(), self.kernel.name())
    }
}
