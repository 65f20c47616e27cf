//! Weights on a 4-bit quantization grid, as quantisation-aware training (QAT) leaves them, or moved off it by fine-tuning: the
//! choice of tensors to survey and to repack, and the notes about them. The survey itself, a sample of blocks, is read by the
//! caller.
//!
//! Repacking as Q4_0 is lossless for a tensor on a grid; the ordinary encoder of Q4_0 loses most of the gain of the training.

use std::collections::BTreeMap;

use gemma::{ModelSpec, TypePolicy};
use quant::GridSurvey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor::{DType, Error, Result};

use crate::output::Format;
use crate::presets::Preset;
use crate::recipe::Recipe;
use crate::request::{Request, Shards};

/// Treatment of weights that are on a 4-bit quantization grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GridPolicy {
    /// They are quantised like all others, as in llama-quantize.
    #[default]
    Off,
    /// They are repacked as Q4_0.
    Auto,
    /// They are repacked as Q4_0, and a checkpoint without such weights is refused.
    Require,
    /// They are repacked as Q4_0, and weights that fine-tuning moved off a grid become Q4_0 on the nearest one, with error
    /// feedback. A checkpoint with neither is refused.
    Near,
}

impl GridPolicy {
    /// Whether the surveyed weights are what the policy requires.
    pub fn accepts(self, shards: &Shards<'_>) -> bool {
        let any = || shards.surveys.values().any(|survey| self.keeps(survey).is_some());
        match self {
            GridPolicy::Off | GridPolicy::Auto => true,
            GridPolicy::Require => any() && changed(shards) == 0,
            GridPolicy::Near => any(),
        }
    }

    /// The grid that a tensor keeps.
    fn keeps(self, survey: &GridSurvey) -> Option<Lattice> {
        match self {
            GridPolicy::Off => None,
            _ if survey.is_on_grid() => Some(Lattice::On),
            GridPolicy::Near if survey.is_moved() => Some(Lattice::Moved),
            _ => None,
        }
    }
}

/// The place of a tensor's values to a 4-bit quantization grid that they keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Lattice {
    /// On the grid: they are repacked without loss.
    On,
    /// Moved off the grid by fine-tuning: they are rounded to the nearest one.
    Moved,
}

/// The indices of the tensors that need a [`GridSurvey`] to plan `requests`: those whose type a recipe chooses, in
/// reading order. Empty if no recipe needs one.
pub fn to_survey(model: &ModelSpec, shards: &Shards<'_>, requests: &[Request]) -> Vec<usize> {
    let asks = |request: &Request| asks(&request.recipe, Preset::named(&request.recipe.types.preset).ok());
    if !requests.iter().any(asks) {
        return Vec::new();
    }
    let matrices = model.inventory.text.iter().filter(|found| {
        found.slot.type_policy == TypePolicy::Recipe && gguf::ggml_shape(&found.slot.shape).len() > 1
    });
    let mut numbers: Vec<_> = matrices.map(|found| found.index).collect();
    // in reading order
    numbers.sort_by_key(|index| {
        shards.pieces[*index].first().map(|piece| (piece.location.shard, piece.location.offset))
    });
    numbers
}

fn asks(recipe: &Recipe, preset: Option<&Preset>) -> bool {
    let quantises = preset.is_some_and(|preset| preset.default_type().is_quantized());
    recipe.output.format == Format::Gguf && (recipe.types.lattice != GridPolicy::Off || quantises)
}

/// Number of surveyed tensors that an adapter changes, and that are on no grid.
fn changed(shards: &Shards<'_>) -> usize {
    let surveys = shards.adapted.iter().filter_map(|index| shards.surveys.get(index));
    surveys.filter(|survey| !survey.is_on_grid()).count()
}

/// Decides which tensors keep their grid, and counts them.
pub(crate) struct OnLattice<'a> {
    mode: GridPolicy,
    /// With surveys, unless the recipe needs none.
    shards: &'a Shards<'a>,
    asks: bool,
    /// Number of tensors on a grid, and of those that are repacked.
    on: usize,
    repacked: usize,
    /// Number of tensors moved off a grid, and of those that are rounded to the nearest one.
    moved: usize,
    nearest: usize,
    /// Number of the other tensors, by role.
    others: BTreeMap<&'static str, usize>,
    /// Sums over all surveyed tensors.
    blocks: GridSurvey,
}

impl<'a> OnLattice<'a> {
    pub(crate) fn new(recipe: &Recipe, preset: &Preset, shards: &'a Shards<'_>) -> Self {
        OnLattice {
            mode: recipe.types.lattice,
            shards,
            asks: asks(recipe, Some(preset)),
            on: 0,
            repacked: 0,
            moved: 0,
            nearest: 0,
            others: BTreeMap::new(),
            blocks: GridSurvey::default(),
        }
    }

    /// The grid that the tensor should keep.
    pub(crate) fn keeps(&self, index: usize, role: &str) -> Option<Lattice> {
        let kept = self.mode.keeps(self.shards.surveys.get(&index)?);
        // it is quantised without error feedback, which would leave the values of the base
        kept.filter(|kept| *kept == Lattice::On || role != "per_layer_token_embd")
    }

    /// Counts a tensor of the chosen type. Returns the grid that it keeps and the reason for the type.
    pub(crate) fn sees(
        &mut self,
        index: usize,
        role: &'static str,
        dtype: DType,
    ) -> Option<(Lattice, String)> {
        let survey = *self.shards.surveys.get(&index).filter(|_| self.asks)?;
        self.blocks += survey;
        match (survey.is_on_grid(), survey.is_moved()) {
            (true, _) => self.on += 1,
            (_, true) => self.moved += 1,
            _ => *self.others.entry(role).or_default() += 1,
        }
        let kept = self.keeps(index, role).filter(|_| dtype == DType::Q4_0)?;
        let GridSurvey { telling, on, moved } = survey;
        let why = match kept {
            Lattice::On => {
                self.repacked += 1;
                format!("on a 4-bit quantization grid ({on} of {telling} sampled blocks): repacked")
            }
            Lattice::Moved => {
                self.nearest += 1;
                let near = on + moved;
                format!("near a 4-bit quantization grid ({near} of {telling} sampled blocks): rounded to it")
            }
        };
        Some((kept, why))
    }

    /// Adds the notes about the grid.
    ///
    /// # Errors
    /// `Recipe` if the recipe requires weights on or near a grid and the checkpoint has none.
    pub(crate) fn finish(self, importance: bool, notes: &mut Vec<String>) -> Result<()> {
        let all = self.on + self.moved + self.others.values().sum::<usize>();
        let lie = format!("{} of {all} tensors are on a 4-bit quantization grid (QAT)", self.on);
        let near = format!("{} are near one, as after fine-tuning", self.moved);
        self.check(all)?;
        match self.mode {
            GridPolicy::Off if self.moved > 0 => notes.push(format!(
                "{lie}, {near}: they lose it by rounding, and ‹set› types.lattice=near with calibration.method=ldlq keeps it"
            )),
            GridPolicy::Off if self.on > 0 => {
                let keeper = keeper().map(|name| format!(", or ‹recipe› {name},")).unwrap_or_default();
                let vain =
                    if importance { "; importance and calibration do not recover the loss" } else { "" };
                notes.push(format!(
                    "{lie} and lose it by rounding: ‹set› types.lattice=auto{keeper} repacks them without loss{vain}"
                ));
            }
            GridPolicy::Off => {}
            GridPolicy::Auto | GridPolicy::Require | GridPolicy::Near => {
                notes.push(format!("{lie}; {} are repacked as Q4_0{}", self.repacked, self.besides()));
                notes.extend(self.of_moved(&near));
                if importance && self.repacked > 0 {
                    notes.push(
                        "repacked tensors are not rounded: importance and calibration do not apply to them"
                            .to_owned(),
                    );
                }
            }
        }
        Ok(())
    }

    fn check(&self, all: usize) -> Result<()> {
        if self.mode.accepts(self.shards) {
            return Ok(());
        }
        let changed = changed(self.shards);
        if self.mode == GridPolicy::Require && changed > 0 && self.on + self.moved > 0 {
            let problem = format!(
                "an adapter changes {changed} of the tensors to repack, which leaves them on no grid"
            );
            return Err(Error::recipe("types.lattice", problem)
                .expected("weights on a 4-bit quantization grid (QAT)", "weights with an adapter merged into them")
                .help("‹set› types.lattice=near with calibration.method=ldlq rounds them on their grid; auto rounds them like all others."));
        }
        let GridSurvey { telling, on, moved } = self.blocks;
        let (problem, wanted, found) = match self.mode {
            GridPolicy::Near => (
                "these weights are not near a 4-bit quantization grid",
                "a QAT checkpoint or a fine-tune of one, with tensors of which half of the blocks are",
                on + moved,
            ),
            _ => (
                "these weights are not on a 4-bit quantization grid",
                "a QAT checkpoint, with tensors of which 99 % of the blocks do",
                on,
            ),
        };
        let share = 100.0 * found as f64 / telling.max(1) as f64;
        Err(Error::recipe("types.lattice", problem)
            .expected(wanted, format!("{share:.1} % of {telling} sampled blocks, in {all} tensors"))
            .help("Use a recipe without types.lattice, such as the one of the same preset."))
    }

    /// The note about the tensors that fine-tuning moved.
    fn of_moved(&self, near: &str) -> Option<String> {
        match self.mode {
            GridPolicy::Near => (self.nearest > 0)
                .then(|| format!("{near}; {} are rounded to it with error feedback", self.nearest)),
            _ => (self.moved > 0).then(|| {
                format!("{near}, and are rounded like all others: ‹set› types.lattice=near with calibration.method=ldlq keeps it")
            }),
        }
    }

    /// The tensors that are not repacked, counted by role.
    fn besides(&self) -> String {
        let roles: Vec<_> = self.others.iter().map(|(role, count)| format!("{count} {role}")).collect();
        if roles.is_empty() { String::new() } else { format!("; not on the grid: {}", roles.join(", ")) }
    }
}

/// The embedded recipe that requires weights on a grid.
fn keeper() -> Option<String> {
    let requires = |name: &String| {
        let recipe = Recipe::from_toml(Recipe::embedded_text(name)?, name).ok()?;
        (recipe.types.lattice == GridPolicy::Require).then_some(())
    };
    Recipe::embedded().into_iter().map(|(name, _)| name).find(|name| requires(name).is_some())
}
