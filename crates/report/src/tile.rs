//! Tiles at the head of a page: the figures that a reader looks for first.

use std::fmt::Write;

use super::bar::Bar;
use super::html::link;
use super::svg::escape;
use super::tables::Cell;
use super::terms::Term;

/// A tile: one figure with its interval, its limit and what it means.
pub(super) struct Tile {
    pub(super) title: &'static str,
    pub(super) value: Cell,
    /// The unit, unless it is in the value.
    pub(super) unit: &'static str,
    /// Lines below the value.
    pub(super) notes: Vec<String>,
    /// Whether the figure is good, and in words why.
    pub(super) verdict: Option<(bool, String)>,
    /// A bar, and the end of its scale.
    pub(super) bar: Option<(Bar, f64)>,
    pub(super) term: &'static Term,
}

/// Writes the tiles; nothing if there are none. A tile of a bad figure is tinted, and has a sign.
pub(super) fn tiles(page: &mut String, tiles: &[Tile]) {
    if tiles.is_empty() {
        return;
    }
    page.push_str("<div class=\"tiles\">\n");
    for tile in tiles {
        let fell = tile.verdict.as_ref().is_some_and(|(good, _)| !good);
        let (class, title) = (if fell { "tile fell" } else { "tile" }, escape(tile.title));
        let exact = tile.value.title.as_ref().map(|exact| format!(" title=\"{}\"", escape(exact)));
        let _ = writeln!(
            page,
            "<section class=\"{class}\" aria-label=\"{title}\">\n<h2>{title}</h2>\n\
             <p class=\"value\"{}>{} <small>{}</small></p>",
            exact.unwrap_or_default(),
            escape(&tile.value.text),
            escape(tile.unit)
        );
        if let Some((bar, end)) = &tile.bar {
            page.push_str(&bar.svg(*end));
        }
        for note in &tile.notes {
            let _ = writeln!(page, "<p>{}</p>", escape(note));
        }
        if let Some((good, says)) = &tile.verdict {
            let (class, sign) = if *good { ("good", "✓") } else { ("bad", "✗") };
            let _ = writeln!(page, "<p class=\"{class}\">{sign} {}</p>", escape(says));
        }
        let _ = writeln!(
            page,
            "<p class=\"meaning\">{} {}</p>\n</section>",
            escape(tile.term.meaning),
            link(tile.term.link)
        );
    }
    page.push_str("</div>\n");
}
