//! Command line and date of a run, for its report.

use std::ffi::OsString;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use gemma_convert::Invocation;

/// Records the command line of this process, and the date: that of `SOURCE_DATE_EPOCH`, or now.
pub(crate) fn record(run: &mut Invocation) {
    let folder = std::env::current_dir().unwrap_or_default();
    run.command = command(std::env::args_os().skip(1), &folder);
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    run.date = base::utc(given.unwrap_or_else(now));
}

/// A command line for a shell in `folder`. Paths below the folder are relative, other absolute paths are file names, and
/// the token of the hub is left out.
fn command(args: impl Iterator<Item = OsString>, folder: &Path) -> String {
    let mut words = vec!["gemma-convert".to_owned()];
    let mut args = args.map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        match arg.split_once('=') {
            _ if arg == "--token" => _ = args.next(),
            Some(("--token", _)) => {}
            Some((option, path)) if option.starts_with('-') => {
                words.push(quoted(&format!("{option}={}", relative(path, folder))));
            }
            _ => words.push(quoted(&relative(&arg, folder))),
        }
    }
    words.join(" ")
}

fn relative(arg: &str, folder: &Path) -> String {
    let path = Path::new(arg);
    if !path.is_absolute() {
        return arg.to_owned();
    }
    match path.strip_prefix(folder) {
        Ok(below) if below.as_os_str().is_empty() => ".".to_owned(),
        Ok(below) => base::with_slashes(below),
        Err(_) => path.file_name().map_or_else(|| arg.to_owned(), |name| name.to_string_lossy().into_owned()),
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_has_relative_paths_and_no_token() {
        let args = [
            "verify",
            "/srv/models/out/model.gguf",
            "--against=/data/gemma-4-E2B",
            "--text",
            "a b's.txt",
            "--token",
            "hf_secret",
            "--token=hf_secret",
            "--html",
            "/srv/models",
            "google/gemma-4-E2B-it@main",
            "",
        ];
        let line = command(args.into_iter().map(OsString::from), Path::new("/srv/models"));
        assert_eq!(
            line,
            r"gemma-convert verify out/model.gguf --against=gemma-4-E2B --text 'a b'\''s.txt' --html . google/gemma-4-E2B-it@main ''"
        );
    }
}
