//! «Did you mean»: the known name that is most similar to a mistyped one.

/// Minimum Jaro similarity: clap's own threshold for its options.
const ALIKE: f64 = 0.7;

/// The most similar of `known` above the threshold, case-insensitive for `name`.
pub(crate) fn similar<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let alike = known.into_iter().map(|known| (strsim::jaro(&name, known), known));
    let best = alike.filter(|(score, _)| *score > ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_the_name() {
        let known = ["q4_0", "q4_k_m", "q8_0", "iq4_xs", "bf16"];
        let of = |name| similar(name, known);
        assert_eq!(of("q4km"), Some("q4_k_m"));
        assert_eq!(of("Q4-K-M"), Some("q4_k_m"));
        assert_eq!(of("q80"), Some("q8_0"));
        assert_eq!(of("iq4xs"), Some("iq4_xs"));
        assert_eq!(of("tomato"), None);
    }
}
