//! Builds llama.cpp in the cache folder, once, from the source package of `llama-cpp-python`, which carries the
//! whole tree.
//!
//! A lock file keeps two builds apart. Each step leaves a mark only when it is done (a marker file or a rename),
//! so an interrupted build goes on where it stopped. The tools' mark is the other way round: `.building` exists
//! while they are incomplete. Output goes to one log a step.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

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

/// How much to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The tools and a Python with `gguf`: enough to quantise and to measure.
    Tools,
    /// Also `torch` and `transformers`, which `convert_hf_to_gguf.py` imports (about 5 GB), and `compressed-tensors`.
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
    fs::create_dir_all(home).with_context(|| format!("cannot create {}", home.display()))?;
    let lock = File::options().read(true).append(true).create(true).open(home.join(".lock"));
    let lock = lock.with_context(|| format!("cannot lock {}", home.display()))?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another build in {}", home.display());
        lock.lock()?;
    }
    for step in steps(home, scope) {
        eprintln!("llama.cpp: {} (log: {})", step.what, home.join(step.log).display());
        step.run(home, &lock)?;
    }
    Ok(())
}

/// One step: commands, and how it is marked as done.
struct Step {
    what: &'static str,
    log: &'static str,
    commands: Vec<Vec<OsString>>,
    mark: Mark,
}

enum Mark {
    /// This file is created at the end.
    Touch(PathBuf),
    /// The first is emptied before the step; at the end the second, inside it, becomes the third.
    Move(PathBuf, PathBuf, PathBuf),
    /// This file exists during the step.
    While(PathBuf),
}

/// One command line from words of any string type.
macro_rules! words {
    ($($word:expr),* $(,)?) => { vec![$(OsString::from($word)),*] };
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
    if building.exists() || !TOOLS.iter().all(|tool| bin.join(tool).is_file()) {
        steps.push(Step {
            what: "building the tools (about 10 minutes on 2 cores)",
            log: "build.log",
            commands: vec![
                with(words![&cmake, "-S", src, "-B", &build, "-G", "Ninja"], CMAKE_OPTIONS),
                with(words![&cmake, "--build", &build, "--target"], TOOLS),
            ],
            mark: Mark::While(building),
        });
    }
    steps
}

fn with(mut words: Vec<OsString>, more: &[&str]) -> Vec<OsString> {
    words.extend(more.iter().map(OsString::from));
    words
}

impl Step {
    fn run(&self, home: &Path, lock: &File) -> Result<()> {
        match &self.mark {
            Mark::Touch(_) => {}
            Mark::Move(scratch, ..) => {
                if scratch.exists() {
                    fs::remove_dir_all(scratch)?;
                }
                fs::create_dir_all(scratch)?;
            }
            Mark::While(file) => drop(File::create(file)?),
        }
        let log_path = home.join(self.log);
        let log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
        // cmake looks for ninja on the PATH.
        let old = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::join_paths(std::iter::once(home.join("venv/bin")).chain(std::env::split_paths(&old)))?;
        for words in &self.commands {
            let status = Command::new(&words[0])
                .args(&words[1..])
                .env("PATH", &path)
                // An empty file, and the lock: if we are killed, it is held until the command has ended too.
                .stdin(lock.try_clone()?)
                .stdout(log.try_clone()?)
                .stderr(log.try_clone()?)
                .status()
                .with_context(|| format!("cannot run {}", words[0].display()))?;
            if !status.success() {
                let text = String::from_utf8_lossy(&fs::read(&log_path)?).into_owned();
                bail!(
                    "{} failed ({status}). The end of {}:\n{}",
                    self.what,
                    log_path.display(),
                    tail(&text, 15)
                );
            }
        }
        match &self.mark {
            Mark::Touch(file) => drop(File::create(file)?),
            Mark::Move(scratch, from, to) => {
                fs::rename(from, to).with_context(|| format!("the package holds no {}", from.display()))?;
                fs::remove_dir_all(scratch)?;
            }
            Mark::While(file) => fs::remove_file(file)?,
        }
        Ok(())
    }
}

/// The last `count` lines.
fn tail(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
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
            ["python.log", "torch.log", "fp8.log", "source.log", "build.log"]
        );
        assert_eq!(whats(home, Scope::Tools), ["python.log", "source.log", "build.log"]);

        fs::create_dir_all(home.join(BIN)).unwrap();
        fs::create_dir_all(home.join(SRC)).unwrap();
        for file in TOOLS.iter().map(|tool| home.join(BIN).join(tool)).chain([home.join(".py")]) {
            File::create(file).unwrap();
        }
        assert!(is_built(home));
        assert_eq!(whats(home, Scope::Converter), ["torch.log", "fp8.log"]);

        File::create(home.join(".building")).unwrap();
        assert!(!is_built(home), "an interrupted build is not a build");
    }

    #[test]
    fn a_failing_step_shows_its_log_and_leaves_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let words = ["sh", "-c", "echo the reason; exit 3"].map(OsString::from).to_vec();
        let step =
            Step { what: "a step", log: "x.log", commands: vec![words], mark: Mark::Touch(mark.clone()) };
        let message = step.run(dir.path(), &tempfile::tempfile().unwrap()).unwrap_err().to_string();
        assert!(message.contains("the reason") && message.contains("x.log"), "{message}");
        assert!(!mark.exists());
    }

    #[test]
    fn an_unfinished_step_is_known_by_its_mark() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let step = |script: &str| Step {
            what: "a step",
            log: "x.log",
            commands: vec![["sh", "-c", script].map(OsString::from).to_vec()],
            mark: Mark::While(mark.clone()),
        };
        let lock = tempfile::tempfile().unwrap();
        let fails = format!("test -e '{}' && exit 1", mark.display());
        step(&fails).run(dir.path(), &lock).unwrap_err();
        assert!(mark.exists());
        step("true").run(dir.path(), &lock).unwrap();
        assert!(!mark.exists());
    }

    #[test]
    fn an_unpacked_folder_appears_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (scratch, to) = (dir.path().join("unpack"), dir.path().join("src"));
        fs::create_dir(&scratch).unwrap();
        File::create(scratch.join("left over")).unwrap();
        let words = [OsString::from("mkdir"), scratch.join("tree").into()].to_vec();
        let mark = Mark::Move(scratch.clone(), scratch.join("tree"), to.clone());
        let step = Step { what: "unpack", log: "x.log", commands: vec![words], mark };
        step.run(dir.path(), &tempfile::tempfile().unwrap()).unwrap();
        assert!(to.is_dir() && !scratch.exists());
    }
}
