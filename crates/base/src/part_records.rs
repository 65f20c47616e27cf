//! Parts of a job on disk. They meet in a folder `parts-ID` in the target folder, to which each part writes what it makes, and a record
//! when it has finished. Machines without a common folder each have one.
//!
//! ID is a digest of all that the outputs depend on, so that parts of different jobs never meet.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, OutputFile, Part, Result, Sha256};

/// The beginning of the folder's name.
const PREFIX: &str = "parts-";

/// The extension of records.
const RECORD: &str = "json";

/// Digits of the id.
const ID_DIGITS: usize = 16;

/// The largest record in bytes. One of a conversion lists all files of the model; one of sensitivities lists all tensors.
const MAX_RECORD: u64 = 16 << 20;

/// A job that is done in parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The kind of job: how its parts are joined.
    pub kind: String,
    /// The outputs, by recipe or by file name.
    pub outputs: Vec<String>,
    /// All that the outputs depend on, or digests of it, by name: `checkpoint`, `text`, `kernel`, `tool`.
    pub inputs: BTreeMap<String, String>,
}

impl Job {
    /// A job of a kind, with all that its outputs depend on by name.
    pub fn new<'n>(
        kind: &str,
        outputs: Vec<String>,
        inputs: impl IntoIterator<Item = (&'n str, String)>,
    ) -> Job {
        let inputs = inputs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Job { kind: kind.to_owned(), outputs, inputs }
    }

    /// The digest that tells the job apart.
    fn id(&self) -> String {
        let mut hash = Sha256::new();
        let inputs = self.inputs.iter().flat_map(|(name, value)| [name, value]);
        for text in [&self.kind].into_iter().chain(&self.outputs).chain(inputs) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        let mut id = crate::hex(&hash.finish());
        id.truncate(ID_DIGITS);
        id
    }

    fn folder(&self) -> String {
        format!("{PREFIX}{}", self.id())
    }

    /// The names of what differs, for messages.
    fn differences(&self, other: &Job) -> String {
        if self.kind != other.kind {
            return "kind of job".to_owned();
        }
        let names: BTreeSet<&String> = self.inputs.keys().chain(other.inputs.keys()).collect();
        let differ = names.into_iter().filter(|name| self.inputs.get(*name) != other.inputs.get(*name));
        let outputs = (self.outputs != other.outputs).then_some("outputs");
        differ.map(String::as_str).chain(outputs).collect::<Vec<_>>().join(", ")
    }
}

/// The folder of a job's parts, for one of them.
pub struct PartFolder {
    path: PathBuf,
    part: Part,
    job: Job,
}

/// The record of a finished part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    job: Job,
    /// The part, such as `3/8`.
    part: String,
    /// The name of the machine.
    host: String,
    /// What the part has made, in the form of its kind of job.
    content: Value,
}

impl PartFolder {
    /// Creates the folder in the target folder, if it is missing.
    ///
    /// # Errors
    /// `Target`.
    pub fn create(target: &Path, job: Job, part: Part) -> Result<PartFolder> {
        let path = target.join(job.folder());
        fs::create_dir_all(&path).map_err(|e| Error::write(path.display(), &e))?;
        Ok(PartFolder { path, part, job })
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file of the part alone.
    pub fn file(&self, extension: &str) -> PathBuf {
        self.path.join(file_name(self.part, extension))
    }

    /// Writes a file of the part alone, whole. Returns its path.
    ///
    /// # Errors
    /// `Target`.
    pub fn write(
        &self,
        extension: &str,
        sync: bool,
        content: impl FnOnce(&mut OutputFile) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.file(extension);
        // the same part may be running twice; the lock is released with the file
        let _lock = crate::lock_folder(&self.path).map_err(|e| Error::write(self.path.display(), &e))?;
        let mut output = OutputFile::create(&path)?;
        content(&mut output)?;
        if sync { output.publish() } else { output.publish_unsynced() }?;
        Ok(path)
    }

    /// Writes the record of the part, which says that everything it makes is complete. Returns its path.
    ///
    /// # Errors
    /// `Target`.
    pub fn record(&self, content: &impl Serialize, sync: bool) -> Result<PathBuf> {
        let fail = |e: serde_json::Error| Error::write(self.file(RECORD).display(), &e.into());
        let content = serde_json::to_value(content).map_err(fail)?;
        let (job, part, host) = (self.job.clone(), self.part.to_string(), crate::host_name());
        let text = serde_json::to_vec_pretty(&Record { job, part, host, content }).map_err(fail)?;
        self.write(RECORD, sync, |file| file.write_at(&text, 0))
    }
}

/// A finished part.
#[derive(Clone, Debug)]
pub struct FoundPart {
    /// The part.
    pub part: Part,
    /// The name of the machine that made it.
    pub host: String,
    /// The folder `parts-ID` with what it has made.
    pub folder: PathBuf,
    job: Job,
    content: Value,
}

impl FoundPart {
    /// Reads the record at `path`, whose name must be that of its part.
    fn read(path: &Path) -> Result<FoundPart> {
        let text = crate::read_bounded(path, MAX_RECORD)?;
        let record: Record = serde_json::from_slice(&text)
            .map_err(|e| damaged(path, format!("not the record of a part: {e}")))?;
        let part: Part = record
            .part
            .parse()
            .map_err(|_| damaged(path, format!("the record of a part {:?}", record.part)))?;
        if !path.ends_with(file_name(part, RECORD)) {
            return Err(damaged(path, format!("the record of part {part}")));
        }
        let folder = crate::folder_of(path).to_owned();
        Ok(FoundPart { part, host: record.host, folder, job: record.job, content: record.content })
    }

    /// What the part has made.
    ///
    /// # Errors
    /// `Malformed` for another content.
    pub fn content<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.content).map_err(|e| self.damaged(e))
    }

    /// The path of a file of the part alone.
    pub fn file(&self, extension: &str) -> PathBuf {
        self.folder.join(file_name(self.part, extension))
    }

    /// The error of a record that contains something else than its part writes.
    pub fn damaged(&self, problem: impl std::fmt::Display) -> Error {
        damaged(&self.file(RECORD), problem)
    }
}

fn file_name(part: Part, extension: &str) -> String {
    format!("part-{}-of-{}.{extension}", part.number(), part.count())
}

fn damaged(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::malformed(path.display(), problem)
        .help("It was damaged, perhaps in a transfer. Copy it again, or run this part again.")
}

/// All parts of a job.
#[derive(Clone, Debug)]
pub struct JobParts {
    /// The job.
    pub job: Job,
    /// Its parts, in order, each once.
    pub parts: Vec<FoundPart>,
}

impl JobParts {
    /// Finds the one job that is complete. `folders` are targets of parts, or the folders `parts-ID` in them.
    ///
    /// # Errors
    /// `Malformed` for parts that are missing, of different jobs, damaged, or there twice with other content; `Io`.
    pub fn find(folders: &[PathBuf]) -> Result<JobParts> {
        complete(find(folders)?)
    }

    /// Checks that the parts are of this job.
    ///
    /// # Errors
    /// `Malformed`, with the names of what differs.
    pub fn check_job(&self, job: &Job) -> Result<()> {
        if self.job == *job {
            return Ok(());
        }
        Err(Error::malformed(
            "parts",
            format!("they belong to another job; these differ: {}", job.differences(&self.job)),
        )
        .help("Give the same files and options as to the parts."))
    }

    /// The folder of the parts in a target folder.
    pub fn folder_in(&self, target: &Path) -> PathBuf {
        target.join(self.job.folder())
    }

    /// Removes what the parts have left in a target folder, once the outputs are complete. It only takes space: a failure is no error.
    pub fn remove_from(&self, target: &Path) {
        let _ = fs::remove_dir_all(self.folder_in(target));
    }
}

/// The finished parts in folders.
fn find(folders: &[PathBuf]) -> Result<Vec<FoundPart>> {
    let mut found = Vec::new();
    for folder in folders {
        let within = is_part_folder(folder);
        let of_jobs = if within { vec![folder.clone()] } else { entries(folder, is_part_folder)? };
        for job in of_jobs {
            for path in entries(&job, is_record)? {
                found.push(FoundPart::read(&path)?);
            }
        }
    }
    if found.is_empty() {
        let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        return Err(Error::malformed(folders.join(", "), "no finished part of a job is here")
            .expected("a folder to which `‹part› I/N` has written", "none")
            .help("Give the folders that were the targets of the parts."));
    }
    Ok(found)
}

/// Whether a folder is one of a job, and not a target that a user has called `parts-…`.
fn is_part_folder(path: &Path) -> bool {
    let name = crate::file_name(path);
    name.strip_prefix(PREFIX).is_some_and(|id| crate::is_hex(id, ID_DIGITS)) && path.is_dir()
}

fn is_record(path: &Path) -> bool {
    crate::file_name(path).starts_with("part-") && path.extension().is_some_and(|ending| ending == RECORD)
}

/// The entries of a folder that are wanted, by name.
fn entries(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let fail = |e| Error::io(folder.display(), &e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if wanted(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The parts of the one job that is complete.
fn complete(found: Vec<FoundPart>) -> Result<JobParts> {
    let job = found[0].job.clone();
    let other = found.iter().find(|found| found.job != job).map(|found| found.job.clone());
    let mut sets: BTreeMap<(String, u32), BTreeMap<u32, FoundPart>> = BTreeMap::new();
    for found in found {
        let set = sets.entry((found.job.folder(), found.part.count())).or_default();
        match set.get(&found.part.number()) {
            Some(twin) => same_content(twin, &found)?,
            None => drop(set.insert(found.part.number(), found)),
        }
    }
    let states: Vec<String> = sets.iter().map(|((folder, count), set)| state(folder, *count, set)).collect();
    if let Some(other) = other {
        let problem = "they belong to different jobs; these differ: ".to_owned() + &job.differences(&other);
        return Err(Error::malformed("parts", problem)
            .expected("parts of one job", states.join("; "))
            .help("Give the folder parts-ID of one of them."));
    }
    let complete = sets.into_iter().find(|((_, count), set)| set.len() == *count as usize);
    let (_, set) = complete.ok_or_else(|| {
        Error::malformed("parts", "the job is not complete")
            .expected("every part from 1/N to N/N", states.join("; "))
            .help("Run the missing parts; the others stay.")
    })?;
    Ok(JobParts { job, parts: set.into_values().collect() })
}

/// What is there of a job in `count` parts, for messages.
fn state(folder: &str, count: u32, set: &BTreeMap<u32, FoundPart>) -> String {
    let outputs = set.values().next().map_or_else(String::new, |found| found.job.outputs.join(", "));
    let missing = (1..=count).filter(|number| !set.contains_key(number));
    let missing: Vec<String> = missing.map(|number| format!("{number}/{count}")).collect();
    match missing.is_empty() {
        true => format!("{folder} ({outputs}): complete, {count} parts"),
        false => format!("{folder} ({outputs}): parts {} are missing", missing.join(", ")),
    }
}

/// Checks that a part which is there twice is the same in both places.
fn same_content(a: &FoundPart, b: &FoundPart) -> Result<()> {
    if a.content == b.content {
        return Ok(());
    }
    Err(Error::malformed(format!("part {}", a.part), "it is there twice, with different bytes")
        .expected(format!("what {} has", a.folder.display()), format!("{}", b.folder.display()))
        .help("Leave one of the folders out."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(kernel: &str) -> Job {
        let inputs = [("kernel", kernel), ("text", "t")].map(|(name, value)| (name.into(), value.into()));
        Job { kind: "sums".to_owned(), outputs: vec!["a.bin".to_owned()], inputs: inputs.into() }
    }

    fn record(target: &Path, kernel: &str, part: &str, content: u32) {
        let folder = PartFolder::create(target, job(kernel), part.parse().unwrap()).unwrap();
        folder.record(&content, false).unwrap();
    }

    fn refused(folders: &[&Path]) -> String {
        let folders: Vec<PathBuf> = folders.iter().map(|folder| folder.to_path_buf()).collect();
        JobParts::find(&folders).unwrap_err().to_string()
    }

    #[test]
    fn a_job_is_complete_with_every_part_once() {
        let home = tempfile::tempdir().unwrap();
        let (a, b) = (home.path().join("parts-of-a"), home.path().join("b"));
        record(&a, "f32", "2/3", 20);
        assert!(refused(&[&a]).contains("parts 1/3, 3/3 are missing"));
        record(&b, "f32", "3/3", 30);
        record(&b, "f32", "1/3", 10);
        // twice the same, and another number of parts
        record(&b, "f32", "2/3", 20);
        record(&a, "f32", "1/2", 5);
        let found = JobParts::find(&[a.clone(), b.clone()]).unwrap();
        let contents: Vec<u32> = found.parts.iter().map(|found| found.content().unwrap()).collect();
        assert_eq!((contents, found.job.clone()), (vec![10, 20, 30], job("f32")));
        assert!(found.folder_in(&a).is_dir());
        assert!(found.parts[0].content::<String>().unwrap_err().to_string().contains("part-1-of-3.json"));
        record(&b, "f32", "2/3", 21);
        assert!(refused(&[&a, &b]).contains("part 2/3: it is there twice"));
    }

    #[test]
    fn what_differs_between_jobs_is_named() {
        let home = tempfile::tempdir().unwrap();
        record(home.path(), "f32", "1/2", 1);
        record(home.path(), "amx", "2/2", 2);
        let refused = refused(&[home.path()]);
        assert!(refused.contains("different jobs; these differ: kernel"), "{refused}");
        let home = tempfile::tempdir().unwrap();
        record(home.path(), "f32", "1/1", 1);
        let found = JobParts::find(&[home.path().to_owned()]).unwrap();
        found.check_job(&job("f32")).unwrap();
        let refused = found.check_job(&job("amx")).unwrap_err().to_string();
        assert!(refused.contains("another job; these differ: kernel"), "{refused}");
    }

    #[test]
    fn a_record_under_another_name_is_damaged() {
        let home = tempfile::tempdir().unwrap();
        record(home.path(), "f32", "1/2", 1);
        let folder = home.path().join(job("f32").folder());
        fs::rename(folder.join("part-1-of-2.json"), folder.join("part-2-of-2.json")).unwrap();
        assert!(refused(&[home.path()]).contains("the record of part 1/2"));
    }
}
