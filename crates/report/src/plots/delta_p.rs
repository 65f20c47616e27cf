//! Histogram of Δp: the change of the probability of the next token, from the base to the artifact.

use eval::DeltaP;

use super::{Frame, Plot, Screen};
use crate::number;
use crate::scale::{Scale, round_above};
use crate::svg::Anchor;
use crate::terms::DELTA_P;
use base::grouped;

/// A bar: from, to, tokens.
type Bin = (f64, f64, u64);

pub(crate) fn delta_p(delta_p: &DeltaP) -> Option<Plot> {
    let title = "Distribution of Δp";
    delta_p.histogram.iter().max().filter(|most| **most > 0)?;
    if delta_p.rms == 0.0 {
        let caption = "It is 0 at every token: both models give the next token the same probability.";
        return Some(Plot::sentence(title, &DELTA_P, caption));
    }
    let all = delta_p.histogram.len();
    // The axis ends at the outermost bin with tokens.
    let edge = |bin: usize| -1.0 + 2.0 * bin as f64 / all as f64;
    let filled = || delta_p.histogram.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bin, _)| bin);
    let reach = filled().map(|bin| edge(bin).abs().max(edge(bin + 1).abs())).fold(0.02, f64::max);
    let reach = round_above(reach).min(1.0);
    let inside: Vec<_> =
        (0..all).filter(|bin| edge(*bin).abs().max(edge(*bin + 1).abs()) <= reach + 1e-9).collect();
    // Finer bins than a screen shows are merged.
    let bins = |most: usize| -> Vec<Bin> {
        let joined = inside.len().div_ceil(most).max(1);
        let sum = |bins: &[usize]| bins.iter().map(|bin| delta_p.histogram[*bin]).sum();
        inside.chunks(joined).map(|bins| (edge(bins[0]), edge(bins[bins.len() - 1] + 1), sum(bins))).collect()
    };
    let caption = format!(
        "Mean {}, RMS {}. A symmetric distribution is noise; more tokens on the left is loss.",
        number::percent(delta_p.mean),
        number::percent(delta_p.rms)
    );
    let label = format!(
        "{title}: RMS {}, mean {}, tokens from −{} to {}",
        number::percent(delta_p.rms),
        number::percent(delta_p.mean),
        number::percent(reach),
        number::percent(reach),
    );
    Some(Plot::new(title, &DELTA_P, caption, |screen| draw(&bins(screen.of(201, 81)), reach, &label, screen)))
}

fn draw(bins: &[Bin], reach: f64, label: &str, screen: Screen) -> String {
    let most = bins.iter().map(|bin| bin.2).max().unwrap_or(1);
    let frame = Frame::new(screen, 24.0, 252.0);
    let x = Scale::linear(-reach, reach, frame.left, frame.right);
    // The axis begins below 1, so that a single token has a height.
    let y = Scale::log(0.5, round_above(most as f64 * 1.05).max(2.0), frame.bottom, frame.top);
    let mut svg = screen.svg(296.0, label);
    let ticks: Vec<_> = y.ticks(7).into_iter().filter(|tick| *tick >= 1.0).collect();
    frame.vertical(&mut svg, &y, &ticks, screen.of("tokens, log scale", "tokens (log)"));
    for (low, high, count) in bins.iter().filter(|bin| bin.2 > 0) {
        let (left, right, top) = (x.at(*low), x.at(*high), y.at(*count as f64));
        let gap = if right - left > 4.0 { 0.5 } else { 0.0 };
        let class = if low + high < 0.0 { "less" } else { "more" };
        let class = if *low < -1e-9 && *high > 1e-9 { "same" } else { class };
        let [low, high] = [low, high].map(|edge| number::tick((edge * 1e4).round() / 100.0));
        let title = match screen {
            Screen::Wide => format!("{low} % to {high} %: {}", grouped(*count)),
            Screen::Narrow => String::new(),
        };
        svg.rect(class, [left + gap, top], [right - left - 2.0 * gap, frame.bottom - top], &title);
    }
    let percent = |value: f64| format!("{} %", number::tick(value));
    let axis = Scale::linear(-reach * 100.0, reach * 100.0, frame.left, frame.right);
    frame.horizontal(&mut svg, &axis, &axis.ticks(screen.of(10, 4)), percent, "Δp = p(artifact) − p(base)");
    svg.line("zero", [x.at(0.0), frame.top - 6.0], [x.at(0.0), frame.bottom]);
    let less = screen.of("less probable by the artifact", "less probable");
    svg.text("l", Anchor::End, [x.at(0.0) - 8.0, frame.top - 14.0], less);
    svg.text("l", Anchor::Start, [x.at(0.0) + 8.0, frame.top - 14.0], "more probable");
    svg.finish()
}
