//! The scripts of `action.yml` on the archive that was made: what a runner of GitHub does, on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use super::Made;

/// A runner: its folders, files and variables.
struct Runner {
    folder: PathBuf,
    /// Folders with programs, first those of `GITHUB_PATH`.
    path: String,
    variables: Vec<(&'static str, String)>,
}

impl Runner {
    fn new(folder: PathBuf) -> Result<Runner> {
        fs::create_dir_all(&folder)?;
        let place = |name: &str| folder.join(name).display().to_string();
        let variables = vec![
            ("HOME", place("home")),
            ("RUNNER_TEMP", place("temp")),
            ("GITHUB_PATH", place("path.txt")),
            ("GITHUB_STEP_SUMMARY", place("summary.md")),
            ("GITHUB_ACTIONS", "true".to_owned()),
        ];
        Ok(Runner { path: std::env::var("PATH")?, variables, folder })
    }

    fn step(&self, script: &str, variables: &[(&str, &str)]) -> Result<Output> {
        let mut words = script.split(' ');
        let file = crate::root().join(".github/action").join(words.next().unwrap_or_default());
        let mut command = Command::new(file);
        command.args(words).current_dir(&self.folder).env_clear().env("PATH", &self.path);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.envs(variables.iter().copied()).output().with_context(|| format!("cannot run {script}"))
    }

    /// What the step prints, on both streams; it has to succeed.
    fn good(&self, script: &str, variables: &[(&str, &str)]) -> Result<String> {
        let output = self.step(script, variables)?;
        let text = text(&output);
        ensure!(output.status.success(), "{script}: {}\n{text}", output.status);
        Ok(text)
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Installs the archive with the action's script, converts and verifies the tiny checkpoint; sees a damaged archive and an
/// exceeded limit.
pub(super) fn check(made: &Made, scratch: &Path) -> Result<()> {
    let version = made.release.version.as_str();
    let releases = scratch.join("releases");
    let tag = releases.join(format!("v{version}"));
    fs::create_dir_all(&tag)?;
    let name = made.release.archive();
    for name in [name.clone(), format!("{name}.sha256")] {
        fs::copy(made.archive.with_file_name(&name), tag.join(&name))?;
    }
    let url = format!("file://{}", releases.display());
    let source = [("VERSION", version), ("RELEASES", url.as_str())];

    let mut runner = Runner::new(scratch.join("runner"))?;
    let installed = runner.good("install.sh", &source)?;
    ensure!(installed.contains(&format!("gemma-convert {version}")), "{installed}");
    let added = fs::read_to_string(runner.folder.join("path.txt"))?;
    runner.path = format!("{}:{}", added.trim(), runner.path);
    quality(&runner)?;

    let mut bytes = fs::read(tag.join(&name))?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(tag.join(&name), bytes)?;
    let refused = runner.step("install.sh", &source)?;
    ensure!(!refused.status.success(), "install.sh takes a damaged archive");
    Ok(())
}

fn quality(runner: &Runner) -> Result<()> {
    let root = crate::root();
    let (model, text_file) = (root.join("fixtures/checkpoints/e2b"), root.join("fixtures/text/eval.txt"));
    let model = model.to_str().context("a path that is not UTF-8")?;
    let inputs = |recipe: &'static str, max_kld: &'static str| {
        [
            ("MODEL", model),
            ("RECIPE", recipe),
            ("TEXT", text_file.to_str().unwrap_or_default()),
            ("MAX_KLD", max_kld),
            ("CONVERT_OPTIONS", ""),
            ("VERIFY_OPTIONS", "--context 64 --chunks 2"),
            ("OUT", "out"),
            ("REPORTS", "reports"),
        ]
    };
    let key = runner.good("quality.sh key", &inputs("q4_0 mmproj-bf16", "0.5"))?;
    let digits = key.lines().find_map(|line| line.strip_prefix("key=gemma-convert-")).unwrap_or_default();
    ensure!(digits.len() == 64 && key.contains("name=gemma-convert-q4_0-mmproj-bf16"), "{key}");
    ensure!(
        key == runner.good("quality.sh key", &inputs("q4_0 mmproj-bf16", "0.1"))?,
        "the key depends on a limit"
    );
    ensure!(
        key != runner.good("quality.sh key", &inputs("q8_0", "0.5"))?,
        "the key does not depend on the recipe"
    );

    let first = runner.good("quality.sh run", &inputs("q4_0 mmproj-bf16", "0.5"))?;
    for name in ["report.html", "report.json"] {
        ensure!(runner.folder.join("reports").join(name).is_file(), "no {name}:\n{first}");
    }
    let summary = fs::read_to_string(runner.folder.join("summary.md"))?;
    ensure!(
        summary.contains("model-q4_0") && summary.contains("mmproj-bf16"),
        "the summary lacks a file:\n{summary}"
    );

    // what the cache brings back is not made again, and a limit fails the step with an annotation
    fs::remove_dir_all(runner.folder.join("reports"))?;
    let failed = runner.step("quality.sh run", &inputs("q4_0 mmproj-bf16", "0.000001"))?;
    let told = text(&failed);
    ensure!(failed.status.code() == Some(1), "{}: {told}", failed.status);
    ensure!(told.contains("exists already") && told.contains("::error title="), "{told}");
    ensure!(runner.folder.join("reports/report.html").is_file(), "no report of a failure");
    Ok(())
}

#[cfg(test)]
mod tests {
    /// A user of the action at a tag gets the program of that tag.
    #[test]
    fn the_action_installs_the_version_of_the_workspace() {
        let action = include_str!("../../../../action.yml");
        let (_, version) = action.split_once("\n  version:\n").unwrap();
        let line = version.lines().find_map(|line| line.trim().strip_prefix("default: ")).unwrap();
        assert_eq!(line, env!("CARGO_PKG_VERSION"));
    }
}
