//! What the user gave to a release, checked before hours of work and not after them.

use std::path::Path;

use checkpoint::Checkpoint;
use gemma::ModelSpec;
use plan::ReleaseRecipe;
use tensor::{Error, Result};
use text::{Corpus, Cut, Scored, Tokenizer};

use super::Release;
use crate::jobs::drafts;
use crate::model::reader;
use crate::towers::check_media;

impl Release {
    /// Checks the text to verify on, the images and sounds, and the assistant.
    ///
    /// # Errors
    /// Those of the files; `Recipe` for files that nothing reads.
    pub(super) fn check_inputs(
        &self,
        (checkpoint, model): (&Checkpoint, &ModelSpec),
        recipe: &ReleaseRecipe,
        assistant: Option<&Path>,
    ) -> Result<()> {
        if !self.media.is_empty() && recipe.mmproj.is_empty() {
            return Err(Error::recipe("‹image›, ‹audio›", "have no effect: the release has no mmproj file"));
        }
        check_media(&self.media)?;
        self.check_evaluation(checkpoint, model)?;
        if let Some(assistant) = assistant {
            let requests = self.draft_requests(recipe)?;
            drafts::planned(self.compute.simd, (assistant, &[]), (&self.model, &self.adapters), &requests)?;
        }
        Ok(())
    }

    /// Reads the text to verify on, as the verification does.
    fn check_evaluation(&self, checkpoint: &Checkpoint, model: &ModelSpec) -> Result<()> {
        let text = &self.evaluation;
        if text.files.is_empty() {
            return Ok(());
        }
        let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
        let cut = Cut {
            context: self.context,
            most: text.chunks.as_ref().map(|chunks| chunks.0.end),
            scored: Scored::default(),
        };
        let mut names_media = false;
        let mut count = |_: &text::MediaFile| {
            names_media = true;
            Ok(1)
        };
        let mut corpus = Corpus::read_with_media(&text.files, &reader(&tokenizer, model), &cut, &mut count)?;
        corpus.skip(text.chunks.as_ref().map_or(0, |chunks| chunks.0.start))?;
        if names_media {
            return Err(Error::recipe("‹eval›", "conversations with images or sounds, which a release does not verify on")
                .help("Verify them afterwards: `verify` with ‹text› and ‹mmproj›. For the towers alone give ‹image› and ‹audio›."));
        }
        Ok(())
    }
}

/// Checks the repository where a release will be.
///
/// # Errors
/// `Recipe` for anything but `owner/name`.
pub(super) fn check_repository(repository: &str) -> Result<()> {
    if base::is_repository_id(repository) {
        return Ok(());
    }
    Err(Error::recipe("‹repository›", "not a repository of the hub")
        .expected("owner/name, of letters, digits, '-', '_' and '.'", format!("{repository:?}")))
}
