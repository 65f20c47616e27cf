//! `cargo xtask dist`: what a release hands out, in the folder `dist` of the target folder.
//!
//! An archive with the program, its manual page, completions and licences, the SHA-256 beside it, and a wheel for PyPI. The
//! bytes depend on sources, toolchain and commit, and not on the machine that makes them.

mod action;
mod archive;
mod build;
mod check;
mod elf;
mod licences;
mod release;
mod wheel;
mod zip;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use archive::Entry;
use build::Build;
use release::Release;

use super::cross::Target;

/// Make the archive of a release and, on request, a wheel for PyPI.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also make a wheel (needs Python 3 and, the first time, the network)
    #[arg(long)]
    wheel: bool,
    /// Build for this target, and run its program in an emulator: x86_64-pc-windows-gnu, aarch64-unknown-linux-gnu
    #[arg(long, value_name = "TRIPLE", conflicts_with = "wheel")]
    target: Option<String>,
    /// Unpack the archive, install the wheel, convert the tiny checkpoint with each and compare the digest
    #[arg(long)]
    check: bool,
    /// Link for this version of glibc, such as 2.28, and later ones, with zig's linker (Linux; needs --wheel)
    #[arg(long, value_name = "VERSION", requires = "wheel")]
    glibc: Option<elf::Glibc>,
    /// Fail unless this is the tag of the version, and the changelog has a date for it
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
}

/// What was made.
struct Made {
    release: Release,
    archive: PathBuf,
    wheel: Option<PathBuf>,
    /// The newest version of glibc that the program asks for.
    glibc: Option<elf::Glibc>,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let release = Release::read(self.target.as_deref())?;
        if let Some(tag) = &self.tag {
            release.check_tag(tag)?;
        }
        let cross = self.target.as_deref().map(Target::ready).transpose()?;
        let build = Build::new(&release, self.glibc, cross)?;
        let dist = build.target_dir.join("dist");
        if dist.exists() {
            fs::remove_dir_all(&dist)?;
        }
        fs::create_dir_all(&dist)?;

        let program = build.program()?;
        let bytes = fs::read(&program).with_context(|| program.display().to_string())?;
        let glibc = elf::newest_glibc(&bytes)?;
        if let (Some(asked), Some(needed)) = (self.glibc, glibc) {
            ensure!(needed <= asked, "the program needs glibc {needed}, which is later than {asked}");
        }
        let pages = build::pages(&build, &program)?;
        let licences = licences::entries(&release)?;

        let archive = dist.join(release.archive());
        let content: Vec<_> = std::iter::once(Entry::program(release.program(), bytes))
            .chain(release.documents()?)
            .chain(pages.iter().map(|page| page.entry.clone()))
            .chain(licences.iter().cloned())
            .collect();
        for entry in &content {
            build::check_paths(&entry.path, &entry.bytes)?;
        }
        fs::write(&archive, archive::pack(&release, &content)?)?;
        write_digest(&archive)?;
        let wheel = match self.wheel {
            true => Some(wheel::make(&build, &pages, &licences, &dist)?),
            false => None,
        };

        let made = Made { release, archive, wheel, glibc };
        made.describe(content.len())?;
        if self.check {
            check::run(&build, &made, &content)?;
        }
        Ok(())
    }
}

impl Made {
    fn describe(&self, files: usize) -> Result<()> {
        let bytes = fs::metadata(&self.archive)?.len();
        println!("{}: {files} files, {bytes} bytes", self.archive.display());
        if let Some(wheel) = &self.wheel {
            println!("{}: {} bytes", wheel.display(), fs::metadata(wheel)?.len());
        }
        if let Some(glibc) = self.glibc {
            println!("needs glibc {glibc}");
        }
        Ok(())
    }
}

/// `NAME.sha256` beside the file, as `sha256sum` writes it.
fn write_digest(file: &Path) -> Result<()> {
    let (_, digest) = base::sha256(fs::File::open(file)?, &|_| ())?;
    let name = file.file_name().expect("a file").to_str().context("a name that is not UTF-8")?;
    fs::write(file.with_file_name(format!("{name}.sha256")), format!("{digest}  {name}\n"))?;
    Ok(())
}
