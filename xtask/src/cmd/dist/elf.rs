//! The versions of glibc that a program asks for, as its ELF file has them (section `.gnu.version_r`).

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};

/// Type of the section with needed versions.
const SHT_GNU_VERNEED: u32 = 0x6fff_fffe;

/// A version of glibc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Glibc {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl fmt::Display for Glibc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Glibc {
    type Err = anyhow::Error;

    /// `2.28`; a third number is left out.
    fn from_str(text: &str) -> Result<Glibc> {
        let mut numbers = text.split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Glibc { major, minor }),
            _ => anyhow::bail!("not a version of glibc, such as 2.28"),
        }
    }
}

/// The newest version of glibc that a 64-bit little-endian ELF file asks for. `None` if it asks for none, or is no such
/// file.
pub(super) fn newest_glibc(file: &[u8]) -> Result<Option<Glibc>> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return Ok(None);
    }
    let names = needed_versions(file).context("a damaged ELF file")?;
    let versions = names.iter().filter_map(|name| name.strip_prefix("GLIBC_")?.parse().ok());
    Ok(versions.max())
}

/// Every name in the lists of needed versions.
fn needed_versions(file: &[u8]) -> Result<Vec<&str>> {
    // a place inside the file, so that sums with the 32-bit distances below do not overflow
    let place = |value: u64| {
        let inside = usize::try_from(value).ok().filter(|place| *place < file.len());
        inside.context("a place beyond the end")
    };
    let sections = place(u64_at(file, 0x28)?)?;
    let (size, count) = (usize::from(u16_at(file, 0x3a)?), usize::from(u16_at(file, 0x3c)?));
    let section = |index: usize| file.get(sections + index * size..).context("a section beyond the end");
    let mut names = Vec::new();
    for index in 0..count {
        let header = section(index)?;
        if u32_at(header, 4)? != SHT_GNU_VERNEED {
            continue;
        }
        let strings = place(u64_at(section(u32_at(header, 0x28)? as usize)?, 0x18)?)?;
        // libraries, and for each a list of versions; all places are relative
        let mut library = place(u64_at(header, 0x18)?)?;
        for _ in 0..u32_at(header, 0x2c)? {
            let mut version = library + u32_at(file, library + 8)? as usize;
            for _ in 0..u16_at(file, library + 2)? {
                names.push(text_at(file, strings + u32_at(file, version + 8)? as usize)?);
                version += u32_at(file, version + 12)? as usize;
            }
            library += u32_at(file, library + 12)? as usize;
        }
    }
    Ok(names)
}

fn bytes_at<const N: usize>(file: &[u8], place: usize) -> Result<[u8; N]> {
    let bytes = file.get(place..).and_then(|rest| rest.first_chunk());
    bytes.copied().with_context(|| format!("it ends before byte {place}"))
}

fn u16_at(file: &[u8], place: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes_at(file, place)?))
}

fn u32_at(file: &[u8], place: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes_at(file, place)?))
}

fn u64_at(file: &[u8], place: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes_at(file, place)?))
}

fn text_at(file: &[u8], place: usize) -> Result<&str> {
    let rest = file.get(place..).context("a name beyond the end")?;
    let end = rest.iter().position(|byte| *byte == 0).context("a name without an end")?;
    Ok(std::str::from_utf8(&rest[..end])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        let version = |text: &str| text.parse::<Glibc>().unwrap();
        assert!(version("2.4") < version("2.28") && version("2.2.5") == version("2.2"));
        assert_eq!(version("2.28").to_string(), "2.28");
        for bad in ["", "2", "2.x", "x.28"] {
            bad.parse::<Glibc>().unwrap_err();
        }
    }

    /// The linker chose the versions in this very program, and the glibc that runs it has all of them.
    #[cfg(all(
        target_os = "linux",
        target_env = "gnu",
        target_pointer_width = "64",
        target_endian = "little"
    ))]
    #[test]
    fn a_running_program_asks_for_no_later_glibc_than_there_is() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needed = newest_glibc(&program).unwrap().unwrap();
        // SAFETY: the function returns a constant string of the library.
        let there = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
        assert!(needed <= there.to_str().unwrap().parse().unwrap(), "{needed} of {there:?}");
        // the loader's own list: the versions as text are all in the file
        assert!(needed >= "2.2".parse().unwrap());
        let name = format!("GLIBC_{needed}");
        assert!(program.windows(name.len()).any(|window| window == name.as_bytes()));
    }

    #[test]
    fn damaged_and_other_files() {
        assert_eq!(newest_glibc(b"\xcf\xfa\xed\xfe").unwrap(), None);
        assert_eq!(newest_glibc(b"").unwrap(), None);
        let mut short = b"\x7fELF\x02\x01".to_vec();
        newest_glibc(&short).unwrap_err();
        short.resize(0x40, 0xff);
        newest_glibc(&short).unwrap_err();
    }
}
