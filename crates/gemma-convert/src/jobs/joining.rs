//! The outputs of a job that was done in parts.

use std::path::{Path, PathBuf};

use base::{JobParts, Progress};
use convert::JoinOptions;
use plan::{ArtifactEntry, Sensitivity};
use tensor::{Error, Result};

use super::calibration::Calibrated;
use super::importance_parts::{self, IMPORTANCE};
use super::sensitivity_measurement::{self, SENSITIVITY};
use super::verification_parts::VERIFICATION;

/// Makes the outputs of a conversion, an importance matrix or sensitivities from parts.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let (checkpoint, out) = (testkit::fixtures("checkpoints/e2b"), folder.path().join("out"));
/// use gemma_convert::{Convert, Join, JoinedOutputs, Part, Silent};
///
/// for number in 1..=2 {
///     let mut convert = Convert::new(&checkpoint, &out).recipe("q8_0");
///     convert.part = Some(Part::new(number, 2)?);
///     convert.run(&Silent)?;
/// }
/// let joined = Join::new([out]).run(&Silent)?;
/// let JoinedOutputs::Conversion { artifacts, .. } = joined.outputs else { panic!("another job") };
/// assert_eq!(artifacts[0].outputs[0].name, "model-q8_0.gguf");
/// # Ok::<(), gemma_convert::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Join {
    /// The targets of the parts: folders, or the names of files in them.
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
    /// The number of parts.
    pub parts: usize,
    /// What the parts made.
    pub outputs: JoinedOutputs,
}

/// The outputs of a job in parts.
#[derive(Clone, Debug)]
pub enum JoinedOutputs {
    /// Of [`Convert`](super::Convert).
    Conversion {
        /// The manifest's entry of each artifact.
        artifacts: Vec<ArtifactEntry>,
        /// The path of the manifest.
        manifest: PathBuf,
    },
    /// Of [`Calibrate`](super::Calibrate), with the path of the file.
    Importance(PathBuf, Calibrated),
    /// Of [`MeasureSensitivity`](super::MeasureSensitivity), with the path of the file.
    Sensitivity(PathBuf, Sensitivity),
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
        let folders: Vec<PathBuf> = self.folders.iter().map(|target| folder_of(target).to_owned()).collect();
        let folder = self.out.as_ref().or(folders.first());
        let folder = folder.ok_or_else(|| Error::recipe("the folders of the parts", "there are none"))?;
        let parts = JobParts::find(&folders)?;
        let outputs = match parts.job.kind.as_str() {
            convert::CONVERSION => {
                let options = JoinOptions { folder: folder.clone(), force: self.force, sync: self.sync };
                let finished = convert::join(&parts, &options, progress)?;
                JoinedOutputs::Conversion { artifacts: finished.artifacts, manifest: finished.manifest }
            }
            IMPORTANCE => {
                let (file, made) = importance_parts::join(&parts, folder, self.force, progress)?;
                JoinedOutputs::Importance(file, made)
            }
            SENSITIVITY => {
                let (file, found) = sensitivity_measurement::join(&parts, folder, self.force)?;
                JoinedOutputs::Sensitivity(file, found)
            }
            VERIFICATION => {
                return Err(Error::unsupported(
                    "parts",
                    "they are of a verification, whose report `verify` makes",
                )
                .help("Run the command of the parts with ‹join›, in place of ‹part› and ‹out›."));
            }
            other => {
                return Err(Error::unsupported("parts", "they are of an unknown kind of job")
                    .expected("those of this version of gemma-convert", other));
            }
        };
        Ok(Joined { folder: folder.clone(), parts: parts.parts.len(), outputs })
    }
}

/// The folder that the parts with this target have written to: they make a folder, or a file with an extension.
fn folder_of(target: &Path) -> &Path {
    let is_file = !target.is_dir() && target.extension().is_some();
    if is_file { base::folder_of(target) } else { target }
}
