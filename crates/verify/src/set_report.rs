//! The report of a set of artifacts. Its JSON is the document of `verify --json` for several files or a folder of GGUFs.

use eval::{Invocation, ModelInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Finding, Outcome, Report, Severity};

/// The report of the verification of a set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SetReport {
    /// The schema number, [`SCHEMA`](crate::SCHEMA).
    pub schema: u32,
    /// Name and version of this program.
    pub tool: String,
    /// Vector instructions and kernel of the arithmetic: `avx512, amx`.
    pub compute: String,
    /// The command and the date. The files are in the reports.
    #[serde(default)]
    pub run: Invocation,
    /// Whether no finding is a failure: of the set, or of an artifact.
    pub passed: bool,
    /// The worst outcome of the artifacts; failed, if a finding of the set is a failure.
    pub outcome: Outcome,
    /// The model that the artifacts were compared with. A draft model has another one, in its report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<ModelInfo>,
    /// The reports of the artifacts, each as of the artifact alone; in the order of the arguments, and of the names in a
    /// folder.
    pub reports: Vec<Report>,
    /// Findings about folders and their manifests.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub findings: Vec<Finding>,
    /// Files that are no models, with reasons.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub unverified: Vec<Unverified>,
}

/// A file of a set that was not verified.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Unverified {
    /// The path.
    pub path: String,
    /// The reason.
    pub why: String,
}

impl SetReport {
    /// Sets `passed` and `outcome` by the reports and the findings.
    #[must_use]
    pub fn concluded(mut self) -> SetReport {
        let failed = self.findings.iter().any(|finding| finding.severity == Severity::Failure);
        let worst = self.reports.iter().map(|report| report.outcome).min_by_key(|outcome| *outcome as u8);
        self.outcome = worst.filter(|_| !failed).unwrap_or(Outcome::Failed);
        self.passed = self.outcome != Outcome::Failed;
        self
    }
}
