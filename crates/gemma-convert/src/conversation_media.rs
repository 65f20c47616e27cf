//! Soft tokens of the images and sounds that conversations name, for an artifact and its base.

use std::path::Path;

use eval::SoftTokens;
use runtime::{Compute, Matrix};
use tensor::{Error, Result};
use text::MediaFile;

use crate::model::{Container, Model};
use crate::towers::{MediaOptions, OpenedMedia, TowerFile};

/// Encodes each file with the towers of the artifact, and with those of the base. Both prepare files in the same way, that of the artifact,
/// so that they have the same number of soft tokens and differ only by their weights.
pub(crate) struct ConversationMedia<'m> {
    artifact: &'m Model,
    base: Option<&'m Model>,
    mmproj: Option<&'m Path>,
    compute: Compute,
    /// The most bytes of soft tokens.
    memory: u64,
    /// The towers of the artifact and of the base, opened for the first file.
    towers: Option<(TowerFile<'m>, Option<TowerFile<'m>>)>,
    of_artifact: Vec<Matrix>,
    /// Empty for a base without towers: it reads the artifact's.
    of_base: Vec<Matrix>,
}

impl<'m> ConversationMedia<'m> {
    /// Nothing is opened before the first file. `memory` limits the soft tokens of all files, in bytes.
    pub(crate) fn new(
        (artifact, base): (&'m Model, Option<&'m Model>),
        mmproj: Option<&'m Path>,
        compute: Compute,
        memory: u64,
    ) -> ConversationMedia<'m> {
        let (of_artifact, of_base) = (Vec::new(), Vec::new());
        ConversationMedia { artifact, base, mmproj, compute, memory, towers: None, of_artifact, of_base }
    }

    /// Encodes a file, and returns its number of soft tokens.
    ///
    /// # Errors
    /// Those of [`TowerFile::open`] and of the file; `Limit` for more soft tokens than fit in memory.
    pub(crate) fn encode(&mut self, file: &MediaFile) -> Result<usize> {
        let (artifact, base) = match &mut self.towers {
            Some(towers) => towers,
            towers => towers.insert(open(self.artifact, self.base, self.mmproj, self.compute)?),
        };
        let opened = OpenedMedia::open(file)?;
        let within = |e: Error| e.within(file.path().display());
        let soft_tokens = artifact.soft_tokens(&opened).map_err(within)?;
        let count = soft_tokens.nrows();
        self.of_artifact.push(soft_tokens);
        if let Some(base) = base {
            let soft_tokens = base.soft_tokens(&opened).map_err(within)?;
            if soft_tokens.nrows() != count {
                return Err(Error::malformed(
                    file.path().display(),
                    "the two models make other numbers of soft tokens of it",
                )
                .expected(soft_tokens.nrows(), count));
            }
            self.of_base.push(soft_tokens);
        }
        let values: usize = self.of_artifact.iter().chain(&self.of_base).map(Matrix::len).sum();
        let bytes = 4 * values as u64;
        if bytes > self.memory {
            return Err(Error::limit("‹text_memory›", "the soft tokens of images and sounds take more")
                .expected(format!("at most {} bytes", self.memory), bytes)
                .help("Verify fewer conversations at a time with ‹chunks›, or allow more."));
        }
        Ok(count)
    }

    /// The soft tokens of all files.
    pub(crate) fn soft_tokens(&self) -> SoftTokens<'_> {
        let has_own = !self.of_base.is_empty();
        SoftTokens {
            artifact: &self.of_artifact,
            base: if has_own { &self.of_base } else { &self.of_artifact },
        }
    }

    /// Whether a file was read.
    pub(crate) fn is_used(&self) -> bool {
        self.towers.is_some()
    }

    /// Remarks about the towers, if a file was read: how files were prepared, and a doubt whether the mmproj file belongs to `model`.
    pub(crate) fn remarks(&self, model: &Model) -> Result<Option<(String, Option<String>)>> {
        let Some((artifact, base)) = &self.towers else { return Ok(None) };
        let whose = if base.is_some() || self.base.is_none() {
            ""
        } else {
            "; the base reads the artifact's soft tokens"
        };
        let way = format!("images and sounds are prepared and encoded as in {}{whose}", artifact.way());
        Ok(Some((way, artifact.doubt(model)?)))
    }
}

fn open<'m>(
    artifact: &'m Model,
    base: Option<&'m Model>,
    mmproj: Option<&Path>,
    compute: Compute,
) -> Result<(TowerFile<'m>, Option<TowerFile<'m>>)> {
    let options = MediaOptions { mmproj: mmproj.map(Path::to_owned), ..MediaOptions::default() };
    let towers = TowerFile::open(artifact, &options, compute)?;
    let of_base = match base {
        Some(base) if matches!(base.container, Container::Checkpoint(..)) => {
            Some(TowerFile::open(base, &MediaOptions::default(), compute)?.prepared_as(&towers))
        }
        _ => None,
    };
    Ok((towers, of_base))
}
