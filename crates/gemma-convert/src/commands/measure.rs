//! `draft measure`: what a draft model is worth to its target.

use ::draft::{DraftReport, TokenRoles};
use ::text::{Corpus, Cut, Reader, Scored};
use tensor::Result;

use crate::args;
use crate::commands::drafter::OpenedDraft;
use crate::commands::opened::Opened;
use crate::commands::verify::base_info;
use crate::outcome::Output;
use crate::progress::Bar;
use crate::reports::Reports;

pub(crate) fn run(args: &args::DraftMeasure) -> Result<Output> {
    let files = Reports::open(&args.reports, &[])?;
    let target = Opened::new(&args.target)?;
    let opened_draft = OpenedDraft::new(&args.draft, &target)?;
    let model = target.runtime(&args.target)?;
    let draft = opened_draft.runtime(target.config())?;
    let reader = target.reader();
    let reader = Reader { context: reader.context.min(draft.context()), ..reader };
    let cut = Cut { context: args.context, most: Some(args.chunks), scored: Scored::Answers };
    let corpus = Corpus::read(&args.text, &reader, &cut)?;
    let bar = Bar::steps("measuring", ::draft::measure_work(&corpus));
    let roles = TokenRoles { end: target.tokenizer.end_of_generation(), suppressed: &target.suppressed };
    let measured = ::draft::measure(&model, &draft, roles, &corpus, &|done| bar.advance(done))?;
    bar.finish();
    let report = DraftReport {
        tool: concat!("gemma-convert ", env!("CARGO_PKG_VERSION")).to_owned(),
        draft: opened_draft.info(),
        target: base_info(&args.target, &target),
        ..measured
    };

    let json = serde_json::to_value(&report).unwrap_or_default();
    let unwritten = files.write(&json, || report::draft_html(&report), || report::draft_markdown(&report));
    Ok(Output { text: report::draft_text(&report), json, passed: report.measured.same_text, unwritten })
}
