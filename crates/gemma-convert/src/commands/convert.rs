//! `convert`: the main job.

use std::fmt::Write;
use std::time::Instant;

use ::convert::Options;
use ::plan::{FileEntry, Request};
use quant::Simd;
use serde_json::json;
use tensor::{Error, Result};

use crate::args::{self, Convert};
use crate::budget::Costs;
use crate::calibration::{self, Calibrated};
use crate::commands::{Out, Planned, draft, plan_for, requests};
use crate::outcome::Output;
use crate::progress::Bar;
use report::{Table, grouped};

pub(crate) fn run(args: &args::Convert) -> Result<Output> {
    // first: they are small, and what does not go together is found out
    let drafts = draft::of_recipes(args)?;
    let of_target = Convert { text: drafts.text_left.unwrap_or_else(|| args.text.clone()), ..args.clone() };
    let mut output = run_with(&of_target, |requests, options| {
        // a draft does not use up what costs are measured on
        let costs = Costs::of(args, &options.folder);
        plan_for(&args.model, requests, &costs, options)
    })?;
    if !drafts.made.is_empty() {
        output.json["drafts"] = drafts.made.iter().map(|made| made.json.clone()).collect();
        output.text =
            drafts.made.iter().map(|made| made.text.as_str()).chain([output.text.as_str()]).collect();
    }
    Ok(output)
}

/// As [`run`], of what `plan_for` opens; without drafts.
pub(crate) fn run_with(
    args: &args::Convert,
    plan_for: impl FnOnce(&mut Vec<Request>, &Options) -> Result<Planned>,
) -> Result<Output> {
    let simd = simd(args.simd.as_deref())?;
    let out = Out::new(&args.out);
    let mut requests = requests(&args.what, &out)?;
    let mut options = Options {
        folder: out.folder.clone(),
        named: out.named.clone(),
        force: args.force,
        sync: !args.no_sync,
        simd,
        importance: requests.first().and_then(|request| request.importance.as_ref()?.entries.clone()),
        rounded: Vec::new(),
        calibrations: Vec::new(),
        inputs: Vec::new(),
        settings: Vec::new(),
        tool: concat!("gemma-convert ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let Planned { checkpoint, model, plan, given: of_plan } = plan_for(&mut requests, &options)?;
    options.settings = requests.iter().map(|r| serde_json::to_value(&r.recipe).unwrap_or_default()).collect();
    let calibrated = calibration::round(args, &checkpoint, &model, &plan, &requests, &options)?;
    options.rounded = calibrated.iter().map(|c| c.as_ref().map(|c| c.tensors.clone())).collect();
    options.inputs = given(args, &requests, &of_plan)?;
    options.calibrations = calibrated.iter().map(|c| c.as_ref().map(|c| c.entry.clone())).collect();

    let names: Vec<_> = requests.iter().map(|r| r.name.as_str()).collect();
    let bytes = plan.inputs.iter().map(|input| input.bytes).sum();
    let bar = Bar::new(&names.join(", "), bytes);
    for note in plan.notes.iter().chain(plan.artifacts.iter().flat_map(|artifact| &artifact.notes)) {
        ::convert::Progress::note(&bar, note);
    }
    let start = Instant::now();
    let finished = ::convert::run(&checkpoint, &plan, &options, &bar);
    bar.finish();
    let finished = finished?;
    calibrated.iter().flatten().for_each(Calibrated::remove);
    let seconds = start.elapsed().as_secs_f64();

    let mut table = Table::new(&["file", "bytes", "sha256"]);
    for file in finished.artifacts.iter().flat_map(|artifact| &artifact.outputs) {
        table.row(vec![
            out.folder.join(&file.name).display().to_string(),
            grouped(file.bytes),
            file.sha256.clone(),
        ]);
    }
    let mut text = table.render();
    for allocation in plan.artifacts.iter().filter_map(|artifact| artifact.allocation.as_ref()) {
        let _ = writeln!(text, "types by budget: {allocation}");
    }
    let speed = bytes as f64 / 1e6 / seconds;
    let _ = writeln!(text, "{} bytes of checkpoint in {seconds:.1} s ({speed:.0} MB/s)", grouped(bytes));
    let _ = writeln!(text, "manifest: {}", finished.manifest.display());
    let json = json!({
        "artifacts": finished.artifacts,
        "folder": out.folder,
        "manifest": finished.manifest,
        "seconds": seconds,
    });
    Ok(Output::new(text, json))
}

/// Of each request, the files by which its types or layers were chosen, for the manifest. The text that weights are rounded for
/// is named elsewhere in it.
fn given(args: &args::Convert, requests: &[Request], of_plan: &[FileEntry]) -> Result<Vec<Vec<FileEntry>>> {
    let files = |request: &Request| {
        let by_budget = request.allocation.is_some();
        let sensitivity = args.what.budget.sensitivity.as_ref().filter(|_| by_budget);
        let measured = by_budget && sensitivity.is_none();
        let texts = args.text.text.iter().filter(|_| measured);
        let given = sensitivity.into_iter().chain(texts).map(|path| ::convert::file_entry(path));
        of_plan.iter().cloned().map(Ok).chain(given).collect()
    };
    requests.iter().map(files).collect()
}

/// The best level that this machine has, or the one asked for.
fn simd(wanted: Option<&str>) -> Result<Simd> {
    let Some(name) = wanted else { return Ok(Simd::detect()) };
    let available = Simd::available();
    let named = |level: &&Simd| format!("{level:?}").eq_ignore_ascii_case(name);
    available.iter().find(named).copied().ok_or_else(|| {
        let known: Vec<_> = available.iter().map(|level| format!("{level:?}").to_lowercase()).collect();
        Error::recipe(format!("--simd {name}"), "no such level on this processor")
            .expected(known.join(", "), name)
    })
}
