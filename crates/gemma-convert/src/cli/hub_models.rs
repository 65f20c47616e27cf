//! Ids of models on the Hugging Face hub in place of paths: the model is downloaded, and the path becomes its folder in
//! the cache.

use gemma_convert::{Convert, Converted, Error, ErrorKind, HubSource, Progress, Result, StreamedFiles};
use hub::{FileStream, Hub, HubModel, HubToken, MAIN, ModelArgument, RemoteModel, Settings, Snapshot};
use tempfile::TempDir;

use super::args::{Args, Command, HubOptions, Release, Slot};
use super::progress::{self, Console};

const HEADERS_ONLY: &str = "of the weights only the headers were downloaded: whether they are on a quantization grid (QAT) is not known";

/// What is behind the ids of a command.
#[derive(Default)]
pub(crate) struct Fetched {
    /// Folders with headers of weights; they are removed with this.
    folders: Vec<TempDir>,
    hub: Option<Hub>,
    /// The model whose weights are converted as they are downloaded.
    streamed: Option<HubModel>,
}

/// Replaces the hub ids among the models of the command by folders.
pub(crate) fn fetch(args: &mut Args) -> Result<Fetched> {
    let options = &args.common.hub;
    let is_hub =
        |slot: &Slot<'_>| matches!(ModelArgument::parse(slot.path.as_os_str()), Ok(ModelArgument::Hub(_)));
    let stream = matches!(&args.command, Command::Convert(convert) if convert.stream);
    let names_hub = args.command.models().iter().any(is_hub);
    let streams_hub = args.command.models().iter().any(|slot| is_hub(slot) && !slot.is_adapter);
    if stream && !streams_hub {
        return Err(Error::recipe("--stream", "has no effect on a folder of this machine")
            .expected("the id of a model on the hub", "a path"));
    }
    if names_hub {
        args.command.check()?;
    }
    let headers_only = names_hub && args.command.needs_headers_only()?;
    let mut fetched = Fetched::default();
    for slot in args.command.models() {
        let ModelArgument::Hub(model) = ModelArgument::parse(slot.path.as_os_str())? else { continue };
        let hub = opened(&mut fetched.hub, options)?;
        // an adapter has a history of its own
        let typed = slot.path.to_str().unwrap_or_default();
        let model = if slot.is_adapter { model } else { at_revision(model, typed, options)? };
        let snapshot = if headers_only && !slot.is_adapter {
            let folder = TempDir::new().map_err(|e| Error::write(std::env::temp_dir().display(), &e))?;
            let found =
                hub.fetch_headers(&model, folder.path(), &checkpoint::is_read_on_open, &Console::default())?;
            if found.folder == folder.path() {
                Console::default().note(HEADERS_ONLY);
                fetched.folders.push(folder);
                if stream {
                    fetched.streamed = Some(HubModel::new(&found.id, &found.commit)?);
                }
            }
            found
        } else {
            hub.fetch(&model, 0, &Console::default())?
        };
        slot.path.clone_from(&snapshot.folder);
        if let Some(source) = slot.source {
            *source = Some(record(snapshot));
        }
    }
    if let Command::Plan(plan) = &mut args.command {
        plan.headers_only = !fetched.folders.is_empty();
    }
    if let Command::Release(release) = &mut args.command {
        find_assistant(&mut fetched, options, release)?;
    }
    Ok(fetched)
}

impl Fetched {
    /// Runs a conversion: of a stream, if the weights are converted as they are downloaded. Those that the cache has are not.
    pub(crate) fn convert(&self, job: &Convert) -> Result<Converted> {
        let (Some(hub), Some(model), console) = (&self.hub, &self.streamed, Console::default()) else {
            return job.run(&Console::default());
        };
        let remote = hub.open(model, &console)?;
        let whole = job.part.is_none();
        job.run_streamed(&mut Shards { remote: &remote, progress: &console, whole, current: None }, &console)
    }
}

/// The shards of a model on the hub, one after the other, or the ranges of them that a part of a conversion needs.
struct Shards<'a> {
    remote: &'a RemoteModel<'a>,
    progress: &'a Console,
    /// Every byte of every shard is read, and verified.
    whole: bool,
    current: Option<(&'a str, FileStream<'a>)>,
}

impl StreamedFiles for Shards<'_> {
    fn read(&mut self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
        let is_next =
            |(current, stream): &(&str, FileStream<'_>)| *current == name && stream.offset() == offset;
        if !self.current.as_ref().is_some_and(is_next) {
            self.finish()?;
            let file = self.remote.file(name)?;
            self.current = Some((&file.path, self.remote.stream(file, offset, self.progress)));
        }
        let Some((_, stream)) = &mut self.current else { return Ok(()) };
        let mut filled = 0;
        while filled < out.len() {
            match stream.read_next(&mut out[filled..])? {
                0 => return Err(Error::malformed(name, "the file ends before its last byte")),
                count => filled += count,
            }
        }
        Ok(())
    }

    fn verified_sha256(&self, name: &str) -> Option<String> {
        self.remote.file(name).ok().filter(|_| self.whole)?.sha256.clone()
    }

    fn finish(&mut self) -> Result<()> {
        match self.current.take() {
            None => Ok(()),
            Some((_, stream)) if self.whole => stream.finish(),
            Some((_, stream)) => stream.finish_range(),
        }
    }
}

/// The assistant that the release recipe names; else the model's id with `-assistant` after it, which a model of others may not
/// have.
fn find_assistant(fetched: &mut Fetched, options: &HubOptions, release: &mut Release) -> Result<()> {
    let job = release.job()?;
    let Some(draft) = job.draft()?.filter(|_| release.assistant.is_none()) else { return Ok(()) };
    let named = draft.assistant.map(|named| ModelArgument::parse(named.as_ref())).transpose()?;
    let is_named = named.is_some();
    let model = match (named, &release.source) {
        (Some(ModelArgument::Hub(model)), _) => model,
        (None, Some(source)) => HubModel::new(&format!("{}-assistant", source.repository), MAIN)?,
        _ => return Ok(()),
    };
    job.check()?;
    let hub = opened(&mut fetched.hub, options)?;
    match hub.fetch(&model, 0, &Console::default()) {
        Ok(snapshot) => {
            release.assistant = Some(snapshot.folder.clone());
            release.assistant_source = Some(record(snapshot));
            Ok(())
        }
        Err(error) if !is_named && (error.kind() == ErrorKind::Missing || hub.settings().offline) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The hub, opened when it is first needed.
fn opened<'a>(hub: &'a mut Option<Hub>, options: &HubOptions) -> Result<&'a Hub> {
    Ok(match hub {
        Some(hub) => hub,
        None => hub.insert(open(options)?),
    })
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
fn at_revision(model: HubModel, typed: &str, options: &HubOptions) -> Result<HubModel> {
    match options.revision.as_deref().filter(|_| !typed.contains('@')) {
        Some(revision) => model.at(revision),
        None => Ok(model),
    }
}

fn record(snapshot: Snapshot) -> HubSource {
    let Snapshot { endpoint, id, revision, commit, .. } = snapshot;
    HubSource { endpoint, repository: id, revision, commit }
}
