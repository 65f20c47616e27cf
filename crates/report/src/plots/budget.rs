//! Plot of a bit allocation: predicted KL divergence by size, the selected point, and the measured divergence.

use ::plan::Allocation;

use super::{Frame, Plot, Screen};
use crate::number;
use crate::scale::{Scale, round_above, round_below};
use crate::svg::{Anchor, Svg};
use crate::terms::KLD;

/// `measured` is the measured mean KL divergence, if there is one.
pub(crate) fn budget(allocation: &Allocation, measured: Option<f64>) -> Option<Plot> {
    let title = "Bit allocation";
    let ((smallest, _), (largest, _)) = (allocation.curve.first()?, allocation.curve.last()?);
    if smallest == largest {
        return None; // there was no choice
    }
    let measured = measured.filter(|kld| *kld > 0.0);
    let klds = || allocation.curve.iter().map(|(_, kld)| *kld).chain(measured).filter(|kld| *kld > 0.0);
    let range = klds().zip(klds()).reduce(|(a, b), (c, d)| (a.min(c), b.max(d)))?;
    let mut caption = format!(
        "Predicted for each size from the sensitivities of single tensors ({} tokens). Chosen: {} bytes, predicted {} \
         nats per token.",
        base::grouped(allocation.tokens),
        base::grouped(allocation.bytes),
        number::significant(allocation.predicted_kld),
    );
    if let Some(measured) = measured {
        caption += &format!(" Measured on this text: {}.", number::significant(measured));
    }
    Some(Plot::new(title, &KLD, caption, |screen| {
        draw(allocation, measured, (*smallest, *largest), range, title, screen)
    }))
}

fn draw(
    allocation: &Allocation,
    measured: Option<f64>,
    (smallest, largest): (u64, u64),
    (low, high): (f64, f64),
    title: &str,
    screen: Screen,
) -> String {
    let frame = Frame::new(screen, screen.of(40.0, 12.0), 272.0);
    let y = Scale::log(round_below(low / 1.05), round_above(high * 1.05), frame.bottom, frame.top);
    let (unit, name) = number::byte_unit(largest as f64);
    let x = Scale::linear(smallest as f64 / unit, largest as f64 / unit, frame.left + 8.0, frame.right);
    let place = |(bytes, kld): (u64, f64)| [x.at(bytes as f64 / unit), y.at(kld.max(low))];
    let label = format!(
        "{title}: from {} at {} nats to {} at {} nats",
        number::bytes(smallest),
        number::significant(high),
        number::bytes(largest),
        number::significant(low)
    );
    let mut svg = screen.svg(316.0, &label);
    frame.vertical(&mut svg, &y, &y.ticks(7), "predicted KL divergence, nats per token");
    frame.horizontal(&mut svg, &x, &x.ticks(screen.of(8, 4)), number::tick, &format!("all files, {name}"));
    svg.path("k", &allocation.curve.iter().map(|point| place(*point)).collect::<Vec<_>>());
    for point in allocation.curve.iter().filter(|_| screen.is_wide()) {
        let title = format!("{}: {}", number::bytes(point.0), number::significant(point.1));
        svg.circle("p", place(*point), 2.0, &title);
    }
    let mark = |svg: &mut Svg, class, kld, what: &str, below: bool| {
        let at = place((allocation.bytes, kld));
        let text = format!("{what} {}", number::significant(kld));
        svg.circle(class, at, 5.0, &text);
        let down = if below { 18.0 } else { -9.0 };
        let (anchor, aside) = match at[0] > f64::midpoint(frame.left, frame.right) {
            true => (Anchor::End, -6.0),
            false => (Anchor::Start, 6.0),
        };
        svg.text("l", anchor, [at[0] + aside, at[1] + down], &text);
    };
    let below = measured.is_some_and(|measured| measured > allocation.predicted_kld);
    mark(&mut svg, "artifact", allocation.predicted_kld, "predicted", below);
    if let Some(measured) = measured {
        mark(&mut svg, "less", measured, "measured", !below);
    }
    svg.finish()
}
