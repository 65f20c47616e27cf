//! Axes: positions of values, and round numbers for ticks.

/// An axis with values from `low` to `high` at coordinates from `from` to `to`.
pub(super) struct Scale {
    log: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    pub(super) fn linear(low: f64, high: f64, from: f64, to: f64) -> Scale {
        Scale { log: false, low, high, from, to }
    }

    /// A logarithmic axis; `0 < low < high`.
    pub(super) fn log(low: f64, high: f64, from: f64, to: f64) -> Scale {
        Scale { log: true, low, high, from, to }
    }

    /// The coordinate of a value, clamped to the ends.
    pub(super) fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * self.part(value)
    }

    /// The position of a value between the ends, from 0 to 1.
    pub(super) fn part(&self, value: f64) -> f64 {
        let part = if self.log {
            (value.log10() - self.low.log10()) / (self.high.log10() - self.low.log10())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        part.clamp(0.0, 1.0)
    }

    /// Round numbers between the ends: about `most`, and at least two if the ends are round or far apart.
    pub(super) fn ticks(&self, most: usize) -> Vec<f64> {
        if !self.log {
            return linear_ticks(self.low, self.high, most);
        }
        let inside = |ticks: Vec<f64>| -> Vec<f64> {
            ticks.into_iter().filter(|t| (self.low * 0.9999..=self.high * 1.0001).contains(t)).collect()
        };
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let decades = |mantissas: &[f64], step: usize| {
            let powers = (first..=last).filter(|power| power.rem_euclid(step as i32) == 0);
            inside(powers.flat_map(|power| mantissas.iter().map(move |m| shifted(*m, power))).collect())
        };
        let every = |step| decades(&[1.0], step);
        let fine = decades(&[1.0, 2.0, 5.0], 1);
        if fine.len() <= most && fine.len() >= 3 {
            return fine;
        }
        if fine.len() < 3 {
            return linear_ticks(self.low, self.high, most);
        }
        let sparse = (1..).map(every).find(|ticks| ticks.len() <= most.max(1)).unwrap_or_default();
        if sparse.len() >= 2 { sparse } else { fine }
    }
}

/// `mantissa × 10^power`, rounded once, so that it prints as `2e-5`.
fn shifted(mantissa: f64, power: i32) -> f64 {
    format!("{mantissa}e{power}").parse().unwrap_or(f64::MAX)
}

/// Ticks at multiples of 1, 2 or 5 times a power of ten.
fn linear_ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    let rough = (high - low) / most.max(1) as f64;
    let power = rough.log10().floor() as i32;
    let steps = [(1.0, power), (2.0, power), (5.0, power), (1.0, power + 1), (2.0, power + 1)];
    let (mantissa, power) =
        steps.into_iter().find(|(m, p)| shifted(*m, *p) >= rough * 0.9999).unwrap_or(steps[4]);
    let step = shifted(mantissa, power);
    let (first, last) = ((low / step - 1e-6).ceil() as i64, (high / step + 1e-6).floor() as i64);
    (first..=last).take(2 * most + 2).map(|index| shifted(index as f64 * mantissa, power)).collect()
}

/// The largest number of at most `value` that is 1, 2 or 5 times a power of ten; `value` is positive.
pub(super) fn round_below(value: f64) -> f64 {
    let power = value.log10().floor() as i32;
    let candidates = [(5.0, power), (2.0, power), (1.0, power), (5.0, power - 1)];
    let round = candidates.into_iter().map(|(m, p)| shifted(m, p)).find(|round| *round <= value * 1.0001);
    round.unwrap_or(value).max(f64::MIN_POSITIVE)
}

/// The smallest number of at least `value` that is 1, 2 or 5 times a power of ten; `value` is positive.
pub(super) fn round_above(value: f64) -> f64 {
    let power = value.log10().floor() as i32;
    let candidates = [(1.0, power), (2.0, power), (5.0, power), (1.0, power + 1), (2.0, power + 1)];
    let round = candidates.into_iter().map(|(m, p)| shifted(m, p)).find(|round| *round >= value * 0.9999);
    round.unwrap_or(value).min(f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_within_the_axis() {
        assert_eq!(Scale::linear(0.0, 1000.0, 0.0, 1.0).ticks(5), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!(Scale::linear(-0.2, 0.2, 0.0, 1.0).ticks(4), [-0.2, -0.1, 0.0, 0.1, 0.2]);
        assert_eq!(Scale::log(0.01, 1.0, 0.0, 1.0).ticks(8), [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]);
        assert_eq!(Scale::log(1e-6, 1.0, 0.0, 1.0).ticks(4), [1e-6, 1e-4, 0.01, 1.0]);
        assert_eq!(Scale::log(0.071, 0.113, 0.0, 1.0).ticks(5), [0.08, 0.09, 0.1, 0.11]);
        assert!(Scale::log(1e-300, 1e300, 0.0, 1.0).ticks(6).len() <= 6);
    }

    #[test]
    fn limits_are_rounded_outwards() {
        assert_eq!([0.0331, 0.05, 1e-7, 99.0].map(round_below), [0.02, 0.05, 1e-7, 50.0]);
        assert_eq!([0.0331, 0.05, 1e-7, 99.0].map(round_above), [0.05, 0.05, 1e-7, 100.0]);
    }
}
