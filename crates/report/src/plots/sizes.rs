//! Plot of the sizes by role, of the base and the artifact.

use verify::{RoleError, Tensors};

use super::{Frame, Plot, Screen};
use crate::number;
use crate::scale::Scale;
use crate::svg::Anchor;
use crate::tensors::types;
use crate::terms::SIZE_OF_ROLE;

/// Roles below this share of the largest one are summed up in the caption.
const LEAST: f64 = 0.004;

pub(crate) fn sizes(tensors: &Tensors) -> Option<Plot> {
    let title = "Size by role";
    let largest = tensors.roles.iter().map(size).max().filter(|most| *most > 0)?;
    let mut roles: Vec<_> = tensors.roles.iter().collect();
    roles.sort_by_key(|role| std::cmp::Reverse(size(role)));
    let (shown, small): (Vec<_>, Vec<_>) =
        roles.into_iter().partition(|role| size(role) as f64 >= LEAST * largest as f64);

    let mut caption = String::new();
    if !small.is_empty() {
        let [base, artifact] = sums(small.iter().copied());
        caption = format!(
            "Not drawn: {}, together {} → {}.",
            number::count(small.len(), "small role", "small roles"),
            number::bytes(base),
            number::bytes(artifact)
        );
    }
    let [base, artifact] = sums(tensors.roles.iter());
    let label = format!("{title}: base {}, artifact {}", number::bytes(base), number::bytes(artifact));
    Some(Plot::new(title, &SIZE_OF_ROLE, caption, |screen| draw(&shown, largest, &label, screen)))
}

fn size(role: &RoleError) -> u64 {
    role.bytes.max(role.base_bytes)
}

/// Bytes of these roles in the base and in the artifact.
fn sums<'a>(roles: impl Iterator<Item = &'a RoleError>) -> [u64; 2] {
    roles.fold([0, 0], |[base, artifact], role| [base + role.base_bytes, artifact + role.bytes])
}

fn draw(shown: &[&RoleError], largest: u64, label: &str, screen: Screen) -> String {
    let (unit, name) = number::byte_unit(largest as f64);
    // On a phone the text of a role is above its bars.
    let (row, down) = screen.of((30.0, 4.0), (42.0, 18.0));
    let top = 28.0;
    let frame = Frame {
        left: screen.of(156.0, 4.0),
        top,
        right: screen.width() - screen.of(210.0, 12.0),
        bottom: top + shown.len() as f64 * row,
    };
    let x = Scale::linear(0.0, largest as f64 / unit, frame.left, frame.right);
    let mut svg = screen.svg(frame.bottom + 44.0, label);
    let ticks = x.ticks(screen.of(6, 4));
    for tick in &ticks {
        svg.line("g", [x.at(*tick), frame.top], [x.at(*tick), frame.bottom]);
    }
    svg.rect("base", [frame.left, 4.0], [14.0, 10.0], "");
    svg.text("n", Anchor::Start, [frame.left + 20.0, 13.0], "base");
    svg.rect("artifact", [frame.left + 70.0, 4.0], [14.0, 10.0], "");
    svg.text("n", Anchor::Start, [frame.left + 90.0, 13.0], "artifact");
    for (index, role) in shown.iter().enumerate() {
        let y = frame.top + index as f64 * row;
        for (class, bytes, down) in [("base", role.base_bytes, down), ("artifact", role.bytes, down + 10.0)] {
            let width = x.at(bytes as f64 / unit) - frame.left;
            let title = format!("{}, {class}: {}", role.role, number::exact_bytes(bytes));
            svg.rect(class, [frame.left, y + down], [width.max(0.5), 9.0], &title);
        }
        let (base, artifact) = (number::bytes(role.base_bytes), number::bytes(role.bytes));
        let sizes = format!("{base} → {artifact}, {}", types(role));
        match screen {
            Screen::Wide => {
                let longest = x.at(size(role) as f64 / unit);
                svg.text("n", Anchor::End, [frame.left - 8.0, y + 18.0], &role.role);
                svg.text("l", Anchor::Start, [longest + 8.0, y + 18.0], &sizes);
            }
            Screen::Narrow => {
                let text = format!("{}: {sizes}", role.role);
                svg.text("l", Anchor::Start, [frame.left, y + 14.0], &text);
            }
        }
    }
    frame.horizontal(&mut svg, &x, &ticks, number::tick, name);
    svg.finish()
}
