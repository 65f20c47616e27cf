//! The documents of a release: model card, checksums, `.gitattributes`.

use std::io::Write;
use std::path::{Path, PathBuf};

use base::write_whole;
use gemma::ModelSpec;
use gemma::towers::Towers;
use pack::card::{Card, CardFile, CardModel, CardQuality, CardText};
use pack::hub_files::HubRole;
use plan::FileEntry;
use tensor::{Error, Result};
use verify::{Report, SetReport};

use super::files::ReleaseFile;
use super::{DEFAULT_CONTEXT, DEFAULT_RECIPE, Release, Released};
use crate::TOOL;
use crate::options::Chunks;

const CARD: &str = "README.md";
const CHECKSUMS: &str = "SHA256SUMS";
/// For users of git; the hub adds it to what is uploaded otherwise.
const ATTRIBUTES: (&str, &str) = (".gitattributes", "*.gguf filter=lfs diff=lfs merge=lfs -text\n");

/// The documents in a folder.
pub(super) struct Documents<'a> {
    folder: &'a Path,
}

impl<'a> Documents<'a> {
    /// Checks before long work that no file of somebody else is in their places.
    ///
    /// # Errors
    /// `Target` for an existing document, unless it may be replaced.
    pub(super) fn new(folder: &'a Path, may_replace: bool) -> Result<Documents<'a>> {
        for name in [CARD, CHECKSUMS] {
            let path = folder.join(name);
            if !may_replace && path.exists() {
                return Err(Error::exists(path.display(), "the folder has one already")
                    .help("Give an empty folder, or use ‹force› to replace it."));
            }
        }
        Ok(Documents { folder })
    }

    /// The model card. Every figure is of a manifest, a plan or the verification.
    pub(super) fn card(
        &self,
        job: &Release,
        (name, model): (&str, &ModelSpec),
        (files, importance): (&[ReleaseFile], Option<&FileEntry>),
        released: &Released,
    ) -> Result<Card> {
        let entries = || released.converted.iter().flat_map(|made| &made.artifacts);
        let mut listed = Vec::new();
        for file in files {
            let outputs: Vec<FileEntry> = match file.role {
                HubRole::Importance => {
                    let named = |entry: &FileEntry| FileEntry {
                        name: base::file_name(Path::new(&entry.name)),
                        ..entry.clone()
                    };
                    importance.map(named).into_iter().collect()
                }
                _ => entries()
                    .flat_map(|entry| &entry.outputs)
                    .filter(|out| file.has(&out.name))
                    .cloned()
                    .collect(),
            };
            let Some(first) = outputs.first() else { continue };
            let report = report_of(&released.report, &first.name);
            listed.push(CardFile {
                path: first.name.clone(),
                role: file.role,
                label: file.label.clone(),
                recipe: file.recipe.clone(),
                bytes: outputs.iter().map(|out| out.bytes).sum(),
                parts: outputs.len(),
                bits_per_weight: report
                    .filter(|_| file.role == HubRole::Model)
                    .map(|report| report.artifact.bits_per_weight()),
                quality: report.and_then(quality),
                memory: file.memory.clone(),
            });
        }
        let card = &model.card;
        let details = card.license_name().zip(card.license_link());
        let evaluated = released.report.reports.iter().find_map(|report| report.text.as_ref());
        let calibrated = entries().find_map(|entry| entry.calibration.as_ref());
        Ok(Card {
            model: CardModel {
                name: name.to_owned(),
                base_model: job.source.as_ref().map(|source| source.repository.clone()),
                commit: job.source.as_ref().map(|source| source.commit.clone()),
                license: card.license(),
                license_details: details,
                languages: card.languages(),
                quantized_by: job.quantized_by.clone(),
                reads_sounds: Towers::from_json(&model.json, &model.config)?
                    .is_some_and(|towers| towers.reads_sounds()),
                image_is_one_batch: model.config.image_is_one_batch(),
            },
            repository: job.repository.clone().unwrap_or_else(|| format!("OWNER/{name}-GGUF")),
            files: listed,
            evaluation: evaluated
                .map(|text| {
                    let files = text.files.iter().map(|file| convert::file_entry(Path::new(file)));
                    let files = files.collect::<Result<Vec<_>>>()?;
                    Ok(CardText { files: plain(&files), tokens: text.tokens })
                })
                .transpose()?,
            calibration: calibrated
                .map(|entry| CardText { files: plain(&entry.texts), tokens: entry.tokens }),
            tool: format!("{TOOL} ({})", released.report.compute),
            command: command(job),
        })
    }

    /// Writes the documents: checksums last, since they say that everything else is complete.
    pub(super) fn write(
        &self,
        card: &Card,
        (files, importance): (&[ReleaseFile], Option<&FileEntry>),
        released: &mut Released,
    ) -> Result<()> {
        let text = card.markdown();
        self.put(CARD, text.as_bytes())?;
        self.put(ATTRIBUTES.0, ATTRIBUTES.1.as_bytes())?;
        let mut sums = vec![(CARD.to_owned(), sha256(text.as_bytes()))];
        let outputs =
            released.converted.iter().flat_map(|made| &made.artifacts).flat_map(|entry| &entry.outputs);
        let ours = outputs.filter(|out| files.iter().any(|file| file.has(&out.name)));
        sums.extend(ours.map(|out| (out.name.clone(), out.sha256.clone())));
        sums.extend(importance.map(|entry| (base::file_name(Path::new(&entry.name)), entry.sha256.clone())));
        let sums = sums.iter().map(|(name, sha256)| (name.as_str(), sha256.as_str()));
        released.checksums = Some(self.put(CHECKSUMS, pack::checksums::sha256sums(sums).as_bytes())?);
        released.card = Some(self.folder.join(CARD));
        Ok(())
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        write_whole(&path, |file| file.write_all(content))?;
        Ok(path)
    }
}

fn sha256(content: &[u8]) -> String {
    base::sha256(content, &|_| ()).map(|(_, sha256)| sha256).expect("reading memory does not fail")
}

/// Names without folders: a card names no path of the machine that made it.
fn plain(files: &[FileEntry]) -> Vec<(String, String)> {
    files.iter().map(|file| (base::file_name(Path::new(&file.name)), file.sha256.clone())).collect()
}

/// The report of a file.
fn report_of<'r>(set: &'r SetReport, name: &str) -> Option<&'r Report> {
    set.reports.iter().find(|report| base::file_name(Path::new(&report.artifact.path)) == name)
}

fn quality(report: &Report) -> Option<CardQuality> {
    let interval = report.intervals.get("kld.mean").copied();
    Some(CardQuality {
        kld: report.kld.as_ref()?.mean,
        kld_interval: interval,
        top1: report.top1,
        ppl_ratio: report.perplexity.as_ref().and_then(|perplexity| perplexity.ratio),
    })
}

/// The command that makes the release again, with the model's place on the hub.
fn command(job: &Release) -> String {
    let model = match &job.source {
        Some(source) => format!("{}@{}", source.repository, source.commit),
        None => base::file_name(&job.model),
    };
    let mut words = vec!["gemma-convert release".to_owned(), model, "-o OUT/".to_owned()];
    let mut option = |name: &str, value: String| words.push(format!("{name} {value}"));
    if job.recipe != DEFAULT_RECIPE {
        let recipe = Path::new(&job.recipe);
        option("--recipe", if recipe.is_file() { base::file_name(recipe) } else { job.recipe.clone() });
    }
    job.name.iter().for_each(|name| option("--name", name.clone()));
    let assistant =
        job.assistant_source.as_ref().map(|source| format!("{}@{}", source.repository, source.commit));
    assistant.into_iter().for_each(|assistant| option("--assistant", assistant));
    for (text, (file, chunks)) in
        [(&job.text, ("--text", "--chunks")), (&job.evaluation, ("--eval", "--eval-chunks"))]
    {
        text.files.iter().for_each(|path| option(file, base::file_name(path)));
        text.chunks
            .iter()
            .for_each(|Chunks(range)| option(chunks, format!("{}..{}", range.start, range.end)));
    }
    if job.context != DEFAULT_CONTEXT {
        option("-c", job.context.to_string());
    }
    words.join(" ")
}
