//! What is released: version, target, time, and the documents of the repository that go with the program.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::archive::Entry;
use crate::cmd::tools::output;

/// Documents of the repository in every archive.
const DOCUMENTS: &[&str] = &["LICENSE", "README.md", "CHANGELOG.md"];

/// 1 January 1980, before which a ZIP file has no times.
const EPOCH: u64 = 315_532_800;

pub(super) struct Release {
    pub(super) version: String,
    /// The target of the compiler, such as `x86_64-unknown-linux-gnu`.
    pub(super) triple: String,
    /// The time of every file in archives, in seconds since 1970.
    pub(super) epoch: u64,
}

impl Release {
    /// The version of the workspace, for a target, else for this machine. The time is `SOURCE_DATE_EPOCH`, else that of the commit.
    pub(super) fn read(target: Option<&str>) -> Result<Release> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let described = String::from_utf8(output(Command::new(rustc).arg("-vV"))?)?;
        let triple = target.or_else(|| described.lines().find_map(|line| line.strip_prefix("host: ")));
        let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(epoch) => epoch.parse().context("SOURCE_DATE_EPOCH is not a number of seconds")?,
            Err(_) => {
                let mut git = Command::new("git");
                git.args(["log", "-1", "--format=%ct"]).current_dir(crate::root());
                let time = output(&mut git).ok().and_then(|time| String::from_utf8(time).ok());
                time.and_then(|time| time.trim().parse().ok()).unwrap_or(EPOCH)
            }
        };
        Ok(Release {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            triple: triple.context("rustc -vV names no host")?.to_owned(),
            epoch: epoch.max(EPOCH),
        })
    }

    /// The name of the archive, and of the folder in it: one that cargo-binstall looks for.
    pub(super) fn name(&self) -> String {
        format!("gemma-convert-v{}-{}", self.version, self.triple)
    }

    /// The archive's file, as cargo-binstall looks for it (`[package.metadata.binstall]` in Cargo.toml of the program).
    pub(super) fn archive(&self) -> String {
        format!("{}.{}", self.name(), if self.is_for_windows() { "zip" } else { "tar.gz" })
    }

    /// The program's file.
    pub(super) fn program(&self) -> &'static str {
        if self.is_for_windows() { "gemma-convert.exe" } else { "gemma-convert" }
    }

    pub(super) fn is_for_windows(&self) -> bool {
        self.triple.contains("windows")
    }

    /// The documents of [`DOCUMENTS`].
    pub(super) fn documents(&self) -> Result<Vec<Entry>> {
        let read = |name: &&str| {
            let bytes = fs::read(crate::root().join(name)).with_context(|| (*name).to_owned())?;
            Ok(Entry::file(*name, bytes))
        };
        DOCUMENTS.iter().map(read).collect()
    }

    /// Refuses a tag of another version, and a version that the changelog calls unreleased.
    pub(super) fn check_tag(&self, tag: &str) -> Result<()> {
        let changelog = fs::read_to_string(crate::root().join("CHANGELOG.md"))?;
        check_tag(&self.version, tag, &changelog)
    }
}

fn check_tag(version: &str, tag: &str, changelog: &str) -> Result<()> {
    ensure!(tag == format!("v{version}"), "the tag is {tag}, the version in Cargo.toml is {version}");
    let heading = changelog.lines().find_map(|line| line.strip_prefix("## ")).unwrap_or_default();
    let date = heading.strip_prefix(version).map(str::trim).unwrap_or_default();
    let dated = date.starts_with('(') && date[1..].starts_with(|c: char| c.is_ascii_digit());
    ensure!(dated, "CHANGELOG.md begins with {heading:?}, not with {version} and a date");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_of_the_version_and_the_changelog_is_finished() {
        let dated = "# Changelog\n\n## 0.2.0 (2026-03-01)\n\n- x\n\n## 0.1.0 (2026-01-01)\n";
        check_tag("0.2.0", "v0.2.0", dated).unwrap();
        for (version, tag, changelog) in [
            ("0.2.0", "v0.2.1", dated),
            ("0.2.0", "0.2.0", dated),
            ("0.1.0", "v0.1.0", dated),
            ("0.2.0", "v0.2.0", "# Changelog\n\n## 0.2.0 (unreleased)\n"),
            ("0.2.0", "v0.2.0", ""),
        ] {
            check_tag(version, tag, changelog).unwrap_err();
        }
    }

    /// The templates of cargo-binstall, for the targets of releases.
    #[test]
    fn binstall_looks_for_the_archive() {
        let cargo: toml::Table = include_str!("../../../../crates/gemma-convert/Cargo.toml").parse().unwrap();
        let settings = &cargo["package"]["metadata"]["binstall"];
        for (triple, format, url, program) in [
            ("x86_64-unknown-linux-gnu", "tgz", "gemma-convert-v0.2.0-x86_64-unknown-linux-gnu.tar.gz", ""),
            ("x86_64-pc-windows-gnu", "zip", "gemma-convert-v0.2.0-x86_64-pc-windows-gnu.zip", ".exe"),
        ] {
            let release = Release { version: "0.2.0".into(), triple: triple.into(), epoch: 0 };
            let own = settings.get("overrides").and_then(|overrides| overrides.get(triple));
            let filled = |key: &str| {
                let template = own.and_then(|own| own.get(key)).unwrap_or(&settings[key]).as_str().unwrap();
                [
                    ("name", "gemma-convert"),
                    ("bin", "gemma-convert"),
                    ("repo", "R"),
                    ("version", "0.2.0"),
                    ("target", triple),
                    ("binary-ext", program),
                ]
                .iter()
                .fold(template.to_owned(), |text, (name, value)| {
                    text.replace(&format!("{{ {name} }}"), value)
                })
            };
            assert_eq!(filled("pkg-fmt"), format);
            assert_eq!(filled("pkg-url"), format!("R/releases/download/v0.2.0/{url}"));
            assert_eq!(release.archive(), url);
            assert_eq!(filled("bin-dir"), format!("{}/{}", release.name(), release.program()));
        }
    }
}
