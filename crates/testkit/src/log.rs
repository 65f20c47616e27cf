//! The record of a test run: levels and kernels that ran, tests that were skipped, retries.
//!
//! Each event is a line of the file that `GEMMA_CONVERT_TEST_LOG` names, fields between tabs. Test binaries and the threads in
//! them append to the same file; `cargo xtask test-log FILE` sums it up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The variable that names the file.
pub const VARIABLE: &str = "GEMMA_CONVERT_TEST_LOG";

/// Says on stderr, past the capture of a test's output, that something is not tested and why, and records it.
pub fn skip(what: &str, why: &str) {
    let test = test();
    if record("skipped", &[&test, what, why]) {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {what}: {why}");
    }
}

/// Records a vector level or a kernel that a test ran with: `ran("SIMD level", "Avx2")`.
pub fn ran(what: &str, name: &str) {
    record("ran", &[what, name]);
}

/// Says on stderr that a program of others had to be run `times` more times, and records it.
pub fn retried(what: &str, times: usize) {
    if times > 0 {
        let test = test();
        let _ = writeln!(std::io::stderr(), "RETRIED {test}: {what}: {times} times");
        write("retried", &[&test, what, &times.to_string()]);
    }
}

/// The name of the test that runs, which is that of its thread.
fn test() -> String {
    std::thread::current().name().unwrap_or("a thread of a test").to_owned()
}

/// Writes an event that counts once; whether it is the first of its kind in this process.
fn record(kind: &str, fields: &[&str]) -> bool {
    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let new = SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(line(kind, fields));
    if new {
        write(kind, fields);
    }
    new
}

fn line(kind: &str, fields: &[&str]) -> String {
    let field = |field: &&str| field.replace(['\t', '\n', '\r'], " ");
    let fields: Vec<String> = [kind].iter().chain(fields).map(field).collect();
    fields.join("\t") + "\n"
}

/// One write of one line, so that lines of several processes do not mix.
fn write(kind: &str, fields: &[&str]) {
    let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) else { return };
    let file = File::options().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(line(kind, fields).as_bytes()));
    written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// A whole record, summed up. Displays as one line, and one more for each skipped test and each retry.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// What ran, by its kind (`SIMD level`, `kernel`).
    pub ran: BTreeMap<String, BTreeSet<String>>,
    /// `(what, why)` of what was skipped, and the tests that skipped it.
    pub skipped: BTreeMap<(String, String), BTreeSet<String>>,
    /// `(test, what)` of retries, and how many there were.
    pub retried: BTreeMap<(String, String), usize>,
}

impl Log {
    /// Reads the record; a file that is not there is an empty one.
    ///
    /// # Errors
    /// A file that cannot be read, or a line that is no event.
    pub fn read(path: &Path) -> std::io::Result<Log> {
        match std::fs::read_to_string(path) {
            Ok(text) => Log::parse(&text).map_err(std::io::Error::other),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Log::default()),
            Err(error) => Err(error),
        }
    }

    fn parse(text: &str) -> Result<Log, String> {
        let mut log = Log::default();
        for line in text.lines() {
            let bad = || format!("no event of a test log: {line:?}");
            let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
            match <[String; 4]>::try_from(fields) {
                Ok([kind, test, what, why]) if kind == "skipped" => {
                    log.skipped.entry((what, why)).or_default().insert(test);
                }
                Ok([kind, test, what, times]) if kind == "retried" => {
                    let times: usize = times.parse().map_err(|_| bad())?;
                    *log.retried.entry((test, what)).or_default() += times;
                }
                Err(fields) if fields.len() == 3 && fields[0] == "ran" => {
                    log.ran.entry(fields[1].clone()).or_default().insert(fields[2].clone());
                }
                _ => return Err(bad()),
            }
        }
        Ok(log)
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((what, why), tests) in &self.skipped {
            let tests: Vec<&str> = tests.iter().map(String::as_str).collect();
            writeln!(f, "skipped: {what}: {why}: {}", tests.join(", "))?;
        }
        for ((test, what), times) in &self.retried {
            writeln!(f, "retried: {what}: {times} times: {test}")?;
        }
        for (what, names) in &self.ran {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            write!(f, "{what}: {}; ", names.join(", "))?;
        }
        let tests: BTreeSet<&String> = self.skipped.values().flatten().collect();
        write!(f, "tests with skips: {}; retries: {}", tests.len(), self.retried.values().sum::<usize>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_summed_up() {
        let text = [
            line("ran", &["SIMD level", "Scalar"]),
            line("ran", &["SIMD level", "Avx2"]),
            line("ran", &["SIMD level", "Scalar"]),
            line("ran", &["kernel", "Plain"]),
            line("skipped", &["target::full", "Mounts", "not\tallowed\n"]),
            line("skipped", &["target::small", "Mounts", "not allowed "]),
            line("retried", &["judge::x", "llama-perplexity", "2"]),
            line("retried", &["judge::x", "llama-perplexity", "1"]),
        ];
        let expected = "skipped: Mounts: not allowed : target::full, target::small\n\
            retried: llama-perplexity: 3 times: judge::x\n\
            SIMD level: Avx2, Scalar; kernel: Plain; tests with skips: 2; retries: 3";
        assert_eq!(Log::parse(&text.concat()).unwrap().to_string(), expected);
        assert_eq!(Log::default().to_string(), "tests with skips: 0; retries: 0");
    }

    #[test]
    fn another_file_is_no_record() {
        for text in ["ran", "ran\ta\tb\tc", "skipped\ta", "retried\ta\tb\tmany", "hello"] {
            assert!(Log::parse(text).unwrap_err().contains("no event of a test log"), "{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Log::read(&dir.path().join("absent")).unwrap(), Log::default());
    }
}
