//! Builds llama.cpp in the cache folder, once, from the source package of `llama-cpp-python`, which carries the
//! whole tree.
//!
//! An interrupted build goes on where it stopped. The tools' mark is the other way round: `.building` exists while they are
//! incomplete.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::step::{Mark, Step, run_all, with, words};

/// Version of the `llama-cpp-python` package that pins llama.cpp.
pub const VERSION: &str = "0.3.36";

/// Parts of the folder, relative to [`home`].
pub(super) const BIN: &str = "build/bin";
pub(super) const SRC: &str = "src";
pub(super) const PYTHON: &str = "venv/bin/python";

const PACKAGES: &[&str] =
    &["cmake", "ninja", "gguf==0.19.0", "numpy", "safetensors", "tokenizers", "sentencepiece", "jinja2"];
const TORCH_PACKAGES: &[&str] = &["torch", "transformers==5.23.0", "pillow"];
/// For transformers to load FP8: small, on top of the others.
const FP8_PACKAGES: &[&str] = &["compressed-tensors==0.20.0"];
/// For transformers to load what is offloaded: `device_map`.
const OFFLOAD_PACKAGES: &[&str] = &["accelerate==1.15.0"];
const TOOLS: &[&str] = &[
    "llama-quantize",
    "llama-imatrix",
    "llama-perplexity",
    "llama-completion",
    "llama-gguf-split",
    "llama-mtmd-cli",
    "llama-bench",
    "llama-server",
    "llama-speculative-simple",
    "llama-tokenize",
];
/// No network client, no web pages, no tests, no shared libraries: the tools alone.
const CMAKE_OPTIONS: &[&str] = &[
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_BUILD_WEBUI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DBUILD_SHARED_LIBS=OFF",
];

/// GCC 12 takes `ldtilecfg` to read 8 of its 64 bytes and drops the rest of the configuration: on a processor with AMX,
/// products of repacked weights then crash or read garbage. The repaired line says that all of it is read.
const TILES: &str = "ggml/src/ggml-cpu/amx/mmq.cpp";
const TILES_READ: &str = r#"__asm__ __volatile__("" : : "m"(tc)); _tile_loadconfig(&tc);"#;

/// How much to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The tools and a Python with `gguf`: enough to quantise and to measure.
    Tools,
    /// Also `torch` and `transformers`, which `convert_hf_to_gguf.py` imports (about 5 GB), `compressed-tensors` and
    /// `accelerate`.
    Converter,
}

/// The folder of the build, whether it is there or not.
///
/// # Errors
/// When there is no cache folder; see [`crate::cache_dir`].
pub fn home() -> Result<PathBuf> {
    Ok(crate::cache_dir()?.join(format!("llama.cpp-{VERSION}")))
}

/// True when all tools and the source are there and no build was interrupted.
pub(super) fn is_built(home: &Path) -> bool {
    steps(home, Scope::Tools).is_empty()
}

/// Runs the missing steps, one process at a time.
pub(super) fn build(home: &Path, scope: Scope) -> Result<()> {
    run_all("llama.cpp", home, || steps(home, scope))
}

/// The steps still to be done, in order.
fn steps(home: &Path, scope: Scope) -> Vec<Step> {
    let (venv, src, build) = (home.join("venv"), home.join(SRC), home.join("build"));
    let (pip, cmake) = (venv.join("bin/pip"), venv.join("bin/cmake"));
    let mut steps = Vec::new();

    let installed = home.join(".py");
    if !installed.exists() {
        steps.push(Step {
            what: "installing the Python packages",
            log: "python.log",
            commands: vec![words!["python3", "-m", "venv", &venv], with(words![&pip, "install"], PACKAGES)],
            mark: Mark::Touch(installed),
        });
    }
    let installed = home.join(".torch");
    if scope == Scope::Converter && !installed.exists() {
        steps.push(Step {
            what: "installing torch and transformers",
            log: "torch.log",
            commands: vec![with(words![&pip, "install"], TORCH_PACKAGES)],
            mark: Mark::Touch(installed),
        });
    }
    let installed = home.join(".fp8");
    if scope == Scope::Converter && !installed.exists() {
        steps.push(Step {
            what: "installing compressed-tensors",
            log: "fp8.log",
            commands: vec![with(words![&pip, "install"], FP8_PACKAGES)],
            mark: Mark::Touch(installed),
        });
    }
    let installed = home.join(".offload");
    if scope == Scope::Converter && !installed.exists() {
        steps.push(Step {
            what: "installing accelerate",
            log: "offload.log",
            commands: vec![with(words![&pip, "install"], OFFLOAD_PACKAGES)],
            mark: Mark::Touch(installed),
        });
    }
    if !src.is_dir() {
        let scratch = home.join("unpack");
        let archive = scratch.join(format!("llama_cpp_python-{VERSION}.tar.gz"));
        let tree = scratch.join(format!("llama_cpp_python-{VERSION}/vendor/llama.cpp"));
        let package = format!("llama-cpp-python=={VERSION}");
        steps.push(Step {
            what: "fetching the source",
            log: "source.log",
            commands: vec![
                with(
                    words![&pip, "download", "-d", &scratch],
                    &["--no-deps", "--no-binary", "llama-cpp-python", &package],
                ),
                words!["tar", "xzf", archive, "-C", &scratch],
            ],
            mark: Mark::Move(scratch, tree, src.clone()),
        });
    }
    let building = home.join(".building");
    let bin = home.join(BIN);
    let tiles = src.join(TILES);
    let repaired = fs::read_to_string(&tiles).is_ok_and(|text| text.contains(TILES_READ));
    if building.exists() || !repaired || !TOOLS.iter().all(|tool| bin.join(tool).is_file()) {
        // a line that is repaired already does not match
        let repair = format!(r"s|^\( *\)_tile_loadconfig(&tc);|\1{}|", TILES_READ.replace('&', r"\&"));
        steps.push(Step {
            what: "building the tools (about 10 minutes on 2 cores)",
            log: "build.log",
            commands: vec![
                words!["sed", "-i.orig", repair, &tiles],
                words!["grep", "-qF", TILES_READ, &tiles],
                with(words![&cmake, "-S", src, "-B", &build, "-G", "Ninja"], CMAKE_OPTIONS),
                with(words![&cmake, "--build", &build, "--target"], TOOLS),
            ],
            mark: Mark::While(building),
        });
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn whats(home: &Path, scope: Scope) -> Vec<&'static str> {
        steps(home, scope).iter().map(|step| step.log).collect()
    }

    #[test]
    fn a_fresh_folder_needs_every_step_and_a_finished_one_none() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        assert_eq!(
            whats(home, Scope::Converter),
            ["python.log", "torch.log", "fp8.log", "offload.log", "source.log", "build.log"]
        );
        assert_eq!(whats(home, Scope::Tools), ["python.log", "source.log", "build.log"]);

        fs::create_dir_all(home.join(BIN)).unwrap();
        let tiles = home.join(SRC).join(TILES);
        fs::create_dir_all(tiles.parent().unwrap()).unwrap();
        fs::write(&tiles, TILES_READ).unwrap();
        for file in TOOLS.iter().map(|tool| home.join(BIN).join(tool)).chain([home.join(".py")]) {
            File::create(file).unwrap();
        }
        assert!(is_built(home));
        assert_eq!(whats(home, Scope::Converter), ["torch.log", "fp8.log", "offload.log"]);

        fs::write(&tiles, "    _tile_loadconfig(&tc);\n").unwrap();
        assert!(!is_built(home), "tools of the source with the fault are built again");
        fs::write(&tiles, TILES_READ).unwrap();

        File::create(home.join(".building")).unwrap();
        assert!(!is_built(home), "an interrupted build is not a build");
    }
}
