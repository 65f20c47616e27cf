//! Verification of a GGUF adapter: keys and factors are compared with the adapter that it was made from.

use std::collections::HashMap;

use gemma::AdapterPair;
use gguf::{GgufSet, Metadata};
use tensor::{Error, Result, TensorDesc, TensorSource};
use verify::{Finding, Outcome, Report, Severity, Step, Structure};

use super::Verify;
use super::adapter_conversion::{AdaptedBase, relative};
use super::model_info::model_info;
use super::thresholds::failed;
use super::verification_steps::{empty_report, timed};

/// The keys that llama.cpp checks, with their values.
const KEYS: [(&str, &str); 3] =
    [("general.architecture", "gemma4"), ("general.type", "adapter"), ("adapter.type", "lora")];
const ALPHA: &str = "adapter.lora.alpha";

/// Compares the adapter in `set`. Its faults are findings in the report.
///
/// # Errors
/// `Recipe` for settings without a base and an adapter, and for those that have no effect; those of base and adapter.
pub(super) fn verify(job: &Verify, set: &GgufSet) -> Result<Report> {
    let (Some(base), [adapter]) = (&job.base, job.adapters.as_slice()) else {
        return Err(Error::recipe(
            job.artifact.display(),
            "an adapter (LoRA), which is compared with the folder that it was made from",
        )
        .help("Give the checkpoint of its base with ‹against›, and its folder with ‹lora›."));
    };
    if adapter.scale != 1.0 {
        return Err(Error::recipe("‹lora›", "a GGUF adapter has the scale that it was trained with")
            .expected("no scale", adapter.scale));
    }
    if adapter.tie {
        return Err(Error::recipe("‹tie›", "has no effect: a GGUF adapter has no embedding"));
    }
    if !job.texts.is_empty() || !job.media.is_empty() {
        return Err(Error::recipe(
            "‹text›",
            "has no effect on an adapter, which makes no predictions without its model",
        )
        .help("Merge the adapter, and verify the merged file with the text."));
    }
    let base = AdaptedBase::open(&adapter.folder, base)?;
    let mut report = Report {
        compute: job.compute.to_string(),
        artifact: model_info(&job.artifact, None, set.into(), None),
        compared: true,
        ..empty_report()
    };
    timed(&mut report, "structure", |report| {
        let (structure, findings) = compare(set, &base)?;
        report.structure = Some(structure);
        report.findings = findings;
        Ok(())
    })?;
    report.passed = !failed(&report);
    report.outcome = if report.passed { Outcome::Passed } else { Outcome::Failed };
    Ok(report)
}

fn compare(set: &GgufSet, base: &AdaptedBase) -> Result<(Structure, Vec<Finding>)> {
    let mut structure = Structure { plan: "adapter".to_owned(), ..Structure::default() };
    let (alpha, mut findings) = keys(set.metadata());
    structure.keys = (KEYS.len() + 1 - findings.len()) as u64;
    let mut rest: HashMap<&str, usize> =
        set.tensors().iter().enumerate().map(|(index, desc)| (desc.name.as_str(), index)).collect();
    for pair in &base.inventory.pairs {
        let expected = convert::lora_tensors(&pair.name, &pair.product, tensor::DType::F32)?;
        let found = expected.each_ref().map(|desc| rest.remove(desc.name.as_str()));
        match pair_problem(set, base, pair, (&expected, found), alpha)? {
            None => structure.tensors += 2,
            Some(problem) => findings.push(failure(&pair.name, problem)),
        }
    }
    let mut others: Vec<_> = rest.into_keys().collect();
    others.sort_unstable();
    findings.extend(others.iter().map(|name| failure(name, "the adapter has no such pair for llama.cpp")));
    Ok((structure, findings))
}

/// Checks the keys. Returns alpha too, 0 if it is missing, as llama.cpp reads it.
fn keys(metadata: &Metadata) -> (f32, Vec<Finding>) {
    let mut findings = Vec::new();
    for (key, expected) in KEYS {
        let found = metadata.typed::<&str>(key).ok().flatten();
        if found != Some(expected) {
            let finding = failure(key, "llama.cpp does not load it");
            findings.push(finding.expected(expected, found.unwrap_or("no text")));
        }
    }
    let alpha = metadata.typed::<f32>(ALPHA).ok().flatten();
    if alpha.is_none() {
        findings.push(failure(ALPHA, "missing: llama.cpp takes 1 for the scale of every product"));
    }
    (alpha.unwrap_or(0.0), findings)
}

/// The difference between a pair of the file and the adapter's product.
fn pair_problem(
    set: &GgufSet,
    base: &AdaptedBase,
    pair: &AdapterPair,
    (expected, found): (&[TensorDesc; 2], [Option<usize>; 2]),
    alpha: f32,
) -> Result<Option<String>> {
    let [Some(a), Some(b)] = found else {
        return Ok(Some("the file lacks lora_a or lora_b".to_owned()));
    };
    let descs = [a, b].map(|index| set.tensors()[index].clone());
    for (desc, expected) in descs.iter().zip(expected) {
        if desc.shape != expected.shape {
            return Ok(Some(format!("{} is {:?}, expected {:?}", desc.name, desc.shape, expected.shape)));
        }
        if !convert::LORA_TYPES.contains(&desc.dtype) {
            return Ok(Some(format!("{} is {}, no type of adapters", desc.name, desc.dtype)));
        }
    }
    // without alpha llama.cpp multiplies by 1 instead of alpha / rank
    let factor = if alpha == 0.0 { pair.product.scale } else { relative(pair.alpha(), alpha) };
    let encoded = convert::lora_bytes(&base.checkpoint, pair, factor, &descs)?;
    for (index, expected) in [a, b].into_iter().zip(encoded) {
        let mut stored = vec![0; expected.len()];
        set.read_rows(index, 0, &mut stored)?;
        if stored != expected {
            let name = &set.tensors()[index].name;
            return Ok(Some(format!("{name}: alpha / rank times the factors is not the adapter's product")));
        }
    }
    Ok(None)
}

fn failure(place: &str, problem: impl ToString) -> Finding {
    Finding::new(Severity::Failure, Step::Structure, place, problem)
}
