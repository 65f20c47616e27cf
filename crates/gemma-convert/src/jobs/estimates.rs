//! Memory estimates of planned outputs: of each text model alone, or with each mmproj file that is planned beside it.

use footprint::{Conditions, Media, Memory, Verdict};
use gemma::ModelSpec;
use gemma::towers::Towers;
use media::{DEFAULT_BUDGET, ImagePreprocess, MAX_SECONDS};
use plan::{Artifact, Format, Plan, Request, Shards};
use tensor::{DType, Error, Result};

use crate::towers::image_budget;

/// The settings of a memory estimate, as far as they are given.
#[derive(Clone, Copy, Debug, Default)]
pub struct EstimateOptions {
    /// Tokens of prompt and answer together; default: the smaller of 8192 and the model's context.
    pub context: Option<u64>,
    /// Type of the KV cache in llama.cpp; default: F16.
    pub kv_type: Option<DType>,
    /// Memory limit in bytes that the estimate is compared with.
    pub memory: Option<u64>,
    /// Soft tokens of an image, one of transformers' budgets; default: that of the checkpoint, else 280. An image is
    /// counted if an mmproj file is planned, or if this is given.
    pub image_budget: Option<usize>,
    /// Seconds of a sound, 0 for none; default: 30. A sound is counted if an mmproj file is planned, or if this is
    /// given.
    pub audio_seconds: Option<u64>,
}

/// The memory estimate of an artifact.
#[derive(Clone, Debug)]
pub struct ArtifactMemory {
    /// The artifact's recipe.
    pub recipe: String,
    /// The recipe of the mmproj file that the estimate counts, if it counts one.
    pub mmproj: Option<String>,
    /// The estimate.
    pub memory: Memory,
    /// Whether it fits, if the job has a memory limit.
    pub verdict: Option<Verdict>,
}

/// Default tokens of context.
const CONTEXT: u64 = 8192;

/// Default seconds of a sound: what an audio tower reads at a time.
const SECONDS: u64 = 30;

impl EstimateOptions {
    /// Refuses settings that have no effect on these artifacts.
    pub(super) fn check(&self, requests: &[Request]) -> Result<()> {
        let has = |format| requests.iter().any(|request| request.recipe.output.format == format);
        let needs = |name: &str, what: &str, help: &str| {
            Err(Error::recipe(name, format!("has no effect without {what}")).help(help))
        };
        let given = [
            ("‹memory›", self.memory.is_some()),
            ("‹context›", self.context.is_some()),
            ("‹kv_type›", self.kv_type.is_some()),
            ("‹image_budget›", self.image_budget.is_some()),
            ("‹audio_seconds›", self.audio_seconds.is_some()),
        ];
        if let Some((name, _)) = given.iter().find(|(_, is_given)| *is_given)
            && !has(Format::Gguf)
            && !has(Format::Safetensors)
        {
            return needs(
                name,
                "a text model",
                "Add the recipe of the text model to that of its mmproj file.",
            );
        }
        if self.kv_type.is_some() && !has(Format::Gguf) {
            let help = "Only llama.cpp has a type for the KV cache, and it reads no safetensors.";
            return needs("‹kv_type›", "a GGUF of the text model", help);
        }
        Ok(())
    }

    /// The estimates of all text models of a plan.
    pub(super) fn estimates(
        &self,
        model: &ModelSpec,
        shards: &Shards<'_>,
        plan: &Plan,
    ) -> Result<Vec<ArtifactMemory>> {
        let context = self.context.unwrap_or(model.config.context.clamp(1, CONTEXT));
        let conditions = Conditions::new(&model.config, context, self.kv_type.unwrap_or(DType::F16))?;
        let conditions = Conditions { threads: rayon::current_num_threads() as u64, ..conditions };
        let (mmproj, text): (Vec<_>, Vec<_>) =
            plan.artifacts.iter().partition(|artifact| artifact.format == Format::Mmproj);
        let mut all = Vec::new();
        for artifact in text {
            for towers in self.towers(artifact, &mmproj) {
                let conditions = match towers {
                    TowerSource::None => conditions,
                    TowerSource::Own => self.with_media(conditions, model, None)?,
                    TowerSource::File(file) => self.with_media(conditions, model, Some(file))?,
                };
                let verdict = |limit| footprint::verdict(model, shards, artifact, conditions, limit);
                all.push(ArtifactMemory {
                    recipe: artifact.recipe.clone(),
                    mmproj: match towers {
                        TowerSource::File(file) => Some(file.recipe.clone()),
                        _ => None,
                    },
                    memory: footprint::memory(model, artifact, conditions),
                    verdict: self.memory.map(verdict).transpose()?,
                });
            }
        }
        let counts = |find: fn(&footprint::MediaTokens) -> u64| {
            all.iter().filter_map(|estimate| estimate.memory.media.as_ref()).any(|media| find(media) > 0)
        };
        for (name, is_idle, kind) in [
            ("‹image_budget›", self.image_budget.is_some() && !counts(|media| media.image), "images"),
            (
                "‹audio_seconds›",
                self.audio_seconds.is_some_and(|seconds| seconds > 0) && !counts(|media| media.sound),
                "sounds",
            ),
        ] {
            if is_idle {
                return Err(Error::recipe(name, format!("has no effect: no output reads {kind}"))
                    .help("A GGUF needs its mmproj file (‹mmproj›). 26B-A4B and 31B read images only."));
            }
        }
        Ok(all)
    }

    /// The towers with which an artifact is estimated, each a case of its own.
    fn towers<'p>(&self, artifact: &Artifact, mmproj: &[&'p Artifact]) -> Vec<TowerSource<'p>> {
        let asks = self.image_budget.is_some() || self.audio_seconds.is_some();
        match artifact.format {
            Format::Gguf if !mmproj.is_empty() => {
                mmproj.iter().map(|&file| TowerSource::File(file)).collect()
            }
            Format::Safetensors if asks && footprint::own_towers(artifact) > 0 => vec![TowerSource::Own],
            _ => vec![TowerSource::None],
        }
    }

    fn with_media(
        &self,
        conditions: Conditions,
        model: &ModelSpec,
        mmproj: Option<&Artifact>,
    ) -> Result<Conditions> {
        if let Some(budget) = self.image_budget {
            let rule = ImagePreprocess::Transformers { budget };
            rule.check().map_err(|e| e.within("‹image_budget›"))?;
        }
        let seconds = self.audio_seconds.unwrap_or(SECONDS);
        if seconds > MAX_SECONDS {
            return Err(Error::recipe("‹audio_seconds›", "a longer sound than can be read")
                .expected(format!("at most {MAX_SECONDS} seconds"), seconds));
        }
        let Some(towers) = Towers::from_json(&model.json, &model.config)? else { return Ok(conditions) };
        let budget = self.image_budget.or_else(|| image_budget(model)).unwrap_or(DEFAULT_BUDGET);
        let with = |image, seconds| {
            conditions.with_media(&model.config, Media::new(&towers, mmproj, image, seconds))
        };
        // a model of a shorter context than the defaults need: the towers alone
        let is_default =
            self.context.is_none() && self.image_budget.is_none() && self.audio_seconds.is_none();
        with(budget as u64, seconds).or_else(|e| match is_default {
            true => with(0, 0),
            false => {
                Err(e.help("‹image_budget› 70 and ‹audio_seconds› 0 are the smallest image and no sound."))
            }
        })
    }
}

/// The towers that an estimate counts.
#[derive(Clone, Copy)]
enum TowerSource<'p> {
    None,
    /// Those of the folder.
    Own,
    /// Those of an mmproj file.
    File(&'p Artifact),
}
