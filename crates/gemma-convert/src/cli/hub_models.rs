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
        let hub = match &fetched.hub {
            Some(hub) => hub,
            None => fetched.hub.insert(open(options)?),
        };
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
    if let (Some(hub), Command::Release(release)) = (&fetched.hub, &mut args.command) {
        find_assistant(hub, release)?;
    }
    Ok(fetched)
}

impl Fetched {
    /// Whether the weights are converted as they are downloaded. Those that the cache has are not.
    pub(crate) fn is_streamed(&self) -> bool {
        self.streamed.is_some()
    }

    /// Converts the weights as they are downloaded.
    pub(crate) fn convert(&self, job: &Convert) -> Result<Converted> {
        let (Some(hub), Some(model), console) = (&self.hub, &self.streamed, Console::default()) else {
            return job.run(&Console::default());
        };
        let remote = hub.open(model, &console)?;
        job.run_streamed(&mut Shards { remote: &remote, progress: &console, current: None }, &console)
    }
}

/// The shards of a model on the hub, one after the other.
struct Shards<'a> {
    remote: &'a RemoteModel<'a>,
    progress: &'a Console,
    current: Option<(&'a str, FileStream<'a>)>,
}

impl StreamedFiles for Shards<'_> {
    fn read(&mut self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
        if self.current.as_ref().is_none_or(|(current, _)| *current != name) {
            self.finish()?;
            let file = self.remote.file(name)?;
            self.current = Some((&file.path, self.remote.stream(file, self.progress)));
        }
        let Some((_, stream)) = &mut self.current else { return Ok(()) };
        assert_eq!(stream.offset(), offset, "{name} is read in order");
        let mut filled = 0;
        while filled < out.len() {
            match stream.read_next(&mut out[filled..])? {
                0 => return Err(Error::malformed(name, "the file ends before its last byte")),
                count => filled += count,
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.current.take().map_or(Ok(()), |(_, stream)| stream.finish())
    }
}

/// The assistant of a released model has the model's id with `-assistant` after it. A model of others may have none.
fn find_assistant(hub: &Hub, release: &mut Release) -> Result<()> {
    let Some(source) = release.source.as_ref().filter(|_| release.assistant.is_none()) else { return Ok(()) };
    if !release.job()?.makes_draft()? {
        return Ok(());
    }
    let model = HubModel::new(&format!("{}-assistant", source.repository), MAIN)?;
    match hub.fetch(&model, 0, &Console::default()) {
        Ok(snapshot) => {
            release.assistant = Some(snapshot.folder.clone());
            release.assistant_source = Some(record(snapshot));
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::Missing || hub.settings().offline => Ok(()),
        Err(error) => Err(error),
    }
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
