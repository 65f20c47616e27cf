//! Requests and answers of the fake hub as bytes of HTTP/1.1.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;

use super::fault::{HubFault, Side};

/// A request that the fake hub has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The server.
    pub side: Side,
    /// `GET` or `HEAD`.
    pub method: String,
    /// The path, as sent.
    pub path: String,
    /// What follows the `?`.
    pub query: String,
    /// The header `Range`.
    pub range: Option<String>,
    /// The header `Authorization`.
    pub authorization: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn new(status: u16, headers: Vec<(&'static str, String)>, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers, body: body.into() }
    }

    pub(super) fn refusal(status: u16, headers: &[(&'static str, String)]) -> Reply {
        Reply::new(status, headers.to_vec(), "<html>a page about an error</html>")
    }

    pub(super) fn portal() -> Reply {
        Reply::new(200, vec![("Content-Type", "text/html".to_owned())], "<html>Log in to this network</html>")
    }
}

/// Reads a request. `None` for a connection that ends before.
pub(super) fn read(side: Side, stream: &mut TcpStream) -> Option<Seen> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut seen = Seen { side, method, path, query, range: None, authorization: None };
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        match name.to_lowercase().as_str() {
            "range" => seen.range = Some(value.trim().to_owned()),
            "authorization" => seen.authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    Some(seen)
}

/// `bytes=a-b` of a body of `len` bytes: the range, or `None` for one outside of it.
pub(super) fn range(text: &str, len: usize) -> Option<std::ops::Range<usize>> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let from: usize = from.parse().ok()?;
    let to = if to.is_empty() { len } else { to.parse::<usize>().ok()?.saturating_add(1).min(len) };
    (from < to).then_some(from..to)
}

/// Writes an answer, with the faults that concern its bytes. `stall` returns when the silence ends.
pub(super) fn write(
    stream: &mut TcpStream,
    seen: &Seen,
    mut reply: Reply,
    fault: Option<&HubFault>,
    stall: impl Fn(),
) -> io::Result<()> {
    match fault {
        Some(HubFault::Flip(at)) => {
            if let Some(byte) = reply.body.get_mut(*at) {
                *byte ^= 1;
            }
        }
        Some(HubFault::Short(length)) => reply.body.truncate(*length),
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", reply.body.len());
    stream.write_all(head.as_bytes())?;
    if seen.method == "HEAD" {
        return stream.flush();
    }
    match fault {
        Some(HubFault::Cut(at)) => stream.write_all(&reply.body[..reply.body.len().min(*at)])?,
        Some(HubFault::Stall(at)) => {
            stream.write_all(&reply.body[..reply.body.len().min(*at)])?;
            stream.flush()?;
            stall();
        }
        _ => stream.write_all(&reply.body)?,
    }
    stream.flush()
}
