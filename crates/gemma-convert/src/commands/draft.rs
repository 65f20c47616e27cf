//! `draft`: draft models for speculative decoding.

use std::path::Path;

use ::checkpoint::Checkpoint;
use ::gemma::Model;
use ::plan::{FileEntry, Request, Target, WithDraft, hex};
use tensor::{Error, Result};

use crate::args::{self, CalibrationText, Layers, What};
use crate::commands::{Out, Planned, convert, extract, measure, requests, shards};
use crate::outcome::Output;

/// Tokens of a piece of the text by which layers are chosen.
const CONTEXT: usize = 512;

pub(crate) fn run(args: &args::Draft) -> Result<Output> {
    match &args.command {
        args::DraftCommand::Convert(args) => assistant(args),
        args::DraftCommand::Extract(args) => extract::run(args),
        args::DraftCommand::Measure(args) => measure::run(args),
    }
}

/// An assistant goes the way of every checkpoint. It lies beside its target, so it has a name of its own there.
fn assistant(args: &args::DraftConvert) -> Result<Output> {
    convert::run_with(&args.convert, |requests, _| {
        no_budget(&args.convert, requests)?;
        if Out::new(&args.convert.out).named.is_none() {
            requests.iter_mut().for_each(draft_name);
        }
        planned(&args.convert.model, &args.target, requests)
    })
}

/// A draft lies beside its target.
pub(crate) fn draft_name(request: &mut Request) {
    request.stem = ::plan::stem("draft", &request.name, &request.recipe);
}

/// The drafts that recipes have made with the model.
pub(crate) struct Drafts {
    pub(crate) made: Vec<Output>,
    /// The text for the model itself, if the drafts have used it.
    pub(crate) text_left: Option<CalibrationText>,
}

/// Makes the drafts that `[draft]` of the recipes asks for: each of them once.
pub(crate) fn of_recipes(args: &args::Convert) -> Result<Drafts> {
    let out = Out::new(&args.out);
    let requests = requests(&args.what, &out)?;
    let mut wanted: Vec<(WithDraft, String)> = Vec::new();
    for recipe in requests.iter().map(|request| &request.recipe) {
        let Some(draft) = &recipe.draft else { continue };
        let own = Some(&recipe.types.preset).filter(|preset| !preset.is_empty());
        let preset = draft.preset.as_ref().or(own).map_or("bf16", String::as_str).to_owned();
        let draft = (WithDraft { preset: None, ..draft.clone() }, preset);
        if !wanted.contains(&draft) {
            wanted.push(draft);
        }
    }
    if let (Some(name), false) = (&out.named, wanted.is_empty()) {
        return Err(Error::recipe(format!("-o {name}"), "a model and its draft cannot go into one file")
            .help("Give a folder instead."));
    }
    let by_text = wanted.iter().any(|(draft, _)| draft.extract.is_some());
    let reads = |recipe: &::plan::Recipe| {
        recipe.calibration.is_some() || (recipe.budget.is_some() && args.what.budget.sensitivity.is_none())
    };
    let reads_too = requests.iter().any(|request| reads(&request.recipe));
    let none = CalibrationText { text: Vec::new(), chunks: None, text_memory: args.text.text_memory.clone() };
    let make = |(draft, preset): &(WithDraft, String)| {
        let what = What { types: vec![preset.clone()], ..What::default() };
        let text = if draft.extract.is_some() { args.text.clone() } else { none.clone() };
        let convert = args::Convert { what, text, ..args.clone() };
        let layers = draft.extract.map(Layers::Count).or_else(|| draft.layers.clone().map(Layers::These));
        match (&draft.assistant, layers) {
            (_, Some(layers)) => extract::made(&args::DraftExtract { layers, context: CONTEXT, convert }),
            (Some(path), None) => assistant(&args::DraftConvert {
                target: args.model.clone(),
                convert: args::Convert { model: path.into(), ..convert },
            }),
            (None, None) => Err(Error::recipe("[draft]", "no draft model")),
        }
    };
    let made = wanted.iter().map(make).collect::<Result<_>>()?;
    Ok(Drafts { made, text_left: (by_text && !reads_too).then_some(none) })
}

/// Refuses types by budget: a draft is small, and costs are measured of models that speak by themselves.
pub(super) fn no_budget(args: &args::Convert, requests: &[Request]) -> Result<()> {
    if args.what.budget.sensitivity.is_none() && requests.iter().all(|r| r.recipe.budget.is_none()) {
        return Ok(());
    }
    Err(Error::recipe("budget", "types of a draft model are not chosen by a budget")
        .help("Name a preset with --type."))
}

/// The files of a target besides its weights, which are known by the fingerprint.
pub(super) fn companions(target: &Checkpoint) -> Result<Vec<FileEntry>> {
    let files = target.companions().iter();
    files.map(|file| ::convert::file_entry(&target.dir().join(&file.name))).collect()
}

/// Opens both, checks that they belong together, and plans the draft.
fn planned(draft: &Path, target: &Path, requests: &[Request]) -> Result<Planned> {
    let checkpoint = Checkpoint::open(draft)?;
    let model = Model::open_draft(&checkpoint)?;
    let of_target = Checkpoint::open(target)?;
    let target = Model::open(&of_target)?;
    model
        .config
        .check_target(&target.config)
        .and_then(|()| model.vocabulary.check_target(&target.vocabulary))
        .map_err(|e| e.within(draft.display()))?;
    let mut plan = ::plan::plan(&model, &shards(&checkpoint, &model, requests)?, requests)?;
    plan.target = Some(Target {
        variant: target.config.variant().map(str::to_owned),
        fingerprint: hex(&target.fingerprint),
        layers: None,
    });
    let given = companions(&of_target)?;
    Ok(Planned { checkpoint, model, plan, given })
}
