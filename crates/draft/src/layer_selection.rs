//! Layer selection for an extracted draft model, by measurement.
//!
//! The selection starts with all layers. Each step removes the layer whose absence leaves the most tokens of a text
//! with the same most probable next token. A step measures only the [`TRIED`] layers with the highest cosine similarity
//! between the hidden states before and after the layer (the block influence of ShortGPT, Men et al. 2024).

use eval::predictions;
use gemma::ModelSpec;
use runtime::{Compute, Matrix, Model, RowMajor, Stage, Weights};
use serde::{Deserialize, Serialize};
use tensor::{Error, Result, TensorSource};
use text::Sequence;

use crate::{Extraction, Overlap, check_count, check_layers, own_overlaps};

/// The most layers that are tried in each step.
const TRIED: usize = 8;

/// The selected layers, and the agreement of their draft model with the whole model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerSelection {
    /// Indices of the layers in the model, ascending.
    pub layers: Vec<usize>,
    /// Share of tokens with the same most probable next token.
    pub top1: f64,
    /// Mean of `Σ min(p, q)`, the acceptance rate at temperature 1.
    pub acceptance: f64,
    /// The removed layers, in the order of removal.
    pub left_out: Vec<usize>,
}

/// The model to select layers of, with its predictions.
struct Whole<'a> {
    source: &'a dyn TensorSource,
    spec: &'a ModelSpec,
    model: Model<'a>,
    sequences: &'a [Sequence],
    /// Final hidden states that predict the scored tokens.
    states: Matrix,
}

/// Selects `count` layers of a model on a text. `progress` gets 1 for each set of layers tried; see
/// [`LayerSelection::tries`].
///
/// # Errors
/// `Recipe` for a number of layers that cannot be selected; the errors of the model.
pub fn choose_layers(
    source: &dyn TensorSource,
    spec: &ModelSpec,
    sequences: &[Sequence],
    count: usize,
    compute: Compute,
    progress: &dyn Fn(u64),
) -> Result<LayerSelection> {
    let config = &spec.config;
    check_count(config, count)?;
    let model = Model::new(config, Weights::new(source, &spec.inventory, compute)?)?;
    let states = predictions(&model, sequences, &[], &|_| ())?;
    let whole = Whole { source, spec, model, sequences, states };
    let turns = whole.turns()?;

    let mut choice = LayerSelection { layers: (0..config.layers()).collect(), ..LayerSelection::default() };
    while choice.layers.len() > count {
        let mut tried: Vec<usize> = choice
            .layers
            .iter()
            .copied()
            .filter(|&layer| whole.can_do_without(&choice.layers, layer))
            .collect();
        tried.sort_by(|&a, &b| turns[a].total_cmp(&turns[b]));
        tried.truncate(TRIED);
        let mut best: Option<(usize, LayerSelection)> = None;
        for layer in tried {
            let found = whole.measured(without(&choice.layers, layer))?;
            progress(1);
            let better = |(_, best): &(usize, LayerSelection)| {
                found.top1.total_cmp(&best.top1).then(found.acceptance.total_cmp(&best.acceptance)).is_gt()
            };
            if best.as_ref().is_none_or(better) {
                best = Some((layer, found));
            }
        }
        let Some((layer, found)) = best else {
            return Err(Error::recipe(format!("‹layers› {count}"), "no further layer can be removed")
                .expected(format!("at least {}", choice.layers.len()), count));
        };
        choice.left_out.push(layer);
        choice = LayerSelection { left_out: choice.left_out, ..found };
    }
    Ok(choice)
}

impl LayerSelection {
    /// Whether the layers were selected by measurement; otherwise they were given.
    pub fn is_measured(&self) -> bool {
        !self.left_out.is_empty()
    }

    /// The most sets of layers that are tried for a draft of `count` layers of a model with `layers` layers.
    pub fn tries(layers: usize, count: usize) -> u64 {
        (count + 1..=layers).map(|left| left.min(TRIED) as u64).sum()
    }
}

fn without(layers: &[usize], layer: usize) -> Vec<usize> {
    layers.iter().copied().filter(|&other| other != layer).collect()
}

impl Whole<'_> {
    fn can_do_without(&self, layers: &[usize], layer: usize) -> bool {
        check_layers(&self.spec.config, &without(layers, layer)).is_ok()
    }

    /// Block influence of each layer: 1 − the mean cosine similarity of the hidden states before and after it.
    fn turns(&self) -> Result<Vec<f64>> {
        let mut cosines = vec![0.0; self.spec.config.layers()];
        let mut rows = 0;
        for sequence in self.sequences {
            let mut before = Matrix::zeros((0, 0));
            let mut cache = runtime::KvCache::new(&self.spec.config);
            self.model.forward(&sequence.tokens, &mut cache, |stage, hidden| {
                if let Stage::Layer(layer) = stage {
                    let cosine = |row| cosine(before.row_values(row), hidden.row_values(row));
                    cosines[layer] += (0..hidden.nrows()).map(cosine).sum::<f64>();
                }
                before = hidden.clone();
            })?;
            rows += sequence.tokens.len();
        }
        Ok(cosines.iter().map(|sum| 1.0 - sum / rows as f64).collect())
    }

    /// Measures the agreement of a draft of these layers with the whole model.
    fn measured(&self, layers: Vec<usize>) -> Result<LayerSelection> {
        let compute = self.model.compute();
        let extraction = Extraction::new(self.spec, self.source.tensors(), &layers)?;
        let source = extraction.source(self.source, compute.simd);
        let inventory = extraction.inventory()?;
        let draft = Model::new(&extraction.config, Weights::new(&source, &inventory, compute)?)?;
        let states = predictions(&draft, self.sequences, &[], &|_| ())?;
        let overlaps = own_overlaps((&self.model, &self.states), (&draft, &states))?;
        let mean =
            |of: fn(&Overlap) -> f64| overlaps.iter().map(of).sum::<f64>() / overlaps.len().max(1) as f64;
        Ok(LayerSelection {
            top1: mean(|overlap| f64::from(u8::from(overlap.same_top))),
            acceptance: mean(|overlap| overlap.shared),
            layers,
            left_out: Vec::new(),
        })
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt().max(f64::MIN_POSITIVE)
}
