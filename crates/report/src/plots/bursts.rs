//! Plot of the speed-up by burst size: from the measured costs, if a pass cost no more than a step, and in the timed
//! run.

use draft::{Burst, DraftReport};

use super::{Frame, Plot, Screen};
use crate::number;
use crate::scale::Scale;
use crate::svg::Anchor;
use crate::terms::SPEED_UP;

/// A curve: CSS classes of its line and its points, name, and value for a burst size.
type Line = (&'static str, &'static str, &'static str, fn(&Burst) -> f64);

const LINES: [Line; 2] = [
    ("k ideal", "less", "if a pass cost 1", |burst| burst.ideal),
    ("k", "p", "measured costs", |burst| burst.implied),
];

pub(crate) fn bursts(report: &DraftReport) -> Option<Plot> {
    let title = "Speed-up by burst size";
    report.bursts.first()?;
    let caption = "A pass over a burst costs the target more than a step if arithmetic is the bottleneck, and about \
                   the same if memory bandwidth is. Dot: the timed run.";
    Some(Plot::new(title, &SPEED_UP, caption.to_owned(), |screen| draw(report, title, screen)))
}

fn draw(report: &DraftReport, title: &str, screen: Screen) -> String {
    let all = report.bursts.iter().flat_map(|burst| [burst.implied, burst.ideal]);
    let highest = all.chain([report.measured.speedup, 1.0]).fold(0.0, f64::max);
    let frame = Frame::new(screen, screen.of(150.0, 116.0), 272.0);
    let y = Scale::linear(0.0, highest * 1.1, frame.bottom, frame.top);
    let sizes: Vec<f64> = report.bursts.iter().map(|burst| burst.guesses as f64).collect();
    let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
    let x = Scale::linear(first, last.max(first + 1.0), frame.left + 12.0, frame.right);
    let label = format!("{title}: up to {} times the target alone", number::significant(highest));
    let mut svg = screen.svg(316.0, &label);
    frame.vertical(&mut svg, &y, &y.ticks(6), "times as fast as the target alone");
    frame.horizontal(&mut svg, &x, &sizes, number::tick, "draft tokens per pass");
    svg.line("zero", [frame.left, y.at(1.0)], [frame.right, y.at(1.0)]);

    let mut labels = Vec::new();
    for (line, point_class, name, of) in LINES {
        let points: Vec<_> = report.bursts.iter().map(|b| [x.at(b.guesses as f64), y.at(of(b))]).collect();
        svg.path(line, &points);
        labels.push((
            points[points.len() - 1][1],
            if line == "k" { "l k-text" } else { "l ideal-text" },
            name.to_owned(),
        ));
        for (burst, point) in report.bursts.iter().zip(points) {
            let title = format!("burst size {}, {name}: {}", burst.guesses, number::significant(of(burst)));
            svg.circle(point_class, point, 2.5, &title);
        }
    }
    frame.margin(&mut svg, labels);
    let measured = [x.at(report.measured.guesses as f64), y.at(report.measured.speedup)];
    let speedup = number::significant(report.measured.speedup);
    svg.circle("timed", measured, 5.0, &format!("measured: {speedup}"));
    svg.text("l", Anchor::Start, [measured[0] + 8.0, measured[1] + 16.0], &format!("measured {speedup}"));
    svg.finish()
}
