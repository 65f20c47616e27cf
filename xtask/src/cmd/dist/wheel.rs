//! The wheel, made by maturin from `crates/gemma-convert/pyproject.toml` and a folder with what the repository does not hold.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use toml::{Table, Value};
use xtask::oracle::clients;

use super::archive::Entry;
use super::build::{Build, Page, STRIP};

/// Makes the wheel in the folder `into`, and says where it is. The program is that of [`Build::program`], or is built with
/// zig's linker; cargo does not compile it twice.
pub(super) fn make(build: &Build, pages: &[Page], licences: &[Entry], into: &Path) -> Result<PathBuf> {
    let root = crate::root();
    let project = tempfile::tempdir()?;
    let write = |path: &str, bytes: &[u8]| -> Result<()> {
        let path = project.path().join(path);
        fs::create_dir_all(path.parent().expect("a file in a folder"))?;
        fs::write(&path, bytes).with_context(|| path.display().to_string())
    };
    for name in ["LICENSE", "README.md"] {
        write(name, &fs::read(root.join(name))?)?;
    }
    for licence in licences {
        write(&licence.path, &licence.bytes)?;
    }
    let installed = pages.iter().filter_map(|page| Some((page.installed?, &page.entry.bytes)));
    fs::create_dir(project.path().join("shared"))?;
    for (place, bytes) in installed {
        write(&format!("shared/data/{place}"), bytes)?;
    }
    let package = root.join("crates/gemma-convert");
    let settings = fs::read_to_string(package.join("pyproject.toml"))?;
    let licences = licences.iter().map(|licence| licence.path.as_str());
    write("pyproject.toml", completed(&settings, &package, licences)?.as_bytes())?;

    let mut maturin = clients::PACKAGERS.install()?.python("maturin");
    maturin
        .args(["build", "--release", "--locked", "--quiet", "--out"])
        .arg(into)
        .current_dir(project.path());
    if let Some(glibc) = build.glibc {
        let python = clients::ZIG.install()?.python("python");
        maturin.env("CARGO_ZIGBUILD_PYTHON_PATH", python.get_program());
        let tag = format!("manylinux_{}_{}", glibc.major, glibc.minor);
        maturin.args(["--zig", "--target", &build.triple, "--compatibility", &tag]);
    }
    build.configure(maturin.arg("--").args(STRIP));
    crate::cmd::tools::run(&mut maturin)?;

    let mut wheels = Vec::new();
    for entry in fs::read_dir(into)? {
        wheels.push(entry?.path());
    }
    wheels.retain(|path| path.extension().is_some_and(|extension| extension == "whl"));
    ensure!(wheels.len() == 1, "maturin made {} wheels", wheels.len());
    Ok(wheels.remove(0))
}

/// The settings of the crate, completed by what is in the folder of the project.
fn completed<'a>(settings: &str, package: &Path, licences: impl Iterator<Item = &'a str>) -> Result<String> {
    let mut settings: Table = settings.parse()?;
    let project = settings.get_mut("project").and_then(Value::as_table_mut).context("no [project]")?;
    let files = std::iter::once("LICENSE").chain(licences).map(Value::from);
    project.insert("license-files".into(), Value::Array(files.collect()));
    project.insert("readme".into(), "README.md".into());
    let tool = settings.get_mut("tool").and_then(|tool| tool.get_mut("maturin"));
    let maturin = tool.and_then(Value::as_table_mut).context("no [tool.maturin]")?;
    let manifest = package.join("Cargo.toml");
    maturin.insert("manifest-path".into(), manifest.to_str().context("a path that is not UTF-8")?.into());
    maturin.insert("data".into(), "shared".into());
    Ok(toml::to_string(&settings)?)
}

/// The version of glibc in a wheel's tag, such as 34 of `manylinux_2_34`; `None` for other tags.
pub(super) fn tagged_glibc(wheel: &Path) -> Option<super::elf::Glibc> {
    let name = wheel.file_name()?.to_str()?;
    let (_, rest) = name.rsplit_once("manylinux_")?;
    let mut numbers = rest.split('_');
    format!("{}.{}", numbers.next()?, numbers.next()?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_of_the_crate_with_files() {
        let crate_settings = include_str!("../../../../crates/gemma-convert/pyproject.toml");
        let text = completed(crate_settings, Path::new("/x"), ["THIRD-PARTY.txt"].into_iter()).unwrap();
        let settings: Table = text.parse().unwrap();
        assert_eq!(settings["project"]["license-files"].as_array().unwrap().len(), 2);
        assert_eq!(settings["tool"]["maturin"]["manifest-path"].as_str(), Some("/x/Cargo.toml"));
        assert_eq!(settings["tool"]["maturin"]["bindings"].as_str(), Some("bin"));
        // said in two places, since PyPI's page is not made of Cargo.toml
        let cargo: Table = include_str!("../../../../crates/gemma-convert/Cargo.toml").parse().unwrap();
        assert_eq!(settings["project"]["description"], cargo["package"]["description"]);
    }

    #[test]
    fn a_tag_names_its_glibc() {
        let glibc = |name: &str| tagged_glibc(Path::new(name)).map(|glibc| glibc.to_string());
        let name = "gemma_convert-0.1.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl";
        assert_eq!(glibc(name).as_deref(), Some("2.17"));
        assert_eq!(glibc("gemma_convert-0.1.0-py3-none-macosx_11_0_arm64.whl"), None);
    }
}
