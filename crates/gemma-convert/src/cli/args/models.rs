//! The models that a command reads, and the options of the hub.

use std::path::PathBuf;

use gemma_convert::{Adapter, HubSource, Result};

use super::{AdapterCommand, Command, DraftCommand, DraftConvert, DraftExtract, Lora};

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
    /// Whether it is an adapter, whose weights are always needed.
    pub(crate) is_adapter: bool,
}

impl<'a> From<&'a mut PathBuf> for Slot<'a> {
    fn from(path: &'a mut PathBuf) -> Slot<'a> {
        Slot { path, source: None, is_adapter: false }
    }
}

impl super::Convert {
    fn slots(&mut self) -> Vec<Slot<'_>> {
        let model = Slot { path: &mut self.model, source: Some(&mut self.source), is_adapter: false };
        let base = self.bundle.bundle_base.iter_mut().map(Slot::from);
        with(model, &mut self.lora).into_iter().chain(base).collect()
    }
}

/// A model and the adapters that are merged into it.
fn with<'a>(model: impl Into<Slot<'a>>, lora: &'a mut Lora) -> Vec<Slot<'a>> {
    let adapter = |adapter: &'a mut Adapter| adapter_slot(&mut adapter.folder);
    std::iter::once(model.into()).chain(lora.lora.iter_mut().map(adapter)).collect()
}

fn adapter_slot(path: &mut PathBuf) -> Slot<'_> {
    Slot { is_adapter: true, ..path.into() }
}

impl Command {
    /// Checks what can be checked without the models, before they are downloaded.
    ///
    /// # Errors
    /// Those of recipes and options.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Command::Plan(plan) => plan.job()?.check(),
            Command::Convert(convert) => match convert.bundle_job()? {
                Some(_) => Ok(()),
                None if convert.stream => convert.job()?.check_streamed(),
                None => convert.job()?.check(),
            },
            Command::Release(release) => release.job()?.check(),
            Command::Draft(draft) => match &draft.command {
                DraftCommand::Convert(DraftConvert { convert, .. })
                | DraftCommand::Extract(DraftExtract { convert, .. }) => convert.job()?.check(),
                DraftCommand::Measure(_) => Ok(()),
            },
            Command::Adapter(adapter) => {
                let AdapterCommand::Convert(convert) = &adapter.command;
                convert.job()?.check()
            }
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
            Command::Inspect(_) | Command::Adapter(_) | Command::Recipes(_) | Command::Types(_) => true,
            Command::Convert(convert) => convert.stream,
            _ => false,
        })
    }

    /// The models that the command reads.
    pub(crate) fn models(&mut self) -> Vec<Slot<'_>> {
        match self {
            Command::Inspect(inspect) => with(&mut inspect.model, &mut inspect.lora),
            Command::Plan(plan) => with(&mut plan.model, &mut plan.lora),
            Command::Convert(convert) => convert.slots(),
            Command::Release(release) => {
                let assistant = release.assistant.as_mut();
                let source = Some(&mut release.assistant_source);
                let assistant = assistant.map(|path| Slot { path, source, is_adapter: false });
                let source = Some(&mut release.source);
                let model = Slot { path: &mut release.model, source, is_adapter: false };
                with(model, &mut release.lora).into_iter().chain(assistant).collect()
            }
            Command::Calibrate(calibrate) => match &mut calibrate.model {
                Some(model) => with(model, &mut calibrate.lora),
                None => Vec::new(),
            },
            Command::Sensitivity(sensitivity) => with(&mut sensitivity.model, &mut sensitivity.lora),
            Command::Verify(verify) => {
                let base = verify.against.as_mut().map(|base| with(base, &mut verify.lora));
                let others = verify.assistant.iter_mut().chain(&mut verify.artifacts);
                base.into_iter().flatten().chain(others.map(Slot::from)).collect()
            }
            Command::Generate(generate) => {
                let draft = generate.drafting.draft.iter_mut().map(Slot::from);
                draft.chain(with(&mut generate.model, &mut generate.lora)).collect()
            }
            Command::Draft(draft) => match &mut draft.command {
                DraftCommand::Convert(convert) => {
                    convert.convert.slots().into_iter().chain([(&mut convert.target).into()]).collect()
                }
                DraftCommand::Extract(extract) => extract.convert.slots(),
                DraftCommand::Measure(measure) => {
                    let target = with(&mut measure.target, &mut measure.lora);
                    std::iter::once((&mut measure.draft).into()).chain(target).collect()
                }
            },
            Command::Adapter(adapter) => {
                let AdapterCommand::Convert(convert) = &mut adapter.command;
                vec![(&mut convert.base).into(), adapter_slot(&mut convert.adapter)]
            }
            Command::Recipes(list) | Command::Types(list) => list.model.iter_mut().map(Slot::from).collect(),
            // their files are GGUFs of this machine
            Command::Edit(_)
            | Command::Join(_)
            | Command::Pack(_)
            | Command::Completions(_)
            | Command::Man => Vec::new(),
        }
    }
}
