//! Parsing of sizes in bytes with units.

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

/// Parses a size: `2GB` → 2,000,000,000. `K`, `KB`, `M`, `MB`, `G` and `GB` are powers of ten, `KiB`, `MiB` and `GiB`
/// of two. `place` is for the error.
///
/// # Errors
/// `Recipe` if the text is not a number of bytes above 0.
pub fn byte_size(place: &str, text: &str) -> Result<u64> {
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1));
    let number = number.trim();
    let whole = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    // 3.2GB is allowed, a fraction of a byte is not
    let size = whole.or_else(|| {
        let decimal = number.bytes().all(|b| b.is_ascii_digit() || b == b'.') && unit > 1;
        number.parse::<f64>().ok().filter(|_| decimal).map(|n| (n * unit as f64) as u64)
    });
    let size = size.filter(|&n| n > 0 && n < u64::MAX);
    size.ok_or_else(|| Error::recipe(place, "not a size in bytes").expected("such as 2GB or 500MiB", text))
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
        assert_eq!(bytes("3.2GB").unwrap(), 3_200_000_000);
        assert!(bytes("4096.5").is_err() && bytes("1e3GB").is_err() && bytes("0.0GB").is_err());
        assert!(bytes("-1GB").unwrap_err().to_string().contains("--memory"));
    }
}
