//! Plot of the sizes by role, of the base and the artifact.

use verify::{RoleError, Tensors};

use super::{Frame, Plot, WIDTH};
use crate::number;
use crate::scale::Scale;
use crate::svg::{Anchor, Svg};
use crate::tables;

/// Roles below this share of the largest one are summed up in the caption.
const LEAST: f64 = 0.004;
const ROW: f64 = 30.0;

pub(crate) fn sizes(tensors: &Tensors) -> Option<Plot> {
    let title = "Size by role";
    let size = |role: &RoleError| role.bytes.max(role.base_bytes);
    let largest = tensors.roles.iter().map(size).max().filter(|most| *most > 0)?;
    let mut roles: Vec<_> = tensors.roles.iter().collect();
    roles.sort_by_key(|role| std::cmp::Reverse(size(role)));
    let (shown, small): (Vec<_>, Vec<_>) =
        roles.into_iter().partition(|role| size(role) as f64 >= LEAST * largest as f64);

    let (unit, name) = number::byte_unit(largest as f64);
    let bottom = 28.0 + shown.len() as f64 * ROW;
    let frame = Frame { left: 156.0, top: 28.0, right: WIDTH - 210.0, bottom };
    let x = Scale::linear(0.0, largest as f64 / unit, frame.left, frame.right);
    let [base, artifact] = [|role: &RoleError| role.base_bytes, |role: &RoleError| role.bytes]
        .map(|of| tensors.roles.iter().map(of).sum());
    let label = format!("{title}: base {}, artifact {}", number::bytes(base), number::bytes(artifact));
    let mut svg = Svg::new(WIDTH, bottom + 44.0, &label);
    for tick in x.ticks(6) {
        svg.line("g", [x.at(tick), frame.top], [x.at(tick), frame.bottom]);
    }
    svg.rect("base", [frame.left, 4.0], [14.0, 10.0], "");
    svg.text("n", Anchor::Start, [frame.left + 20.0, 13.0], "base");
    svg.rect("artifact", [frame.left + 70.0, 4.0], [14.0, 10.0], "");
    svg.text("n", Anchor::Start, [frame.left + 90.0, 13.0], "artifact");
    for (row, role) in shown.iter().enumerate() {
        let y = frame.top + row as f64 * ROW;
        svg.text("n", Anchor::End, [frame.left - 8.0, y + 18.0], &role.role);
        let bars = [("base", role.base_bytes, 4.0), ("artifact", role.bytes, 14.0)];
        for (class, bytes, down) in bars {
            let width = x.at(bytes as f64 / unit) - frame.left;
            let title = format!("{}, {class}: {}", role.role, number::exact_bytes(bytes));
            svg.rect(class, [frame.left, y + down], [width.max(0.5), 9.0], &title);
        }
        let longest = x.at(size(role) as f64 / unit);
        let sizes = format!("{} → {}", number::bytes(role.base_bytes), number::bytes(role.bytes));
        svg.text("l", Anchor::Start, [longest + 8.0, y + 18.0], &format!("{sizes}, {}", tables::types(role)));
    }
    frame.horizontal(&mut svg, &x, &x.ticks(6), number::tick, name);
    let mut caption =
        "Bytes of all tensors of a role in the base and in the artifact, with the artifact's type."
            .to_owned();
    if !small.is_empty() {
        let [base, artifact] = [|role: &RoleError| role.base_bytes, |role: &RoleError| role.bytes]
            .map(|of| small.iter().map(|r| of(r)).sum());
        caption += &format!(
            " Not drawn: {}, together {} → {}.",
            number::count(small.len(), "small role", "small roles"),
            number::bytes(base),
            number::bytes(artifact)
        );
    }
    Some(Plot { title, caption, svg: Some(svg.finish()) })
}
