//! Answers that refuse: what the hub means, and what the user can do.

use std::io;

use base::{Error, Result, read_all, visible_line};

use crate::client::{Answer, Client};
use crate::model::HubModel;

const MOST_BODY: u64 = 64 << 10;
const MOST_SHOWN: usize = 300;

/// The error of an answer that will not pass. `file` is the requested file, or `None` for the repository.
pub(crate) fn refusal(client: &Client, model: &HubModel, file: Option<&str>, answer: &mut Answer) -> Error {
    let status = answer.status.as_u16();
    let code = answer.header("x-error-code").unwrap_or_default().to_owned();
    let said = message(answer);
    let place = file.map_or_else(|| model.to_string(), |file| format!("{model}: {file}"));
    let denied = |problem: &str| Error::io(&place, &io::Error::new(io::ErrorKind::PermissionDenied, problem));
    let missing = |problem: &str| Error::io(&place, &io::Error::new(io::ErrorKind::NotFound, problem));
    let token = client.settings.token.as_ref();
    let endpoint = &client.settings.endpoint;

    if !answer.from_hub {
        let problem = format!("the server of the files answers with status {}{said}", answer.status);
        return Error::io(&answer.url, &io::Error::other(problem))
            .help("The download continues from here when the command is run again.");
    }
    match (status, code.as_str()) {
        (401 | 403, "GatedRepo") => {
            let page = format!("Open {endpoint}/{} and accept the terms", model.id());
            let help = match token {
                None => format!("{page}, create an access token, and set HF_TOKEN (or run `hf auth login`)."),
                Some(token) => {
                    format!("{page} with the account of the token from {}, then run again.", token.source())
                }
            };
            denied("the repository is gated: its owner wants the terms accepted").help(help)
        }
        (401, _) if said.contains("Invalid credentials") || said.contains("Invalid user token") => {
            let source = token.map_or("", |token| token.source());
            denied("the hub rejects the access token").help(format!(
                "The token comes from {source}. Create another one at {endpoint}/settings/tokens."
            ))
        }
        (401, _) | (404, "RepoNotFound") => {
            let path = if model.may_be_path() {
                format!("There is no file or folder {} either. ", model.id())
            } else {
                String::new()
            };
            let help = match token {
                None => "Check the name. A private repository needs an access token: set HF_TOKEN, or run `hf auth login`."
                    .to_owned(),
                Some(token) => format!("Check the name, and whether the token from {} may read it.", token.source()),
            };
            missing(&format!("no such model on {endpoint}, or a private one")).help(format!("{path}{help}"))
        }
        (403, _) => denied(&format!("the hub forbids access{said}")).help(match token {
            None => "Set HF_TOKEN to an access token with the right to read this repository.".to_owned(),
            Some(token) => {
                format!("The token from {} lacks the right to read this repository.", token.source())
            }
        }),
        (404, "RevisionNotFound") => missing("no such revision").help(revisions(client, model)),
        (404, "EntryNotFound") => missing("no such file in this revision"),
        (404, _) => missing(&format!("{endpoint} does not know it{said}")),
        (451, _) => denied("the hub may not show this repository for legal reasons"),
        _ => Error::io(
            &place,
            &io::Error::other(format!("the hub answers with status {}{said}", answer.status)),
        ),
    }
}

/// The server's own explanation, as ": …"; empty if there is none.
fn message(answer: &mut Answer) -> String {
    let header = answer.header("x-error-message").map(str::to_owned);
    let text = header.or_else(|| {
        let body = read_all(answer.body.as_reader(), "", MOST_BODY).ok()?;
        Some(serde_json::from_slice::<serde_json::Value>(&body).ok()?.get("error")?.as_str()?.to_owned())
    });
    let text: String = text.unwrap_or_default().chars().take(MOST_SHOWN).collect();
    if text.is_empty() { text } else { format!(": {}", visible_line(&text)) }
}

/// The branches and tags of a repository, as a sentence. A failure here is not worth an error of its own.
fn revisions(client: &Client, model: &HubModel) -> String {
    let names = names(client, model).unwrap_or_default();
    if names.is_empty() {
        return "Name a branch, a tag or a commit of the repository.".to_owned();
    }
    format!("The repository has: {}.", names.join(", "))
}

fn names(client: &Client, model: &HubModel) -> Result<Vec<String>> {
    let url = format!("{}/api/models/{}/refs", client.settings.endpoint, model.id());
    let mut answer = client.get(&url, None).map_err(|broken| broken.error)?;
    let body = read_all(answer.body.as_reader(), &url, MOST_BODY)?;
    let refs: serde_json::Value = serde_json::from_slice(&body).map_err(|e| Error::malformed(&url, e))?;
    let list = |kind: &str| refs[kind].as_array().cloned().unwrap_or_default();
    let all = list("branches").into_iter().chain(list("tags"));
    Ok(all.filter_map(|entry| Some(visible_line(entry["name"].as_str()?).into_owned())).take(20).collect())
}
