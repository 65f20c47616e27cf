//! `draft measure`: what a draft model is worth to its target.

use std::time::Instant;

use ::runtime::{Draft, Model};
use ::verify::{Corpus, Cut, DRAFT_SCHEMA, DraftReport, Measured, Reader, Said, Scored, Sequence, Speaking};
use tensor::Result;

use crate::args;
use crate::commands::drafter::OpenedDraft;
use crate::commands::opened::Opened;
use crate::commands::verify::base_info;
use crate::outcome::Output;
use crate::progress::Bar;
use crate::reports::Reports;
use crate::sampling::{Sampler, Sampling};
use crate::speculation::Speculation;

/// The likeliest token, always.
const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

pub(crate) fn run(args: &args::DraftMeasure) -> Result<Output> {
    let files = Reports::open(&args.reports, &[])?;
    let target = Opened::new(&args.target)?;
    let opened_draft = OpenedDraft::new(&args.draft, &target)?;
    let model = target.runtime(&args.target)?;
    let draft = opened_draft.runtime(target.config())?;
    let reader = target.reader();
    let reader = Reader { context: reader.context.min(draft.context()), ..reader };
    let cut = Cut { context: args.context, most: Some(args.chunks), scored: Scored::Answers };
    let Corpus { sequences, text, .. } = Corpus::read(&args.text, &reader, &cut)?;

    let scored: usize = sequences.iter().map(|sequence| sequence.scored.len()).sum();
    let bar = Bar::steps("measuring", 3 * scored as u64);
    let mut report = DraftReport {
        schema: DRAFT_SCHEMA,
        tool: concat!("gemma-convert ", env!("CARGO_PKG_VERSION")).to_owned(),
        draft: opened_draft.info(),
        target: base_info(&args.target, &target),
        text,
        ..DraftReport::default()
    };
    report.read(&::verify::overlaps(&model, &draft, &sequences, &|done| bar.advance(done))?);
    let prompts: Vec<Prompt<'_>> = sequences.iter().filter_map(Prompt::of).collect();
    let mut said = Vec::with_capacity(prompts.len());
    for prompt in &prompts {
        let how = Speaking {
            most: prompt.most,
            end: target.tokenizer.end_of_generation(),
            suppressed: &target.suppressed,
        };
        said.push(::verify::speak(&model, &draft, prompt.tokens, &how)?);
        bar.advance(prompt.most as u64);
    }
    report.said(&said);
    report.measured = measured(&model, &draft, &target.suppressed, report.best, &prompts, &said)?;
    bar.finish();

    let json = serde_json::to_value(&report).unwrap_or_default();
    let unwritten = files.write(&json, || report::draft_html(&report), || report::draft_markdown(&report));
    Ok(Output { text: report::draft_text(&report), json, passed: report.measured.same_text, unwritten })
}

/// The beginning of a sequence, and how much there is to say.
struct Prompt<'a> {
    tokens: &'a [u32],
    most: usize,
}

impl Prompt<'_> {
    /// Up to the first token that is predicted, and as many tokens as are.
    fn of(sequence: &Sequence) -> Option<Prompt<'_>> {
        let first = *sequence.scored.first()?;
        Some(Prompt { tokens: &sequence.tokens[..first], most: sequence.scored.len() })
    }
}

/// Says all of it again with the draft's help.
fn measured(
    model: &Model<'_>,
    draft: &Draft<'_>,
    suppressed: &[u32],
    burst: usize,
    prompts: &[Prompt<'_>],
    said: &[Said],
) -> Result<Measured> {
    let mut measured = Measured { guesses: burst, same_text: true, ..Measured::default() };
    for (prompt, said) in prompts.iter().zip(said) {
        measured.alone_seconds += said.step_seconds.iter().sum::<f64>();
        let mut sampler = Sampler::new(GREEDY);
        let mut speculation = Speculation::new(model, draft, burst, suppressed, prompt.tokens, &mut sampler)?;
        let mut tokens = Vec::with_capacity(said.tokens.len());
        // as with the target alone, the time begins at the first token
        let mut start = Instant::now();
        for left in (1..=said.tokens.len()).rev() {
            tokens.push(speculation.next(left, &mut sampler)?);
            if tokens.len() == 1 {
                start = Instant::now();
            }
        }
        measured.seconds += start.elapsed().as_secs_f64();
        measured.same_text &= tokens == said.tokens;
        measured.drafted += speculation.counts.drafted as u64;
        measured.taken += speculation.counts.accepted as u64;
    }
    measured.speedup = measured.alone_seconds / measured.seconds.max(f64::MIN_POSITIVE);
    Ok(measured)
}
