//! `convert`: conversion of a checkpoint to GGUF or safetensors.

use std::fmt::Write;
use std::path::Path;

use gemma_convert::{ArtifactEntry, Convert, Converted, ConvertedBundle, Result};
use report::{Table, grouped};
use serde_json::{Value, json};

use crate::cli::args;
use crate::cli::outcome::Output;
use crate::cli::progress::Console;

/// Runs the command; `convert` runs a conversion that is not into a bundle.
pub(crate) fn run(
    args: &args::Convert,
    convert: impl FnOnce(&Convert) -> Result<Converted>,
) -> Result<Output> {
    match args.bundle_job()? {
        Some(job) => Ok(bundle(&job.run(&Console::default())?)),
        None => run_by(|| convert(&args.job()?)),
    }
}

/// The output of a conversion into a bundle of LiteRT-LM.
fn bundle(converted: &ConvertedBundle) -> Output {
    let ConvertedBundle { path, manifest, bytes, sha256, constants, retyped, growth, copied } = converted;
    let mut table = Table::new(&["file", "bytes", "sha256"]);
    table.row(vec![path.display().to_string(), grouped(*bytes), sha256.clone()]);
    let mut text = table.render();
    let _ = writeln!(text, "{constants} constants written");
    if *retyped > 0 {
        let _ =
            writeln!(text, "{retyped} of them with more bits: the file grows by {} bytes", grouped(*growth));
    }
    if !copied.is_empty() {
        let _ = writeln!(text, "copied: {}", copied.join(", "));
    }
    let _ = writeln!(text, "manifest: {}", manifest.display());
    let json = json!({
        "file": path,
        "manifest": manifest,
        "bytes": bytes,
        "sha256": sha256,
        "constants": constants,
        "retyped": retyped,
        "growth": growth,
        "copied": copied,
    });
    Output::new(text, json)
}

/// The output of a conversion.
pub(crate) fn run_by(job: impl FnOnce() -> Result<Converted>) -> Result<Output> {
    let converted = job()?;
    Ok(Output::new(text(&converted), document(&converted)))
}

/// Table of the outputs with their SHA-256, those of draft models first.
pub(super) fn text(converted: &Converted) -> String {
    let mut text: String = converted.drafts.iter().map(self::text).collect();
    text.push_str(&files(&converted.folder, &converted.artifacts));
    if !converted.skipped.is_empty() {
        let _ = writeln!(text, "skipped, because they exist: {}", converted.skipped.join(", "));
    }
    for allocation in &converted.allocations {
        let _ = writeln!(text, "bit allocation: {allocation}");
    }
    if converted.input_bytes == 0 {
        return text; // all artifacts were skipped
    }
    let (bytes, seconds) = (converted.input_bytes, converted.seconds);
    let speed = bytes as f64 / 1e6 / seconds;
    let _ = write!(text, "{} bytes of checkpoint in {seconds:.1} s ({speed:.0} MB/s)", grouped(bytes));
    let total = converted.total_seconds;
    let _ = match total > seconds + 1.0 {
        true => writeln!(text, "; {total:.1} s with calibration, sensitivities and draft models"),
        false => writeln!(text),
    };
    let _ = writeln!(text, "manifest: {}", converted.manifest.display());
    if let Some(selection) = &converted.layers {
        let layers: Vec<_> = selection.layers.iter().map(usize::to_string).collect();
        let _ = writeln!(text, "layers: {}", layers.join(", "));
        if selection.is_measured() {
            let _ = writeln!(
                text,
                "same most probable token as the target: {:.2} % of tokens; acceptance rate at temperature 1: {:.2} %",
                100.0 * selection.top1,
                100.0 * selection.acceptance
            );
        }
    }
    text
}

/// Table of the files of artifacts with their SHA-256, or the number of bytes that are in a part.
pub(super) fn files(folder: &Path, artifacts: &[ArtifactEntry]) -> String {
    let mut table = Table::new(&["file", "bytes", "sha256"]);
    for file in artifacts.iter().flat_map(|artifact| &artifact.outputs) {
        let path = folder.join(&file.name).display().to_string();
        let sha256 = match file.sha256.as_str() {
            "" => format!("in part: {} bytes", grouped(file.ranges.iter().map(|range| range.bytes).sum())),
            sha256 => sha256.to_owned(),
        };
        table.row(vec![path, grouped(file.bytes), sha256]);
    }
    table.render()
}

/// The document of `--json`.
pub(super) fn document(converted: &Converted) -> Value {
    let mut document = json!({
        "artifacts": converted.artifacts,
        "folder": converted.folder,
        "manifest": converted.manifest,
        "seconds": converted.seconds,
        "total_seconds": converted.total_seconds,
        "skipped": converted.skipped,
    });
    if !converted.drafts.is_empty() {
        document["drafts"] = converted.drafts.iter().map(self::document).collect();
    }
    if let Some(selection) = &converted.layers {
        document["layers"] = json!(selection.layers);
        if selection.is_measured() {
            document["choice"] = json!(selection);
        }
    }
    document
}
