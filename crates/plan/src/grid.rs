//! Weights on a 4-bit quantization grid, as quantisation-aware training (QAT) leaves them: the choice of tensors to
//! survey and to repack, and the notes about them. The survey itself, a sample of blocks, is read by the caller.
//!
//! Repacking as Q4_0 is lossless for such a tensor; the ordinary encoder of Q4_0 loses most of the gain of the
//! training.

use std::collections::{BTreeMap, HashMap, HashSet};

use gemma::{ModelSpec, TypePolicy};
use quant::GridSurvey;
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

/// Decides which tensors are repacked from their grid, and counts them.
pub(crate) struct OnLattice<'a> {
    mode: GridPolicy,
    /// Empty if the recipe needs no survey.
    surveys: &'a HashMap<usize, GridSurvey>,
    asks: bool,
    /// Tensors that adapters change.
    adapted: &'a HashSet<usize>,
    /// Number of tensors that are not surveyed, because an adapter changes them.
    changed: usize,
    /// Number of tensors on a grid, and of those that are repacked.
    lie: usize,
    kept: usize,
    /// Number of tensors off the grid, by role.
    others: BTreeMap<&'static str, usize>,
    /// Sums over all surveyed tensors.
    blocks: GridSurvey,
}

impl<'a> OnLattice<'a> {
    pub(crate) fn new(recipe: &Recipe, preset: &Preset, shards: &'a Shards<'_>) -> Self {
        let (asks, others) = (asks(recipe, Some(preset)), BTreeMap::new());
        let blocks = GridSurvey::default();
        let (surveys, adapted) = (&shards.surveys, &shards.adapted);
        let mode = recipe.types.lattice;
        OnLattice { mode, surveys, asks, adapted, changed: 0, lie: 0, kept: 0, others, blocks }
    }

    /// Whether the tensor should stay on its grid.
    pub(crate) fn keeps(&self, index: usize) -> bool {
        self.mode != GridPolicy::Off && self.surveys.get(&index).is_some_and(GridSurvey::is_on_grid)
    }

    /// Counts a tensor of the chosen type. Returns the reason for the type if the tensor is repacked.
    pub(crate) fn sees(&mut self, index: usize, role: &'static str, dtype: DType) -> Option<String> {
        self.changed += usize::from(self.asks && dtype != DType::F32 && self.adapted.contains(&index));
        let survey = self.surveys.get(&index).filter(|_| self.asks)?;
        self.blocks.telling += survey.telling;
        self.blocks.on += survey.on;
        if !survey.is_on_grid() {
            *self.others.entry(role).or_default() += 1;
            return None;
        }
        self.lie += 1;
        if !self.keeps(index) || dtype != DType::Q4_0 {
            return None;
        }
        self.kept += 1;
        Some(format!(
            "on a 4-bit quantization grid ({} of {} sampled blocks): repacked",
            survey.on, survey.telling
        ))
    }

    /// Adds the notes about the grid.
    ///
    /// # Errors
    /// `Recipe` if the recipe requires weights on a grid and the checkpoint has none.
    pub(crate) fn finish(self, importance: bool, notes: &mut Vec<String>) -> Result<()> {
        let all = self.lie + self.others.values().sum::<usize>();
        let GridSurvey { telling, on } = self.blocks;
        let lie = format!("{} of {all} tensors are on a 4-bit quantization grid (QAT)", self.lie);
        match self.mode {
            GridPolicy::Require if self.changed > 0 => {
                let problem = format!(
                    "an adapter changes {} of the tensors to repack, which leaves no grid",
                    self.changed
                );
                return Err(Error::recipe("types.lattice", problem)
                    .expected(
                        "weights on a 4-bit quantization grid (QAT)",
                        "weights with an adapter merged into them",
                    )
                    .help("‹set› types.lattice=auto repacks the other tensors and rounds these."));
            }
            GridPolicy::Require if self.lie == 0 => {
                let share = 100.0 * on as f64 / telling.max(1) as f64;
                return Err(Error::recipe(
                    "types.lattice",
                    "these weights are not on a 4-bit quantization grid",
                )
                .expected(
                    "a QAT checkpoint, with tensors of which 99 % of the blocks do",
                    format!("{share:.1} % of {telling} sampled blocks, in {all} tensors"),
                )
                .help("Use a recipe without types.lattice, such as the one of the same preset."));
            }
            GridPolicy::Off if self.lie > 0 => {
                let keeper = keeper().map(|name| format!(", or ‹recipe› {name},")).unwrap_or_default();
                let vain =
                    if importance { "; importance and calibration do not recover the loss" } else { "" };
                notes.push(format!(
                    "{lie} and lose it by rounding: ‹set› types.lattice=auto{keeper} repacks them without loss{vain}"
                ));
            }
            GridPolicy::Off => {}
            GridPolicy::Auto | GridPolicy::Require => {
                notes.push(format!("{lie}; {} are repacked as Q4_0{}", self.kept, self.besides()));
                if self.changed > 0 {
                    notes.push(format!("{} tensors that an adapter changes are rounded", self.changed));
                }
                if importance && self.kept > 0 {
                    notes.push(
                        "repacked tensors are not rounded: importance and calibration do not apply to them"
                            .to_owned(),
                    );
                }
            }
        }
        Ok(())
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
