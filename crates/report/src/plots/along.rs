//! Plot of the KL divergence along the text, on a log scale.

use eval::{Along, EvaluatedText};
use verify::Report;

use super::{Frame, Plot, Screen};
use crate::number;
use crate::scale::{Scale, round_above, round_below};
use crate::svg::Anchor;
use crate::terms::KLD;
use base::grouped;

/// The most documents with drawn boundaries; more would hide the curve.
const BOUNDARIES: usize = 80;
/// The most points with tooltips.
const POINTS: usize = 800;

/// What is drawn.
struct Curve<'a> {
    points: Vec<&'a Along>,
    tokens: u64,
    /// The smallest and the largest positive value.
    range: (f64, f64),
    mean: Option<f64>,
    interval: Option<[f64; 2]>,
    limit: Option<f64>,
}

pub(crate) fn along(report: &Report, text: &EvaluatedText) -> Option<Plot> {
    let title = "KL divergence along the text";
    let points: Vec<_> = text.along.iter().filter(|point| point.kld.is_finite()).collect();
    points.first()?;
    let positive = || points.iter().map(|point| point.kld).filter(|kld| *kld > 0.0);
    let Some(range) = positive().zip(positive()).reduce(|(a, b), (c, d)| (a.min(c), b.max(d))) else {
        return Some(Plot::sentence(title, &KLD, "It is 0 at every token: both models predict the same."));
    };
    let curve = Curve {
        tokens: points.last().map_or(1, |point| point.token + 1).max(text.tokens),
        range,
        mean: report.kld.as_ref().map(|kld| kld.mean).filter(|mean| *mean > 0.0),
        interval: report.intervals.get("kld.mean").copied().filter(|[low, _]| *low > 0.0),
        limit: report.thresholds.iter().find(|t| t.figure == "kld.mean" && t.limit > 0.0).map(|t| t.limit),
        points,
    };
    let mut caption = "Mean of each run of scored tokens, in the order of the text; log scale.".to_owned();
    if (2..=BOUNDARIES).contains(&curve.documents().len()) {
        caption += " Vertical lines: the next document.";
    }
    if curve.interval.is_some() {
        caption += " Band: 95 % interval of the mean.";
    }
    if curve.has_zeros() {
        caption += " Values of exactly 0 are on the base line.";
    }
    Some(Plot::new(title, &KLD, caption, |screen| curve.draw(title, screen)))
}

impl Curve<'_> {
    fn documents(&self) -> Vec<&[&Along]> {
        self.points.chunk_by(|a, b| a.document == b.document).collect()
    }

    fn has_zeros(&self) -> bool {
        self.points.iter().any(|point| point.kld <= 0.0)
    }

    fn draw(&self, title: &str, screen: Screen) -> String {
        let (low, high) = self.range;
        // The axis includes the limit if it is not too far from the points.
        let top = self.limit.filter(|limit| *limit > high && *limit < high * 100.0).unwrap_or(high);
        let zeros = self.has_zeros();
        let frame = Frame::new(screen, screen.of(128.0, 104.0), if zeros { 252.0 } else { 272.0 });
        let y = Scale::log(round_below(low / 1.05), round_above(top * 1.05), frame.bottom, frame.top);
        // Zeros have no place on a log scale: they are drawn on the base line below.
        let zero = Frame { bottom: 272.0, ..frame };
        let x = Scale::linear(0.0, self.tokens as f64, frame.left, frame.right);
        let place = |point: &Along| {
            let y = if point.kld > 0.0 { y.at(point.kld) } else { zero.bottom };
            [x.at(point.token as f64), y]
        };

        let label = format!(
            "{title}: means of runs of tokens from {} to {} nats",
            if zeros { "0".to_owned() } else { number::significant(low) },
            number::significant(high)
        );
        let mut svg = screen.svg(316.0, &label);
        if let Some([low, high]) = self.interval {
            let (low, high) = (y.at(low), y.at(high));
            svg.rect("band", [frame.left, high], [frame.right - frame.left, (low - high).max(1.0)], "");
        }
        frame.vertical(&mut svg, &y, &y.ticks(7), "nats per token, mean of a run");
        if zeros {
            svg.text("n", Anchor::End, [frame.left - 8.0, zero.bottom + 4.0], "0");
        }
        let tokens: Vec<_> =
            x.ticks(screen.of(8, 3)).into_iter().filter(|tick| tick.fract() == 0.0).collect();
        zero.horizontal(&mut svg, &x, &tokens, number::tick, "scored token");

        let documents = self.documents();
        if (2..=BOUNDARIES).contains(&documents.len()) {
            for document in documents.iter().skip(1) {
                let [x, _] = place(document[0]);
                svg.line("b", [x, frame.top], [x, zero.bottom]);
            }
        }
        for document in &documents {
            svg.path("k", &document.iter().map(|point| place(point)).collect::<Vec<_>>());
        }
        let tips = self.points.len() <= POINTS && screen.is_wide();
        for point in self.points.iter().filter(|_| tips || self.points.len() == 1) {
            let (token, kld) = (grouped(point.token), number::significant(point.kld));
            let title = format!("document {}, token {token}: {kld}", point.document);
            svg.circle("p", place(point), 2.0, &title);
        }
        let mut labels = Vec::new();
        let mean = self.mean.map(|mean| ("mean", "l", mean, number::significant(mean)));
        let limit = self.limit.map(|limit| ("limit", "l bad", limit, number::tick(limit)));
        for (class, text_class, value, text) in mean.into_iter().chain(limit) {
            let at = y.at(value);
            svg.line(class, [frame.left, at], [frame.right, at]);
            labels.push((at, text_class, format!("{class} {text}")));
        }
        frame.margin(&mut svg, labels);
        svg.finish()
    }
}
