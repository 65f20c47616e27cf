//! Formatting of numbers, and removal of control characters from names.

use base::grouped;

/// Three significant digits: `0.0331`, `12.3`, `1,234`, `1.20e-7`.
pub(super) fn significant(value: f64) -> String {
    digits(value, 3)
}

/// Five significant digits, because two perplexities differ little: `19.812`.
pub(super) fn perplexity(value: f64) -> String {
    digits(value, 5)
}

fn digits(value: f64, digits: usize) -> String {
    let scientific = format!("{value:.*e}", digits - 1);
    // The power of ten after rounding: 9.996 has two digits before its point.
    let exponent: i32 = scientific.rsplit_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    match exponent {
        _ if value == 0.0 => "0".to_owned(),
        _ if !value.is_finite() => minus(value.to_string()),
        -4..=2 => minus(format!("{value:.*}", usize::try_from(digits as i32 - 1 - exponent).unwrap_or(0))),
        3..=6 => {
            minus(format!("{}{}", if value < 0.0 { "-" } else { "" }, grouped(value.abs().round() as u64)))
        }
        _ => minus(scientific),
    }
}

/// A share as a percentage with two decimals; only exactly 1 gives `100.00 %`.
pub(super) fn share(value: f64) -> String {
    let percent = format!("{:.2} %", value * 100.0);
    if value < 1.0 && percent == "100.00 %" { "> 99.99 %".to_owned() } else { minus(percent) }
}

/// A relative error or a change of a probability: a percentage with three significant digits.
pub(super) fn percent(value: f64) -> String {
    format!("{} %", significant(value * 100.0))
}

/// A ratio near one: `1.0213`.
pub(super) fn ratio(value: f64) -> String {
    if (0.1..10.0).contains(&value) { format!("{value:.4}") } else { significant(value) }
}

/// A cosine with six decimals; only exactly 1 gives `1.000000`.
pub(super) fn cosine(value: f64) -> String {
    let text = format!("{value:.6}");
    if value < 1.0 && text == "1.000000" { "> 0.999999".to_owned() } else { minus(text) }
}

/// A size in binary units: `402 MiB`.
pub(super) fn bytes(count: u64) -> String {
    let (unit, name) = byte_unit(count as f64);
    if unit == 1.0 { format!("{count} B") } else { format!("{} {name}", significant(count as f64 / unit)) }
}

/// The binary unit for a number of bytes, in bytes, and its name.
pub(super) fn byte_unit(count: f64) -> (f64, &'static str) {
    // A number that rounds to 1024 of a unit takes the next unit.
    [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .map(|(power, name)| (f64::from(power).exp2(), name))
        .find(|(unit, _)| count >= unit * (1.0 - 0.5 / 1024.0))
        .unwrap_or((1.0, "B"))
}

/// The exact size, for a tooltip: `1,234,567 bytes`.
pub(super) fn exact_bytes(count: u64) -> String {
    format!("{} bytes", grouped(count))
}

/// A duration: `80 ms`, `3.4 s`, `2 min 5 s`, `1 h 2 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1000.0),
        s if s < 59.95 => format!("{s:.1} s"),
        _ if whole < 3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// The shortest form of a round number on an axis: `0.05`, `1e-6`, `2,000`.
pub(super) fn tick(value: f64) -> String {
    let scientific = format!("{value:e}");
    match scientific.rsplit_once('e').and_then(|(_, digits)| digits.parse::<i32>().ok()) {
        _ if value == 0.0 => "0".to_owned(),
        Some(3..=5) if value > 0.0 && value.fract() == 0.0 => grouped(value as u64),
        Some(-4..=5) => minus(value.to_string()),
        _ => minus(scientific),
    }
}

/// A number with its noun: `1 token`, `2 tokens`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number as u64), if number == 1 { one } else { many })
}

fn minus(text: String) -> String {
    text.replace('-', "−").replace("e−", "e-")
}

/// A name or path from an untrusted file, without characters that act on a terminal or a browser: control characters
/// and those that change the direction of writing.
pub(super) fn plain(text: &str) -> String {
    let acts = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if acts(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits_after_rounding() {
        let expected = [
            (0.0, "0"),
            (0.03312, "0.0331"),
            (0.9996, "1.00"),
            (-0.1234, "−0.123"),
            (12.34, "12.3"),
            (999.6, "1,000"),
            (38123.4, "38,123"),
            (1.2e-7, "1.20e-7"),
            (-4.0e300, "−4.00e300"),
        ];
        assert_eq!(expected.map(|(value, _)| significant(value)), expected.map(|(_, text)| text));
        assert_eq!([19.8123, 999.999, 38123.4].map(perplexity), ["19.812", "1,000", "38,123"]);
    }

    #[test]
    fn a_share_below_one_is_not_written_as_the_whole() {
        assert_eq!(
            [1.0, 0.999_999, 0.973_14, 0.0].map(share),
            ["100.00 %", "> 99.99 %", "97.31 %", "0.00 %"]
        );
        assert_eq!([1.0, 0.999_999_9, 0.996].map(cosine), ["1.000000", "> 0.999999", "0.996000"]);
    }

    #[test]
    fn bytes_and_durations_have_units_that_fit() {
        let sizes = [0, 1023, 1024, 421_527_552, (1 << 30) - 1, 5 << 40];
        assert_eq!(sizes.map(bytes), ["0 B", "1023 B", "1.00 KiB", "402 MiB", "1.00 GiB", "5.00 TiB"]);
        let times = [0.0801, 3.42, 59.96, 125.0, 3725.0];
        assert_eq!(times.map(duration), ["80 ms", "3.4 s", "1 min 0 s", "2 min 5 s", "1 h 2 min"]);
    }

    #[test]
    fn ticks_are_short() {
        let ticks = [0.0, 0.05, 1e-6, 20.0, 20000.0, -0.5, 1e12];
        assert_eq!(ticks.map(tick), ["0", "0.05", "1e-6", "20", "20,000", "−0.5", "1e12"]);
    }

    #[test]
    fn names_cannot_act_on_a_terminal() {
        assert_eq!(plain("a\x1b[2Jb\u{202e}c\nd é"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d é");
    }
}
