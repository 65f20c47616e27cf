//! The bytes of a file from an offset on, over as many connections as it takes.
//!
//! Every connection asks the hub anew, which signs a fresh URL: the last one may have expired. Whether the bytes are
//! right is decided by the caller, with a hash.

use std::io::{self, Read};
use std::time::Duration;

use base::{Error, Progress, Result, visible_line};
use ureq::BodyReader;

use crate::client::Answer;
use crate::refusal::refusal;
use crate::remote::RemoteModel;
use crate::retry::{Patience, Trouble};
use crate::tree::RemoteFile;
use crate::url;

/// A reader of the bytes `offset..end` of a file.
pub(crate) struct Pull<'a> {
    remote: &'a RemoteModel<'a>,
    file: &'a RemoteFile,
    offset: u64,
    end: u64,
    body: Option<BodyReader<'static>>,
    patience: Patience<'a>,
    /// True after a CDN refused a signed URL, until bytes arrive.
    refused: bool,
}

/// The reason for which a connection failed: another one may succeed, or not.
enum Failure {
    Passing(Trouble),
    Final(Error),
}

impl<'a> Pull<'a> {
    pub(crate) fn new(
        remote: &'a RemoteModel<'a>,
        file: &'a RemoteFile,
        range: std::ops::Range<u64>,
        progress: &'a dyn Progress,
    ) -> Pull<'a> {
        let patience = Patience::new(remote.client(), progress);
        Pull { remote, file, offset: range.start, end: range.end, body: None, patience, refused: false }
    }

    /// Reads some bytes; 0 at the end of the range alone. Reconnects when a connection breaks.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        loop {
            let trouble = match self.attempt(&mut buffer[..most]) {
                Ok(count) => {
                    self.offset += count as u64;
                    self.refused = false;
                    self.patience.reset();
                    return Ok(count);
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(trouble)) => trouble,
            };
            self.body = None;
            self.patience.wait(trouble)?;
        }
    }

    fn attempt(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.connect()?,
        };
        match body.read(buffer) {
            Ok(0) => Err(self.ended(None)),
            Ok(count) => {
                self.body = Some(body);
                Ok(count)
            }
            Err(error) => Err(self.ended(Some(&error))),
        }
    }

    /// The failure of a body that ended too early.
    fn ended(&self, error: Option<&io::Error>) -> Failure {
        let why = error.map_or_else(String::new, |error| format!(": {}", visible_line(&error.to_string())));
        let problem = format!("the connection ended after {} of {} bytes{why}", self.offset, self.file.size);
        let kind = error.map_or(io::ErrorKind::UnexpectedEof, io::Error::kind);
        let kind = if kind == io::ErrorKind::NotFound { io::ErrorKind::Other } else { kind };
        Failure::Passing(Trouble::new(Error::io(self.place(), &io::Error::new(kind, problem))))
    }

    fn place(&self) -> String {
        format!("{}: {}", self.remote.model(), self.file.path)
    }

    /// Opens a connection whose next byte is that of `offset`.
    fn connect(&mut self) -> Result<BodyReader<'static>, Failure> {
        let client = self.remote.client();
        let to_end = self.end == self.file.size;
        let range = match (self.offset, to_end) {
            (0, true) => None,
            (offset, true) => Some(format!("bytes={offset}-")),
            (offset, false) => Some(format!("bytes={offset}-{}", self.end - 1)),
        };
        let url = self.remote.url(self.file);
        let mut answer = client.get(&url, range.as_deref()).map_err(|broken| {
            if broken.again {
                Failure::Passing(Trouble::new(broken.error))
            } else {
                Failure::Final(broken.error)
            }
        })?;
        if let Some(trouble) = Trouble::of(&answer) {
            return Err(Failure::Passing(trouble));
        }
        let skip = match answer.status.as_u16() {
            200 => self.offset,
            206 => 0,
            403 if !answer.from_hub && !self.refused => {
                self.refused = true;
                let error = refusal(client, self.remote.model(), Some(&self.file.path), &mut answer);
                return Err(Failure::Passing(Trouble { error, wait: Some(Duration::ZERO) }));
            }
            _ => {
                let error = refusal(client, self.remote.model(), Some(&self.file.path), &mut answer);
                return Err(Failure::Final(error));
            }
        };
        self.check(&answer)?;
        let mut body = answer.body.into_with_config().limit(u64::MAX).reader();
        // The server ignores ranges: the beginning comes again.
        match io::copy(&mut (&mut body).take(skip), &mut io::sink()) {
            Ok(count) if count == skip => Ok(body),
            Ok(_) => Err(self.ended(None)),
            Err(error) => Err(self.ended(Some(&error))),
        }
    }

    /// Checks that an answer is about this file of this commit, and announces the right bytes.
    fn check(&self, answer: &Answer) -> Result<(), Failure> {
        let wrong = |problem: &str, expected: &str, found: &str| {
            Error::malformed(self.place(), problem).expected(expected, visible_line(found))
        };
        let commit = self.remote.commit();
        match answer.marks.commit.as_deref() {
            Some(found) if found == commit => {}
            Some(found) => return Err(Failure::Final(wrong("the hub serves another commit", commit, found))),
            None => return Err(Failure::Final(not_a_hub(&answer.url))),
        }
        if let (Some(found), Some(sha256)) = (answer.marks.linked_etag.as_deref(), &self.file.sha256)
            && found != sha256
        {
            return Err(Failure::Final(wrong("the hub serves another file than it lists", sha256, found)));
        }
        let passing = |error| Err(Failure::Passing(Trouble::new(error)));
        if let Some(coding) = answer.header("content-encoding").filter(|coding| *coding != "identity") {
            return passing(wrong("an answer in a coding that was not asked for", "none", coding));
        }
        if answer.status.as_u16() == 206 {
            let found = answer.header("content-range").unwrap_or("none");
            let expected = format!("bytes {}-", self.offset);
            let total = format!("/{}", self.file.size);
            if !(found.starts_with(&expected) && (found.ends_with(&total) || found.ends_with("/*"))) {
                return passing(wrong(
                    "the server sends another range",
                    &format!("{expected}…{total}"),
                    found,
                ));
            }
        } else if let Some(length) = answer.length().filter(|length| *length != self.file.size) {
            let size = format!("{} bytes", self.file.size);
            let problem = "the server sends a file of another size";
            return passing(wrong(problem, &size, &format!("{length} bytes")));
        }
        Ok(())
    }
}

/// The error of an answer without the headers of a hub.
pub(crate) fn not_a_hub(place: &str) -> Error {
    Error::malformed(url::shown(place), "not an answer of a Hugging Face hub")
        .expected("the header X-Repo-Commit", "none")
        .help("A proxy or a login page of the network may have answered in its place.")
}
