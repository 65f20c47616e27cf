//! A checked model: its files, and everything else that a manifest lists.

use std::path::PathBuf;

use gemma::Config;
use gguf::GgufFile;
use tensor::{Result, TensorSource};

use super::check::{self, Senses};
use super::documents::{OllamaConfig, OllamaDraft, UNKNOWN, file_type_name, weights_for_people};
use super::files::{Found, OllamaFile, find};
use super::license::license;
use super::params::OllamaParams;

/// The first version of Ollama that runs every Gemma 4 from separate text and mmproj files.
pub(crate) const REQUIRES: &str = "0.30.5";
/// The first one known to have the draft models of Gemma 4 (ggml-org/llama.cpp#23398): its llama.cpp is b9840.
pub(crate) const REQUIRES_FOR_DRAFTS: &str = "0.31.0";

/// A model that Ollama can run.
#[derive(Debug)]
pub struct OllamaModel {
    /// The text model.
    pub text: OllamaFile,
    /// The image and audio towers.
    pub projector: Option<OllamaFile>,
    /// The draft model for speculative decoding.
    pub draft: Option<OllamaFile>,
    /// The text of the license.
    pub license: Option<String>,
    /// Sampling parameters.
    pub params: OllamaParams,
    /// Notes for the user about the files.
    pub notes: Vec<String>,
    config: Config,
    senses: Option<Senses>,
}

impl OllamaModel {
    /// Finds the files of one model by their keys and checks that Ollama can run them. A folder stands for the GGUF files
    /// in it; of several text models there `tag` chooses the one of this type, and its type chooses among projectors and
    /// draft models.
    ///
    /// # Errors
    /// `Recipe` for more than one file of a kind; `Malformed` for no text model, damaged files and files that do not
    /// belong together; `Unsupported` or `Limit` for files that Ollama cannot run, such as splits.
    pub fn find(paths: &[PathBuf], tag: Option<&str>) -> Result<OllamaModel> {
        let Found { text, projector, draft } = find(paths, tag)?;
        let config = check::text(&text)?;
        let senses = projector.as_ref().map(|file| check::projector(file, &config)).transpose()?;
        if let Some(draft) = &draft {
            check::draft(draft, &text, &config)?;
        }

        let within = |e: tensor::Error| e.within(text.path().display());
        let (params, unknown) = OllamaParams::from_metadata(text.metadata()).map_err(within)?;
        let license = license(text.metadata()).map_err(within)?;
        let mut notes = Vec::new();
        for key in unknown {
            notes.push(format!("{}: key {key}: Ollama has no parameter for it", text.path().display()));
        }
        if license.is_none() {
            notes.push(format!(
                "{}: no key general.license: the model has no license layer",
                text.path().display()
            ));
        }
        let mut model = OllamaModel { text, projector, draft, license, params, notes, config, senses };
        if model.config().file_type == UNKNOWN {
            let path = model.text.path().display();
            model
                .notes
                .push(format!("{path}: key general.file_type: Ollama shows the quantization as unknown"));
        }
        Ok(model)
    }

    /// The files, in the order of their layers.
    pub fn files(&self) -> impl Iterator<Item = &OllamaFile> {
        [Some(&self.text), self.projector.as_ref(), self.draft.as_ref()].into_iter().flatten()
    }

    /// The config of the model.
    pub fn config(&self) -> OllamaConfig {
        let metadata = self.text.metadata();
        let architecture = architecture(&self.text.gguf);
        let weights = self.text.gguf.tensors().iter().map(|desc| desc.elements()).sum();
        // of the wrong type it was refused
        let file_type = metadata.typed("general.file_type").ok().flatten();
        OllamaConfig {
            model_format: "gguf".to_owned(),
            model_family: architecture.clone(),
            model_families: vec![architecture],
            model_type: weights_for_people(weights),
            file_type: file_type_name(file_type).to_owned(),
            renderer: self.renderer().to_owned(),
            parser: "gemma4".to_owned(),
            requires: self.requires().to_owned(),
            draft: self.draft.as_ref().map(|draft| OllamaDraft {
                model_format: "gguf".to_owned(),
                architecture: self::architecture(&draft.gguf),
            }),
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
        }
    }

    /// The abilities that Ollama will show for the model.
    pub fn capabilities(&self) -> Vec<&'static str> {
        let mut capabilities = vec!["completion"];
        if let Some(senses) = self.senses {
            // any projector counts as one for images
            capabilities.push("vision");
            capabilities.extend(senses.sounds.then_some("audio"));
        }
        capabilities.extend(["tools", "thinking"]);
        capabilities
    }

    /// The form of prompts. The larger variants expect an empty thought in an answer without thinking, E2B and E4B do
    /// not; only these two have per-layer embeddings. The plain name `gemma4` is not enough: Ollama then guesses by the
    /// name of the model and its number of weights, wrongly for a 12B without `12b` in its name.
    pub fn renderer(&self) -> &'static str {
        if self.config.ple > 0 { "gemma4-small" } else { "gemma4-large" }
    }

    /// The oldest version of Ollama that runs the model.
    pub fn requires(&self) -> &'static str {
        if self.draft.is_some() { REQUIRES_FOR_DRAFTS } else { REQUIRES }
    }
}

fn architecture(file: &GgufFile) -> String {
    file.metadata().typed::<&str>("general.architecture").ok().flatten().unwrap_or_default().to_owned()
}
