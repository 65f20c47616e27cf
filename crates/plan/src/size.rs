//! Sizes as people write them.

use tensor::{Error, Result};

const UNITS: [(&str, u64); 9] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("K", 1000),
];

/// `2GB` → 2,000,000,000. `G`, `GB`, `M` and `MB` are powers of ten, `GiB` and `MiB` of two. `place` is for the error.
///
/// # Errors
/// `Recipe` when it is no whole number of bytes above 0.
pub fn byte_size(place: &str, text: &str) -> Result<u64> {
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1));
    let size = number.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|&n| n > 0);
    size.ok_or_else(|| Error::recipe(place, "no size in bytes").expected("such as 2GB or 500MiB", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let bytes = |text| byte_size("--memory", text);
        assert_eq!(bytes("500MB").unwrap(), 500_000_000);
        assert_eq!(bytes("1GiB").unwrap(), 1 << 30);
        assert_eq!(bytes("2G").unwrap(), 2_000_000_000);
        assert_eq!(bytes("4096").unwrap(), 4096);
        assert!(bytes("-1GB").unwrap_err().to_string().contains("--memory"));
    }
}
