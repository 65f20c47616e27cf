//! Checkpoints from the Hugging Face hub: verified files in the standard cache.
//!
//! ```no_run
//! use hub::{Hub, ModelArgument, Settings};
//!
//! let settings = Settings::from_env()?;
//! let ModelArgument::Hub(model) = ModelArgument::parse("google/gemma-4-E2B-it@main".as_ref())? else { return Ok(()) };
//! let snapshot = Hub::new(settings)?.fetch(&model, 0, &base::Silent)?;
//! assert!(snapshot.folder.join("config.json").is_file());
//! # Ok::<(), base::Error>(())
//! ```
//!
//! The revision is resolved to a commit once, and every later request names the commit. The hub lists size and hash of
//! each file of a commit. Bytes are hashed as they arrive, and a file gets its name in the cache when its hash is right.
//! An interrupted download continues in the next process. For users: docs/hub.md.
//!
//! | file | idea |
//! |---|---|
//! | `model.rs` | names of models, and how they differ from paths |
//! | `settings.rs` | settings, from the environment |
//! | `client.rs` | requests: redirects, the token, limits |
//! | `url.rs` | URLs |
//! | `retry.rs` | failures that pass |
//! | `refusal.rs` | refusals, explained |
//! | `remote.rs` | a model at one commit |
//! | `tree.rs` | the list of its files |
//! | `needed.rs` | the files that a conversion needs |
//! | `cache.rs` | the cache on disk |
//! | `pull.rs` | bytes over as many connections as it takes |
//! | `download.rs` | one file into the cache |
//! | `fetch.rs` | the needed files, from the hub or from the cache alone |
//! | `headers.rs` | the headers of weights alone, for a plan |
//! | `stream.rs` | a file in order, without a copy |
//! | `digest.rs` | hashes |
//!
//! Not covered: uploads, data sets, spaces, the protocol Xet (every file of it has an HTTP address too), and what is in
//! the files. The crate hf-hub knows the layout of the cache and the addresses of the API; its own downloads check
//! neither size nor hash nor status, so the transfers are made here.

mod cache;
mod client;
mod digest;
mod download;
mod fetch;
mod headers;
mod model;
mod needed;
mod pull;
mod refusal;
mod remote;
mod retry;
mod settings;
mod stream;
mod tree;
mod url;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::{Error, Progress, Result};

use client::Client;

pub use fetch::Snapshot;
pub use model::{HubModel, MAIN, ModelArgument};
pub use remote::RemoteModel;
pub use settings::{ENDPOINT, HubToken, Settings};
pub use stream::FileStream;
pub use tree::RemoteFile;

/// A client of one hub.
#[derive(Debug)]
pub struct Hub {
    client: Client,
}

impl Hub {
    /// A client with these settings. Nothing is sent yet.
    ///
    /// # Errors
    /// `Recipe` for an endpoint that is not a URL; those of the file of certificates.
    pub fn new(settings: Settings) -> Result<Hub> {
        Ok(Hub { client: Client::new(settings, Arc::new(std::thread::sleep))? })
    }

    /// The same client with another way to wait between attempts, for tests.
    #[must_use]
    pub fn sleeping(mut self, sleep: impl Fn(Duration) + Send + Sync + 'static) -> Hub {
        self.client.sleep = Arc::new(sleep);
        self
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.client.settings
    }

    /// Resolves the revision of a model to its commit, and lists the files.
    ///
    /// # Errors
    /// Errors of [`base::ErrorKind::Missing`] for an unknown repository or revision, of `Io(PermissionDenied)` for a
    /// gated one or a rejected token; `Recipe` in offline mode; those of the network, after all retries.
    pub fn open(&self, model: &HubModel, progress: &dyn Progress) -> Result<RemoteModel<'_>> {
        if self.client.settings.offline {
            return Err(Error::recipe(model, "the hub is not asked in offline mode")
                .help("Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE."));
        }
        RemoteModel::open(&self.client, model, progress)
    }

    /// The needed files of a model in the cache. Those that it lacks are downloaded, unless the client is offline.
    /// `reserve` bytes stay free on the disk.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`RemoteModel::fetch`]; `Malformed` for files that the cache lacks in offline mode.
    pub fn fetch(&self, model: &HubModel, reserve: u64, progress: &dyn Progress) -> Result<Snapshot> {
        self.find(model, progress, |remote| remote.fetch(reserve, progress))
    }

    /// As [`fetch`](Self::fetch), with the headers of missing weights alone, see [`RemoteModel::fetch_headers`].
    ///
    /// # Errors
    /// As [`RemoteModel::fetch_headers`].
    pub fn fetch_headers(
        &self,
        model: &HubModel,
        folder: &Path,
        is_wanted: &dyn Fn(&str) -> bool,
        progress: &dyn Progress,
    ) -> Result<Snapshot> {
        self.find(model, progress, |remote| remote.fetch_headers(folder, is_wanted, progress))
    }

    fn find(
        &self,
        model: &HubModel,
        progress: &dyn Progress,
        fetch: impl FnOnce(&RemoteModel<'_>) -> Result<Snapshot>,
    ) -> Result<Snapshot> {
        let settings = &self.client.settings;
        if settings.offline {
            return fetch::cached(&settings.cache, &settings.endpoint, model);
        }
        match self.open(model, progress) {
            Ok(remote) => fetch(&remote),
            Err(error)
                if !self.client.was_answered()
                    && fetch::cached(&settings.cache, &settings.endpoint, model).is_ok() =>
            {
                Err(error.help("The cache has this model: HF_HUB_OFFLINE=1 uses it without the network."))
            }
            Err(error) => Err(error),
        }
    }
}
