//! A bar: a figure as the difference from an exact copy, with its interval and a tick at its limit.

use std::fmt::Write;

use super::scale::Scale;

/// Width of the drawing in its own units; the page stretches it.
const WIDTH: f64 = 200.0;
/// The room behind the largest value.
const ROOM: f64 = 1.08;

/// A bar. All values are differences from an exact copy, which has none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bar {
    pub(super) value: f64,
    pub(super) interval: Option<[f64; 2]>,
    pub(super) limit: Option<f64>,
    /// Whether the limit holds.
    pub(super) holds: Option<bool>,
}

impl Bar {
    /// A bar without interval and limit.
    pub(super) fn of(value: f64) -> Bar {
        Bar { value, ..Bar::default() }
    }

    /// The end of a scale on which everything is seen; several bars on one scale have the largest of all.
    pub(super) fn end(&self) -> f64 {
        let all = self.interval.into_iter().flatten().chain(self.limit).chain([self.value]);
        (ROOM * all.filter(|value| value.is_finite()).fold(0.0, f64::max)).min(f64::MAX)
    }

    /// The drawing, from 0 to `end`. The text beside it says the same, so it is hidden from screen readers.
    pub(super) fn svg(&self, end: f64) -> String {
        let x = Scale::linear(0.0, end.max(f64::MIN_POSITIVE), 0.0, WIDTH);
        let at = |value: f64| (x.at(value) * 10.0).round() / 10.0;
        let mut svg = format!(
            "<svg class=\"bar\" viewBox=\"0 0 {WIDTH} 14\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect class=\"track\" y=\"3\" width=\"{WIDTH}\" height=\"8\"/>"
        );
        let class = if self.holds == Some(false) { "less" } else { "artifact" };
        let _ = write!(svg, "<rect class=\"{class}\" y=\"3\" width=\"{}\" height=\"8\"/>", at(self.value));
        if let Some([a, b]) = self.interval {
            let (low, high) = (at(a.min(b)), at(a.max(b)));
            let _ = write!(svg, "<path class=\"interval\" d=\"M{low} 7H{high}M{low} 4V10M{high} 4V10\"/>");
        }
        if let Some(limit) = self.limit {
            let _ = write!(svg, "<path class=\"tick\" d=\"M{0} 0V14\"/>", at(limit));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_its_interval_and_its_limit_where_they_belong() {
        let bar = Bar { value: 5.0, interval: Some([6.0, 4.0]), limit: Some(10.0), holds: Some(true) };
        assert_eq!(bar.end(), 10.0 * ROOM);
        let svg = bar.svg(10.0);
        assert!(svg.contains("<rect class=\"artifact\" y=\"3\" width=\"100\""), "{svg}");
        assert!(svg.contains("d=\"M80 7H120M80 4V10M120 4V10\"") && svg.contains("d=\"M200 0V14\""), "{svg}");
        assert!(Bar { holds: Some(false), ..bar }.svg(10.0).contains("class=\"less\""));
    }

    #[test]
    fn a_bar_of_nothing_and_of_everything_is_drawn() {
        assert!(Bar::of(0.0).svg(0.0).contains("width=\"0\""));
        let beyond = Bar { interval: Some([-1.0, f64::INFINITY]), ..Bar::of(1e300) };
        assert_eq!(beyond.end(), 1e300 * ROOM);
        assert!(!beyond.svg(1e300).contains("inf"));
    }
}
