//! `draft`: draft models for speculative decoding.

use std::path::Path;

use ::checkpoint::Checkpoint;
use ::gemma::Model;
use ::plan::{Request, Target, hex};
use tensor::Result;

use crate::args;
use crate::commands::{Out, Planned, convert, extract, measure, shards};
use crate::outcome::Output;

pub(crate) fn run(args: &args::Draft) -> Result<Output> {
    match &args.command {
        args::DraftCommand::Convert(args) => assistant(args),
        args::DraftCommand::Extract(args) => extract::run(args),
        args::DraftCommand::Measure(args) => measure::run(args),
    }
}

/// An assistant goes the way of every checkpoint. It lies beside its target, so it has a name of its own there.
fn assistant(args: &args::DraftConvert) -> Result<Output> {
    convert::run_with(&args.convert, |requests| {
        if Out::new(&args.convert.out).named.is_none() {
            requests.iter_mut().for_each(|request| request.stem = format!("draft-{}", request.name));
        }
        planned(&args.convert.model, &args.target, requests)
    })
}

/// Opens both, checks that they belong together, and plans the draft.
fn planned(draft: &Path, target: &Path, requests: &[Request]) -> Result<Planned> {
    let checkpoint = Checkpoint::open(draft)?;
    let model = Model::open_draft(&checkpoint)?;
    let target = Model::open(&Checkpoint::open(target)?)?;
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
    Ok(Planned { checkpoint, model, plan })
}
