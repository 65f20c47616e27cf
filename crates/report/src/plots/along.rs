//! Plot of the KL divergence along the text, on a log scale.

use eval::{Along, EvaluatedText};
use verify::Report;

use super::{Frame, Plot, WIDTH};
use crate::number;
use crate::scale::{Scale, round_above, round_below};
use crate::svg::{Anchor, Svg};
use crate::table::grouped;

/// The most documents with drawn boundaries; more would hide the curve.
const BOUNDARIES: usize = 80;
/// The most points with tooltips.
const POINTS: usize = 800;

pub(crate) fn along(report: &Report, text: &EvaluatedText) -> Option<Plot> {
    let title = "KL divergence along the text";
    let points: Vec<_> = text.along.iter().filter(|point| point.kld.is_finite()).collect();
    points.first()?;
    let positive = || points.iter().map(|point| point.kld).filter(|kld| *kld > 0.0);
    let Some((low, high)) = positive().zip(positive()).reduce(|(a, b), (c, d)| (a.min(c), b.max(d))) else {
        let caption = "It is 0 at every token: both models predict the same.".to_owned();
        return Some(Plot { title, caption, svg: None });
    };
    let limit = report.thresholds.iter().find(|t| t.figure == "kld.mean" && t.limit > 0.0).map(|t| t.limit);
    // The axis includes the limit if it is not too far from the points.
    let (bottom, top) = match limit {
        Some(limit) if limit > high && limit < high * 100.0 => (low, limit),
        _ => (low, high),
    };
    let zeros = points.iter().any(|point| point.kld <= 0.0);
    let frame =
        Frame { left: 64.0, top: 32.0, right: WIDTH - 24.0, bottom: if zeros { 252.0 } else { 272.0 } };
    let y = Scale::log(round_below(bottom / 1.05), round_above(top * 1.05), frame.bottom, frame.top);
    // Zeros have no place on a log scale: they are drawn on the base line below.
    let zero = Frame { bottom: 272.0, ..frame };
    let end = points.last().map_or(1, |point| point.token + 1).max(text.tokens) as f64;
    let x = Scale::linear(0.0, end, frame.left, frame.right);
    let place = |point: &Along| {
        let y = if point.kld > 0.0 { y.at(point.kld) } else { zero.bottom };
        [x.at(point.token as f64), y]
    };

    let label = format!(
        "{title}: means of runs of tokens from {} to {} nats",
        if zeros { "0".to_owned() } else { number::significant(low) },
        number::significant(high)
    );
    let mut svg = Svg::new(WIDTH, 316.0, &label);
    frame.vertical(&mut svg, &y, &y.ticks(7), "nats per token, mean of a run");
    if zeros {
        svg.text("n", Anchor::End, [frame.left - 8.0, zero.bottom + 4.0], "0");
    }
    let tokens: Vec<_> = x.ticks(8).into_iter().filter(|tick| tick.fract() == 0.0).collect();
    zero.horizontal(&mut svg, &x, &tokens, number::tick, "scored token");

    let documents: Vec<_> = points.chunk_by(|a, b| a.document == b.document).collect();
    let bounded = (2..=BOUNDARIES).contains(&documents.len());
    for document in documents.iter().skip(1).filter(|_| bounded) {
        let [x, _] = place(document[0]);
        svg.line("b", [x, frame.top], [x, zero.bottom]);
    }
    for document in &documents {
        svg.path("k", &document.iter().map(|point| place(point)).collect::<Vec<_>>());
    }
    for point in points.iter().filter(|_| points.len() <= POINTS) {
        let (token, kld) = (grouped(point.token), number::significant(point.kld));
        let title = format!("document {}, token {token}: {kld}", point.document);
        svg.circle("p", place(point), 2.0, &title);
    }
    let mean = report.kld.as_ref().map(|kld| kld.mean).filter(|mean| *mean > 0.0);
    if let Some(mean) = mean {
        let at = y.at(mean);
        svg.line("mean", [frame.left, at], [frame.right, at]);
        let label = format!("mean {}", number::significant(mean));
        svg.text("l", Anchor::End, [frame.right - 4.0, at - 5.0], &label);
    }
    if let Some(limit) = limit {
        let at = y.at(limit);
        svg.line("limit", [frame.left, at], [frame.right, at]);
        let label = format!("limit of the mean {}", number::tick(limit));
        svg.text("l bad", Anchor::Start, [frame.left + 4.0, at - 5.0], &label);
    }
    let boundaries = if bounded { " Vertical lines: the next document." } else { "" };
    let caption = format!(
        "Mean of each run of scored tokens, in the order of the text; log scale.{boundaries}{}",
        if zeros { " Values of exactly 0 are on the base line." } else { "" },
    );
    Some(Plot { title, caption, svg: Some(svg.finish()) })
}
