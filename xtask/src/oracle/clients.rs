//! Programs that others wrote and that people give our files to. Each is a package of PyPI or npm, installed once into a
//! folder of its own in the cache folder by that registry's ordinary client, which knows where the registry is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use testkit::Need;

use super::step::{Mark, Step, run_all, with, words};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registry {
    Npm,
    PyPi,
}

/// A program, or a few of one purpose.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// With a version, since the name of its folder is made of it.
    name: &'static str,
    registry: Registry,
    packages: &'static [&'static str],
}

/// The hub's own parser of GGUF files, which also labels them by their names.
pub const HUB: Client = Client {
    name: "huggingface-gguf-0.4.6",
    registry: Registry::Npm,
    packages: &["@huggingface/gguf@0.4.6"],
};

/// llama.cpp in Node.js. Of its prebuilt binaries the one for processors: with those for GPUs it takes 725 MB.
pub const NODE_LLAMA_CPP: Client = Client {
    name: "node-llama-cpp-3.22.1",
    registry: Registry::Npm,
    packages: &["node-llama-cpp@3.22.1", "@node-llama-cpp/linux-x64@3.22.1"],
};

/// Two auditors of model files: c4nary (templates, keys, structure) and aisbom (structure, bills of materials).
pub const AUDITORS: Client = Client {
    name: "auditors-c4nary-0.3.1-aisbom-1.7.0",
    registry: Registry::PyPi,
    packages: &["c4nary==0.3.1", "aisbom-cli==1.7.0"],
};

/// mlx-lm on a processor.
pub const MLX: Client = Client {
    name: "mlx-lm-0.32.2",
    registry: Registry::PyPi,
    packages: &["mlx[cpu]==0.32.4", "mlx-lm==0.32.2", "transformers==5.23.0"],
};

/// mistral.rs on a processor.
pub const MISTRAL_RS: Client =
    Client { name: "mistralrs-0.9.5", registry: Registry::PyPi, packages: &["mistralrs==0.9.5"] };

/// LiteRT-LM on a processor, and the interpreter of TFLite models.
pub const LITERT_LM: Client = Client {
    name: "litert-lm-0.18.1-ai-edge-litert-2.3.0",
    registry: Registry::PyPi,
    packages: &["litert-lm-api==0.18.1", "ai-edge-litert==2.3.0"],
};

/// The public exporter of LiteRT-LM, and the quantizer of its bundles. Not needed by any test: `cargo xtask skeleton` runs it. Versions that
/// import together; with transformers 5.24, which renamed an argument, exports with ring buffers fail.
pub const EXPORTER: Client = Client {
    name: "litert-torch-0.10.0-transformers-5.23.0",
    registry: Registry::PyPi,
    packages: &[
        "litert-torch==0.10.0",
        "litert-converter==0.5.0",
        "ai-edge-quantizer==0.10.0",
        "ai-edge-litert==2.3.0",
        "litert-lm-builder==0.18.1",
        "flatbuffers==25.12.19",
        "transformers==5.23.0",
        "torch==2.14.1",
        "torchao==0.18.0",
        "jax==0.10.2",
    ],
};

/// What makes a wheel of a program, and what runs a program out of a wheel: maturin and uv.
pub const PACKAGERS: Client = Client {
    name: "maturin-1.16.0-uv-0.13.9",
    registry: Registry::PyPi,
    packages: &["maturin==1.16.0", "uv==0.13.9"],
};

/// A linker for versions of glibc that are older than this machine's.
pub const ZIG: Client =
    Client { name: "ziglang-0.15.2", registry: Registry::PyPi, packages: &["ziglang==0.15.2"] };

/// All that [`Client::install`] is asked for by `cargo xtask oracle --clients`: about 800 MB.
pub const ALL: [Client; 6] = [HUB, NODE_LLAMA_CPP, AUDITORS, MLX, MISTRAL_RS, LITERT_LM];

impl Client {
    /// What it is called here.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its folder, if it is installed; fetches nothing.
    pub fn find(&self) -> Option<Installed> {
        let home = self.home().ok()?;
        self.steps(&home).is_empty().then_some(Installed { home })
    }

    /// As [`Client::find`], but installs what is missing.
    ///
    /// # Errors
    /// No cache folder, no `npm` or `python3`, or a registry that has no such package for this machine.
    pub fn install(&self) -> Result<Installed> {
        let home = self.home()?;
        run_all(self.name, &home, || self.steps(&home))
            .with_context(|| format!("cannot install {}", self.name))?;
        Ok(Installed { home })
    }

    /// For tests that need it: `None`, with a note on stderr, means skip.
    ///
    /// # Panics
    /// When it is missing and `GEMMA_CONVERT_CLIENTS=require` is set, as in CI.
    pub fn for_tests(&self) -> Option<Installed> {
        let why = format!("{} was not found; `cargo xtask oracle --clients` installs it", self.name);
        Need::Clients.found(self.find(), &why)
    }

    fn home(&self) -> Result<PathBuf> {
        Ok(crate::cache_dir()?.join("clients").join(self.name))
    }

    fn steps(&self, home: &Path) -> Vec<Step> {
        let installed = home.join(".installed");
        if installed.exists() {
            return Vec::new();
        }
        let venv = home.join("venv");
        let commands: Vec<Vec<OsString>> = match self.registry {
            Registry::Npm => {
                let npm =
                    words!["npm", "--prefix", home, "install", "--ignore-scripts", "--no-audit", "--no-fund"];
                vec![with(with(npm, &["--omit=optional"]), self.packages)]
            }
            Registry::PyPi => vec![
                words!["python3", "-m", "venv", &venv],
                with(words![venv.join("bin/pip"), "install"], self.packages),
            ],
        };
        vec![Step { what: "installing", log: "install.log", commands, mark: Mark::Touch(installed) }]
    }
}

/// A client that is there.
#[derive(Clone, Debug)]
pub struct Installed {
    home: PathBuf,
}

impl Installed {
    /// A command for a program of its Python environment, such as `python`, that reaches no network.
    pub fn python(&self, program: &str) -> Command {
        let mut command = Command::new(self.home.join("venv/bin").join(program));
        command.env("HF_HUB_OFFLINE", "1").env("AISBOM_OFFLINE", "1").env("AISBOM_NO_TELEMETRY", "1");
        command.current_dir(&self.home);
        command
    }

    /// A command that runs a script in Node.js, in which its packages can be had by `await import(…)`.
    pub fn node(&self, script: &str) -> Command {
        let mut command = Command::new("node");
        // not as a module: programs that start themselves again do so with the options of this process
        let script = format!("(async () => {{\n{script}\n}})();");
        command.args(["-e", &script, "--"]).current_dir(&self.home);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_client_needs_no_step() {
        for client in ALL {
            let dir = tempfile::tempdir().unwrap();
            let steps = client.steps(dir.path());
            let words: Vec<_> =
                steps[0].commands.iter().flatten().map(|word| word.to_str().unwrap()).collect();
            assert!(client.packages.iter().all(|package| words.contains(package)), "{words:?}");
            std::fs::write(dir.path().join(".installed"), "").unwrap();
            assert!(client.steps(dir.path()).is_empty());
        }
    }
}
