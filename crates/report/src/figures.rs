//! The figures of an evaluation: names, formats, meanings, limits, tiles.

use verify::Report;

use super::bar::Bar;
use super::number;
use super::tables::{Align, Cell, Grid, cell, exact, name};
use super::terms::{self, Term};
use super::tile::Tile;
use Align::{Left, Right};

/// The format of a figure.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    /// A divergence.
    Plain,
    Perplexity,
    Ratio,
    Share,
    /// A change of a probability, or an error.
    Change,
}

impl Unit {
    pub(super) fn write(self, value: f64) -> String {
        match self {
            Unit::Plain => number::significant(value),
            Unit::Perplexity => number::perplexity(value),
            Unit::Ratio => number::ratio(value),
            Unit::Share => number::share(value),
            Unit::Change => number::percent(value),
        }
    }
}

/// A figure of a report.
pub(super) struct Figure {
    /// Its key in the JSON.
    pub(super) key: &'static str,
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    pub(super) get: fn(&Report) -> Option<f64>,
    /// The difference from an exact copy, as the length of a bar; `None` for a figure that has none.
    distance: Option<fn(f64) -> f64>,
    pub(super) term: &'static Term,
}

#[rustfmt::skip]
const FIGURES: &[Figure] = &[
    figure("perplexity.base", "perplexity of the base", Unit::Perplexity, |r| r.perplexity.as_ref()?.base, &terms::PERPLEXITY),
    figure("perplexity.artifact", "perplexity of the artifact", Unit::Perplexity, |r| Some(r.perplexity.as_ref()?.artifact), &terms::PERPLEXITY),
    RATIO,
    KLD,
    figure("kld.median", "KL divergence, median (nats)", Unit::Plain, |r| Some(r.kld.as_ref()?.median), &terms::MEDIAN),
    figure("kld.p99", "KL divergence, 99 % (nats)", Unit::Plain, |r| Some(r.kld.as_ref()?.p99), &terms::P99),
    figure("kld.p999", "KL divergence, 99.9 % (nats)", Unit::Plain, |r| Some(r.kld.as_ref()?.p999), &terms::P999),
    figure("kld.max", "KL divergence, largest (nats)", Unit::Plain, |r| Some(r.kld.as_ref()?.max), &terms::LARGEST),
    TOP1,
    figure("delta_p.mean", "Δp, mean", Unit::Change, |r| Some(r.delta_p.as_ref()?.mean), &terms::DELTA_P),
    figure("delta_p.rms", "Δp, RMS", Unit::Change, |r| Some(r.delta_p.as_ref()?.rms), &terms::DELTA_P_RMS),
];

const KLD: Figure = Figure {
    distance: Some(|kld| kld),
    ..figure(
        "kld.mean",
        "KL divergence, mean (nats)",
        Unit::Plain,
        |r| Some(r.kld.as_ref()?.mean),
        &terms::KLD,
    )
};
const TOP1: Figure = Figure {
    distance: Some(|share| 1.0 - share),
    ..figure("top1", "same most probable token", Unit::Share, |r| r.top1, &terms::TOP1)
};
const RATIO: Figure = Figure {
    distance: Some(|ratio| ratio - 1.0),
    ..figure(
        "perplexity.ratio",
        "perplexity, artifact / base",
        Unit::Ratio,
        |r| r.perplexity.as_ref()?.ratio,
        &terms::RATIO,
    )
};
const FEATURES: Figure = Figure {
    distance: Some(|error| error),
    ..figure(
        "features.relative_rms",
        "error of soft tokens",
        Unit::Change,
        |r| r.features.iter().map(|file| file.relative_rms).max_by(f64::total_cmp),
        &terms::FEATURES,
    )
};

const fn figure(
    key: &'static str,
    name: &'static str,
    unit: Unit,
    get: fn(&Report) -> Option<f64>,
    term: &'static Term,
) -> Figure {
    Figure { key, name, unit, get, distance: None, term }
}

/// The tiles of a report, as far as they were measured: KL divergence, same token, perplexity, soft tokens, size.
pub(super) fn tiles(report: &Report) -> Vec<Tile> {
    let titles = [
        (&KLD, "KL divergence"),
        (&TOP1, "Same top token"),
        (&RATIO, "Perplexity ratio"),
        (&FEATURES, "Error of soft tokens"),
    ];
    let measured = titles
        .into_iter()
        .filter_map(|(figure, title)| Some(tile(report, figure, title, (figure.get)(report)?)));
    measured.chain(size(report)).collect()
}

fn tile(report: &Report, figure: &Figure, title: &'static str, value: f64) -> Tile {
    let interval = report.intervals.get(figure.key).copied();
    let threshold = report.thresholds.iter().find(|threshold| threshold.figure == figure.key);
    let measure = interval.is_some() || threshold.is_some();
    let bar = figure.distance.filter(|_| measure).map(|distance| Bar {
        value: distance(value),
        interval: interval.map(|interval| interval.map(distance)),
        limit: threshold.map(|threshold| distance(threshold.limit)),
        holds: threshold.map(|threshold| threshold.holds),
    });
    let unit = if figure.key == "kld.mean" { "nats" } else { "" };
    Tile {
        title,
        value: exact(figure.unit.write(value), value),
        unit,
        notes: interval
            .map(|interval| format!("95 %: {}", range(figure.unit, interval)))
            .into_iter()
            .collect(),
        verdict: threshold.map(|threshold| {
            let says = if threshold.holds { "holds" } else { "FAILS" };
            let limit = limit_text(figure.key, figure.unit, threshold.limit);
            (threshold.holds, format!("limit {limit} {says}"))
        }),
        bar: bar.map(|bar| (bar, bar.end())),
        term: figure.term,
    }
}

/// The size of the files, and bits per weight; the bar shows it as a part of the base.
fn size(report: &Report) -> Option<Tile> {
    let artifact = &report.artifact;
    let bytes = |model: &eval::ModelInfo| model.file_bytes.max(model.bytes);
    if bytes(artifact) == 0 {
        return None;
    }
    let base = report.base.as_ref().filter(|base| bytes(base) > 0);
    let mut notes = vec![format!("{:.2} bits per weight", artifact.bits_per_weight())];
    notes.extend(
        base.map(|base| format!("base: {}, {:.2} bits", number::bytes(bytes(base)), base.bits_per_weight())),
    );
    Some(Tile {
        title: "Size",
        value: Cell {
            title: Some(number::exact_bytes(bytes(artifact))),
            ..cell(number::bytes(bytes(artifact)))
        },
        unit: "",
        notes,
        verdict: None,
        bar: base.map(|base| (Bar::of(bytes(artifact) as f64), bytes(base) as f64)),
        term: &terms::SIZE,
    })
}

fn range(unit: Unit, [low, high]: [f64; 2]) -> String {
    format!("{} to {}", unit.write(low), unit.write(high))
}

fn limit_text(key: &str, unit: Unit, limit: f64) -> String {
    format!("{} {}", if key == "top1" { "≥" } else { "≤" }, unit.write(limit))
}

/// Figures with intervals and limits.
pub(super) fn figures(report: &Report) -> Grid {
    let mut head = vec![("figure", Left), ("value", Right), ("95 % interval", Right)];
    if !report.thresholds.is_empty() {
        head.push(("limit", Left));
    }
    let row = |key: &str, label: Cell, unit: Unit, value: f64| {
        let interval = report.intervals.get(key).map(|[low, high]| Cell {
            title: Some(format!("{low} to {high}")),
            ..cell(range(unit, [*low, *high]))
        });
        let mut row = vec![label, exact(unit.write(value), value), interval.unwrap_or_default()];
        if !report.thresholds.is_empty() {
            row.push(limit(report, key, unit));
        }
        row
    };
    let mut rows = Vec::new();
    for figure in FIGURES {
        let label = Cell { title: Some(figure.key.to_owned()), ..cell(figure.name) };
        rows.extend((figure.get)(report).map(|value| row(figure.key, label, figure.unit, value)));
    }
    for threshold in &report.thresholds {
        if !FIGURES.iter().any(|figure| figure.key == threshold.figure && (figure.get)(report).is_some()) {
            rows.push(row(&threshold.figure, name(&threshold.figure), Unit::Plain, threshold.found));
        }
    }
    Grid { head, rows }
}

/// The figures with a column that explains them.
pub(super) fn explained(report: &Report) -> Grid {
    let mut grid = figures(report);
    grid.head.push(("meaning", Left));
    for row in &mut grid.rows {
        let key = row[0].title.as_deref();
        let figure = FIGURES.iter().find(|figure| Some(figure.key) == key);
        row.push(figure.map(|figure| figure.term.cell()).unwrap_or_default());
    }
    grid
}

fn limit(report: &Report, key: &str, unit: Unit) -> Cell {
    let Some(threshold) = report.thresholds.iter().find(|threshold| threshold.figure == key) else {
        return Cell::default();
    };
    let says = if threshold.holds { "holds" } else { "FAILS" };
    Cell {
        good: Some(threshold.holds),
        ..exact(format!("{} {says}", limit_text(key, unit, threshold.limit)), threshold.limit)
    }
}

/// Table of the quantiles of Δp.
pub(super) fn quantiles(quantiles: &[[f64; 2]]) -> Grid {
    let row = |[share, value]: &[f64; 2]| {
        vec![cell(format!("{} %", number::tick(share * 100.0))), exact(number::percent(*value), *value)]
    };
    Grid {
        head: vec![("share of tokens", Right), ("Δp at most", Right)],
        rows: quantiles.iter().map(row).collect(),
    }
}
