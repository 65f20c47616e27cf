//! Report files. They are opened before the work, so that no result is lost to a file that cannot be written.

use std::path::{Path, PathBuf};

use base::{AppendedFile, FileKind, OutputFile};
use gemma_convert::{Error, Result};

use crate::cli::args;

/// The requested report files.
pub(crate) struct Reports {
    json: Option<OutputFile>,
    html: Option<OutputFile>,
    markdown: Option<AppendedFile>,
}

impl Reports {
    /// Opens the files. `others` are other files that the same run writes.
    ///
    /// # Errors
    /// `Recipe` for two files of one name; `Target` for a file that cannot be written or is of another kind.
    pub(crate) fn open(args: &args::ReportFiles, others: &[Option<&PathBuf>]) -> Result<Reports> {
        let json = args.report_json.as_ref();
        let mut names: Vec<&Path> = Vec::new();
        for path in
            [json, args.html.as_ref(), args.markdown.as_ref()].into_iter().chain(others.iter().copied())
        {
            let Some(path) = path else { continue };
            // a device can take several reports
            if names.contains(&path.as_path()) && (path.is_file() || !path.exists()) {
                return Err(Error::recipe(path.display(), "two outputs have this name")
                    .help("Give each report a file of its own."));
            }
            names.push(path);
        }
        let open = |path: Option<&PathBuf>, kind| {
            path.map(|path| OutputFile::replacing(path, kind, args.force)).transpose()
        };
        Ok(Reports {
            json: open(json, FileKind::Report)?,
            html: open(args.html.as_ref(), FileKind::Page)?,
            markdown: args.markdown.as_ref().map(|path| AppendedFile::open(path, args.force)).transpose()?,
        })
    }

    /// Writes all reports, and returns the errors of those that could not be written.
    pub(crate) fn write(
        self,
        json: &serde_json::Value,
        html: impl FnOnce() -> String,
        markdown: impl FnOnce() -> String,
    ) -> Vec<Error> {
        let written = [
            self.json.map(|file| file.publish_with(format!("{json:#}\n").as_bytes())),
            self.html.map(|file| file.publish_with(html().as_bytes())),
            self.markdown.map(|file| file.append(&markdown())),
        ];
        written.into_iter().flatten().filter_map(Result::err).collect()
    }
}
