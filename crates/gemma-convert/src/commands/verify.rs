//! `verify`: an artifact against its checkpoint, step by step, and the report in its forms.

mod alone;

use std::path::{Path, PathBuf};
use std::time::Instant;

use ::eval::{Base, EvalOptions, EvaluatedText, LogitsFile, LogitsWriter, ModelInfo};
use ::gemma::{Config, Inventory};
use ::plan::{Format, Recipe, Thresholds, byte_size};
use ::runtime::Model;
use ::text::{Corpus, Cut, Scored};
use ::verify::{
    Artifact, Expected, Finding, Outcome, Provenance, Report, SCHEMA, Severity, Skipped, Step, Structure,
    Threshold,
};
use base::{Kind, OutputFile};
use tensor::{Error, Result};

use crate::args;
use crate::commands::opened::{Container, Given, Opened};
use crate::commands::recipe_text;
use crate::outcome::Output;
use crate::progress::Bar;
use crate::reports::Reports;

pub(crate) fn run(args: &args::Verify) -> Result<Output> {
    let asked =
        Thresholds { max_kld: args.max_kld, max_ppl_ratio: args.max_ppl_ratio, min_top1: args.min_top1 };
    asked.check()?;
    let memory = byte_size("--text-memory", &args.text_memory)?;
    let files = Reports::open(&args.reports, &[args.save_logits.as_ref()])?;
    let replacing = |path: &PathBuf| OutputFile::replacing(path, Kind::Logits, args.reports.force);
    let logits = args.save_logits.as_ref().map(replacing).transpose()?;

    let artifact = Given::open(&args.artifact)?;
    let against = args.against.as_deref().map(Against::open).transpose()?;
    let mut report = Report {
        schema: SCHEMA,
        tool: concat!("gemma-convert ", env!("CARGO_PKG_VERSION")).to_owned(),
        artifact: artifact_info(&args.artifact, artifact.artifact()),
        base: match (&against, &args.against) {
            (Some(Against::Model(base)), Some(path)) => Some(base_info(path, base)),
            _ => None,
        },
        ..Report::default()
    };
    if let Given::Folder(folder) = &artifact {
        report.findings.extend(::verify::form(folder));
    }
    if let (Some(Against::Model(base)), Some(path)) = (&against, &args.against) {
        let note = |note: &String| Finding::new(Severity::Note, Step::Structure, path.display(), note);
        report.findings.extend(base.notes().iter().map(note));
    }
    let of_recipe = structure(args, artifact.artifact(), against.as_ref(), &mut report)?;
    if args.text.is_empty() && !matches!(against, Some(Against::Logits(_))) {
        skip(&mut report, Step::Text, "no --text was given");
    } else if failed(&report) && !args.keep_going {
        skip(&mut report, Step::Text, AFTER_FAILURE);
    } else if ::verify::is_draft(artifact.artifact()) {
        skip(&mut report, Step::Text, "a draft model says nothing without its target (draft measure)");
    } else {
        let artifact = artifact.opened()?;
        timed(&mut report, "text", |report| text(args, memory, &artifact, against.as_ref(), logits, report))?;
    }
    check(asked, of_recipe, &mut report);
    report.passed = !failed(&report);
    report.compared = against.is_some();
    report.outcome = match (report.passed, report.compared) {
        (false, _) => Outcome::Failed,
        (true, false) => Outcome::CheckedAlone,
        (true, true) => Outcome::Passed,
    };

    let json = serde_json::to_value(&report).unwrap_or_default();
    let unwritten = files.write(&json, || report::html(&report), || report::markdown(&report));
    Ok(Output { text: report::text(&report), json, passed: report.passed, unwritten })
}

/// What the artifact is held against.
enum Against {
    Model(Box<Opened>),
    Logits(LogitsFile),
}

impl Against {
    fn open(path: &Path) -> Result<Against> {
        if LogitsFile::is_one(path) {
            return LogitsFile::open(path).map(Against::Logits);
        }
        Ok(Against::Model(Box::new(Given::open(path)?.opened_any()?)))
    }
}

const GGUF_BASE: &str = "a folder is held against the checkpoint that it is of, not a GGUF";
const AFTER_FAILURE: &str = "an earlier step has failed; --keep-going runs it nevertheless";

/// Keys, tensors and weights. Returns the limits that the artifact's recipe sets.
fn structure(
    args: &args::Verify,
    artifact: Artifact<'_>,
    against: Option<&Against>,
    report: &mut Report,
) -> Result<Thresholds> {
    let from = &provenance(args, artifact, report)?;
    let recipe = &from.recipe;
    let base = match against {
        Some(Against::Model(base)) => base,
        // of the base there are logits at most
        Some(Against::Logits(_)) | None => {
            alone::alone(args, artifact, report)?;
            return Ok(recipe.verify);
        }
    };
    let expected = match (&base.container, artifact) {
        (Container::Checkpoint(checkpoint, model), _) => Expected::of_checkpoint(checkpoint, model, from)?,
        (Container::Gguf(set, _), Artifact::Gguf(_)) => Expected::of_gguf(set)?,
        (Container::Gguf(..), Artifact::Folder(_)) => {
            skip(report, Step::Structure, GGUF_BASE);
            skip(report, Step::Tensors, GGUF_BASE);
            return Ok(recipe.verify);
        }
    };
    timed(report, "structure", |report| {
        let (structure, findings) = ::verify::structure(artifact, &expected)?;
        report.structure =
            Some(Structure { hashed: report.structure.take().map_or(0, |s| s.hashed), ..structure });
        report.findings.extend(findings);
        Ok(())
    })?;
    if args.no_tensors {
        skip(report, Step::Tensors, "--no-tensors");
    } else if failed(report) && !args.keep_going {
        skip(report, Step::Tensors, AFTER_FAILURE);
    } else {
        timed(report, "tensors", |report| {
            let bar = Bar::steps("weights", ::verify::weights(artifact, &expected));
            let compared =
                ::verify::tensor_errors(artifact, base.source(), &expected, &|done| bar.advance(done));
            bar.finish();
            let (tensors, findings) = compared?;
            report.tensors = Some(tensors);
            report.findings.extend(findings);
            Ok(())
        })?;
    }
    Ok(recipe.verify)
}

/// What the artifact should be: the recipe that was asked for, or what a manifest or the file itself says. The files
/// are held against the manifest.
fn provenance(args: &args::Verify, artifact: Artifact<'_>, report: &mut Report) -> Result<Provenance> {
    let mut provenance = Provenance::of(artifact)?;
    provenance.find_importance(artifact, args.importance.as_deref())?;
    report.findings.append(&mut provenance.findings);
    if args.require_manifest && provenance.entry.is_none() {
        let problem = "no manifest describes the artifact, and --require-manifest asks for one";
        report.findings.push(Finding::new(Severity::Failure, Step::Structure, "manifest", problem));
    }
    report.allocation = provenance.entry.as_ref().and_then(|entry| entry.allocation.clone());
    timed(report, "files", |report| {
        let bar = Bar::new("files", provenance.bytes());
        let checked = provenance.check_files(artifact, &|done| bar.advance(done));
        bar.finish();
        let (hashed, findings) = checked?;
        report.structure = Some(Structure { plan: provenance.plan.clone(), hashed, ..Structure::default() });
        report.findings.extend(findings);
        Ok(())
    })?;
    if let Some(name) = &args.recipe {
        let (name, text) = recipe_text(name)?;
        provenance.recipe = Recipe::from_toml(&text, &name)?;
        provenance.plan = format!("recipe {name}");
        provenance.binding = true;
        let is = match artifact {
            Artifact::Gguf(_) => Format::Gguf,
            Artifact::Folder(_) => Format::Safetensors,
        };
        if provenance.recipe.output.format != is {
            let word = |format| if format == Format::Gguf { "a GGUF" } else { "safetensors" };
            return Err(Error::recipe("--recipe", "the artifact cannot be of this recipe")
                .expected(format!("a recipe for {}", word(is)), word(provenance.recipe.output.format)));
        }
    }
    Ok(provenance)
}

/// Both models over the text.
fn text(
    args: &args::Verify,
    memory: u64,
    artifact: &Opened,
    against: Option<&Against>,
    logits: Option<OutputFile>,
    report: &mut Report,
) -> Result<()> {
    // where the tokenizers differ, structure has said so; the base's is right
    let reader = match against {
        Some(Against::Model(base)) => base,
        _ => artifact,
    };
    let corpus = match against {
        Some(Against::Logits(file)) if args.text.is_empty() => of_logits(file, &args.against, reader),
        _ => Corpus::read(
            &args.text,
            &reader.reader(),
            &Cut {
                context: args.context,
                most: args.chunks,
                scored: match args.score {
                    args::Score::All => Scored::All,
                    args::Score::Answers => Scored::Answers,
                },
            },
        )?,
    };
    report.text = Some(EvaluatedText::of(&corpus));
    report.findings.extend(corpus.remarks.into_iter().map(Finding::from));
    let sequences = corpus.sequences;
    if let Some(Against::Logits(file)) = against
        && file.sequences(reader.tokenizer.bos()) != sequences
    {
        return Err(Error::malformed(
            "--against",
            "these logits are of another text, or of another cut of it",
        )
        .expected("the same chunks of tokens", "others")
        .help("Leave --text out: the file has the tokens."));
    }

    let model = artifact.runtime(&args.artifact)?;
    let base_model = match (against, &args.against) {
        (Some(Against::Model(base)), Some(path)) => Some(base.runtime(path)?),
        _ => None,
    };
    let base = match (against, &base_model) {
        (Some(Against::Logits(file)), _) => Some(Base::Logits(file)),
        (_, base) => base.as_ref().map(Base::Model),
    };
    let mut writer =
        logits.map(|file| LogitsWriter::new(file, &sequences, artifact.config().vocab)).transpose()?;
    let configs: Vec<_> = std::iter::once(&model).chain(&base_model).map(Model::config).collect();
    let bar = Bar::steps("perplexity", ::eval::work(&configs, &sequences));
    let options = EvalOptions { memory, logits: writer.as_mut(), progress: &|done| bar.advance(done) };
    let tokens = ::eval::evaluate(&model, base, &sequences, options);
    bar.finish();
    let tokens = tokens?;
    if let Some(figures) = ::eval::summarise(&tokens) {
        report.add(figures, tokens.len() as u64);
    }
    writer.map_or(Ok(()), LogitsWriter::finish)
}

/// The text that is in a file of logits.
fn of_logits(file: &LogitsFile, path: &Option<PathBuf>, reader: &Opened) -> Corpus {
    Corpus {
        sequences: file.sequences(reader.tokenizer.bos()),
        files: path.iter().map(|path| path.display().to_string()).collect(),
        context: file.context(),
        ..Corpus::default()
    }
}

/// Holds the figures against the limits. Those of the recipe are for runs that measure them.
fn check(asked: Thresholds, of_recipe: Thresholds, report: &mut Report) {
    let unmeasured_is_failure = !failed(report);
    let kld = report.kld.as_ref().map(|kld| kld.mean);
    let ratio = report.perplexity.as_ref().and_then(|perplexity| perplexity.ratio);
    let at_most = f64::le as fn(&f64, &f64) -> bool;
    let figures = [
        ("kld.mean", asked.max_kld, of_recipe.max_kld, kld, at_most),
        ("perplexity.ratio", asked.max_ppl_ratio, of_recipe.max_ppl_ratio, ratio, at_most),
        ("top1", asked.min_top1, of_recipe.min_top1, report.top1, f64::ge),
    ];
    for (figure, asked, of_recipe, found, holds) in figures {
        let Some(limit) = asked.or(of_recipe) else { continue };
        let finding = |problem: &str| Finding::new(Severity::Failure, Step::Thresholds, figure, problem);
        match found {
            Some(found) => {
                let holds = holds(&found, &limit);
                report.thresholds.push(Threshold { figure: figure.to_owned(), limit, found, holds });
                if !holds {
                    report.findings.push(finding("beyond its limit").expected(limit, found));
                }
            }
            None if asked.is_some() && unmeasured_is_failure => {
                report
                    .findings
                    .push(finding("has a limit, and was not measured: --against and --text are needed"));
            }
            None => {}
        }
    }
}

fn failed(report: &Report) -> bool {
    report.findings.iter().any(|finding| finding.severity == Severity::Failure)
}

fn skip(report: &mut Report, step: Step, why: &str) {
    report.skipped.push(Skipped { step, why: why.to_owned() });
}

/// Runs a step and takes its time.
fn timed(report: &mut Report, step: &str, run: impl FnOnce(&mut Report) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    run(report)?;
    report.seconds.insert(step.to_owned(), start.elapsed().as_secs_f64());
    Ok(())
}

fn artifact_info(path: &Path, artifact: Artifact<'_>) -> ModelInfo {
    let tensors = artifact.source().tensors();
    // what is wrong with it, structure will say
    match artifact {
        Artifact::Gguf(set) => {
            info(path, Config::any_from_metadata(set.metadata(), tensors).ok().as_ref(), artifact, None)
        }
        Artifact::Folder(folder) => {
            let config = Config::any_of_checkpoint(folder).ok();
            let inventory = config.as_ref().and_then(|config| {
                ::gemma::inventory(config, tensors, &|_| folder.dir().display().to_string()).ok()
            });
            info(path, config.as_ref(), artifact, inventory.as_ref())
        }
    }
}

pub(crate) fn base_info(path: &Path, base: &Opened) -> ModelInfo {
    info(path, Some(base.config()), base.artifact(), Some(base.inventory()))
}

/// The tensors of the text model, or all where it is not known which these are.
pub(crate) fn info(
    path: &Path,
    config: Option<&Config>,
    artifact: Artifact<'_>,
    inventory: Option<&Inventory>,
) -> ModelInfo {
    let mut info = ModelInfo {
        path: path.display().to_string(),
        variant: config.and_then(Config::variant).map(str::to_owned),
        ..ModelInfo::default()
    };
    let stored = artifact.stored();
    let text = match inventory {
        Some(inventory) => inventory.text.iter().map(|found| found.index).collect(),
        None => (0..stored.len()).collect::<Vec<_>>(),
    };
    for tensor in text.into_iter().map(|index| &stored[index]) {
        info.bytes += tensor.bytes;
        info.weights += tensor.desc.elements();
        *info.types.entry(tensor.desc.dtype.to_string()).or_default() += tensor.bytes;
    }
    info
}
