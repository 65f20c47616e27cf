//! A model on the hub at one commit: its files, whole or in ranges.

use base::{Error, Progress, Result, is_repository_id, read_all, visible_line};
use hf_hub::{Repo, RepoType};
use serde::Deserialize;

use crate::cache::RepoFolder;
use crate::client::{Answer, Client};
use crate::model::{HubModel, is_commit};
use crate::needed::{self, INDEX};
use crate::pull::{Pull, not_a_hub};
use crate::refusal::refusal;
use crate::retry::{Patience, Trouble};
use crate::stream::FileStream;
use crate::tree::{self, RemoteFile};
use crate::url::{self, Origin};

const MOST_INFO: u64 = 64 << 20;
const MOST_PAGE: u64 = 64 << 20;
const MOST_PAGES: usize = 1000;
const MOST_RANGE: u64 = 256 << 20;
/// As much of a shard as is asked for first: most headers fit.
const FIRST_OF_SHARD: u64 = 256 << 10;
/// Limit for a safetensors header. Source: `MAX_HEADER_SIZE` of the crate safetensors.
const MOST_HEADER: u64 = 100_000_000;

/// A model on the hub at one commit.
#[derive(Debug)]
pub struct RemoteModel<'h> {
    client: &'h Client,
    model: HubModel,
    commit: String,
    files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct Info {
    id: String,
    sha: String,
}

impl<'h> RemoteModel<'h> {
    /// Asks the hub for the commit of the revision and for its files, unless the cache knows them.
    pub(crate) fn open(
        client: &'h Client,
        model: &HubModel,
        progress: &dyn Progress,
    ) -> Result<RemoteModel<'h>> {
        let folder = |id: &str| RepoFolder::new(&client.settings.cache, id);
        if is_commit(model.revision())
            && let Some(files) = folder(model.id()).files_of(model.revision())
        {
            let commit = model.revision().to_owned();
            return Ok(RemoteModel { client, model: model.clone(), commit, files });
        }
        let api = |model: &HubModel| {
            let repo =
                Repo::with_revision(model.id().to_owned(), RepoType::Model, model.revision().to_owned());
            format!("{}/api/{}", client.settings.endpoint, repo.api_url())
        };
        let place = api(model);
        let body = json(client, model, &place, MOST_INFO, progress)?.0;
        // a page of a login form is no JSON
        let info: Info = serde_json::from_slice(&body).map_err(|e| not_a_hub(&place).with_source(e))?;
        if !is_repository_id(&info.id) || !is_commit(&info.sha) {
            let found = format!("{} at {}", visible_line(&info.id), visible_line(&info.sha));
            return Err(Error::malformed(&place, "not a model").expected("owner/name at a commit", found));
        }
        // A renamed repository has another id than the one that was asked for.
        let model = HubModel::new(&info.id, model.revision())?;
        let files = match folder(&info.id).files_of(&info.sha) {
            Some(files) => files,
            None => list(client, &model, &info.sha, progress)?,
        };
        Ok(RemoteModel { client, model, commit: info.sha, files })
    }

    pub(crate) fn client(&self) -> &'h Client {
        self.client
    }

    /// The id as the hub writes it, and the revision that was asked for.
    pub fn model(&self) -> &HubModel {
        &self.model
    }

    /// The commit of the revision.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// All files of the commit, sorted by path.
    pub fn files(&self) -> &[RemoteFile] {
        &self.files
    }

    /// The file with this path.
    ///
    /// # Errors
    /// `Malformed` ([`base::ErrorKind::Missing`]) if the commit has none.
    pub fn file(&self, path: &str) -> Result<&RemoteFile> {
        let missing = || Error::missing(format!("{}: {}", self.model, visible_line(path)));
        self.files.iter().find(|file| file.path == path).ok_or_else(missing)
    }

    /// The URL that the hub redirects to the file.
    pub(crate) fn url(&self, file: &RemoteFile) -> String {
        let endpoint = &self.client.settings.endpoint;
        format!("{endpoint}/{}/resolve/{}/{}", self.model.id(), self.commit, url::path(&file.path))
    }

    /// Files that a conversion needs beside the weights: configs, tokenizer, templates, card, licence.
    pub fn companions(&self) -> impl Iterator<Item = &RemoteFile> {
        self.files.iter().filter(|file| needed::is_companion(&file.path))
    }

    /// The safetensors files with the weights. `index` is the content of `model.safetensors.index.json`, if there is one.
    ///
    /// # Errors
    /// `Malformed` for a damaged index or one that names missing files; `Unsupported` for a repository without
    /// safetensors files.
    pub fn weights(&self, index: Option<&[u8]>) -> Result<Vec<&RemoteFile>> {
        needed::weights(&self.files, index, &self.model.to_string())
    }

    /// The index of the shards, if there is one.
    pub(crate) fn index(&self) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.path == INDEX)
    }

    /// A file in order from the offset `start` on, from the hub. [`FileStream::finish`] decides whether its bytes were right.
    pub fn stream<'a>(
        &'a self,
        file: &'a RemoteFile,
        start: u64,
        progress: &'a dyn Progress,
    ) -> FileStream<'a> {
        FileStream::new(self, file, start, progress)
    }

    /// A part of a file. The bytes are not verified: there is no hash of a part.
    ///
    /// # Errors
    /// `Limit` for a range outside of the file or longer than 256 MiB; those of the network.
    pub fn read_range(
        &self,
        file: &RemoteFile,
        offset: u64,
        len: u64,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>> {
        let end = offset.checked_add(len).filter(|end| *end <= file.size && len <= MOST_RANGE);
        let end = end.ok_or_else(|| {
            Error::limit(format!("{}: {}", self.model, file.path), "a range that cannot be read").expected(
                format!("at most {} bytes inside of {}", MOST_RANGE, file.size),
                format!("{len} at {offset}"),
            )
        })?;
        let mut pull = Pull::new(self, file, offset..end, progress);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += pull.read(&mut bytes[filled..])?;
        }
        Ok(bytes)
    }

    /// The beginning of a safetensors file: the length of its header (8 bytes) and the header. Not verified, as in
    /// [`read_range`](Self::read_range).
    ///
    /// # Errors
    /// `Malformed` for a file without a header; those of the network.
    pub fn safetensors_header(&self, file: &RemoteFile, progress: &dyn Progress) -> Result<Vec<u8>> {
        let place = || format!("{}: {}", self.model, file.path);
        let mut bytes = self.read_range(file, 0, FIRST_OF_SHARD.min(file.size), progress)?;
        let Some(length) = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length)) else {
            return Err(Error::malformed(place(), "no safetensors header").expected("8 bytes", bytes.len()));
        };
        let end = length.checked_add(8).filter(|end| *end <= file.size && length <= MOST_HEADER);
        let end = end.ok_or_else(|| {
            Error::malformed(place(), "no safetensors header")
                .expected(format!("a header inside of {} bytes", file.size), format!("{length} bytes"))
        })?;
        let there = bytes.len() as u64;
        if end > there {
            bytes.extend(self.read_range(file, there, end - there, progress)?);
        }
        bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
        Ok(bytes)
    }
}

/// The files of a commit, from all pages of the tree API.
fn list(client: &Client, model: &HubModel, commit: &str, progress: &dyn Progress) -> Result<Vec<RemoteFile>> {
    let endpoint = &client.settings.endpoint;
    let first = format!("{endpoint}/api/models/{}/tree/{commit}?recursive=true", model.id());
    let (mut files, mut next) = (Vec::new(), Some(first));
    for _ in 0..MOST_PAGES {
        let Some(page) = next else {
            files.sort_by(|a: &RemoteFile, b| a.path.cmp(&b.path));
            return Ok(files);
        };
        let (body, answer) = json(client, model, &page, MOST_PAGE, progress)?;
        files.extend(tree::parse_page(&body, &url::shown(&page))?);
        next = answer.header("link").and_then(next_page).map(|target| url::join(&page, target));
        if let Some(url) = &next
            && Origin::of(url)? != Origin::of(endpoint)?
        {
            return Err(Error::malformed(url::shown(url), "the list of files goes on at another server"));
        }
    }
    Err(Error::limit(url::shown(&format!("{model}")), "too many files")
        .expected(format!("at most {MOST_PAGES} pages"), "more"))
}

/// The target of `rel="next"` in a header `Link`.
fn next_page(link: &str) -> Option<&str> {
    link.split(',').find_map(|part| {
        let (target, parameters) = part.trim().strip_prefix('<')?.split_once('>')?;
        parameters.contains("rel=\"next\"").then_some(target)
    })
}

/// The body of an answer of the API.
fn json(
    client: &Client,
    model: &HubModel,
    url: &str,
    most: u64,
    progress: &dyn Progress,
) -> Result<(Vec<u8>, Answer)> {
    let mut patience = Patience::new(client, progress);
    loop {
        let mut answer = match client.get(url, None) {
            Ok(answer) => answer,
            Err(broken) => {
                patience.wait_broken(broken)?;
                continue;
            }
        };
        if let Some(trouble) = Trouble::of(&answer) {
            patience.wait(trouble)?;
            continue;
        }
        if answer.status.as_u16() != 200 {
            return Err(refusal(client, model, None, &mut answer));
        }
        let body = answer.body.as_reader();
        match read_all(body, url::shown(url), most) {
            Ok(body) => return Ok((body, answer)),
            Err(error) if error.fault() == base::Fault::Limit => return Err(error),
            Err(error) => patience.wait(Trouble::new(error))?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        let link = r#"</first>; rel="first", <https://hub.example/tree?cursor=a,b>; rel="next""#;
        assert_eq!(next_page(r#"</first>; rel="first""#), None);
        assert_eq!(
            next_page(r#"<https://hub.example/t?cursor=ab>; rel="next""#),
            Some("https://hub.example/t?cursor=ab")
        );
        assert_eq!(next_page(link), None, "a comma in a URL is encoded by the hub");
    }
}
