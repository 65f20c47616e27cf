//! A ZIP file whose bytes depend on its content alone: deflated entries, one time, the permissions of Unix.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

use super::archive::Entry;

/// The version of the format that has folders and deflate.
const VERSION: u16 = 20;
/// The attributes of files are those of Unix.
const UNIX: u16 = 3 << 8;
/// Names are UTF-8.
const UTF8: u16 = 1 << 11;
const DEFLATE: u16 = 8;
/// A regular file, in the mode of Unix.
const REGULAR: u32 = 0o100_000;

/// The file with these entries in one folder. `epoch` is the time of each, in seconds since 1970 and from 1980 on.
pub(super) fn pack(folder: &str, entries: &[&Entry], epoch: u64) -> Result<Vec<u8>> {
    let (date, time) = dos(epoch).context("a time that ZIP files do not have")?;
    let (mut file, mut directory, mut count) = (Vec::new(), Vec::new(), 0u16);
    for entry in entries {
        let name = format!("{folder}/{}", entry.path);
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&entry.bytes)?;
        let packed = encoder.finish()?;
        let mut crc = Crc::new();
        crc.update(&entry.bytes);

        // what both headers have
        let mut common = Vec::new();
        for number in [VERSION, UTF8, DEFLATE, time, date] {
            common.extend(number.to_le_bytes());
        }
        for number in [crc.sum(), size(packed.len())?, size(entry.bytes.len())?] {
            common.extend(number.to_le_bytes());
        }
        // the lengths of the name and of extra fields
        common.extend(u16::try_from(name.len())?.to_le_bytes());
        common.extend([0; 2]);

        let offset = size(file.len())?;
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(name.as_bytes());
        file.extend(packed);

        directory.extend(b"PK\x01\x02");
        directory.extend((UNIX | VERSION).to_le_bytes());
        directory.extend(&common);
        // comment, disk and internal attributes
        directory.extend([0; 6]);
        directory.extend(((REGULAR | entry.mode()) << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
        count += 1;
    }
    let (start, length) = (size(file.len())?, size(directory.len())?);
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    file.extend([length.to_le_bytes(), start.to_le_bytes()].concat());
    file.extend([0; 2]);
    Ok(file)
}

fn size(bytes: usize) -> Result<u32> {
    u32::try_from(bytes).context("4 GiB or more in a ZIP file")
}

/// Date and time of MS-DOS, in UTC.
fn dos(epoch: u64) -> Option<(u16, u16)> {
    let text = base::utc(epoch);
    let mut numbers =
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u16>().ok());
    let mut next = || numbers.next();
    let (year, month, day) = (next()?.checked_sub(1980)?, next()?, next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    Some((year << 9 | month << 5 | day, hour << 11 | minute << 5 | (second / 2)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Python says what is in it, after a comparison of checksums.
    #[test]
    fn python_reads_names_times_permissions_and_content() {
        let long = "abc ".repeat(5000);
        let entries =
            [Entry::program("tool.exe", long.clone().into_bytes()), Entry::file("man/é.1", Vec::new())];
        let bytes = pack("tool-v1", &entries.each_ref(), 1_772_366_706).unwrap();
        assert!(bytes.len() < 1000);

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.zip");
        std::fs::write(&file, bytes).unwrap();
        let script = "import sys, zipfile\n\
            z = zipfile.ZipFile(sys.argv[1])\n\
            assert z.testzip() is None\n\
            for i in z.infolist():\n    print(i.filename, i.date_time, oct(i.external_attr >> 16), len(z.read(i)))\n";
        let listed = Command::new("python3").args(["-c", script]).arg(&file).output().unwrap();
        let expected = "tool-v1/tool.exe (2026, 3, 1, 12, 5, 6) 0o100755 20000\n\
            tool-v1/man/é.1 (2026, 3, 1, 12, 5, 6) 0o100644 0\n";
        assert_eq!(String::from_utf8_lossy(&listed.stdout), expected, "{listed:?}");
    }
}
