//! Multiple-choice knapsack: one choice per item under a limit, greedy on the convex hull.

use tensor::DType;

/// The constraint.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    /// Maximum bytes of the free tensors.
    Bytes(u64),
    /// Maximum KL divergence, in nats per token.
    Kld(f64),
}

/// A candidate type with its size and cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) dtype: DType,
    pub(super) bytes: u64,
    pub(super) kld: f64,
}

/// A tensor and its candidate types on the convex hull: ascending size, descending cost, diminishing gain per byte.
pub(super) struct Item<'a> {
    pub(super) name: &'a str,
    oversized: bool,
    pub(super) choices: Vec<Choice>,
}

impl<'a> Item<'a> {
    /// `oversized` marks an item that is large compared to all others.
    pub(super) fn new(name: &'a str, oversized: bool, choices: Vec<Choice>) -> Item<'a> {
        Item { name, oversized, choices: hull(choices) }
    }

    /// The reason for the choice, as the plan prints it.
    pub(super) fn why(&self, at: usize) -> String {
        let Choice { kld, bytes, .. } = self.choices[at];
        let mut why = format!("budget: {kld:.1e} nats");
        if let Some(next) = self.choices.get(at + 1) {
            let (gain, price) = (kld - next.kld, next.bytes - bytes);
            why += &format!("; {} would save {gain:.1e} for {price} bytes", next.dtype);
        }
        why
    }
}

/// The lower convex hull of size and cost: candidates above the line between two others are dropped.
fn hull(mut all: Vec<Choice>) -> Vec<Choice> {
    all.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.kld.total_cmp(&b.kld)));
    let gain = |from: &Choice, to: &Choice| (from.kld - to.kld) / (to.bytes - from.bytes) as f64;
    let mut hull: Vec<Choice> = Vec::new();
    for choice in all {
        if hull.last().is_some_and(|last| choice.kld >= last.kld) {
            continue;
        }
        while let [.., before, last] = hull.as_slice() {
            if gain(last, &choice) < gain(before, last) {
                break;
            }
            hull.pop();
        }
        hull.push(choice);
    }
    hull
}

/// Total size and cost of a selection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Total {
    pub(super) bytes: u64,
    pub(super) kld: f64,
}

/// An upgrade of an item from one choice to the next.
struct Step {
    item: usize,
    from: usize,
    bytes: u64,
    gain: f64,
}

/// All items and all upgrades, by descending gain per byte.
pub(super) struct Knapsack<'a> {
    items: &'a [Item<'a>],
    steps: Vec<Step>,
}

impl<'a> Knapsack<'a> {
    pub(super) fn new(items: &'a [Item<'a>]) -> Knapsack<'a> {
        let of = |(number, item): (usize, &'a Item<'a>)| {
            item.choices.windows(2).enumerate().map(move |(from, pair)| Step {
                item: number,
                from,
                bytes: pair[1].bytes - pair[0].bytes,
                gain: pair[0].kld - pair[1].kld,
            })
        };
        let mut steps: Vec<Step> = items.iter().enumerate().flat_map(of).collect();
        let rate = |step: &Step| step.gain / step.bytes as f64;
        // a stable sort keeps the steps of an item in order
        steps.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        Knapsack { items, steps }
    }

    pub(super) fn total(&self, chosen: &[usize]) -> Total {
        let choices = self.items.iter().zip(chosen).map(|(item, &at)| item.choices[at]);
        choices.fold(Total::default(), |sum, c| Total { bytes: sum.bytes + c.bytes, kld: sum.kld + c.kld })
    }

    /// The totals from the smallest selection to the largest, one upgrade at a time.
    pub(super) fn curve(&self) -> Vec<Total> {
        let smallest = self.total(&vec![0; self.items.len()]);
        let bought = self.steps.iter().scan(smallest, |total, step| {
            *total = Total { bytes: total.bytes + step.bytes, kld: total.kld - step.gain };
            Some(*total)
        });
        std::iter::once(smallest).chain(bought).collect()
    }

    /// The best selection that meets the limit, if any. All combinations of the oversized items' choices are tried.
    pub(super) fn solve(&self, limit: Limit) -> Option<Vec<usize>> {
        let oversized: Vec<usize> = (0..self.items.len()).filter(|&n| self.items[n].oversized).collect();
        let mut best: Option<(Total, Vec<usize>)> = None;
        let mut at = vec![0; self.items.len()];
        loop {
            if let Some((total, chosen)) = self.upgrade(at.clone(), limit) {
                let better = best.as_ref().is_none_or(|(known, _)| match limit {
                    Limit::Bytes(_) => total.kld < known.kld,
                    Limit::Kld(_) => total.bytes < known.bytes,
                });
                if better {
                    best = Some((total, chosen));
                }
            }
            // the next combination of the oversized items' choices
            let Some(&next) = oversized.iter().find(|&&item| at[item] + 1 < self.items[item].choices.len())
            else {
                return best.map(|(_, chosen)| chosen);
            };
            at[next] += 1;
            oversized.iter().take_while(|&&lower| lower != next).for_each(|&lower| at[lower] = 0);
        }
    }

    /// Upgrades all items but the oversized ones, greedily.
    fn upgrade(&self, mut at: Vec<usize>, limit: Limit) -> Option<(Total, Vec<usize>)> {
        let mut total = self.total(&at);
        let reached = |total: &Total| match limit {
            Limit::Bytes(limit) => total.bytes <= limit,
            Limit::Kld(limit) => total.kld <= limit,
        };
        for step in self.steps.iter().filter(|step| !self.items[step.item].oversized) {
            let after = Total { bytes: total.bytes + step.bytes, kld: total.kld - step.gain };
            let wanted = match limit {
                Limit::Bytes(_) => reached(&after),
                Limit::Kld(_) => !reached(&total),
            };
            // a step is out of reach if an earlier step of its item did not fit
            if wanted && at[step.item] == step.from {
                (at[step.item], total) = (step.from + 1, after);
            }
        }
        reached(&total).then_some((total, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items with random choices; sizes and costs seldom repeat.
    fn items(names: &[String], seed: u64) -> Vec<Item<'_>> {
        let mut random = testkit::SplitMix64(seed);
        let mut next = |most: u64| 1 + random.below(most);
        let mut item = |number: usize| {
            let choice =
                |_| Choice { dtype: DType::Q4_0, bytes: 32 * next(40), kld: next(1000) as f64 / 1e5 };
            let choices = (0..5).map(choice).collect();
            Item::new(&names[number], number == 0, choices)
        };
        (0..names.len()).map(&mut item).collect()
    }

    /// All selections.
    fn combinations(items: &[Item<'_>]) -> Vec<Vec<usize>> {
        items.iter().fold(vec![vec![]], |all, item| {
            let longer = |chosen: Vec<usize>| {
                (0..item.choices.len()).map(move |at| [chosen.as_slice(), &[at]].concat())
            };
            all.into_iter().flat_map(longer).collect()
        })
    }

    #[test]
    fn nothing_of_the_size_is_better_at_any_point_of_the_curve() {
        let names: Vec<String> = (0..5).map(|n| format!("tensor {n}")).collect();
        for seed in 0..20 {
            let items = items(&names, seed);
            let knapsack = Knapsack::new(&items);
            let all: Vec<Total> = combinations(&items).iter().map(|chosen| knapsack.total(chosen)).collect();
            for point in knapsack.curve() {
                let best =
                    all.iter().filter(|t| t.bytes <= point.bytes).map(|t| t.kld).fold(f64::MAX, f64::min);
                let found = knapsack.total(&knapsack.solve(Limit::Bytes(point.bytes)).unwrap());
                assert!(
                    found.bytes <= point.bytes && (found.kld - best).abs() < 1e-12,
                    "seed {seed}: {found:?}, {best}"
                );
                let least = all.iter().filter(|t| t.kld <= point.kld + 1e-12).map(|t| t.bytes).min().unwrap();
                let found = knapsack.total(&knapsack.solve(Limit::Kld(point.kld + 1e-12)).unwrap());
                assert!(
                    found.kld <= point.kld + 1e-12 && found.bytes == least,
                    "seed {seed}: {found:?}, {least}"
                );
            }
            assert!(knapsack.solve(Limit::Bytes(knapsack.curve()[0].bytes - 1)).is_none());
        }
    }

    #[test]
    fn what_lies_above_a_line_between_two_others_is_left_out() {
        let choice = |bytes, kld| Choice { dtype: DType::Q4_0, bytes, kld };
        let hull =
            hull(vec![choice(10, 1.0), choice(30, 0.0), choice(20, 0.6), choice(20, 0.4), choice(15, 1.5)]);
        let found: Vec<_> = hull.iter().map(|c| (c.bytes, c.kld)).collect();
        assert_eq!(found, [(10, 1.0), (20, 0.4), (30, 0.0)]);
    }
}
