//! From arguments to jobs of the library.

use gemma_convert::{
    BudgetOptions, Calibrate, Convert, DraftConvert, DraftExtract, DraftMeasure, Error, Generate,
    MeasureSensitivity, Planning, Prompt, RecipeOptions, Result, Sampling, Scored, Simd, TextOptions,
    Thresholds, Verify, byte_size,
};

use super::Score;

impl super::What {
    fn options(&self) -> RecipeOptions {
        RecipeOptions {
            recipes: self.recipes.clone(),
            presets: self.types.clone(),
            tensor_types: self.tensor_types.clone(),
            token_embd_type: self.token_embd_type.clone(),
            per_layer_token_embd_type: self.per_layer_token_embd_type.clone(),
            split_max_size: self.split_max_size.clone(),
            max_shard_size: self.max_shard_size.clone(),
            text_only: self.text_only,
            importance: self.importance.clone(),
            budget: BudgetOptions {
                target_size: self.budget.target_size.clone(),
                target_bpw: self.budget.target_bpw,
                target_kld: self.budget.target_kld,
                sensitivity: self.budget.sensitivity.clone(),
            },
            settings: self.settings.clone(),
        }
    }
}

impl super::CalibrationText {
    fn options(&self) -> Result<TextOptions> {
        Ok(TextOptions {
            files: self.text.clone(),
            chunks: self.chunks.clone(),
            memory: byte_size("--text-memory", &self.text_memory)?,
        })
    }
}

impl super::Plan {
    pub(crate) fn job(&self) -> Result<Planning> {
        Ok(Planning {
            model: self.model.clone(),
            recipes: self.what.options(),
            out: self.out.clone(),
            context: self.context,
            kv_type: self.kv_type.parse()?,
            memory: self.memory.as_deref().map(|text| byte_size("--memory", text)).transpose()?,
        })
    }
}

impl super::Convert {
    pub(crate) fn job(&self) -> Result<Convert> {
        Ok(Convert {
            model: self.model.clone(),
            out: self.out.clone(),
            recipes: self.what.options(),
            text: self.text.options()?,
            force: self.force,
            sync: !self.no_sync,
            simd: simd(self.simd.as_deref())?,
        })
    }
}

impl super::DraftConvert {
    pub(crate) fn job(&self) -> Result<DraftConvert> {
        Ok(DraftConvert { convert: self.convert.job()?, target: self.target.clone() })
    }
}

impl super::DraftExtract {
    pub(crate) fn job(&self) -> Result<DraftExtract> {
        Ok(DraftExtract {
            layers: self.layers.clone(),
            context: self.context,
            convert: self.convert.job()?,
        })
    }
}

impl super::DraftMeasure {
    pub(crate) fn job(&self) -> DraftMeasure {
        DraftMeasure {
            draft: self.draft.clone(),
            target: self.target.clone(),
            text: self.text.clone(),
            context: self.context,
            chunks: self.chunks,
        }
    }
}

impl super::Calibrate {
    pub(crate) fn job(&self) -> Result<Calibrate> {
        Ok(Calibrate {
            model: self.model.clone(),
            text: self.text.options()?,
            context: self.context,
            merge: self.merge.clone(),
            out: self.out.clone(),
            force: self.force,
        })
    }
}

impl super::Sensitivity {
    pub(crate) fn job(&self) -> Result<MeasureSensitivity> {
        Ok(MeasureSensitivity {
            model: self.model.clone(),
            text: self.text.options()?,
            context: self.context,
            out: self.out.clone(),
            force: self.force,
        })
    }
}

impl super::Generate {
    pub(crate) fn job(&self, prompt: Prompt) -> Generate {
        Generate {
            model: self.model.clone(),
            prompt,
            max_tokens: self.max_tokens,
            context: self.context,
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                seed: self.seed,
            },
            draft: self.drafting.draft.clone(),
            draft_tokens: self.drafting.draft_tokens,
        }
    }
}

impl super::Verify {
    pub(crate) fn job(&self) -> Result<Verify> {
        Ok(Verify {
            artifact: self.artifact.clone(),
            base: self.against.clone(),
            texts: self.text.clone(),
            context: self.context,
            chunks: self.chunks,
            scored: match self.score {
                Score::All => Scored::All,
                Score::Answers => Scored::Answers,
            },
            recipe: self.recipe.clone(),
            importance: self.importance.clone(),
            thresholds: Thresholds {
                max_kld: self.max_kld,
                max_ppl_ratio: self.max_ppl_ratio,
                min_top1: self.min_top1,
            },
            keep_going: self.keep_going,
            require_manifest: self.require_manifest,
            weights: !self.no_tensors,
            text_memory: byte_size("--text-memory", &self.text_memory)?,
            save_logits: self.save_logits.clone(),
            force: self.reports.force,
        })
    }
}

/// The best level that this machine has, or the one that was asked for.
fn simd(wanted: Option<&str>) -> Result<Simd> {
    let Some(name) = wanted else { return Ok(Simd::detect()) };
    let available = Simd::available();
    let named = |level: &&Simd| format!("{level:?}").eq_ignore_ascii_case(name);
    available.iter().find(named).copied().ok_or_else(|| {
        let known: Vec<_> = available.iter().map(|level| format!("{level:?}").to_lowercase()).collect();
        Error::recipe(format!("--simd {name}"), "no such level on this processor")
            .expected(known.join(", "), name)
    })
}
