//! Plot of the speed-up by burst size: from the measured costs, if a pass cost no more than a step, and in the timed
//! run.

use draft::{Burst, DraftReport};

use super::{Frame, Plot, WIDTH};
use crate::number;
use crate::scale::Scale;
use crate::svg::{Anchor, Svg};

/// A curve: CSS class, name, and value for a burst size.
type Line = (&'static str, &'static str, fn(&Burst) -> f64);

pub(crate) fn bursts(report: &DraftReport) -> Option<Plot> {
    let title = "Speed-up by burst size";
    let (first, last) = (report.bursts.first()?, report.bursts.last()?);
    let all = report.bursts.iter().flat_map(|burst| [burst.implied, burst.ideal]);
    let highest = all.chain([report.measured.speedup, 1.0]).fold(0.0, f64::max);
    let frame = Frame { left: 64.0, top: 32.0, right: WIDTH - 150.0, bottom: 272.0 };
    let y = Scale::linear(0.0, highest * 1.1, frame.bottom, frame.top);
    let x = Scale::linear(first.guesses as f64, last.guesses as f64, frame.left + 12.0, frame.right);
    let label = format!("{title}: up to {} times the target alone", number::significant(highest));
    let mut svg = Svg::new(WIDTH, 316.0, &label);
    frame.vertical(&mut svg, &y, &y.ticks(6), "times as fast as the target alone");
    let sizes: Vec<f64> = report.bursts.iter().map(|burst| burst.guesses as f64).collect();
    frame.horizontal(&mut svg, &x, &sizes, number::tick, "burst size: draft tokens per pass");
    svg.line("zero", [frame.left, y.at(1.0)], [frame.right, y.at(1.0)]);

    let lines: [Line; 2] =
        [("b", "if a pass cost 1", |burst| burst.ideal), ("k", "by measured costs", |burst| burst.implied)];
    let mut lowest_label: f64 = frame.top;
    let mut ends: Vec<_> = lines.iter().map(|(_, name, of)| (y.at(of(last)), *name)).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (at, name) in ends {
        lowest_label = (at + 4.0).max(lowest_label + 14.0);
        svg.text("l", Anchor::Start, [frame.right + 8.0, lowest_label], name);
    }
    for (class, name, of) in lines {
        let points: Vec<_> = report.bursts.iter().map(|b| [x.at(b.guesses as f64), y.at(of(b))]).collect();
        svg.path(&format!("k {class}"), &points);
        for (burst, point) in report.bursts.iter().zip(points) {
            let title = format!("burst size {}, {name}: {}", burst.guesses, number::significant(of(burst)));
            svg.circle("p", point, 2.5, &title);
        }
    }
    let measured = [x.at(report.measured.guesses as f64), y.at(report.measured.speedup)];
    let speedup = number::significant(report.measured.speedup);
    svg.circle("base", measured, 5.0, &format!("measured: {speedup}"));
    svg.text("l", Anchor::Middle, [measured[0], measured[1] - 10.0], &format!("measured {speedup}"));
    let caption = "Speed-up of generation with the draft model. A pass over a burst costs the target more than a step \
                   if arithmetic is the bottleneck, and about the same if memory bandwidth is.";
    Some(Plot { title, caption: caption.to_owned(), svg: Some(svg.finish()) })
}
