//! Programs and processor features that a machine may lack.

use std::fmt::Debug;

use crate::{ran, skip};

/// Something that a test needs and a machine may lack. Where its variable is set to `require`, a test without it fails;
/// elsewhere it is skipped, and the skip is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The tools of llama.cpp, and Python with transformers.
    Oracle,
    /// A Chromium, and wllama.
    Browser,
    /// Programs of others that read our files.
    Clients,
    /// A Slurm, which starts on this machine.
    Slurm,
    /// AMX tiles.
    Amx,
    /// The AVX-512 subsets of the codecs.
    Avx512,
    /// The right to mount file systems.
    Mounts,
    /// A C compiler, for libraries that make system calls fail.
    Compiler,
}

impl Need {
    /// The environment variable of its switch.
    pub const fn variable(self) -> &'static str {
        match self {
            Need::Oracle => "GEMMA_CONVERT_ORACLE",
            Need::Browser => "GEMMA_CONVERT_BROWSER",
            Need::Clients => "GEMMA_CONVERT_CLIENTS",
            Need::Slurm => "GEMMA_CONVERT_SLURM",
            Need::Amx => "GEMMA_CONVERT_AMX",
            Need::Avx512 => "GEMMA_CONVERT_AVX512",
            Need::Mounts => "GEMMA_CONVERT_MOUNTS",
            Need::Compiler => "GEMMA_CONVERT_COMPILER",
        }
    }

    /// Whether its variable is set to `require`.
    pub fn is_required(self) -> bool {
        std::env::var_os(self.variable()).is_some_and(|value| value == "require")
    }

    /// Says that it is missing, so that a test is skipped.
    ///
    /// # Panics
    /// Where it is required.
    #[track_caller]
    pub fn missing(self, why: &str) {
        self.missing_where(self.is_required(), why);
    }

    #[track_caller]
    fn missing_where(self, required: bool, why: &str) {
        assert!(!required, "{why} ({}=require)", self.variable());
        skip(&format!("{self:?}"), why);
    }

    /// Passes on what was found; `None` is [`Need::missing`].
    ///
    /// # Panics
    /// Where nothing was found and it is required.
    #[track_caller]
    pub fn found<T>(self, found: Option<T>, why: &str) -> Option<T> {
        if found.is_none() {
            self.missing(why);
        }
        found
    }

    /// The need of a vector level or a kernel of this name.
    fn of_feature(name: &str) -> Option<Need> {
        match name {
            "Avx512" => Some(Need::Avx512),
            "Amx" | "Tiles" => Some(Need::Amx),
            _ => None,
        }
    }
}

/// The vector levels or kernels of this machine, for a test to go through. They are recorded as run, the others as skipped.
///
/// # Panics
/// Where one is missing that is required.
#[track_caller]
pub fn available<T: Copy + Debug>(
    what: &str,
    all: impl IntoIterator<Item = T>,
    is_available: impl Fn(T) -> bool,
) -> Vec<T> {
    let mut there = Vec::new();
    for item in all {
        let name = format!("{item:?}");
        if is_available(item) {
            ran(what, &name);
            there.push(item);
        } else {
            let why = "this processor lacks it";
            match Need::of_feature(&name) {
                Some(need) => need.missing(why),
                None => skip(&format!("{what} {name}"), why),
            }
        }
    }
    there
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_must_be_there() {
        let attempt = |required| {
            std::panic::catch_unwind(|| Need::Mounts.missing_where(required, "a test of the test tools"))
        };
        attempt(false).unwrap();
        let message = *attempt(true).unwrap_err().downcast::<String>().unwrap();
        assert_eq!(message, "a test of the test tools (GEMMA_CONVERT_MOUNTS=require)");
        assert_eq!(Need::Mounts.found(Some(1), "never said"), Some(1));
    }

    #[test]
    fn features_have_switches() {
        assert_eq!(Need::of_feature("Avx512"), Some(Need::Avx512));
        assert_eq!(Need::of_feature("Tiles"), Some(Need::Amx));
        assert_eq!(Need::of_feature("Scalar"), None);
    }

    #[test]
    fn only_what_is_there_is_gone_through() {
        assert_eq!(available("test level", [1, 2, 3], |n| n != 2), [1, 3]);
    }
}
