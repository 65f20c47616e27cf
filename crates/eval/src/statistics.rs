//! Figures of scored tokens, with confidence intervals.
//!
//! Intervals are percentiles of a bootstrap. Documents are drawn with replacement, with the same sample for both
//! models, so the difficulty of a text cancels. Whole documents are drawn, because tokens of a document are not
//! independent. The draws are the same in every run.
//!
//! Percentiles over tokens are interpolated as by llama-perplexity, at `f · (n − 1)` of the sorted values.

use std::collections::BTreeMap;

use crate::{Along, DeltaP, Document, Kld, Perplexity, Token};

/// Draws of the bootstrap.
const DRAWS: usize = 1000;
/// Draws outside an interval on each side.
const OUTSIDE: usize = 25;
/// Bins of the histogram of Δp, from −1 to 1.
const BINS: usize = 81;
/// The most runs of tokens for the plot along the text.
const RUNS: usize = 400;
/// Shares of the quantiles of Δp.
const SHARES: [f64; 9] = [0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999];

/// The figures of scored tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Perplexity of both models.
    pub perplexity: Perplexity,
    /// KL divergence of the artifact's predictions from the base's; `None` without a base, like the next two.
    pub kld: Option<Kld>,
    /// Share of tokens for which both models have the same most probable token.
    pub top1: Option<f64>,
    /// Change of the probability of the scored token.
    pub delta_p: Option<DeltaP>,
    /// 95 % confidence intervals by figure.
    pub intervals: BTreeMap<String, [f64; 2]>,
    /// Mean figures of each document.
    pub documents: Vec<Document>,
    /// Mean KL divergences of short runs of tokens, for a plot along the text.
    pub along: Vec<Along>,
}

/// All figures of scored tokens; `None` if there are none.
pub fn summarise(tokens: &[Token]) -> Option<Figures> {
    if tokens.is_empty() {
        return None;
    }
    let documents = split(tokens);
    let figures = figures(tokens);
    let get = |name: &str| figures.get(name).copied();
    Some(Figures {
        intervals: intervals(&documents, &figures),
        perplexity: Perplexity {
            base: get(BASE),
            artifact: get(ARTIFACT).unwrap_or_default(),
            ratio: get(RATIO),
        },
        top1: get(TOP1),
        kld: get(KLD_MEAN).map(|mean| Kld {
            mean,
            median: get("kld.median").unwrap_or_default(),
            p99: get("kld.p99").unwrap_or_default(),
            p999: get("kld.p999").unwrap_or_default(),
            max: tokens.iter().filter_map(|t| Some(t.against?.kld)).fold(f64::NEG_INFINITY, f64::max),
        }),
        delta_p: delta_p(tokens, get(DELTA_RMS)),
        documents: documents.iter().map(|tokens| document(tokens)).collect(),
        along: along(tokens),
    })
}

const BASE: &str = "perplexity.base";
const ARTIFACT: &str = "perplexity.artifact";
const RATIO: &str = "perplexity.ratio";
const TOP1: &str = "top1";
const KLD_MEAN: &str = "kld.mean";
const DELTA_RMS: &str = "delta_p.rms";
const PERCENTILES: [(&str, f64); 3] = [("kld.median", 0.5), ("kld.p99", 0.99), ("kld.p999", 0.999)];

/// The tokens of each document.
fn split(tokens: &[Token]) -> Vec<&[Token]> {
    tokens.chunk_by(|a, b| a.document == b.document).collect()
}

/// Sums over tokens, for means.
#[derive(Clone, Copy, Default)]
struct Sums {
    tokens: f64,
    nll: f64,
    against: bool,
    nll_base: f64,
    kld: f64,
    same_top: f64,
    delta_p_squared: f64,
}

impl Sums {
    fn of(tokens: &[Token]) -> Sums {
        tokens.iter().fold(Sums::default(), |sums, token| {
            let against = token.against.unwrap_or_default();
            sums.plus(&Sums {
                tokens: 1.0,
                nll: token.nll,
                against: token.against.is_some(),
                nll_base: against.nll,
                kld: against.kld,
                same_top: f64::from(u8::from(against.same_top)),
                delta_p_squared: token.delta_p().unwrap_or_default().powi(2),
            })
        })
    }

    fn plus(&self, other: &Sums) -> Sums {
        Sums {
            tokens: self.tokens + other.tokens,
            nll: self.nll + other.nll,
            against: self.against || other.against,
            nll_base: self.nll_base + other.nll_base,
            kld: self.kld + other.kld,
            same_top: self.same_top + other.same_top,
            delta_p_squared: self.delta_p_squared + other.delta_p_squared,
        }
    }

    /// The figures that are functions of means.
    fn figures(&self) -> Vec<(&'static str, f64)> {
        let mean = |sum: f64| sum / self.tokens;
        let mut figures = vec![(ARTIFACT, mean(self.nll).exp())];
        if self.against {
            figures.extend([
                (BASE, mean(self.nll_base).exp()),
                (RATIO, mean(self.nll - self.nll_base).exp()),
                (KLD_MEAN, mean(self.kld)),
                (TOP1, mean(self.same_top)),
                (DELTA_RMS, mean(self.delta_p_squared).sqrt()),
            ]);
        }
        figures
    }
}

/// All figures by their report keys.
fn figures(tokens: &[Token]) -> BTreeMap<&'static str, f64> {
    let mut figures: BTreeMap<_, _> = Sums::of(tokens).figures().into_iter().collect();
    let mut klds: Vec<f64> = tokens.iter().filter_map(|t| Some(t.against?.kld)).collect();
    klds.sort_by(f64::total_cmp);
    if !klds.is_empty() {
        figures.extend(PERCENTILES.map(|(name, share)| (name, percentile(&klds, share))));
    }
    figures
}

/// The quantile of sorted values, interpolated.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + part * (sorted[high] - sorted[low])
}

/// 95 % confidence intervals of all figures; empty for a single document.
fn intervals(documents: &[&[Token]], figures: &BTreeMap<&'static str, f64>) -> BTreeMap<String, [f64; 2]> {
    if documents.len() < 2 {
        return BTreeMap::new();
    }
    let sums: Vec<Sums> = documents.iter().map(|tokens| Sums::of(tokens)).collect();
    // (value, document), sorted by value: a draw weights values by the count of their document
    let mut klds: Vec<(f64, usize)> = documents
        .iter()
        .enumerate()
        .flat_map(|(number, tokens)| tokens.iter().filter_map(move |t| Some((t.against?.kld, number))))
        .collect();
    klds.sort_by(|a, b| a.0.total_cmp(&b.0));

    let mut drawn: BTreeMap<&str, Vec<f64>> = figures.keys().map(|&name| (name, Vec::new())).collect();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..DRAWS {
        let mut times = vec![0usize; documents.len()];
        for _ in documents {
            times[random.below(documents.len())] += 1;
        }
        let total = sums.iter().zip(&times).fold(Sums::default(), |total, (sums, &times)| {
            (0..times).fold(total, |total, _| total.plus(sums))
        });
        let mut of_draw = total.figures();
        let weight: usize = times.iter().zip(documents).map(|(times, tokens)| times * tokens.len()).sum();
        if !klds.is_empty() {
            of_draw.extend(
                PERCENTILES.map(|(name, share)| (name, weighted_percentile(&klds, &times, weight, share))),
            );
        }
        for (name, value) in of_draw {
            if let Some(values) = drawn.get_mut(name) {
                values.push(value);
            }
        }
    }
    let interval = |(name, mut values): (&str, Vec<f64>)| {
        values.sort_by(f64::total_cmp);
        let (low, high) = (values.get(OUTSIDE)?, values.get(DRAWS - 1 - OUTSIDE)?);
        Some((name.to_owned(), [*low, *high]))
    };
    drawn.into_iter().filter_map(interval).collect()
}

/// The quantile of sorted values, each weighted by the draws of its document; not interpolated.
fn weighted_percentile(sorted: &[(f64, usize)], times: &[usize], weight: usize, share: f64) -> f64 {
    let at = (share * (weight - 1) as f64).round() as usize;
    let mut seen = 0;
    for &(value, document) in sorted {
        seen += times[document];
        if seen > at {
            return value;
        }
    }
    sorted[sorted.len() - 1].0
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

fn document(tokens: &[Token]) -> Document {
    let sums = Sums::of(tokens);
    let mean = |sum: f64| sum / sums.tokens;
    let against = |value: f64| Some(value).filter(|_| sums.against);
    Document {
        tokens: tokens.len() as u64,
        base: against(mean(sums.nll_base).exp()),
        artifact: mean(sums.nll).exp(),
        kld: against(mean(sums.kld)),
        top1: against(mean(sums.same_top)),
    }
}

fn delta_p(tokens: &[Token], rms: Option<f64>) -> Option<DeltaP> {
    let rms = rms?;
    let mut values: Vec<f64> = tokens.iter().filter_map(Token::delta_p).collect();
    values.sort_by(f64::total_cmp);
    let mut histogram = vec![0; BINS];
    for value in &values {
        let bin = (value + 1.0) / 2.0 * BINS as f64;
        histogram[(bin as usize).min(BINS - 1)] += 1;
    }
    Some(DeltaP {
        mean: values.iter().sum::<f64>() / values.len() as f64,
        rms,
        quantiles: SHARES.map(|share| [share, percentile(&values, share)]).to_vec(),
        histogram,
    })
}

/// Mean KL divergences of runs of tokens within a document.
fn along(tokens: &[Token]) -> Vec<Along> {
    let run = tokens.len().div_ceil(RUNS).max(1);
    let mut runs = Vec::new();
    let mut first = 0;
    for document in split(tokens) {
        for run in document.chunks(run) {
            let klds: Option<Vec<f64>> = run.iter().map(|t| Some(t.against?.kld)).collect();
            let Some(klds) = klds else { return Vec::new() };
            runs.push(Along {
                document: run[0].document,
                token: first,
                kld: klds.iter().sum::<f64>() / klds.len() as f64,
            });
            first += run.len() as u64;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Against;

    fn token(document: usize, nll: f64, base: f64, kld: f64) -> Token {
        Token {
            document,
            nll,
            against: Some(Against { nll: base, kld, same_top: kld < 0.5, ..Against::default() }),
        }
    }

    #[test]
    fn figures_are_their_definitions() {
        let tokens = [
            token(0, 1.0, 0.5, 0.1),
            token(0, 2.0, 2.5, 0.2),
            token(1, 3.0, 3.0, 0.9),
            token(1, 2.0, 2.0, 0.4),
        ];
        let figures = summarise(&tokens).unwrap();
        let perplexity = figures.perplexity;
        assert_eq!(perplexity.artifact, 2f64.exp());
        assert_eq!((perplexity.base, perplexity.ratio), (Some(2f64.exp()), Some(1.0)));
        let kld = figures.kld.unwrap();
        assert!((kld.mean - 0.4).abs() < 1e-15 && kld.max == 0.9);
        // at 0.5 · 3 and 0.99 · 3 of 0.1, 0.2, 0.4, 0.9
        assert!((kld.median - 0.3).abs() < 1e-15 && (kld.p99 - 0.885).abs() < 1e-12);
        assert_eq!(figures.top1, Some(0.75));
        let delta = figures.delta_p.unwrap();
        let expected = [(-1f64).exp() - (-0.5f64).exp(), (-2f64).exp() - (-2.5f64).exp(), 0.0, 0.0];
        assert!((delta.mean - expected.iter().sum::<f64>() / 4.0).abs() < 1e-15);
        assert!((delta.rms - (expected.iter().map(|d| d * d).sum::<f64>() / 4.0).sqrt()).abs() < 1e-15);
        assert_eq!(delta.histogram.iter().sum::<u64>(), 4);
        assert_eq!((figures.documents.len(), figures.along.len()), (2, 4));
        assert_eq!(figures.documents[1].artifact, 2.5f64.exp());
    }

    #[test]
    fn intervals_hold_the_figure_and_shrink_with_more_documents() {
        let text = |documents: usize| -> Vec<Token> {
            (0..documents * 5).map(|n| token(n / 5, 2.0, 2.0, ((n / 5 * 37) % 101) as f64 / 100.0)).collect()
        };
        let width = |documents: usize| {
            let figures = summarise(&text(documents)).unwrap();
            let [low, high] = figures.intervals["kld.mean"];
            let mean = figures.kld.unwrap().mean;
            assert!(low < mean && mean < high, "{low} {mean} {high}");
            high - low
        };
        // a hundred times the documents, a tenth of the width
        let (wide, narrow) = (width(20), width(2000));
        assert!(narrow < wide / 7.0 && narrow > wide / 14.0, "{wide} {narrow}");
        // the standard error of the mean of 20 values uniform between 0 and 1 is 0.29 / √20
        assert!((wide - 2.0 * 1.96 * 0.29 / 20f64.sqrt()).abs() < 0.06, "{wide}");
    }

    #[test]
    fn one_document_has_no_interval_and_one_model_no_divergence() {
        let figures = summarise(&[Token { nll: 1.0, ..Token::default() }]).unwrap();
        assert!(figures.intervals.is_empty() && figures.kld.is_none() && figures.top1.is_none());
        assert_eq!(figures.perplexity, Perplexity { base: None, artifact: 1f64.exp(), ratio: None });
        assert!(figures.along.is_empty() && summarise(&[]).is_none());
    }
}
