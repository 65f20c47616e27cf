//! The real llama.cpp: the judge of what we write, and the peer in benchmarks.
//!
//! `LLAMA_BIN` (folder of the tools), `LLAMA_SRC` (source tree with `convert_hf_to_gguf.py`) and `LLAMA_PY`
//! (a Python with `gguf`; with `torch` and `transformers` for conversions) point at an existing one, each on its
//! own. What they leave open comes from the cache folder, where [`Oracle::find_or_build`] builds it once.

mod build;
pub mod clients;
pub mod ollama;
mod step;
pub mod wllama;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use testkit::Need;

pub use build::{Scope, VERSION, home};

/// Where the tools, the source tree and the Python interpreter are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oracle {
    /// Folder of `llama-quantize` and its siblings.
    pub bin: PathBuf,
    /// Source tree; holds `convert_hf_to_gguf.py`.
    pub src: PathBuf,
    /// Python interpreter that can import `gguf`.
    pub python: PathBuf,
}

impl Oracle {
    /// The oracle if it is there, complete; builds nothing. A `LLAMA_*` variable that points nowhere means `None`.
    pub fn find() -> Option<Oracle> {
        let cached = home().ok().filter(|home| build::is_built(home));
        let place =
            |var, cached_part: &str| set(var).or_else(|| cached.as_ref().map(|home| home.join(cached_part)));
        let oracle = Oracle {
            bin: place("LLAMA_BIN", build::BIN)?,
            src: place("LLAMA_SRC", build::SRC)?,
            python: place("LLAMA_PY", build::PYTHON)?,
        };
        oracle.missing().is_empty().then_some(oracle)
    }

    /// As [`Oracle::find`], but builds what is missing in the cache folder (minutes; progress on stderr).
    ///
    /// # Errors
    /// A `LLAMA_*` variable that points to the wrong place, or a failed step with the end of its log.
    pub fn find_or_build(scope: Scope) -> Result<Oracle> {
        let home = home()?;
        let oracle = Oracle {
            bin: set("LLAMA_BIN").unwrap_or_else(|| home.join(build::BIN)),
            src: set("LLAMA_SRC").unwrap_or_else(|| home.join(build::SRC)),
            python: set("LLAMA_PY").unwrap_or_else(|| home.join(build::PYTHON)),
        };
        if let Some((var, path)) = oracle.missing().into_iter().find(|(var, _)| set(var).is_some()) {
            bail!("{var} points to the wrong place: there is no {}", path.display());
        }
        if [&oracle.bin, &oracle.src, &oracle.python].iter().any(|path| path.starts_with(&home)) {
            build::build(&home, scope)?;
        }
        match oracle.missing().first() {
            Some((_, path)) => {
                bail!("there is still no {}; delete {} and try again", path.display(), home.display())
            }
            None => Ok(oracle),
        }
    }

    /// For tests that need the oracle: `None`, with a note on stderr, means skip. Where
    /// `GEMMA_CONVERT_ORACLE=require` is set, as in `.ci/run`, nothing is skipped.
    ///
    /// # Panics
    /// When the oracle is required and missing.
    pub fn for_tests() -> Option<Oracle> {
        Need::Oracle.found(Oracle::find(), "the real llama.cpp was not found; `cargo xtask oracle` builds it")
    }

    /// A command for one of the tools, such as `llama-quantize`, as its users run it: where the processor has AMX, with
    /// weights repacked for it.
    pub fn tool(&self, name: &str) -> Command {
        Command::new(self.bin.join(name))
    }

    /// A command for one of the tools that run a model, such as `llama-perplexity`, on the tiny models of `fixtures/`.
    /// Weights are not repacked: where the processor has AMX, this version's products of repacked weights are wrong for
    /// prompts if a row is a single block (the tiny e2b's `proj`: K = 32), with any compiler. Real sizes have no such
    /// rows: for those take [`Oracle::tool`].
    pub fn runner(&self, name: &str) -> Command {
        let mut command = self.tool(name);
        command.arg("--no-repack");
        command
    }

    /// A command that runs a script of the source tree, such as `convert_hf_to_gguf.py`, with the tree's own
    /// `gguf` package.
    pub fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(self.src.join(name)).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Whether Python has what `convert_hf_to_gguf.py` imports. A build with [`Scope::Tools`] has not.
    pub fn can_convert(&self) -> bool {
        self.has(&["torch", "transformers"])
    }

    /// Whether Python's transformers can load FP8 of compressed-tensors.
    pub fn can_load_fp8(&self) -> bool {
        self.can_convert() && self.has(&["compressed_tensors"])
    }

    /// Whether Python's transformers can load with a `device_map`.
    pub fn can_offload(&self) -> bool {
        self.can_convert() && self.has(&["accelerate"])
    }

    fn has(&self, modules: &[&str]) -> bool {
        let probe =
            "import importlib.util as u, sys; sys.exit(not all(u.find_spec(m) for m in sys.argv[1:]))";
        let mut python = Command::new(&self.python);
        let status =
            python.args(["-c", probe]).args(modules).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    /// What should be there and is not, each with the variable that can say where it is.
    fn missing(&self) -> Vec<(&'static str, PathBuf)> {
        let must = [
            ("LLAMA_BIN", self.bin.join("llama-quantize")),
            ("LLAMA_SRC", self.src.join("convert_hf_to_gguf.py")),
            ("LLAMA_PY", self.python.clone()),
        ];
        must.into_iter().filter(|(_, path)| !path.is_file()).collect()
    }
}

fn set(var: &str) -> Option<PathBuf> {
    std::env::var_os(var).filter(|value| !value.is_empty()).map(PathBuf::from)
}
