//! The real Ollama, the judge of stores and Modelfiles.
//!
//! It is a Go module, built by `go`, which knows where modules come from. It runs models in llama.cpp's `llama-server`, which
//! it looks for beside itself, in `../lib/ollama`: links lead to the tools of [`Oracle`].

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use testkit::Need;

use super::Oracle;
use super::step::{Mark, Step, run_all, words};

/// Version of the module `github.com/ollama/ollama`.
pub const VERSION: &str = "0.33.0";

/// The tools of llama.cpp that it runs.
const TOOLS: [&str; 2] = ["llama-server", "llama-quantize"];

/// A built Ollama.
#[derive(Clone, Debug)]
pub struct Ollama {
    home: PathBuf,
}

impl Ollama {
    /// Ollama, if it is built; builds nothing.
    pub fn find() -> Option<Ollama> {
        let (home, oracle) = (home().ok()?, Oracle::find()?);
        steps(&home, &oracle.bin).is_empty().then_some(Ollama { home })
    }

    /// As [`Ollama::find`], but builds what is missing: 2 minutes on 2 cores.
    ///
    /// # Errors
    /// No cache folder, no `go` or too old a one, or a module that cannot be fetched.
    pub fn find_or_build(oracle: &Oracle) -> Result<Ollama> {
        let home = home()?;
        run_all("ollama", &home, || steps(&home, &oracle.bin))
            .with_context(|| format!("cannot build ollama {VERSION}; it needs Go"))?;
        Ok(Ollama { home })
    }

    /// For tests that need it: `None`, with a note on stderr, means skip.
    ///
    /// # Panics
    /// When it is missing and `GEMMA_CONVERT_CLIENTS=require` is set, as in CI.
    pub fn for_tests() -> Option<Ollama> {
        Need::Clients.found(Ollama::find(), "ollama was not found; `cargo xtask oracle --clients` builds it")
    }

    /// The program.
    pub fn program(&self) -> PathBuf {
        self.home.join("bin/ollama")
    }

    /// A command with a home folder and a store of its own, which reaches no network. `host` is the address of its server.
    /// Weights are not repacked, see [`Oracle::runner`].
    pub fn command(&self, folder: &Path, store: &Path, host: &str) -> Command {
        let mut command = Command::new(self.program());
        command.env("HOME", folder).env("OLLAMA_MODELS", store).env("OLLAMA_HOST", host);
        let settings = [("OLLAMA_NO_CLOUD", "1"), ("OLLAMA_VULKAN", "0"), ("OLLAMA_CONTEXT_LENGTH", "4096")];
        command.envs(settings).env("LLAMA_ARG_REPACK", "0");
        command
    }
}

fn home() -> Result<PathBuf> {
    Ok(crate::cache_dir()?.join(format!("ollama-{VERSION}")))
}

/// The steps still to be done; `tools` is the folder of llama.cpp's tools.
fn steps(home: &Path, tools: &Path) -> Vec<Step> {
    let mut steps = Vec::new();
    let (bin, lib) = (home.join("bin"), home.join("lib/ollama"));
    let setting = |name: &str, value: &Path| {
        let mut setting = OsString::from(name);
        setting.push(value);
        setting
    };
    let building = home.join(".building");
    if building.exists() || !bin.join("ollama").is_file() {
        // without the flag it calls itself 0.0.0
        let flags = format!("-s -w -X github.com/ollama/ollama/version.Version={VERSION}");
        let module = format!("github.com/ollama/ollama@v{VERSION}");
        let environment = words!["env", "CGO_ENABLED=1", "GOFLAGS=-buildvcs=false", setting("GOBIN=", &bin)];
        steps.push(Step {
            what: "building the program (about 2 minutes on 2 cores)",
            log: "build.log",
            commands: vec![[environment, words!["go", "install", "-ldflags", flags, module]].concat()],
            mark: Mark::While(building),
        });
    }
    let leads = |tool: &str| fs::read_link(lib.join(tool)).is_ok_and(|to| to == tools.join(tool));
    let linking = home.join(".linking");
    if linking.exists() || !TOOLS.iter().all(|tool| leads(tool)) {
        let links = TOOLS.map(|tool| words!["ln", "-sf", tools.join(tool), lib.join(tool)]);
        steps.push(Step {
            what: "linking the tools of llama.cpp",
            log: "links.log",
            commands: [vec![words!["mkdir", "-p", &lib]], links.to_vec()].concat(),
            mark: Mark::While(linking),
        });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_program_with_its_links_needs_no_step() {
        let dir = tempfile::tempdir().unwrap();
        let (home, tools) = (dir.path().join("ollama"), dir.path().join("tools"));
        let logs =
            |home: &Path, tools: &Path| steps(home, tools).iter().map(|step| step.log).collect::<Vec<_>>();
        assert_eq!(logs(&home, &tools), ["build.log", "links.log"]);
        fs::create_dir_all(home.join("bin")).unwrap();
        fs::write(home.join("bin/ollama"), "").unwrap();
        run_all("links", &home, || steps(&home, &tools)).unwrap();
        assert!(steps(&home, &tools).is_empty());
        assert_eq!(logs(&home, Path::new("another")), ["links.log"]);
        fs::write(home.join(".building"), "").unwrap();
        assert_eq!(logs(&home, &tools), ["build.log"]);
    }
}
