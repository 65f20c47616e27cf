//! `sensitivity`: the KL divergence caused by quantizing each tensor.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use gemma_convert::{DType, Result, Sensitivity};
use report::{Table, grouped};
use serde_json::json;

use super::join;
use crate::cli::args;
use crate::cli::outcome::Output;
use crate::cli::progress::Console;

pub(crate) fn run(args: &args::Sensitivity) -> Result<Output> {
    let (job, console) = (args.job()?, Console::default());
    if let Some(part) = args.part.part()? {
        return job.run_part(part, &console).map(|made| join::part_of_file(&made));
    }
    let start = Instant::now();
    let found = job.run(&console)?;
    Ok(output(&args.out, &found, start.elapsed().as_secs_f64()))
}

/// The output for a finished file.
pub(super) fn output(out: &Path, found: &Sensitivity, seconds: f64) -> Output {
    // by role: number of tensors, and the KL divergence of all of them in a few types
    let shown = [DType::Q4_0, DType::IQ4_NL, DType::Q5_0, DType::Q6_K, DType::Q8_0];
    let mut roles: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, cost) in &found.tensors {
        roles.entry(&cost.role).or_default().push(name);
    }
    let header: Vec<&str> =
        ["role", "tensors", "measured"].into_iter().chain(shown.iter().map(|dtype| dtype.name())).collect();
    let mut table = Table::new(&header);
    for (role, names) in &roles {
        let measured = names.iter().filter(|name| found.tensors[**name].kld.is_some()).count();
        let mut row = vec![(*role).to_owned(), names.len().to_string(), measured.to_string()];
        for dtype in shown {
            let kld: Option<f64> = names.iter().map(|name| found.kld(name, dtype).ok()).sum();
            row.push(kld.map_or("-".to_owned(), |kld| format!("{kld:.1e}")));
        }
        table.row(row);
    }
    let text = format!(
        "{}KL divergence in nats per token if all tensors of a role have the type, predicted from the measured \
         tensors\n{}: {} tokens ({seconds:.1} s)\n",
        table.render(),
        out.display(),
        grouped(found.tokens)
    );
    let json = json!({ "file": out, "tokens": found.tokens, "tensors": found.tensors, "seconds": seconds });
    Output::new(text, json)
}
