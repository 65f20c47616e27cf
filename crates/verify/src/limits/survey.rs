//! A survey of correct files: the largest figures of each type, and their distance from the limits.

use rayon::prelude::*;

use super::honest::{Figures, Way, honest_files, limits_for};
use super::*;

/// Random sequences, if `SEQUENCES` names no other number.
const SEQUENCES: u64 = 2;

/// A figure by name.
type Figure = (&'static str, fn(&Figures) -> f64);

const FIGURES: [Figure; 6] = [
    ("block", |f| f.block),
    ("second block", |f| f.second),
    ("row", |f| f.row),
    ("scale", |f| f.scale),
    ("distance", |f| f.distance),
    ("far", |f| f.far as f64),
];

/// Prints median, 99 % quantile and maximum of each figure, and holds the largest errors of blocks and rows to 0.9 of the limits.
#[test]
#[allow(clippy::print_stdout, reason = "figures for a person")]
fn limits_have_a_margin() {
    let sequences = std::env::var("SEQUENCES").map_or(SEQUENCES, |text| text.parse().unwrap());
    for limits in LIMITS {
        let all = (0..sequences).into_par_iter().flat_map_iter(|number| {
            let mut all = Vec::new();
            honest_files(limits.dtype, number, &mut |what, way, x, y| {
                all.push((way, what.to_owned(), Figures::of(&limits_for(limits, x), x, y, way)));
            });
            all
        });
        let all: Vec<(Way, String, Figures)> = all.collect();
        for way in [Way::Nearest, Way::Importance, Way::Feedback] {
            for (name, figure) in FIGURES {
                let of_way = all.iter().filter(|(of, ..)| *of == way);
                let mut found: Vec<(f64, &str)> =
                    of_way.map(|(_, what, figures)| (figure(figures), &what[..])).collect();
                found.sort_by(|a, b| a.0.total_cmp(&b.0));
                let Some((most, what)) = found.last() else { continue };
                let (median, high) = (found[found.len() / 2].0, found[found.len() * 99 / 100].0);
                println!("{} {way:?} {name}: {median:.3} {high:.3} {most:.3} ({what})", limits.dtype);
                let limit = match name {
                    "block" if limits.enough() == 1 => limits.block,
                    "second block" => limits.block,
                    "row" => limits.row,
                    _ => continue,
                };
                assert!(*most <= 0.9 * limit, "{} {way:?} {name}: {most} of {limit} ({what})", limits.dtype);
            }
        }
    }
}
