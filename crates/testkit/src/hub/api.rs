//! Answers of the fake hub: the API, the redirects of files, and the CDN.

use serde_json::{Value, json};

use super::State;
use super::fault::{HubFault, Side};
use super::repo::{Access, FakeFile, FakeRepo, Files};
use super::wire::{Reply, Seen, range};

/// URLs of the two servers, as clients see them.
#[derive(Clone, Debug, Default)]
pub(super) struct Urls {
    pub(super) hub: String,
    pub(super) cdn: String,
}

impl State {
    pub(super) fn answer(&self, seen: &Seen, urls: &Urls, fault: Option<&HubFault>) -> Reply {
        match seen.side {
            Side::Hub => self.hub(seen, urls, fault).unwrap_or_else(|refusal| refusal),
            Side::Cdn => self.cdn(seen, fault),
        }
    }

    fn hub(&self, seen: &Seen, urls: &Urls, fault: Option<&HubFault>) -> Result<Reply, Reply> {
        let token = seen.authorization.as_deref().and_then(|value| value.strip_prefix("Bearer "));
        if token.is_some_and(|token| !self.tokens.iter().any(|known| known == token)) {
            return Err(error(401, "", "Invalid credentials in Authorization header"));
        }
        let parts: Vec<&str> = seen.path.trim_start_matches('/').split('/').collect();
        let (owner, name, rest) = match parts.as_slice() {
            ["api", "resolve-cache", "models", owner, name, rest @ ..] => {
                (*owner, *name, [&["cached"], rest].concat())
            }
            ["api", "models", owner, name, rest @ ..] => (*owner, *name, [&["api"], rest].concat()),
            [owner, name, rest @ ..] => (*owner, *name, rest.to_vec()),
            _ => return Err(error(404, "", "Not found")),
        };
        let id = format!("{owner}/{name}");
        let renamed = self.renamed.iter().find(|(old, _)| *old == id).map(|(_, new)| new.clone());
        let other_case = || {
            let found = self.repos.iter().find(|repo| repo.id.eq_ignore_ascii_case(&id) && repo.id != id);
            found.map(|repo| repo.id.clone())
        };
        if let Some(new) = renamed.or_else(other_case) {
            let query = if seen.query.is_empty() { String::new() } else { format!("?{}", seen.query) };
            let location = format!("{}{query}", seen.path.replacen(&id, &new, 1));
            return Err(Reply::new(307, vec![("Location", location)], ""));
        }
        let repo = self.readable(&id, token)?;
        let at = |revision: &str| {
            let known = repo.resolve(&decode(revision));
            known.ok_or_else(|| error(404, "RevisionNotFound", "Invalid rev id"))
        };
        match rest.as_slice() {
            ["api"] => Ok(info(repo, at("main")?)),
            ["api", "revision", revision] => Ok(info(repo, at(revision)?)),
            ["api", "tree", revision] => Ok(self.tree(seen, &at(revision)?.1, urls, fault)),
            ["api", "refs"] => Ok(refs(repo)),
            ["resolve", revision, path @ ..] => {
                resolve(repo, at(revision)?, &decode(&path.join("/")), urls, fault)
            }
            ["cached", revision, path @ ..] => {
                let (commit, files) = at(revision)?;
                let file = files.get(&decode(&path.join("/"))).ok_or_else(no_entry)?;
                let headers =
                    vec![("X-Repo-Commit", commit.clone()), ("ETag", format!("\"{}\"", file.git_sha1))];
                Ok(ranged(seen, headers, &file.content, fault))
            }
            _ => Err(error(404, "", "Not found")),
        }
    }

    /// The repository, if this token may read it.
    fn readable(&self, id: &str, token: Option<&str>) -> Result<&FakeRepo, Reply> {
        let unknown = || {
            let status = if token.is_some() { 404 } else { 401 };
            error(status, "RepoNotFound", "Repository not found")
        };
        let repo = self.repos.iter().find(|repo| repo.id == id).ok_or_else(unknown)?;
        match &repo.access {
            Access::Gated(right) if token != Some(right) => {
                let status = if token.is_some() { 403 } else { 401 };
                Err(error(status, "GatedRepo", "Access to this model is restricted"))
            }
            Access::Private(right) if token != Some(right) => Err(unknown()),
            _ => Ok(repo),
        }
    }

    fn tree(&self, seen: &Seen, files: &Files, urls: &Urls, fault: Option<&HubFault>) -> Reply {
        let cursor =
            seen.query.split('&').find_map(|part| part.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0);
        let entries: Vec<Value> = files.iter().map(|(name, file)| entry(name, file, fault)).collect();
        let end = (cursor + self.page).min(entries.len());
        let mut headers = vec![("Content-Type", "application/json".to_owned())];
        if end < entries.len() {
            let next = format!("{}{}?recursive=true&cursor={end}", urls.hub, seen.path);
            headers.push(("Link", format!("<{next}>; rel=\"next\"")));
        }
        Reply::new(200, headers, Value::from(entries[cursor.min(end)..end].to_vec()).to_string())
    }

    fn cdn(&self, seen: &Seen, fault: Option<&HubFault>) -> Reply {
        if seen.authorization.is_some() {
            return Reply::new(400, Vec::new(), "<Error><Code>InvalidArgument</Code></Error>");
        }
        if seen.query.contains("expires=past") {
            return Reply::new(403, Vec::new(), "<Error><Code>AccessDenied</Code></Error>");
        }
        let hash = seen.path.trim_start_matches("/blob/");
        let files = self.repos.iter().flat_map(|repo| &repo.commits).flat_map(|(_, files)| files.values());
        match files.into_iter().find(|file| file.sha256 == hash) {
            Some(file) => ranged(seen, vec![("ETag", "\"of-the-cdn\"".to_owned())], &file.content, fault),
            None => Reply::new(404, Vec::new(), "<Error><Code>NoSuchKey</Code></Error>"),
        }
    }
}

fn no_entry() -> Reply {
    error(404, "EntryNotFound", "Entry not found")
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    let mut headers = vec![("X-Error-Message", message.to_owned())];
    if !code.is_empty() {
        headers.push(("X-Error-Code", code.to_owned()));
    }
    Reply::new(status, headers, json!({ "error": message }).to_string())
}

fn info(repo: &FakeRepo, (commit, files): &(String, Files)) -> Reply {
    let siblings: Vec<_> = files.keys().map(|name| json!({ "rfilename": name })).collect();
    let body = json!({
        "id": repo.id, "modelId": repo.id, "sha": commit, "gated": false, "private": false, "disabled": false,
        "tags": [], "downloads": 0, "likes": 0, "siblings": siblings,
    });
    Reply::new(200, vec![("Content-Type", "application/json".to_owned())], body.to_string())
}

fn refs(repo: &FakeRepo) -> Reply {
    let list: Vec<_> = repo
        .refs
        .iter()
        .map(|(name, commit)| json!({ "name": name, "ref": format!("refs/heads/{name}"), "targetCommit": commit }))
        .collect();
    let body = json!({ "branches": list, "tags": [], "converts": [] });
    Reply::new(200, vec![("Content-Type", "application/json".to_owned())], body.to_string())
}

/// An entry of the list of files.
fn entry(name: &str, file: &FakeFile, fault: Option<&HubFault>) -> Value {
    let size = match fault {
        Some(HubFault::Size(size)) => *size,
        _ => file.content.len() as u64,
    };
    let path = match fault {
        Some(HubFault::Path(path)) => path,
        _ => name,
    };
    let Some(pointer) = file.pointer else {
        return json!({ "type": "file", "path": path, "size": size, "oid": file.git_sha1 });
    };
    json!({
        "type": "file", "path": path, "size": size, "oid": file.git_sha1, "xetHash": file.sha256,
        "lfs": { "oid": file.sha256, "size": size, "pointerSize": pointer },
    })
}

fn resolve(
    repo: &FakeRepo,
    (commit, files): &(String, Files),
    path: &str,
    urls: &Urls,
    fault: Option<&HubFault>,
) -> Result<Reply, Reply> {
    let file = files.get(path).ok_or_else(no_entry)?;
    let etag = format!("\"{}\"", file.git_sha1);
    let mut headers =
        vec![("X-Repo-Commit", commit.clone()), ("Accept-Ranges", "bytes".to_owned()), ("ETag", etag)];
    if !file.is_large {
        let path = path.replace(' ', "%20");
        headers.push(("Location", format!("/api/resolve-cache/models/{}/{commit}/{path}", repo.id)));
        return Ok(Reply::new(307, headers, ""));
    }
    let hash = &file.sha256;
    let expires = if fault == Some(&HubFault::Expired) { "past" } else { "future" };
    headers.push(("X-Linked-ETag", format!("\"{hash}\"")));
    headers.push(("X-Linked-Size", file.content.len().to_string()));
    headers.push(("Location", format!("{}/blob/{hash}?expires={expires}&signature=s", urls.cdn)));
    Ok(Reply::new(302, headers, ""))
}

/// A body, or the part of it that the request asks for.
fn ranged(
    seen: &Seen,
    mut headers: Vec<(&'static str, String)>,
    content: &[u8],
    fault: Option<&HubFault>,
) -> Reply {
    let asked = seen.range.as_deref().filter(|_| fault != Some(&HubFault::NoRange));
    let Some(asked) = asked else { return Reply::new(200, headers, content) };
    let Some(mut part) = range(asked, content.len()) else {
        headers.push(("Content-Range", format!("bytes */{}", content.len())));
        return Reply::new(416, headers, "");
    };
    if fault == Some(&HubFault::OtherRange) {
        part.start = part.start.saturating_sub(1);
    }
    headers.push(("Content-Range", format!("bytes {}-{}/{}", part.start, part.end - 1, content.len())));
    Reply::new(206, headers, &content[part])
}

/// Percent-encoded text, decoded.
fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
