//! The artifacts of a job that was done in parts.

use std::path::PathBuf;

use base::Progress;
use convert::{Finished, JoinOptions};
use plan::ArtifactEntry;
use tensor::{Error, Result};

/// Makes the outputs of a conversion from its parts.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let (checkpoint, out) = (testkit::fixtures("checkpoints/e2b"), folder.path().join("out"));
/// use gemma_convert::{Convert, Join, Part, Silent};
///
/// for number in 1..=2 {
///     let mut convert = Convert::new(&checkpoint, &out).recipe("q8_0");
///     convert.part = Some(Part::new(number, 2)?);
///     convert.run(&Silent)?;
/// }
/// let joined = Join::new([out]).run(&Silent)?;
/// assert_eq!(joined.artifacts[0].outputs[0].name, "model-q8_0.gguf");
/// # Ok::<(), gemma_convert::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Join {
    /// The targets of the parts.
    pub folders: Vec<PathBuf>,
    /// The folder of the outputs; by default the first of the folders.
    pub out: Option<PathBuf>,
    /// Replaces existing outputs.
    pub force: bool,
    /// Flushes outputs to disk before they get their final names.
    pub sync: bool,
}

/// The result of [`Join`].
#[derive(Clone, Debug)]
pub struct Joined {
    /// The folder of the outputs.
    pub folder: PathBuf,
    /// The manifest's entry of each artifact.
    pub artifacts: Vec<ArtifactEntry>,
    /// The path of the manifest.
    pub manifest: PathBuf,
}

impl Join {
    /// Outputs go to the first folder; existing ones are not replaced, and outputs are flushed to disk.
    pub fn new(folders: impl IntoIterator<Item = impl Into<PathBuf>>) -> Join {
        let folders = folders.into_iter().map(Into::into).collect();
        Join { folders, out: None, force: false, sync: true }
    }

    /// Makes the outputs. Parts in their folder are used up; those of other folders stay.
    ///
    /// # Errors
    /// `Malformed` for parts that are missing, contradict each other or are damaged; `Target` for existing outputs and
    /// for a part that is still being made; `Io`. After an error, no output has appeared.
    pub fn run(&self, progress: &dyn Progress) -> Result<Joined> {
        let folder = self.out.as_ref().or(self.folders.first());
        let folder = folder.ok_or_else(|| Error::recipe("the folders of the parts", "there are none"))?;
        let options = JoinOptions { folder: folder.clone(), force: self.force, sync: self.sync };
        let Finished { artifacts, manifest, .. } = convert::join(&self.folders, &options, progress)?;
        Ok(Joined { folder: folder.clone(), artifacts, manifest })
    }
}
