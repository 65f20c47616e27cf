//! A Hugging Face hub for tests: the HTTP API that a downloader uses, on loopback, with faults on demand.
//!
//! Two servers: the hub (`http://127.0.0.1:PORT`) and the CDN of large files (`http://localhost:PORT`), so that they
//! differ in host and port. They answer as the real ones: the hub redirects large files to the CDN (302, signed URL that
//! expires) and small ones to itself (307, relative), metadata stands in the headers of the redirects, the list of files
//! has pages. The CDN refuses requests with a token, as S3 does.
//!
//! | file | idea |
//! |---|---|
//! | `repo.rs` | repositories, commits, hashes |
//! | `fault.rs` | faults, and where they strike |
//! | `wire.rs` | requests and answers as bytes |
//! | `api.rs` | answers of the hub and of the CDN |

mod api;
mod fault;
mod repo;
mod wire;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use fault::{HubFault, Side};
pub use repo::{Access, FakeRepo, git_sha1, sha256};
pub use wire::Seen;

use fault::Planted;
use wire::Reply;

/// A hub on loopback; it ends when dropped.
#[derive(Debug)]
pub struct FakeHub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hub: SocketAddr,
    cdn: SocketAddr,
    ended: AtomicBool,
    state: Mutex<State>,
}

/// All that a request may look at or change.
#[derive(Debug, Default)]
struct State {
    repos: Vec<FakeRepo>,
    /// Old id, new id.
    renamed: Vec<(String, String)>,
    tokens: Vec<String>,
    page: usize,
    urls: api::Urls,
    planted: Vec<Planted>,
    seen: Vec<Seen>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeHub {
    /// Starts a hub with these repositories.
    ///
    /// # Panics
    /// Without loopback.
    pub fn start(repos: impl IntoIterator<Item = FakeRepo>) -> FakeHub {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("loopback");
        let (hub, cdn) = (listen(), listen());
        let address = |listener: &TcpListener| listener.local_addr().expect("a bound socket");
        let urls = api::Urls {
            hub: format!("http://{}", address(&hub)),
            cdn: format!("http://localhost:{}", address(&cdn).port()),
        };
        let state = State { repos: repos.into_iter().collect(), page: 1000, urls, ..State::default() };
        let shared = Arc::new(Shared {
            hub: address(&hub),
            cdn: address(&cdn),
            ended: AtomicBool::new(false),
            state: Mutex::new(state),
        });
        for (side, listener) in [(Side::Hub, hub), (Side::Cdn, cdn)] {
            let shared = shared.clone();
            std::thread::spawn(move || accept(side, &listener, &shared));
        }
        FakeHub { shared }
    }

    /// The value for `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.shared.hub)
    }

    /// The URL of the CDN.
    pub fn cdn(&self) -> String {
        format!("http://{}", self.shared.cdn)
    }

    /// Names these URLs in answers, in place of its own: those of servers in front of it.
    pub fn behind(&self, hub: &str, cdn: &str) {
        self.shared.state().urls = api::Urls { hub: hub.to_owned(), cdn: cdn.to_owned() };
    }

    /// Requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// Requests so far whose path contains `part`.
    pub fn seen_of(&self, side: Side, part: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.side == side && seen.path.contains(part)).collect()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.shared.state().seen.clear();
    }

    /// The next `times` requests to `side` whose path contains `part` get `fault`. At the CDN, `part` may also be the
    /// name of the file.
    pub fn plant(&self, side: Side, part: &str, times: usize, fault: HubFault) {
        self.shared.state().planted.push(Planted { side, part: part.to_owned(), times, fault });
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.shared.state().planted.clear();
    }

    /// Accepts a token; others are refused.
    pub fn accept_token(&self, token: &str) {
        self.shared.state().tokens.push(token.to_owned());
    }

    /// Redirects requests for the id `old` to `new`.
    pub fn rename(&self, old: &str, new: &str) {
        self.shared.state().renamed.push((old.to_owned(), new.to_owned()));
    }

    /// Entries in a page of the list of files.
    pub fn page_size(&self, entries: usize) {
        self.shared.state().page = entries;
    }

    /// Moves a branch or a tag.
    ///
    /// # Panics
    /// If there is no such repository.
    pub fn set_ref(&self, id: &str, name: &str, commit: &str) {
        let mut state = self.shared.state();
        let repo = state.repos.iter_mut().find(|repo| repo.id == id).expect("a repository");
        repo.refs.insert(name.to_owned(), commit.to_owned());
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for address in [self.shared.hub, self.shared.cdn] {
            drop(TcpStream::connect(address)); // wakes the loop, which then ends
        }
    }
}

fn accept(side: Side, listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.ended.load(Ordering::Relaxed) {
            return;
        }
        match stream {
            Ok(stream) => {
                let shared = shared.clone();
                std::thread::spawn(move || serve(side, stream, &shared));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// One request and its answer; the connection is closed after it.
fn serve(side: Side, mut stream: TcpStream, shared: &Shared) {
    // a client that goes away ends the connection, and nothing else
    let Some(seen) = wire::read(side, &mut stream) else { return };
    let (reply, fault) = {
        let mut state = shared.state();
        state.seen.push(seen.clone());
        let fault = state.strikes(&seen);
        let urls = state.urls.clone();
        let reply = match &fault {
            Some(HubFault::Status { status, headers }) => Reply::refusal(*status, headers),
            Some(HubFault::Portal) => Reply::portal(),
            _ => state.answer(&seen, &urls, fault.as_ref()),
        };
        (reply, fault)
    };
    let stall = || {
        for _ in 0..500 {
            if shared.ended.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    drop(wire::write(&mut stream, &seen, reply, fault.as_ref(), stall));
}
