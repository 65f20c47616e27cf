//! An SVG writer with the elements of the plots. Colours are classes of the page's style sheet, so one drawing works in
//! light and dark mode.

use std::fmt::{self, Write};

/// An SVG drawing embedded in a page.
pub(super) struct Svg {
    out: String,
}

/// The anchor of a text.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A coordinate with one decimal, without a trailing zero.
struct At(f64);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round();
        write!(f, "{}", if tenths == 0.0 { 0.0 } else { tenths / 10.0 })
    }
}

impl Svg {
    /// An empty drawing. `label` describes it for screen readers.
    pub(super) fn new(class: &str, width: f64, height: f64, label: &str) -> Svg {
        let label = escape(label);
        let out = format!(
            "<svg class=\"{class}\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
             aria-label=\"{label}\">\n",
        );
        Svg { out }
    }

    pub(super) fn line(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        let (x1, y1, x2, y2) = (At(x1), At(y1), At(x2), At(y2));
        let _ =
            writeln!(self.out, "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>");
    }

    /// A rectangle with a tooltip, unless `title` is empty.
    pub(super) fn rect(&mut self, class: &str, [x, y]: [f64; 2], [width, height]: [f64; 2], title: &str) {
        let (x, y, width, height) = (At(x), At(y), At(width), At(height));
        let _ = write!(
            self.out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\""
        );
        self.titled("rect", title);
    }

    pub(super) fn circle(&mut self, class: &str, [x, y]: [f64; 2], radius: f64, title: &str) {
        let _ =
            write!(self.out, "<circle class=\"{class}\" cx=\"{}\" cy=\"{}\" r=\"{radius}\"", At(x), At(y));
        self.titled("circle", title);
    }

    fn titled(&mut self, element: &str, title: &str) {
        let _ = match title {
            "" => writeln!(self.out, "/>"),
            title => writeln!(self.out, "><title>{}</title></{element}>", escape(title)),
        };
    }

    /// A polyline through the points.
    pub(super) fn path(&mut self, class: &str, points: &[[f64; 2]]) {
        let _ = write!(self.out, "<path class=\"{class}\" d=\"");
        for (index, [x, y]) in points.iter().enumerate() {
            let _ = write!(self.out, "{}{} {}", if index == 0 { 'M' } else { 'L' }, At(*x), At(*y));
        }
        self.out.push_str("\"/>\n");
    }

    pub(super) fn text(&mut self, class: &str, anchor: Anchor, [x, y]: [f64; 2], text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " m",
            Anchor::End => " e",
        };
        let (x, y, text) = (At(x), At(y), escape(text));
        let _ = writeln!(self.out, "<text class=\"{class}{anchor}\" x=\"{x}\" y=\"{y}\">{text}</text>");
    }

    /// Single characters, each centred at its place on a line.
    pub(super) fn letters(&mut self, class: &str, y: f64, letters: &[(f64, char)]) {
        let places: Vec<_> = letters.iter().map(|(x, _)| At(*x).to_string()).collect();
        let text: String = letters.iter().map(|(_, letter)| *letter).collect();
        let _ = writeln!(
            self.out,
            "<text class=\"{class} m\" x=\"{}\" y=\"{}\">{}</text>",
            places.join(" "),
            At(y),
            escape(&text)
        );
    }

    pub(super) fn finish(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }
}

/// Text escaped for an element or a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in super::number::plain(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}
