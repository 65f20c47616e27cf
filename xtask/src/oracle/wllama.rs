//! wllama: llama.cpp in WebAssembly, the judge of what a browser can load.
//!
//! It is a package of the npm registry, fetched once into the cache folder by `npm`, which knows where that registry is
//! and how to reach it. One version, known by its digest; nothing in it is run outside the browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha512};
use testkit::Need;

/// Version of the package `@wllama/wllama`. It knows Gemma 4.
pub const VERSION: &str = "3.8.1";
/// Of the package file: the registry's `dist.integrity`, in hexadecimal.
const SHA512: &str = "3e5ec110984f53c3879d5ff2867dc31596212cb39d48787ee13343efd5827ed1\
                      e795401d40f02cc9cfc27c8398fb8995c6f7f9556dd7c3751fec105fa2d4b583";

/// The folder that holds `index.js` and `wasm/wllama.wasm`, if it is there; fetches nothing.
pub fn find() -> Option<PathBuf> {
    home().ok().filter(|home| home.is_dir())
}

/// As [`find`], but fetches what is missing.
///
/// # Errors
/// No cache folder, no `npm`, a registry that cannot be reached, or another file than the one that is known.
pub fn find_or_fetch() -> Result<PathBuf> {
    let home = home()?;
    if !home.is_dir() {
        eprintln!("wllama: fetching the package");
        fetch(&home).with_context(|| format!("cannot fetch wllama {VERSION}"))?;
    }
    Ok(home)
}

/// For tests that need wllama: `None`, with a note on stderr, means skip.
///
/// # Panics
/// When it is missing and `GEMMA_CONVERT_BROWSER=require` is set, as in `.ci/run`.
pub fn for_tests() -> Option<PathBuf> {
    Need::Browser.found(find(), "wllama was not found; `cargo xtask oracle --browser` fetches it")
}

fn home() -> Result<PathBuf> {
    Ok(crate::cache_dir()?.join(format!("wllama-{VERSION}")))
}

/// Fetches and unpacks beside `home`; it appears whole.
fn fetch(home: &Path) -> Result<()> {
    let parent = home.parent().expect("a folder in the cache folder");
    fs::create_dir_all(parent)?;
    let scratch = tempfile::tempdir_in(parent)?;
    let package = format!("@wllama/wllama@{VERSION}");
    run(Command::new("npm").args(["pack", "--silent", "--ignore-scripts", &package]), scratch.path())?;
    let archive = scratch.path().join(format!("wllama-wllama-{VERSION}.tgz"));
    check(&archive, SHA512)?;
    run(Command::new("tar").arg("xzf").arg(&archive).arg("package/esm"), scratch.path())?;
    match fs::rename(scratch.path().join("package/esm"), home) {
        // Another run was faster.
        Err(_) if home.is_dir() => Ok(()),
        done => done.with_context(|| format!("cannot write {}", home.display())),
    }
}

fn run(command: &mut Command, folder: &Path) -> Result<()> {
    let name = command.get_program().to_owned();
    let output = command.current_dir(folder).output();
    let output = output.with_context(|| format!("cannot run {}", name.display()))?;
    if !output.status.success() {
        bail!("{} failed ({}):\n{}", name.display(), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Refuses a file that does not have this digest.
fn check(file: &Path, sha512: &str) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let found: String = Sha512::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == sha512, "{}: SHA-512 is {found}, expected {sha512}", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest of "abc" is an example of FIPS 180-2.
    #[test]
    fn only_the_known_file_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let abc = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                   2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        fs::write(&file, "abc").unwrap();
        check(&file, abc).unwrap();
        fs::write(&file, "abd").unwrap();
        let message = check(&file, abc).unwrap_err().to_string();
        assert!(message.contains("expected ddaf"), "{message}");
    }

    #[test]
    fn a_command_that_fails_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let message = run(Command::new("sh").args(["-c", "echo the reason >&2; exit 3"]), dir.path());
        assert!(message.unwrap_err().to_string().contains("the reason"));
        let absent = run(&mut Command::new("no-such-program"), dir.path()).unwrap_err().to_string();
        assert_eq!(absent, "cannot run no-such-program");
    }
}
