//! The models that a command reads, and the options of the hub.

use std::path::PathBuf;

use gemma_convert::{HubSource, Result};

use super::{Command, DraftCommand, DraftConvert, DraftExtract};

/// Options for models on the Hugging Face hub.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Models on the Hugging Face hub (owner/name or owner/name@revision)")]
pub(crate) struct HubOptions {
    /// Branch, tag or commit of hub ids without one; by default main
    #[arg(long, global = true, value_name = "REVISION")]
    pub(crate) revision: Option<String>,
    /// Access token; better in the variable HF_TOKEN, which other users of the machine do not see
    #[arg(long, global = true, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Use downloaded models only, as with HF_HUB_OFFLINE=1
    #[arg(long, global = true)]
    pub(crate) offline: bool,
}

/// A path that may be the id of a model on the hub.
pub(crate) struct Slot<'a> {
    pub(crate) path: &'a mut PathBuf,
    /// Where a repository is recorded, if the command records it.
    pub(crate) source: Option<&'a mut Option<HubSource>>,
}

impl<'a> From<&'a mut PathBuf> for Slot<'a> {
    fn from(path: &'a mut PathBuf) -> Slot<'a> {
        Slot { path, source: None }
    }
}

impl super::Convert {
    fn slot(&mut self) -> Slot<'_> {
        Slot { path: &mut self.model, source: Some(&mut self.source) }
    }
}

impl Command {
    /// Checks what can be checked without the models, before they are downloaded.
    ///
    /// # Errors
    /// Those of recipes and options.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Command::Plan(plan) => plan.job()?.check(),
            Command::Convert(convert) if convert.stream => convert.job()?.check_streamed(),
            Command::Convert(convert) => convert.job()?.check(),
            Command::Release(release) => release.job()?.check(),
            Command::Draft(draft) => match &draft.command {
                DraftCommand::Convert(DraftConvert { convert, .. })
                | DraftCommand::Extract(DraftExtract { convert, .. }) => convert.job()?.check(),
                DraftCommand::Measure(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Whether the headers of the weights are enough.
    ///
    /// # Errors
    /// Those of recipes.
    pub(crate) fn needs_headers_only(&self) -> Result<bool> {
        Ok(match self {
            Command::Plan(plan) => !plan.job()?.samples_weights()?,
            Command::Inspect(_) | Command::Recipes(_) | Command::Types(_) => true,
            Command::Convert(convert) => convert.stream,
            _ => false,
        })
    }

    /// The models that the command reads.
    pub(crate) fn models(&mut self) -> Vec<Slot<'_>> {
        match self {
            Command::Inspect(inspect) => vec![(&mut inspect.model).into()],
            Command::Plan(plan) => vec![(&mut plan.model).into()],
            Command::Convert(convert) => vec![convert.slot()],
            Command::Release(release) => {
                let assistant = release.assistant.as_mut();
                let assistant =
                    assistant.map(|path| Slot { path, source: Some(&mut release.assistant_source) });
                let model = Slot { path: &mut release.model, source: Some(&mut release.source) };
                std::iter::once(model).chain(assistant).collect()
            }
            Command::Calibrate(calibrate) => calibrate.model.iter_mut().map(Slot::from).collect(),
            Command::Sensitivity(sensitivity) => vec![(&mut sensitivity.model).into()],
            Command::Verify(verify) => {
                let bases = verify.against.iter_mut().chain(&mut verify.assistant);
                bases.chain(&mut verify.artifacts).map(Slot::from).collect()
            }
            Command::Generate(generate) => {
                generate.drafting.draft.iter_mut().chain([&mut generate.model]).map(Slot::from).collect()
            }
            Command::Draft(draft) => match &mut draft.command {
                DraftCommand::Convert(convert) => vec![convert.convert.slot(), (&mut convert.target).into()],
                DraftCommand::Extract(extract) => vec![extract.convert.slot()],
                DraftCommand::Measure(measure) => {
                    vec![(&mut measure.draft).into(), (&mut measure.target).into()]
                }
            },
            Command::Recipes(list) | Command::Types(list) => list.model.iter_mut().map(Slot::from).collect(),
            // their files are GGUFs of this machine
            Command::Pack(_) | Command::Completions(_) | Command::Man => Vec::new(),
        }
    }
}
