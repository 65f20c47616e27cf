//! A verification in parts. Each part measures the errors of some tensors and the predictions of some batches of the text; the process
//! that joins them checks the files, judges all measurements and makes the report.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use base::{Job, JobParts, Part, PartFolder, Progress};
use checkpoint::Checkpoint;
use eval::Token;
use serde::{Deserialize, Serialize};
use tensor::{Error, Result};
use verify::{Report, RowErrors, TensorComparison};

use super::Verify;
use super::against::Against;
use super::model_info::hashed_files;
use super::text_parts::{MadePart, PartFile};
use super::verification_steps::{Verification, run_all};
use crate::TOOL;
use crate::model::ModelFile;

/// The kind of job.
pub(super) const VERIFICATION: &str = "verification";

/// The extension of the file with the measurements of a part.
const MEASURED: &str = "measured";

/// What a verification measures, in CBOR: it keeps every bit of every number.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Measurements {
    /// [`TensorComparison::digest`], if the weights were compared.
    comparison: String,
    errors: Vec<RowErrors>,
    tokens: Vec<Token>,
}

/// Who measures.
#[derive(Default)]
pub(super) enum Measuring {
    /// This process measures all.
    #[default]
    All,
    /// This process measures a part, and judges nothing.
    Part(Part, Measurements),
    /// Other processes have measured all.
    Joined(Measurements),
}

impl Measuring {
    /// What this process measures, unless others have.
    pub(super) fn part(&self) -> Part {
        match self {
            Measuring::Part(part, _) => *part,
            Measuring::All | Measuring::Joined(_) => Part::default(),
        }
    }

    pub(super) fn is_part(&self) -> bool {
        matches!(self, Measuring::Part(..))
    }

    /// Whether other processes take part.
    pub(super) fn is_in_parts(&self) -> bool {
        !matches!(self, Measuring::All)
    }

    /// The errors of all tensors; `None` in a part, which keeps its own.
    pub(super) fn errors(
        &mut self,
        of: &TensorComparison<'_>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Vec<RowErrors>>> {
        match self {
            Measuring::All => of.measure(Part::default(), progress).map(Some),
            Measuring::Part(part, kept) => {
                kept.errors = of.measure(*part, progress)?;
                kept.comparison = of.digest();
                Ok(None)
            }
            Measuring::Joined(kept) if kept.comparison == of.digest() => Ok(Some(std::mem::take(&mut kept.errors))),
            Measuring::Joined(_) => Err(Error::malformed(
                "parts",
                "their tensors were compared with another plan: by another recipe, or with another importance matrix",
            )
            .help("Give all parts the same files and options.")),
        }
    }

    /// The predictions that other processes have made.
    pub(super) fn joined_tokens(&mut self, scored: u64) -> Result<Option<Vec<Token>>> {
        let Measuring::Joined(kept) = self else { return Ok(None) };
        if kept.tokens.len() as u64 == scored {
            return Ok(Some(std::mem::take(&mut kept.tokens)));
        }
        Err(Error::malformed("parts", "the predictions of another text")
            .expected(format!("{scored} scored tokens"), kept.tokens.len()))
    }

    /// The predictions of the whole text; `None` in a part, which keeps its own.
    pub(super) fn tokens(&mut self, tokens: Vec<Token>) -> Option<Vec<Token>> {
        match self {
            Measuring::Part(_, kept) => {
                kept.tokens = tokens;
                None
            }
            Measuring::All | Measuring::Joined(_) => Some(tokens),
        }
    }
}

impl Measurements {
    fn write(&self, folder: &PartFolder) -> Result<PathBuf> {
        let mut bytes = Vec::new();
        let fail = |e| Error::write(folder.file(MEASURED).display(), &std::io::Error::other(e));
        ciborium::into_writer(self, &mut bytes)
            .map_err(|e: ciborium::ser::Error<std::io::Error>| fail(e.to_string()))?;
        let path = folder.write(MEASURED, true, |file| file.write_at(&bytes, 0))?;
        folder.record(&PartFile::of(&path)?, true)
    }

    /// Those of all parts.
    fn read(parts: &JobParts) -> Result<Measurements> {
        let mut all: Option<Measurements> = None;
        for part in &parts.parts {
            let path = part.content::<PartFile>()?.unchanged(part, MEASURED, &|_| ())?;
            let file = File::open(&path).map_err(|e| Error::io(path.display(), &e))?;
            let of_part: Measurements =
                ciborium::from_reader(BufReader::new(file)).map_err(|e| part.damaged(e))?;
            match &mut all {
                None => all = Some(of_part),
                Some(all) if all.comparison != of_part.comparison => {
                    return Err(part.damaged(
                        "its tensors were compared with another plan than those of the parts before it",
                    ));
                }
                Some(all) => {
                    all.errors.extend(of_part.errors);
                    all.tokens.extend(of_part.tokens);
                }
            }
        }
        Ok(all.unwrap_or_default())
    }
}

impl Verify {
    /// Measures one part of the weights and of the text, for [`join`](Self::join). Limits and report belong to the process that joins.
    ///
    /// # Errors
    /// `Recipe` for settings that parts do not have, `Unsupported` for artifacts that are verified by one process; the errors of the
    /// models and the text; `Target`.
    pub fn run_part(&self, part: Part, folder: &Path, progress: &dyn Progress) -> Result<MadePart> {
        self.check_part(part)?;
        let (file, base) = (self.file_for_parts()?, self.open_base()?);
        let parts = PartFolder::create(folder, self.part_job(&file, base.as_ref())?, part)?;
        let mut verification = Verification::new(self.clone(), file, base.as_ref());
        verification.measuring = Measuring::Part(part, Measurements::default());
        run_all(self, &mut [&mut verification], base.as_ref(), None, progress)?;
        let record = verification.measured()?.write(&parts)?;
        Ok(MadePart { part, folder: folder.to_owned(), record })
    }

    /// The report of a verification whose measurements are in the folders of its parts, which stay.
    ///
    /// # Errors
    /// Those of [`run`](Self::run); `Malformed` for parts that are missing, damaged, or of another verification.
    pub fn join(&self, folders: &[PathBuf], progress: &dyn Progress) -> Result<Report> {
        self.begin()?;
        let parts = JobParts::find(folders)?;
        let (file, base) = (self.file_for_parts()?, self.open_base()?);
        parts.check_job(&self.part_job(&file, base.as_ref())?)?;
        let measured = Measurements::read(&parts)?;
        let mut verification = Verification::new(self.clone(), file, base.as_ref());
        verification.measuring = Measuring::Joined(measured);
        run_all(self, &mut [&mut verification], base.as_ref(), None, progress)?;
        verification.finish()
    }

    fn check_part(&self, part: Part) -> Result<()> {
        let limits = self.thresholds;
        let of_report = [limits.max_kld, limits.max_ppl_ratio, limits.min_top1].iter().any(Option::is_some);
        let later = [(of_report, "limits"), (self.require_manifest, "‹require_manifest›")];
        if let Some((_, option)) = later.iter().find(|(given, _)| *given) {
            return Err(Error::recipe(format!("‹part› {part}"), format!("a part checks no {option}"))
                .help("Give it to the command that joins the parts."));
        }
        Ok(())
    }

    /// The artifact, if it can be verified in parts.
    fn file_for_parts(&self) -> Result<ModelFile> {
        let whole = |what: &str| {
            Error::unsupported(self.artifact.display(), format!("{what} is verified by one process"))
                .help("Leave ‹part› and ‹join› out.")
        };
        let without = [
            (self.save_logits.is_some(), "‹save_logits›"),
            (!self.media.is_empty(), "‹image›, ‹audio›"),
            (self.mmproj.is_some(), "‹mmproj›"),
        ];
        if let Some((_, option)) = without.iter().find(|(given, _)| *given) {
            return Err(Error::recipe(*option, "has no effect on a verification in parts"));
        }
        if litert::Bundle::is_one(&self.artifact) {
            return Err(whole("a bundle of LiteRT-LM"));
        }
        match ModelFile::open(&self.artifact)?.with_simd(self.compute.simd) {
            ModelFile::Gguf(set) if gemma::is_adapter(set.metadata()) => Err(whole("an adapter")),
            file if file.is_mmproj() => Err(whole("an mmproj file")),
            file => Ok(file),
        }
    }

    /// All that the measurements depend on.
    fn part_job(&self, file: &ModelFile, base: Option<&Against>) -> Result<Job> {
        let fingerprint = match file {
            ModelFile::Folder(folder) => folder.fingerprint()?,
            ModelFile::Gguf(_) => Checkpoint::open_gguf(&self.artifact)?.fingerprint()?,
        };
        let base = match base {
            None => String::new(),
            Some(Against::Model(model)) => base::hex(&model.fingerprint()?),
            Some(Against::Mmproj(_) | Against::Logits(_)) => {
                return Err(Error::unsupported("‹against›", "parts are compared with a model")
                    .expected("a checkpoint, or a GGUF of a text model", "another file"));
            }
        };
        let digests = |paths: &[PathBuf]| -> Result<String> {
            let files = hashed_files(paths.iter().map(PathBuf::as_path))?;
            Ok(files.into_iter().map(|file| file.sha256).collect::<Vec<_>>().join(", "))
        };
        let (context, chunks, scored) = (self.context, &self.chunks, self.scored);
        let importance: Vec<PathBuf> = self.importance.iter().cloned().collect();
        let inputs = [
            ("artifact", base::hex(&fingerprint)),
            ("base", base),
            ("importance matrix", digests(&importance)?),
            ("kernel", self.compute.kernel.name().to_owned()),
            ("options of the text", format!("{context}, {chunks:?}, {scored:?}")),
            ("recipe", self.recipe.clone().unwrap_or_default()),
            ("steps", format!("weights: {}, keep going: {}", self.weights, self.keep_going)),
            ("text", digests(&self.texts)?),
            ("tool", TOOL.to_owned()),
        ];
        Ok(Job::new(VERIFICATION, vec![base::file_name(&self.artifact)], inputs))
    }
}
