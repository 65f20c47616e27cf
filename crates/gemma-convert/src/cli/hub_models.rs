//! Ids of models on the Hugging Face hub in place of paths: the model is downloaded, and the path becomes its folder in
//! the cache.

use gemma_convert::{HubSource, Result};
use hub::{Hub, HubModel, HubToken, ModelArgument, Settings, Snapshot};

use super::args::{Args, HubOptions, Slot};
use super::progress::{self, Console};

/// Replaces the hub ids among the models of the command by folders.
pub(crate) fn fetch(args: &mut Args) -> Result<()> {
    let options = &args.common.hub;
    let is_hub =
        |slot: &Slot<'_>| matches!(ModelArgument::parse(slot.path.as_os_str()), Ok(ModelArgument::Hub(_)));
    if args.command.models().iter().any(is_hub) {
        args.command.check()?;
    }
    let mut hub = None;
    for slot in args.command.models() {
        let ModelArgument::Hub(model) = ModelArgument::parse(slot.path.as_os_str())? else { continue };
        let hub = match &hub {
            Some(hub) => hub,
            None => hub.insert(open(options)?),
        };
        let snapshot = fetch_one(hub, model, slot.path.to_str().unwrap_or_default(), options)?;
        slot.path.clone_from(&snapshot.folder);
        if let Some(source) = slot.source {
            *source = Some(record(snapshot));
        }
    }
    Ok(())
}

fn open(options: &HubOptions) -> Result<Hub> {
    let mut settings = Settings::from_env()?;
    if let Some(token) = &options.token {
        settings.token = Some(HubToken::new(token, "the option --token")?);
    }
    settings.offline |= options.offline;
    if !settings.progress_bars {
        progress::hide_bars();
    }
    Hub::new(settings)
}

/// `--revision` is for ids without one of their own.
fn fetch_one(hub: &Hub, model: HubModel, typed: &str, options: &HubOptions) -> Result<Snapshot> {
    let model = match options.revision.as_deref().filter(|_| !typed.contains('@')) {
        Some(revision) => model.at(revision)?,
        None => model,
    };
    hub.fetch(&model, 0, &Console::default())
}

fn record(snapshot: Snapshot) -> HubSource {
    let Snapshot { endpoint, id, revision, commit, .. } = snapshot;
    HubSource { endpoint, repository: id, revision, commit }
}
