//! The store of quantized layers: one GGUF file a layer. An interrupted calibration resumes from it, and the conversion
//! reads it like any other source of tensors.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base::{FileKind, Listed, OutputFile, Sha256};
use gguf::{GgufFile, Layout, Metadata};
use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::TensorReport;

/// Key with the digest of the inputs of a layer: checkpoint, types, text, method.
const ID: &str = base::STORE_KEY;
/// Key with the reports of the tensors, as JSON.
const REPORT: &str = "gemma-convert.calibration.report";

/// Version of the method. Raise it when equal inputs give other bytes: layers of an earlier version are then made again.
const METHOD: u32 = 3;

/// The `id` of a [`CalibrationStore`]: a digest of what the layers are made of, the text among it, and of how they are made.
pub fn store_id(parts: &[&[u8]], sequences: &[Vec<u32>]) -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(METHOD.to_le_bytes());
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    for sequence in sequences {
        hash.update((sequence.len() as u64).to_le_bytes());
        sequence.iter().for_each(|token| hash.update(token.to_le_bytes()));
    }
    base::hex(&hash.finish())
}

/// A folder of quantized layers, locked against other runs while the store exists.
#[derive(Clone, Debug)]
pub struct CalibrationStore {
    folder: PathBuf,
    id: String,
    _lock: Arc<File>,
    /// The message of an interrupted run about the kept layers.
    kept: Arc<Mutex<Option<Listed>>>,
}

/// One layer of a store.
pub(crate) struct Layer {
    pub(crate) file: GgufFile,
    pub(crate) reports: Vec<TensorReport>,
}

impl CalibrationStore {
    /// Opens the folder, and creates it if it is missing. Layers with another `id` are made again.
    ///
    /// # Errors
    /// `Target` for a folder that cannot be made, or that another run is using.
    pub fn new(folder: impl Into<PathBuf>, id: impl Into<String>) -> Result<CalibrationStore> {
        let folder = folder.into();
        let fail = |e: std::io::Error| Error::write(folder.display(), &e);
        fs::create_dir_all(&folder).map_err(fail)?;
        let lock = base::try_lock_folder(&folder).map_err(|e| match e {
            TryLockError::WouldBlock => {
                Error::target(folder.display(), "another run keeps its rounded layers here")
                    .help("Wait for it to end, or choose another target.")
            }
            TryLockError::Error(e) => fail(e),
        })?;
        Ok(CalibrationStore { folder, id: id.into(), _lock: Arc::new(lock), kept: Arc::default() })
    }

    /// The folder of the store.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, layer: usize) -> PathBuf {
        self.folder.join(format!("blk.{layer}.gguf"))
    }

    /// The quantized tensors of a layer, if the store has them with the same id.
    pub(crate) fn layer(&self, layer: usize) -> Result<Option<Layer>> {
        let path = self.path(layer);
        if !path.exists() {
            return Ok(None);
        }
        // a damaged file is made again
        let Ok(file) = GgufFile::open(&path) else { return Ok(None) };
        let text = |key: &str| file.metadata().typed::<&str>(key).ok().flatten();
        let reports = text(REPORT).and_then(|json| serde_json::from_str(json).ok());
        match (text(ID) == Some(&self.id), reports) {
            (true, Some(reports)) => {
                self.note_kept();
                Ok(Some(Layer { file, reports }))
            }
            _ => Ok(None),
        }
    }

    /// Writes the quantized tensors of a layer.
    pub(crate) fn keep(
        &self,
        layer: usize,
        tensors: &[(TensorDesc, &[u8])],
        reports: &[TensorReport],
    ) -> Result<()> {
        let path = self.path(layer);
        let mut metadata = Metadata::new();
        metadata.append(ID, self.id.as_str());
        let json = serde_json::to_string(reports).map_err(|e| Error::write(path.display(), &e.into()))?;
        metadata.append(REPORT, json.as_str());
        let layout = Layout::new(&metadata, tensors.iter().map(|(desc, _)| desc.clone()).collect())?;
        let mut output = OutputFile::replacing(&path, FileKind::StoredLayer, false)?;
        let written = layout.write(&mut output, tensors.iter().map(|(_, bytes)| bytes));
        written.map_err(|e| output.fail(&e))?;
        output.publish()?;
        self.note_kept();
        Ok(())
    }

    /// Registers the message of an interrupted run.
    fn note_kept(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| {
            base::keeps(format!(
                "the layers that are rounded so far are kept in {}: the same command goes on from there",
                self.folder.display()
            ))
        });
    }

    /// The quantized tensors of some layers.
    ///
    /// # Errors
    /// `Malformed` for a layer that is not there, `Io`.
    pub fn open(&self, layers: impl IntoIterator<Item = usize>) -> Result<RoundedTensors> {
        let mut all = RoundedTensors { layers: Vec::new(), tensors: Vec::new(), places: Vec::new() };
        for layer in layers {
            let Some(found) = self.layer(layer)? else {
                return Err(Error::malformed(
                    self.path(layer).display(),
                    "not there, or of another calibration",
                ));
            };
            for (index, desc) in found.file.tensors().iter().enumerate() {
                all.tensors.push(desc.clone());
                all.places.push((all.layers.len(), index));
            }
            all.layers.push(found.file);
        }
        Ok(all)
    }

    /// Removes the files of these layers, and the folder if it is then empty.
    pub fn remove(&self, layers: impl IntoIterator<Item = usize>) {
        // a file that cannot be removed does no harm
        layers.into_iter().for_each(|layer| drop(fs::remove_file(self.path(layer))));
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The quantized tensors of a model.
#[derive(Debug)]
pub struct RoundedTensors {
    layers: Vec<GgufFile>,
    tensors: Vec<TensorDesc>,
    /// File and number there.
    places: Vec<(usize, usize)>,
}

impl TensorSource for RoundedTensors {
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let (layer, index) = self.places[index];
        self.layers[layer].read_rows(index, first, out)
    }
}

#[cfg(test)]
mod tests {
    use tensor::DType;

    use super::*;
    use crate::select::Method;

    /// A layer that was kept is found again by a store of the same calibration, and by no other.
    #[test]
    fn a_store_is_resumed_by_the_same_calibration_only() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("store");
        let desc = TensorDesc::new("blk.1.attn_q.weight", DType::Q8_0, [2, 32]).unwrap();
        let bytes: Vec<u8> = (0..68).collect();
        let report =
            TensorReport { tensor: desc.name.clone(), method: Method::Feedback, error_ratio: Some(0.5) };
        let first = store_id(&[b"model", b"recipe"], &[vec![1, 2]]);
        {
            let store = CalibrationStore::new(&folder, &first).unwrap();
            assert!(store.layer(1).unwrap().is_none());
            store.keep(1, &[(desc.clone(), &bytes)], &[report]).unwrap();
            let refused = CalibrationStore::new(&folder, &first).unwrap_err();
            assert!(refused.to_string().contains("another run"), "{refused}");
        }
        let others: [(&[&[u8]], &[u32]); 3] = [
            (&[b"model", b"recipe"], &[1, 3]),
            (&[b"model", b"other"], &[1, 2]),
            (&[b"modelr", b"ecipe"], &[1, 2]),
        ];
        for (parts, tokens) in others {
            let store = CalibrationStore::new(&folder, store_id(parts, &[tokens.to_vec()])).unwrap();
            assert!(store.layer(1).unwrap().is_none(), "{parts:?} {tokens:?}");
        }
        let store = CalibrationStore::new(&folder, &first).unwrap();
        let layer = store.layer(1).unwrap().unwrap();
        assert_eq!(
            (layer.reports[0].tensor.as_str(), layer.reports[0].error_ratio),
            ("blk.1.attn_q.weight", Some(0.5))
        );
        let tensors = store.open([1]).unwrap();
        assert_eq!(tensors.tensors(), [desc]);
        let mut found = vec![0; 34];
        tensors.read_rows(0, 1, &mut found).unwrap();
        assert_eq!(found, bytes[34..]);
        assert!(store.open([0, 1]).err().unwrap().to_string().contains("blk.0.gguf"));

        // a file that is cut is made anew; behind the 68 bytes of the tensor are 28 of padding
        let path = folder.join("blk.1.gguf");
        let whole = fs::read(&path).unwrap();
        for cut in [0, 10, whole.len() / 2, whole.len() - 29] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(store.layer(1).unwrap().is_none(), "{cut} bytes");
        }
        drop(tensors);
        store.remove([1]);
        assert!(!folder.exists());
    }
}
