//! The steps for an artifact that there is no checkpoint for.

use ::verify::{Artifact, Report, Step, Structure};
use tensor::Result;

use super::{AFTER_FAILURE, failed, skip, timed};
use crate::args;
use crate::progress::Bar;

/// Whether the artifact agrees with itself, and whether its weights are finite and alive.
pub(super) fn alone(args: &args::Verify, artifact: Artifact<'_>, report: &mut Report) -> Result<()> {
    timed(report, "structure", |report| {
        let (structure, findings) = ::verify::structure_alone(artifact)?;
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
            let bar = Bar::steps("weights", ::verify::weights_of(artifact));
            let findings = ::verify::weights_alone(artifact, &|done| bar.advance(done));
            bar.finish();
            report.findings.extend(findings?);
            Ok(())
        })?;
    }
    Ok(())
}
