//! Plot of the error after each block of the towers, a curve for each image or sound, on a log scale.

use verify::FeatureErrors;

use super::{Frame, Plot, WIDTH};
use crate::number;
use crate::scale::{Scale, round_above, round_below};
use crate::svg::Svg;

pub(crate) fn towers(features: &[FeatureErrors]) -> Option<Plot> {
    let title = "Error after each block of the towers";
    let most = features.iter().map(|file| file.stages.len()).max().filter(|most| *most > 1)?;
    let errors = || features.iter().flat_map(|file| &file.stages).map(|stage| stage.relative_rms);
    let positive = || errors().filter(|error| *error > 0.0 && error.is_finite());
    let Some((low, high)) = positive().zip(positive()).reduce(|(a, b), (c, d)| (a.min(c), b.max(d))) else {
        let caption = "All states are exactly those of the base.".to_owned();
        return Some(Plot { title, caption, svg: None });
    };
    let frame = Frame { left: 64.0, top: 32.0, right: WIDTH - 24.0, bottom: 232.0 };
    let y = Scale::log(round_below(low / 1.05), round_above(high * 1.05), frame.bottom, frame.top);
    let x = Scale::linear(0.0, (most - 1) as f64, frame.left, frame.right);
    let label = format!("{title}: relative RMS from {} to {}", number::percent(low), number::percent(high));
    let mut svg = Svg::new(WIDTH, 276.0, &label);
    frame.vertical(&mut svg, &y, &y.ticks(7), "relative RMS");
    let ticks: Vec<_> = x.ticks(12).into_iter().filter(|tick| tick.fract() == 0.0).collect();
    frame.horizontal(&mut svg, &x, &ticks, number::tick, "block, 0 for the embedding before the first");
    for file in features {
        // an exact state has no place on a log scale: the curve lies on the base line there
        let place = |(index, error): (usize, f64)| [x.at(index as f64), y.at(error.max(f64::MIN_POSITIVE))];
        let points: Vec<_> =
            file.stages.iter().map(|stage| stage.relative_rms).enumerate().map(place).collect();
        svg.path("k", &points);
        for (point, stage) in points.iter().zip(&file.stages) {
            let title = format!("{}, {}: {}", file.file, stage.stage, number::percent(stage.relative_rms));
            svg.circle("p", *point, 3.0, &title);
        }
    }
    let caption =
        "Difference of the states of artifact and base, relative to the base's; log scale.".to_owned();
    Some(Plot { title, caption, svg: Some(svg.finish()) })
}
