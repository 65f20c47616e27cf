//! Jobs of the library, from arguments.

use std::path::{Path, PathBuf};

use gemma_convert::{
    BudgetOptions, Calibrate, Compute, Convert, DraftConvert, DraftExtract, DraftMeasure, Error,
    EstimateOptions, Generate, ImagePreprocess, Kernel, MeasureSensitivity, MediaFile, MediaOptions,
    Planning, Prompt, RecipeOptions, Result, Sampling, Scored, Simd, TextOptions, Thresholds, Verify,
    VerifySet, byte_size,
};

use super::Score;

impl super::What {
    fn options(&self) -> RecipeOptions {
        RecipeOptions {
            recipes: self.recipes.clone(),
            presets: self.types.clone(),
            mmproj: self.mmproj.clone(),
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
    pub(super) fn options(&self) -> Result<TextOptions> {
        Ok(TextOptions {
            files: self.text.clone(),
            chunks: self.chunks.clone(),
            memory: memory("--text-memory", &self.text_memory)?,
        })
    }
}

impl super::Plan {
    pub(crate) fn job(&self) -> Result<Planning> {
        Ok(Planning {
            model: self.model.clone(),
            adapters: self.lora.adapters(),
            recipes: self.what.options(),
            out: out(&self.out)?,
            parts: self.parts,
            headers_only: self.headers_only,
            estimate: EstimateOptions {
                context: self.context,
                kv_type: self.kv_type.as_deref().map(str::parse).transpose()?,
                memory: self.memory.as_deref().map(|text| memory("--memory", text)).transpose()?,
                image_budget: self.image_budget,
                audio_seconds: self.audio_seconds,
            },
        })
    }
}

impl super::Convert {
    pub(crate) fn job(&self) -> Result<Convert> {
        if self.bundle.bundle.is_some() {
            return Err(Error::recipe("‹bundle›", "only `convert` puts weights into a bundle"));
        }
        Ok(Convert {
            model: self.model.clone(),
            adapters: self.lora.adapters(),
            source: self.source.clone(),
            out: out(&self.out)?,
            recipes: self.what.options(),
            text: self.text.options()?,
            part: self.part.part()?,
            force: self.force,
            skip_existing: self.skip_existing,
            sync: !self.no_sync,
            hash_input: self.hash_input.parse()?,
            compute: self.arithmetic.compute()?,
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
        Ok(DraftExtract { layers: self.layers.clone(), context: self.context, convert: self.convert.job()? })
    }
}

impl super::DraftMeasure {
    pub(crate) fn job(&self) -> Result<DraftMeasure> {
        Ok(DraftMeasure {
            draft: self.draft.clone(),
            target: self.target.clone(),
            adapters: self.lora.adapters(),
            text: self.text.clone(),
            context: self.context,
            chunks: self.chunks.clone(),
            compute: self.arithmetic.compute()?,
        })
    }
}

impl super::Calibrate {
    pub(crate) fn job(&self) -> Result<Calibrate> {
        Ok(Calibrate {
            model: self.model.clone(),
            adapters: self.lora.adapters(),
            text: self.text.options()?,
            context: self.context,
            merge: self.merge.clone(),
            out: self.out.clone(),
            force: self.force,
            compute: self.arithmetic.compute()?,
        })
    }
}

impl super::Sensitivity {
    pub(crate) fn job(&self) -> Result<MeasureSensitivity> {
        Ok(MeasureSensitivity {
            model: self.model.clone(),
            adapters: self.lora.adapters(),
            text: self.text.options()?,
            context: self.context,
            out: self.out.clone(),
            force: self.force,
            compute: self.arithmetic.compute()?,
        })
    }
}

impl super::Generate {
    /// The job. `recommended` are the sampling settings of the model.
    pub(crate) fn job(&self, prompt: Prompt, recommended: Option<Sampling>) -> Result<Generate> {
        Ok(Generate {
            model: self.model.clone(),
            adapters: self.lora.adapters(),
            prompt,
            media: self.media.options()?,
            max_tokens: self.max_tokens,
            context: self.context,
            sampling: self.sampling(recommended),
            stop: self.stop.clone(),
            draft: self.drafting.draft.clone(),
            draft_tokens: self.drafting.draft_tokens,
            compute: self.arithmetic.compute()?,
        })
    }

    /// Greedy decoding, unless an option asks for sampling.
    fn sampling(&self, recommended: Option<Sampling>) -> Sampling {
        let Self { sample, temperature, top_k, top_p, min_p, seed, .. } = self;
        let is_asked = *sample || top_k.is_some() || top_p.is_some() || min_p.is_some() || seed.is_some();
        let greedy = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
        let base = match (sample, recommended) {
            (true, Some(recommended)) => recommended,
            _ if is_asked => Sampling { temperature: 1.0, ..greedy },
            _ => greedy,
        };
        let temperature = temperature.unwrap_or(base.temperature);
        Sampling {
            temperature,
            top_k: top_k.unwrap_or(base.top_k),
            top_p: top_p.unwrap_or(base.top_p),
            min_p: min_p.unwrap_or(base.min_p),
            seed: seed.unwrap_or_else(|| if temperature > 0.0 { random_seed() } else { 0 }),
        }
    }
}

/// The files of a prompt or a comparison, images first.
pub(super) fn images_and_sounds(images: &[PathBuf], sounds: &[PathBuf]) -> impl Iterator<Item = MediaFile> {
    let images = images.iter().cloned().map(MediaFile::Image);
    images.chain(sounds.iter().cloned().map(MediaFile::Sound))
}

impl super::Media {
    fn options(&self) -> Result<MediaOptions> {
        let videos = self.video.iter().cloned().map(MediaFile::Video);
        let files = images_and_sounds(&self.image, &self.audio).chain(videos).collect();
        Ok(MediaOptions { files, mmproj: self.mmproj.clone(), image_preprocess: self.image_preprocess()? })
    }

    /// The rule that the options name or imply.
    fn image_preprocess(&self) -> Result<Option<ImagePreprocess>> {
        let named = self.image_preprocess.as_deref().map(str::parse).transpose()?;
        let (budget, min, max) = (self.image_budget, self.image_min_tokens, self.image_max_tokens);
        let has_limits = min.is_some() || max.is_some();
        let implied = match (budget, has_limits) {
            (None, false) => return Ok(named),
            (Some(_), _) => ImagePreprocess::TRANSFORMERS,
            (None, true) => ImagePreprocess::LLAMA_CPP,
        };
        match named.unwrap_or(implied) {
            ImagePreprocess::Transformers { budget: default } if !has_limits => {
                Ok(Some(ImagePreprocess::Transformers { budget: budget.unwrap_or(default) }))
            }
            ImagePreprocess::LlamaCpp { min_tokens, max_tokens } if budget.is_none() => {
                let (min_tokens, max_tokens) = (min.unwrap_or(min_tokens), max.unwrap_or(max_tokens));
                Ok(Some(ImagePreprocess::LlamaCpp { min_tokens, max_tokens }))
            }
            named => {
                let limits = "--image-min-tokens, --image-max-tokens";
                let option = if has_limits { limits } else { "--image-budget" };
                Err(Error::recipe(option, format!("has no effect with --image-preprocess {}", named.name())))
            }
        }
    }
}

/// A random seed, short enough to type.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() & u64::from(u32::MAX)
}

impl super::Verify {
    /// The job of several artifacts; `None` for one.
    pub(crate) fn set_job(&self) -> Result<Option<VerifySet>> {
        let (artifacts, assistant) = (self.artifacts.clone(), self.assistant.clone());
        if VerifySet::is_set(&artifacts) {
            return Ok(Some(VerifySet { artifacts, options: self.job()?, assistant }));
        }
        match assistant {
            None => Ok(None),
            Some(_) => Err(Error::recipe("--assistant", "has no effect with one artifact")
                .help("Give the checkpoint of a draft model with --against.")),
        }
    }

    /// The job of the first artifact.
    pub(crate) fn job(&self) -> Result<Verify> {
        Ok(Verify {
            artifact: self.artifacts.first().cloned().unwrap_or_default(),
            base: self.against.clone(),
            adapters: self.lora.adapters(),
            texts: self.text.clone(),
            context: self.context,
            chunks: self.chunks.clone(),
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
                max_feature_error: self.max_feature_error,
            },
            media: images_and_sounds(&self.image, &self.audio).collect(),
            mmproj: self.mmproj.clone(),
            keep_going: self.keep_going,
            require_manifest: self.require_manifest,
            weights: !self.no_tensors,
            text_memory: memory("--text-memory", &self.text_memory)?,
            save_logits: self.save_logits.clone(),
            force: self.reports.force,
            compute: self.arithmetic.compute()?,
        })
    }
}

/// A size of memory in bytes. A small number without a unit, such as `--memory 2`, is refused as a mistake.
pub(super) fn memory(option: &str, text: &str) -> Result<u64> {
    let bytes = byte_size(option, text)?;
    if bytes < 1 << 10 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(
            Error::recipe(option, "a size in bytes without a unit").expected("a unit, such as 2GiB", text)
        );
    }
    Ok(bytes)
}

/// The folder or file of the outputs.
pub(super) fn out(path: &Path) -> Result<PathBuf> {
    /// Extensions of files that no recipe makes.
    const OTHERS: [&str; 9] = ["bin", "safetensors", "pt", "pth", "ggml", "onnx", "zip", "json", "sbs"];
    let refused =
        |problem: &str, help: &str| Err(Error::recipe(format!("-o {}", path.display()), problem).help(help));
    if path.as_os_str() == "-" {
        return refused("outputs do not go to stdout", "Give a folder, or the name of a .gguf file.");
    }
    if path.exists() && !path.is_dir() && !path.is_file() {
        return refused("a device or a pipe, not a folder", "Give a folder, or the name of a .gguf file.");
    }
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if OTHERS.contains(&extension) && !path.is_dir() {
        return refused(
            "the name of a file that no recipe makes",
            "Give a folder, or the name of a .gguf file. An existing folder may have any name.",
        );
    }
    Ok(path.to_owned())
}

impl super::Arithmetic {
    /// The fastest arithmetic of this machine, with the vector instructions that were asked for.
    pub(crate) fn compute(&self) -> Result<Compute> {
        let fastest = Compute::detect();
        let simd = |name| available("--simd", "level", name, &Simd::available(), Simd::name);
        let kernel = |name| available("--kernel", "kernel", name, &Kernel::available(), Kernel::name);
        Ok(Compute {
            simd: self.simd.as_deref().map_or(Ok(fastest.simd), simd)?,
            kernel: self.kernel.as_deref().map_or(Ok(fastest.kernel), kernel)?,
        })
    }
}

/// The one of this name among those that the processor has.
fn available<T: Copy>(
    option: &str,
    what: &str,
    name: &str,
    all: &[T],
    title: impl Fn(T) -> &'static str,
) -> Result<T> {
    all.iter().copied().find(|one| title(*one).eq_ignore_ascii_case(name)).ok_or_else(|| {
        let known: Vec<_> = all.iter().map(|one| title(*one)).collect();
        Error::recipe(format!("{option} {name}"), format!("no such {what} on this processor"))
            .expected(known.join(", "), name)
    })
}
