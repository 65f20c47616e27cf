//! An importance matrix from parts: each has the sums of its share of the text.

use std::path::{Path, PathBuf};

use base::{JobParts, OutputFile, PartFolder, Progress, Unit};
use calibrate::{CalibrationTokens, ImportanceSums};
use imatrix::Importance;
use serde::{Deserialize, Serialize};
use tensor::Result;

use super::calibration::Calibrated;
use super::text_parts::{self, PartFile};
use crate::requests::refuse_existing;

/// The kind of job.
pub(crate) const IMPORTANCE: &str = "importance";

/// The extension of the file of sums of a part.
const SUMS: &str = "sums";

/// The whole text, as the file describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TextSource {
    datasets: Vec<String>,
    chunks: u32,
    chunk_size: u32,
}

impl TextSource {
    pub(crate) fn of(text: &CalibrationTokens<'_>) -> TextSource {
        TextSource {
            datasets: text.names.clone(),
            chunks: text.sequences.len() as u32,
            chunk_size: text.longest() as u32,
        }
    }

    /// The importance matrix of the sums of the whole text.
    ///
    /// # Errors
    /// Those of [`ImportanceSums::importance`].
    pub(crate) fn importance(self, sums: &ImportanceSums) -> Result<Importance> {
        sums.importance(self.datasets, self.chunks, self.chunk_size)
    }
}

/// The record of a part.
#[derive(Serialize, Deserialize)]
struct PartSums {
    text: TextSource,
    #[serde(flatten)]
    sums: PartFile,
}

/// Writes the sums of a part and its record. Returns the path of the record.
///
/// # Errors
/// `Target`.
pub(crate) fn record(folder: &PartFolder, sums: &ImportanceSums, text: TextSource) -> Result<PathBuf> {
    let path = folder.write(SUMS, true, |file| sums.write(file))?;
    folder.record(&PartSums { text, sums: PartFile::of(&path)? }, true)
}

/// Makes the importance matrix from all of its parts. Returns its path.
///
/// # Errors
/// `Target` for an existing file, `Malformed` for parts that are damaged, `Io`.
pub(crate) fn join(
    parts: &JobParts,
    folder: &Path,
    force: bool,
    progress: &dyn Progress,
) -> Result<(PathBuf, Calibrated)> {
    let out = text_parts::output(parts, folder)?;
    refuse_existing(&out, force)?;
    let output = OutputFile::sequential(&out)?;
    let records = parts.parts.iter().map(|part| part.content().map(|record| (part, record)));
    let records = records.collect::<Result<Vec<(_, PartSums)>>>()?;
    let task =
        progress.begin("joining", records.iter().map(|(_, record)| record.sums.bytes).sum(), Unit::Bytes);
    let text = records[0].1.text.clone();
    let mut sums = ImportanceSums::default();
    for (part, record) in records {
        let path = record.sums.unchanged(part, SUMS, &|bytes| task.advance(bytes))?;
        let of_part = ImportanceSums::read(&path)?;
        sums.add(of_part).map_err(|e| e.within(format!("part {}", part.part)))?;
    }
    let made = Calibrated::write(text.importance(&sums)?, output)?;
    parts.remove_from(folder);
    Ok((out, made))
}
