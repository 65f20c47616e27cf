//! Plot of the error after each block of the towers, a curve for each image or sound, on a log scale.

use verify::FeatureErrors;

use super::{Frame, Plot, Screen};
use crate::number;
use crate::scale::{Scale, round_above, round_below};
use crate::terms::FEATURES;

pub(crate) fn towers(features: &[FeatureErrors]) -> Option<Plot> {
    let title = "Error after each block of the towers";
    let most = features.iter().map(|file| file.stages.len()).max().filter(|most| *most > 1)?;
    let errors = || features.iter().flat_map(|file| &file.stages).map(|stage| stage.relative_rms);
    let positive = || errors().filter(|error| *error > 0.0 && error.is_finite());
    let Some(range) = positive().zip(positive()).reduce(|(a, b), (c, d)| (a.min(c), b.max(d))) else {
        return Some(Plot::sentence(title, &FEATURES, "All states are exactly those of the base."));
    };
    let caption = "The same of the states between the blocks; a curve for each file, log scale.";
    Some(Plot::new(title, &FEATURES, caption.to_owned(), |screen| draw(features, most, range, title, screen)))
}

fn draw(
    features: &[FeatureErrors],
    most: usize,
    (low, high): (f64, f64),
    title: &str,
    screen: Screen,
) -> String {
    let frame = Frame::new(screen, screen.of(24.0, 12.0), 232.0);
    let y = Scale::log(round_below(low / 1.05), round_above(high * 1.05), frame.bottom, frame.top);
    let x = Scale::linear(0.0, (most - 1) as f64, frame.left, frame.right);
    let label = format!("{title}: relative RMS from {} to {}", number::percent(low), number::percent(high));
    let mut svg = screen.svg(276.0, &label);
    frame.vertical(&mut svg, &y, &y.ticks(7), "relative RMS");
    let ticks: Vec<_> = x.ticks(screen.of(12, 6)).into_iter().filter(|tick| tick.fract() == 0.0).collect();
    frame.horizontal(&mut svg, &x, &ticks, number::tick, "block, 0 for the embedding before the first");
    for file in features {
        // an exact state has no place on a log scale: the curve lies on the base line there
        let place = |(index, error): (usize, f64)| [x.at(index as f64), y.at(error.max(f64::MIN_POSITIVE))];
        let points: Vec<_> =
            file.stages.iter().map(|stage| stage.relative_rms).enumerate().map(place).collect();
        svg.path("k", &points);
        for (point, stage) in points.iter().zip(&file.stages).filter(|_| screen.is_wide()) {
            let title = format!("{}, {}: {}", file.file, stage.stage, number::percent(stage.relative_rms));
            svg.circle("p", *point, 3.0, &title);
        }
    }
    svg.finish()
}
