//! Plot of the size of files against their KL divergence.

use verify::SetReport;

use super::{Frame, Plot, WIDTH};
use crate::number;
use crate::scale::{Scale, round_above, round_below};
use crate::set::{dominated, labels};
use crate::svg::{Anchor, Svg};

/// The width of a character, at most, and the height of a line.
const CHARACTER: f64 = 7.0;
const LINE: f64 = 15.0;

/// A file in the plot.
struct Point {
    label: String,
    bytes: f64,
    kld: f64,
    interval: Option<[f64; 2]>,
    /// Whether another file is no larger and diverges less.
    is_dominated: bool,
}

pub(crate) fn frontier(set: &SetReport) -> Option<Plot> {
    let title = "KL divergence by size";
    let points = points(set);
    points.get(1)?;
    let all = |point: &Point| {
        [point.kld, point.kld].into_iter().chain(point.interval.into_iter().flatten()).collect::<Vec<_>>()
    };
    let positive = || points.iter().flat_map(all).filter(|kld| *kld > 0.0 && kld.is_finite());
    let (low, high) = positive().zip(positive()).reduce(|(a, b), (c, d)| (a.min(c), b.max(d)))?;
    let zeros = points.iter().any(|point| point.kld <= 0.0);
    let frame =
        Frame { left: 64.0, top: 32.0, right: WIDTH - 24.0, bottom: if zeros { 332.0 } else { 352.0 } };
    // Zeros have no place on a log scale: they are drawn on the base line below.
    let zero = Frame { bottom: 352.0, ..frame };
    let y = Scale::log(round_below(low / 1.05), round_above(high * 1.05), frame.bottom, frame.top);

    let sizes = || points.iter().map(|point| point.bytes);
    let (least, most) = (sizes().fold(f64::MAX, f64::min), sizes().fold(0.0, f64::max));
    let (unit, name) = number::byte_unit(most);
    let margin = ((most - least) * 0.08).max(most * 0.01);
    let x = Scale::linear((least - margin) / unit, (most + margin) / unit, frame.left, frame.right);
    let place = |point: &Point| {
        [x.at(point.bytes / unit), if point.kld > 0.0 { y.at(point.kld) } else { zero.bottom }]
    };

    let label = format!(
        "{title}: {} files from {} to {} nats",
        points.len(),
        number::significant(low),
        number::significant(high)
    );
    let mut svg = Svg::new(WIDTH, 396.0, &label);
    frame.vertical(&mut svg, &y, &y.ticks(7), "nats per token");
    if zeros {
        svg.text("n", Anchor::End, [zero.left - 8.0, zero.bottom + 4.0], "0");
    }
    zero.horizontal(&mut svg, &x, &x.ticks(8), number::tick, name);
    let best: Vec<_> = points.iter().filter(|point| !point.is_dominated).map(place).collect();
    svg.path("k", &best);
    for point in &points {
        let [at, _] = place(point);
        if let Some([low, high]) = point.interval.filter(|[low, high]| *low > 0.0 && high > low) {
            svg.line("a", [at, y.at(low)], [at, y.at(high)]);
        }
    }
    for point in &points {
        let class = if point.is_dominated { "base" } else { "p" };
        let title = format!(
            "{}: {}, {}",
            point.label,
            number::bytes(point.bytes as u64),
            number::significant(point.kld)
        );
        svg.circle(class, place(point), 4.5, &title);
    }
    for (point, (anchor, at)) in points.iter().zip(spread(&points, &zero, place)) {
        svg.text("l", anchor, at, &point.label);
    }
    let grey = if points.iter().any(|point| point.is_dominated) {
        " Grey: another file is no larger and diverges less."
    } else {
        ""
    };
    let zeros = if zeros { " A value of 0 is on the base line." } else { "" };
    let caption = format!(
        "Mean KL divergence from the base with its 95 % interval, on a log scale, by the size of the file: lower and further left is better.{grey}{zeros}"
    );
    Some(Plot { title, caption, svg: Some(svg.finish()) })
}

/// The files with a KL divergence, by size.
fn points(set: &SetReport) -> Vec<Point> {
    let dominated = dominated(set);
    let files = labels(set).into_iter().zip(&set.reports).enumerate();
    let mut points: Vec<_> = files
        .filter_map(|(index, (label, report))| {
            Some(Point {
                label,
                bytes: report.artifact.file_bytes as f64,
                kld: report.kld.as_ref().map(|kld| kld.mean).filter(|kld| kld.is_finite())?,
                interval: report.intervals.get("kld.mean").copied(),
                is_dominated: dominated.iter().any(|(at, _)| *at == index),
            })
        })
        .collect();
    points.sort_by(|a, b| a.bytes.total_cmp(&b.bytes));
    points
}

/// Places of the labels: beside their points, where they lie neither on each other nor on points.
fn spread(points: &[Point], frame: &Frame, place: impl Fn(&Point) -> [f64; 2]) -> Vec<(Anchor, [f64; 2])> {
    /// Left, top, right, bottom.
    type Area = [f64; 4];
    let apart = |a: &Area, b: &Area| a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];
    let mut taken: Vec<Area> = points
        .iter()
        .map(|point| {
            let [x, y] = place(point);
            [x - 6.0, y - 6.0, x + 6.0, y + 6.0]
        })
        .collect();
    let mut placed = Vec::new();
    for point in points {
        let [x, y] = place(point);
        let width = point.label.chars().count() as f64 * CHARACTER;
        let candidates = (0..24).flat_map(|step| {
            // beside the point, then further up and down
            let shift = (step + 1) / 2;
            let down = LINE * f64::from(shift) * if step % 2 == 0 { 1.0 } else { -1.0 };
            [(Anchor::Start, x + 9.0), (Anchor::End, x - 9.0)]
                .map(|(anchor, at)| (anchor, [at, y + down + 4.0]))
        });
        let area = |&(anchor, [at, line]): &(Anchor, [f64; 2])| -> Area {
            let left = if matches!(anchor, Anchor::End) { at - width } else { at };
            [left, line - 11.0, left + width, line + 4.0]
        };
        let fits = |candidate: &(Anchor, [f64; 2])| {
            let area = area(candidate);
            let inside = area[0] >= frame.left
                && area[2] <= frame.right
                && area[1] >= frame.top - 8.0
                && area[3] <= frame.bottom;
            inside && taken.iter().all(|other| apart(&area, other))
        };
        let chosen = candidates.clone().find(fits).or_else(|| candidates.clone().next());
        let chosen = chosen.unwrap_or((Anchor::Start, [x, y]));
        taken.push(area(&chosen));
        placed.push(chosen);
    }
    placed
}
