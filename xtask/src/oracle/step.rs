//! Steps of an installation in the cache folder.
//!
//! A lock file keeps two installations apart. Each step leaves a mark only when it is done (a marker file or a rename), so
//! an interrupted one goes on where it stopped. Output goes to one log a step.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Runs the steps that are still to be done once nobody else works in the folder `home`, in order.
pub(super) fn run_all(who: &str, home: &Path, steps: impl FnOnce() -> Vec<Step>) -> Result<()> {
    fs::create_dir_all(home).with_context(|| format!("cannot create {}", home.display()))?;
    let lock = File::options().read(true).append(true).create(true).open(home.join(".lock"));
    let lock = lock.with_context(|| format!("cannot lock {}", home.display()))?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another build in {}", home.display());
        lock.lock()?;
    }
    for step in steps() {
        eprintln!("{who}: {} (log: {})", step.what, home.join(step.log).display());
        step.run(home, &lock)?;
    }
    Ok(())
}

/// One step: commands, and how it is marked as done.
pub(super) struct Step {
    pub(super) what: &'static str,
    pub(super) log: &'static str,
    pub(super) commands: Vec<Vec<OsString>>,
    pub(super) mark: Mark,
}

pub(super) enum Mark {
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
pub(super) use words;

/// A command line and more words of it.
pub(super) fn with(mut words: Vec<OsString>, more: &[&str]) -> Vec<OsString> {
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
        // cmake looks for ninja on the PATH
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
