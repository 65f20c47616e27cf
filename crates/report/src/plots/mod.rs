//! The plots of the HTML page. Each takes its part of the report and gives two drawings, for a wide screen and for a
//! phone, or a sentence if there is nothing to draw.

mod along;
mod budget;
mod bursts;
mod delta_p;
mod frontier;
mod layers;
mod letters;
mod outliers;
mod sizes;
mod towers;

pub(super) use along::along;
pub(super) use budget::budget;
pub(super) use bursts::bursts;
pub(super) use delta_p::delta_p;
pub(super) use frontier::frontier;
pub(super) use layers::layers;
pub(super) use sizes::sizes;
pub(super) use towers::towers;

use super::number;
use super::scale::Scale;
use super::svg::{Anchor, Svg};
use super::terms::Term;

/// A plot with its title and caption.
pub(super) struct Plot {
    pub(super) title: &'static str,
    /// What is plotted.
    pub(super) term: &'static Term,
    /// One or two sentences of plain text.
    pub(super) caption: String,
    /// The drawings for a wide and a narrow screen; `None` if the caption suffices.
    pub(super) drawings: Option<[String; 2]>,
}

impl Plot {
    /// A plot that `draw` draws for each screen.
    fn new(
        title: &'static str,
        term: &'static Term,
        caption: String,
        draw: impl Fn(Screen) -> String,
    ) -> Plot {
        Plot { title, term, caption, drawings: Some([draw(Screen::Wide), draw(Screen::Narrow)]) }
    }

    /// A sentence in place of a plot.
    fn sentence(title: &'static str, term: &'static Term, caption: &str) -> Plot {
        Plot { title, term, caption: caption.to_owned(), drawings: None }
    }
}

/// The screen that a drawing is for. A drawing is stretched to the width of the page, so that its texts would be too
/// small on a phone if there were only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Screen {
    Wide,
    /// A phone, which has no tooltips either.
    Narrow,
}

impl Screen {
    /// The width of a drawing in SVG units.
    fn width(self) -> f64 {
        self.of(880.0, 344.0)
    }

    /// One of two values.
    fn of<T>(self, wide: T, narrow: T) -> T {
        match self {
            Screen::Wide => wide,
            Screen::Narrow => narrow,
        }
    }

    fn is_wide(self) -> bool {
        self == Screen::Wide
    }

    /// An empty drawing.
    fn svg(self, height: f64, label: &str) -> Svg {
        Svg::new(self.of("plot wide", "plot narrow"), self.width(), height, label)
    }
}

/// The coordinates of the plot area.
struct Frame {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Frame {
    /// A plot area below a line of text, with room for the numbers of a vertical axis and a margin on the right.
    fn new(screen: Screen, margin: f64, bottom: f64) -> Frame {
        Frame { left: screen.of(64.0, 54.0), top: 32.0, right: screen.width() - margin, bottom }
    }

    /// Draws the vertical axis: grid lines at the ticks, their numbers, the title.
    fn vertical(&self, svg: &mut Svg, scale: &Scale, ticks: &[f64], title: &str) {
        for tick in ticks {
            let y = scale.at(*tick);
            svg.line("g", [self.left, y], [self.right, y]);
            svg.text("n", Anchor::End, [self.left - 8.0, y + 4.0], &number::tick(*tick));
        }
        svg.text("t", Anchor::Start, [0.0, self.top - 14.0], title);
    }

    /// Draws the horizontal axis: base line, ticks, their numbers, the title.
    fn horizontal(
        &self,
        svg: &mut Svg,
        scale: &Scale,
        ticks: &[f64],
        write: impl Fn(f64) -> String,
        title: &str,
    ) {
        svg.line("a", [self.left, self.bottom], [self.right, self.bottom]);
        for tick in ticks {
            let x = scale.at(*tick);
            svg.line("a", [x, self.bottom], [x, self.bottom + 4.0]);
            svg.text("n", Anchor::Middle, [x, self.bottom + 18.0], &write(*tick));
        }
        svg.text("t", Anchor::Middle, [f64::midpoint(self.left, self.right), self.bottom + 38.0], title);
    }

    /// Writes labels at these heights into the right margin, moved apart where they would lie on each other.
    fn margin(&self, svg: &mut Svg, mut labels: Vec<(f64, &str, String)>) {
        const LINE: f64 = 15.0;
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free = self.top;
        for (index, (at, class, text)) in labels.iter().enumerate() {
            let lowest = self.bottom - LINE * (labels.len() - 1 - index) as f64;
            let y = at.min(lowest).max(free);
            svg.text(class, Anchor::Start, [self.right + 8.0, y + 4.0], text);
            free = y + LINE;
        }
    }
}
