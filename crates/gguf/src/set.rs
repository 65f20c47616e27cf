//! A model in one file or in the parts of a split, presented as one source of tensors.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::file::GgufFile;
use crate::metadata::Metadata;
use crate::split::{COUNT, NUMBER, SET, TENSORS, part_name};

/// A model: one file, or all parts of a split.
#[derive(Debug)]
pub struct GgufSet {
    parts: Vec<GgufFile>,
    metadata: Metadata,
    tensors: Vec<TensorDesc>,
    /// Index in `tensors` of the first tensor of each part.
    starts: Vec<usize>,
}

impl GgufSet {
    /// Opens a file; if it is a part of a split, opens all other parts in the same folder.
    ///
    /// # Errors
    /// Those of [`GgufFile::open`], and `Malformed`, naming the part, if a part is missing, misnamed or from another
    /// set, or if tensors are missing or duplicated.
    pub fn open(path: impl AsRef<Path>) -> Result<GgufSet> {
        let given = GgufFile::open(path)?;
        let place = given.path().display().to_string();
        let count = given.metadata().typed::<u16>(COUNT).map_err(|e| e.within(&place))?.unwrap_or(0);
        if count <= 1 {
            return GgufSet::join(vec![given]);
        }
        let id = PartId::of(&given)?;
        let parts = open_parts(given, id)?;
        let found: usize = parts.iter().map(|p| p.tensors().len()).sum();
        if i32::try_from(found) != Ok(id.tensors) {
            return Err(Error::malformed(place, "the parts do not hold all tensors of the model")
                .expected(id.tensors, found));
        }
        GgufSet::join(parts)
    }

    fn join(parts: Vec<GgufFile>) -> Result<GgufSet> {
        let mut metadata = parts[0].metadata().clone();
        for key in [NUMBER, COUNT, TENSORS, SET] {
            metadata.remove(key);
        }
        let mut seen = HashSet::new();
        let mut starts = Vec::with_capacity(parts.len());
        let mut tensors = Vec::new();
        let set = |part: &GgufFile| part.metadata().typed::<&str>(SET).map(|set| set.map(str::to_owned));
        let first = set(&parts[0])?;
        let sets: Vec<Option<String>> = parts.iter().map(set).collect::<Result<_>>()?;
        // llama-gguf-split copies the keys of a model into the first part only
        let is_split_anew = sets[1..].iter().all(Option::is_none);
        for (part, found) in parts.iter().zip(sets) {
            if found != first && !is_split_anew {
                let none = || "none".to_owned();
                return Err(Error::malformed(
                    part.path().display(),
                    "it is part of another conversion than the first part",
                )
                .expected(format!("set {}", first.unwrap_or_else(none)), found.unwrap_or_else(none))
                .help("All parts of a model must come from the same run: convert again."));
            }
            starts.push(tensors.len());
            for desc in part.tensors() {
                if !seen.insert(desc.name.as_str()) {
                    let place = format!("{}: tensor {}", part.path().display(), desc.name);
                    return Err(Error::malformed(place, "an earlier part has a tensor of this name"));
                }
                tensors.push(desc.clone());
            }
        }
        Ok(GgufSet { parts, metadata, tensors, starts })
    }

    /// The same tensors with other keys.
    #[must_use]
    pub fn with_metadata(self, metadata: Metadata) -> GgufSet {
        GgufSet { metadata, ..self }
    }

    /// The same tensors, with the files mapped, see [`GgufFile::mapped`].
    #[must_use]
    pub fn mapped(self) -> GgufSet {
        GgufSet { parts: self.parts.into_iter().map(GgufFile::mapped).collect(), ..self }
    }

    /// The part that has a tensor, and the index of the tensor in it.
    fn part_of(&self, index: usize) -> (&GgufFile, usize) {
        // the last part that begins at or before the tensor; parts without tensors begin where the next one does
        let part = self.starts.partition_point(|&start| start <= index) - 1;
        (&self.parts[part], index - self.starts[part])
    }

    /// The files, in part order.
    pub fn parts(&self) -> &[GgufFile] {
        &self.parts
    }

    /// The key-value pairs of the model: those of the first part, without `split.*`.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl TensorSource for GgufSet {
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let (part, index) = self.part_of(index);
        part.read_rows(index, first, out)
    }

    fn mapped_rows(&self, index: usize, first: u64, count: u64) -> Option<&[u8]> {
        let (part, index) = self.part_of(index);
        part.mapped_rows(index, first, count)
    }
}

/// Position of a part in its set, as its keys state it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PartId {
    number: u16,
    count: u16,
    tensors: i32,
}

impl PartId {
    fn of(file: &GgufFile) -> Result<PartId> {
        let read = |metadata: &Metadata| {
            Ok(PartId {
                number: metadata.required(NUMBER)?,
                count: metadata.required(COUNT)?,
                tensors: metadata.required(TENSORS)?,
            })
        };
        let id = read(file.metadata()).map_err(|e: Error| e.within(file.path().display()))?;
        if id.number >= id.count {
            return Err(Error::malformed(
                file.path().display(),
                "its part number is beyond the number of parts",
            )
            .expected(format!("{NUMBER} below {}", id.count), id.number));
        }
        Ok(id)
    }

    fn describe(self) -> String {
        format!("part {} of {}, {} tensors in all", u32::from(self.number) + 1, self.count, self.tensors)
    }

    fn file_name(self, prefix: &str) -> String {
        part_name(prefix, usize::from(self.number) + 1, self.count.into())
    }
}

/// The files of a folder whose names end in `.gguf`, sorted.
///
/// # Errors
/// `Io`.
pub fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io(folder.display(), &e);
    let mut files = Vec::new();
    for entry in folder.read_dir().map_err(io)? {
        let path = entry.map_err(io)?.path();
        let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        if is_gguf && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Maximum bytes of all headers of a set: all of them stay in memory.
const MAX_HEADERS: u64 = 300 << 20;

fn open_parts(given: GgufFile, id: PartId) -> Result<Vec<GgufFile>> {
    let suffix = id.file_name("");
    let path = given.path().to_owned();
    let name = path.file_name().and_then(|n| n.to_str());
    let Some(prefix) = name.and_then(|n| n.strip_suffix(&suffix)) else {
        return Err(Error::malformed(
            path.display(),
            "it is part of a split, but its name does not match its part number",
        )
        .expected(format!("a name that ends in {suffix}"), name.unwrap_or("another")));
    };

    let mut given = Some(given);
    let mut parts = Vec::new();
    let mut headers = 0;
    for number in 0..id.count {
        let expected = PartId { number, ..id };
        let part = match given.take_if(|_| number == id.number) {
            Some(part) => part,
            None => GgufFile::open(path.with_file_name(expected.file_name(prefix))).map_err(|e| {
                e.help(format!("{} is one of {} parts; all must lie beside it.", path.display(), id.count))
            })?,
        };
        let found = PartId::of(&part)?;
        if found != expected {
            return Err(Error::malformed(part.path().display(), "it belongs to another set of parts")
                .expected(expected.describe(), found.describe()));
        }
        headers += part.header_len();
        if headers > MAX_HEADERS {
            return Err(Error::limit(
                part.path().display(),
                "the headers of all parts together are too large",
            )
            .expected(format!("at most {MAX_HEADERS} bytes"), headers));
        }
        parts.push(part);
    }
    Ok(parts)
}
