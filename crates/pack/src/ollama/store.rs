//! A store: blobs and manifests. Files are added so that a running server sees a whole model or none.
//!
//! A manifest is written last, and prepared outside of the folders in which a server looks for manifests. Blobs that are
//! there stay. At its start a server removes blobs that no manifest lists and that are older than an hour, such as the
//! link of an old file: they are looked at again when the manifest is there.

use std::fs;
use std::path::{Path, PathBuf};

use base::{Progress, Unit};
use schemars::JsonSchema;
use serde::Serialize;
use tensor::{Error, Result};

use super::blob::{self, State};
use super::documents::{OllamaLayer, OllamaManifest};
use super::files::{OllamaFile, OllamaRole};
use super::model::OllamaModel;
use super::name::OllamaName;

/// The largest manifest and small blob that is read for comparison.
const MAX_DOCUMENT: u64 = 4 << 20;

/// The way by which a blob came into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// The store had it.
    Present,
    /// A hard link: the blob and the file are one.
    Linked,
    /// A copy of the file.
    Copied,
    /// A small document, written.
    Written,
}

/// A model in a store.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StoredModel {
    /// The folder of the store.
    pub folder: PathBuf,
    /// The name for `ollama run`.
    pub name: String,
    /// The whole name, with host and namespace.
    pub full_name: String,
    /// SHA-256 of the manifest in hexadecimal; `ollama list` shows its first 12 digits.
    pub id: String,
    /// The manifest.
    pub manifest: PathBuf,
    /// A manifest of this name was replaced.
    pub replaced: bool,
    /// The store had exactly this model under this name.
    pub unchanged: bool,
    /// The blobs: those of the manifest's layers in their order, then the config.
    pub layers: Vec<StoredBlob>,
}

/// A blob of a model in a store.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StoredBlob {
    /// The entry in the manifest.
    #[serde(flatten)]
    pub layer: OllamaLayer,
    /// The file that the content comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The way by which it came into the store.
    pub placement: Placement,
}

/// An Ollama store, which need not exist.
#[derive(Clone, Debug)]
pub struct OllamaStore {
    folder: PathBuf,
}

/// The content of a blob.
enum Content<'a> {
    File(&'a OllamaFile, State),
    Bytes(Vec<u8>),
}

/// A blob to add.
struct Blob<'a> {
    layer: OllamaLayer,
    content: Content<'a>,
}

impl OllamaStore {
    /// A store in a folder (`OLLAMA_MODELS`): one with the folders `blobs` and `manifests`, an empty or a new folder.
    ///
    /// # Errors
    /// `Target` for a folder with other content.
    pub fn open(folder: impl Into<PathBuf>) -> Result<OllamaStore> {
        let folder = folder.into();
        let not_a_store = |found: &str| {
            Error::target(folder.display(), "not an Ollama store")
                .expected("the folders blobs and manifests, or an empty folder", found)
        };
        if folder.join("models/blobs").is_dir() && !folder.join("blobs").is_dir() {
            let inner = folder.join("models");
            return Err(
                not_a_store("a store in the folder models").help(format!("Give {}.", inner.display()))
            );
        }
        let known = ["blobs", "manifests"].iter().any(|name| folder.join(name).is_dir());
        match fs::read_dir(&folder).map(|mut entries| entries.next().is_some()) {
            Ok(true) if !known => Err(not_a_store("other files")),
            Err(e) if folder.symlink_metadata().is_ok() => Err(denied(&folder, e)),
            _ => Ok(OllamaStore { folder }),
        }
    }

    /// The store that Ollama uses for this user: `$OLLAMA_MODELS`, else `.ollama/models` in the home folder.
    ///
    /// # Errors
    /// `Recipe` without a home folder; those of [`OllamaStore::open`].
    pub fn of_user() -> Result<OllamaStore> {
        let given = std::env::var_os("OLLAMA_MODELS").unwrap_or_default();
        // Ollama trims the variable like this
        let folder = match given.to_str() {
            Some(text) => PathBuf::from(text.trim().trim_matches(['"', '\''])),
            None => PathBuf::from(given),
        };
        if !folder.as_os_str().is_empty() {
            return OllamaStore::open(folder);
        }
        match std::env::home_dir().filter(|home| !home.as_os_str().is_empty()) {
            Some(home) => OllamaStore::open(home.join(".ollama/models")),
            None => Err(Error::recipe("‹store›", "no home folder, and no variable OLLAMA_MODELS")
                .help("Give the folder of the store with ‹store›.")),
        }
    }

    /// Adds a model under a name. Without `force` a different model of this name is not replaced. Blobs of the replaced
    /// model stay; Ollama removes them when no manifest lists them.
    ///
    /// # Errors
    /// `Target` with [`base::ErrorKind::Exists`] for another model of this name; `Target` for a blob of another size, and
    /// for a store that cannot be written; `Malformed` for a file that changes meanwhile; `Io`.
    pub fn add(
        &self,
        model: &OllamaModel,
        name: &OllamaName,
        force: bool,
        progress: &dyn Progress,
    ) -> Result<StoredModel> {
        let name = name.spelled_as(&self.names());
        let path = self.folder.join("manifests").join(name.path());

        let mut blobs = blobs(model, progress)?;
        let document = model.config().document();
        let config_layer = OllamaLayer::config(&blob::sha256(&document), document.len() as u64);
        let layers = blobs.iter().map(|blob| blob.layer.clone()).collect();
        let manifest = OllamaManifest::new(config_layer.clone(), layers).document();
        blobs.push(Blob { layer: config_layer, content: Content::Bytes(document) });

        let old = self.manifest(&path)?;
        let (exists, unchanged) = (old.is_some(), old.as_ref() == Some(&manifest));
        if exists && !unchanged && !force {
            return Err(Error::exists(
                path.display(),
                format!("the store has another model {}", name.short()),
            )
            .help("Choose another name, or use ‹force› to replace it."));
        }
        for blob in &blobs {
            self.present(blob)?;
        }

        let placements = self.write(&blobs, (&path, &manifest), unchanged, progress)?;
        let layers = blobs.into_iter().zip(placements).map(|(blob, placement)| StoredBlob {
            file: match blob.content {
                Content::File(file, _) => Some(file.path().to_owned()),
                Content::Bytes(_) => None,
            },
            layer: blob.layer,
            placement,
        });
        Ok(StoredModel {
            folder: self.folder.clone(),
            name: name.short(),
            full_name: name.to_string(),
            id: blob::sha256(&manifest),
            manifest: path,
            replaced: exists && !unchanged,
            unchanged,
            layers: layers.collect(),
        })
    }

    /// Writes what is missing, the manifest last. Returns the placement of each blob.
    fn write(
        &self,
        blobs: &[Blob<'_>],
        (path, manifest): (&Path, &[u8]),
        unchanged: bool,
        progress: &dyn Progress,
    ) -> Result<Vec<Placement>> {
        let folder = self.folder.join("blobs");
        let manifests = self.folder.join("manifests");
        blob::create_folders(&folder).map_err(explained)?;
        blob::create_folders(&manifests).map_err(explained)?;
        let mut placements = self.place(blobs, &folder, progress)?;
        if !unchanged {
            let parent = path.parent().unwrap_or(&manifests);
            blob::create_folders(parent).map_err(explained)?;
            let owner = fs::metadata(parent).map_err(|e| denied(parent, e))?;
            blob::place_manifest(manifest, path, &manifests, &owner).map_err(explained)?;
        }
        // a server that started meanwhile may have taken a blob for an old one
        for (again, placement) in self.place(blobs, &folder, progress)?.into_iter().zip(&mut placements) {
            if again != Placement::Present {
                *placement = again;
            }
        }
        Ok(placements)
    }

    /// Puts the blobs that are missing into `folder`.
    fn place(&self, blobs: &[Blob<'_>], folder: &Path, progress: &dyn Progress) -> Result<Vec<Placement>> {
        let owner = fs::metadata(folder).map_err(|e| denied(folder, e))?;
        let place = |blob: &Blob<'_>| {
            if self.present(blob)? {
                return Ok(Placement::Present);
            }
            let path = folder.join(blob.layer.blob_name());
            match &blob.content {
                Content::Bytes(bytes) => blob::place_bytes(bytes, &path, &owner).map_err(explained),
                Content::File(file, state) => {
                    let task = progress.begin("storing", blob.layer.size, Unit::Bytes);
                    state.check(file.path())?;
                    let placed = blob::place_file(file.path(), &path, &owner, task.as_ref());
                    let placement = placed.map_err(explained)?;
                    // a file that changed has bytes that the name does not promise
                    state.check(file.path()).inspect_err(|_| drop(fs::remove_file(&path)))?;
                    Ok(placement)
                }
            }
        };
        blobs.iter().map(place).collect()
    }

    /// Whether the store has a blob. Its size must be right, and of a small one the content.
    fn present(&self, blob: &Blob<'_>) -> Result<bool> {
        let path = self.folder.join("blobs").join(blob.layer.blob_name());
        let found = match fs::metadata(&path) {
            Ok(found) => found,
            // a link that leads nowhere is in the way, too
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !path.is_symlink() => return Ok(false),
            Err(e) => return Err(denied(&path, e)),
        };
        let damaged = |expected: String, found: String| {
            Error::target(path.display(), "the blob in the store is damaged")
                .expected(expected, found)
                .help("Remove it; models that list it do not work as it is.")
        };
        if !found.is_file() || found.len() != blob.layer.size {
            let what = if found.is_file() { format!("{} bytes", found.len()) } else { "no file".to_owned() };
            return Err(damaged(format!("a file of {} bytes", blob.layer.size), what));
        }
        if let Content::Bytes(bytes) = &blob.content {
            let stored = fs::read(&path).map_err(|e| denied(&path, e))?;
            if stored != *bytes {
                return Err(damaged(blob.layer.digest.clone(), format!("sha256:{}", blob::sha256(&stored))));
            }
        }
        Ok(true)
    }

    /// The manifest at a path, if there is one.
    fn manifest(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        match fs::symlink_metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            // a component is a file
            Err(e) => Err(denied(path, e)),
            Ok(_) => base::read_bounded(path, MAX_DOCUMENT).map(Some).map_err(|e| {
                e.moved(tensor::Fault::Target, path.display()).help("Another program made it; move it away.")
            }),
        }
    }

    /// The names of the models in the store. Files that are none, and folders that cannot be read, are left out.
    fn names(&self) -> Vec<OllamaName> {
        let mut found = vec![(self.folder.join("manifests"), Vec::new())];
        for _ in 0..4 {
            let entries = found.into_iter().flat_map(|(folder, parts)| {
                let entries = fs::read_dir(folder).into_iter().flatten().flatten();
                entries.filter_map(move |entry| {
                    let name = entry.file_name().into_string().ok()?;
                    Some((entry.path(), [parts.clone(), vec![name]].concat()))
                })
            });
            found = entries.collect();
        }
        let names = found.iter().filter(|(path, _)| path.is_file()).filter_map(|(_, parts)| {
            let parts: [&str; 4] = parts.iter().map(String::as_str).collect::<Vec<_>>().try_into().ok()?;
            OllamaName::from_parts(parts)
        });
        names.collect()
    }
}

/// The error of a system call on a path of the store.
fn denied(path: &Path, error: std::io::Error) -> Error {
    explained(Error::write(path.display(), &error))
}

/// An error of writing, with the remedy if the system denied it.
fn explained(error: Error) -> Error {
    if error.kind() != base::ErrorKind::Io(std::io::ErrorKind::PermissionDenied) {
        return error;
    }
    error.help(
        "It may belong to another user, such as that of Ollama's service. Run as that user, or write a Modelfile with \
         ‹modelfile› and let `ollama create` read it.",
    )
}

/// The blobs of a model's layers. The files are read for their SHA-256.
fn blobs<'a>(model: &'a OllamaModel, progress: &dyn Progress) -> Result<Vec<Blob<'a>>> {
    let mut blobs = Vec::new();
    for file in model.files() {
        let state = State::of(file.path())?;
        let size = file.gguf.file_len();
        let task = progress.begin("hashing", size, Unit::Bytes);
        let sha256 = blob::sha256_of_file(file.path(), task.as_ref())?;
        drop(task);
        state.check(file.path())?;
        let (kind, from) = match file.role {
            OllamaRole::Text => ("model", None),
            OllamaRole::Projector => ("projector", Some(file.name())),
            OllamaRole::Draft => ("draft", Some(file.name())),
        };
        blobs.push(Blob {
            layer: OllamaLayer::new(kind, &sha256, size, from),
            content: Content::File(file, state),
        });
    }
    let license = model.license.as_ref().map(|text| ("license", text.clone().into_bytes()));
    for (kind, bytes) in license.into_iter().chain([("params", model.params.document())]) {
        let layer = OllamaLayer::new(kind, &blob::sha256(&bytes), bytes.len() as u64, None);
        blobs.push(Blob { layer, content: Content::Bytes(bytes) });
    }
    Ok(blobs)
}
