//! Requests: redirects followed by hand, the token sent to the hub's origin alone, limits for each read.
//!
//! Redirects carry metadata of the file in their headers, and ureq drops the token at every redirect, or compares the
//! host alone. Hence the loop here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Error, Result, read_bounded, visible_line};
use ureq::http::{HeaderMap, StatusCode, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::Settings;
use crate::url::{self, Origin};

const MOST_REDIRECTS: usize = 10;
const MOST_CERTIFICATES: u64 = 16 << 20;
const USER_AGENT: &str = concat!("gemma-convert/", env!("CARGO_PKG_VERSION"));

/// Waits for a time; tests replace it.
pub(crate) type Sleep = Arc<dyn Fn(Duration) + Send + Sync>;

/// The HTTP client of one hub.
pub(crate) struct Client {
    agent: Agent,
    pub(crate) settings: Settings,
    pub(crate) sleep: Sleep,
    hub: Origin,
    /// True since any server answered: failures before are a missing network, not a passing one.
    answered: AtomicBool,
}

/// A failed exchange, without an answer.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) error: Error,
    /// False if the same request would fail again.
    pub(crate) again: bool,
}

/// An answer, after all redirects.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// Without the query.
    pub(crate) url: String,
    /// True if the hub itself answered, false for a CDN.
    pub(crate) from_hub: bool,
    pub(crate) marks: Marks,
}

/// Metadata in the headers of an answer and of the redirects before it.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// `X-Repo-Commit`.
    pub(crate) commit: Option<String>,
    /// `X-Linked-ETag`: the SHA-256 of a large file.
    pub(crate) linked_etag: Option<String>,
}

impl Marks {
    fn read(&mut self, headers: &HeaderMap) {
        let take = |into: &mut Option<String>, name| {
            if let Some(value) = text(headers, name) {
                *into = Some(value.trim_start_matches("W/").trim_matches('"').to_owned());
            }
        };
        take(&mut self.commit, "x-repo-commit");
        take(&mut self.linked_etag, "x-linked-etag");
    }
}

/// A header as text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl Answer {
    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        text(&self.headers, name)
    }

    /// The length that the server announces, if it does.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }
}

impl Client {
    pub(crate) fn new(settings: Settings, sleep: Sleep) -> Result<Client> {
        let hub = Origin::of(&settings.endpoint).map_err(|e| e.moved(base::Fault::Recipe, "HF_ENDPOINT"))?;
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.certificates {
            let pem = read_bounded(path, MOST_CERTIFICATES)?;
            let certificates: Vec<_> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if certificates.is_empty() {
                return Err(Error::malformed(path.display(), "no certificates")
                    .expected("certificates in PEM form", "none")
                    .help("SSL_CERT_FILE names this file."));
            }
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .timeout_connect(Some(settings.connect_timeout))
            .timeout_recv_response(Some(settings.answer_timeout))
            .timeout_per_read(Some(settings.read_timeout))
            .proxy(settings.proxy())
            .tls_config(tls.build())
            .build();
        Ok(Client { agent: config.new_agent(), settings, sleep, hub, answered: AtomicBool::new(false) })
    }

    /// True since any server answered.
    pub(crate) fn was_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// `GET`, with all redirects followed. `range` is the value of the header `Range`.
    pub(crate) fn get(&self, url: &str, range: Option<&str>) -> Result<Answer, Broken> {
        let mut url = url.to_owned();
        let mut marks = Marks::default();
        for _ in 0..=MOST_REDIRECTS {
            let origin = Origin::of(&url).map_err(Broken::fatal)?;
            if origin.is_weaker_than(&self.hub) {
                let error =
                    Error::malformed(url::shown(&url), "a redirect to a connection without encryption")
                        .expected("https", "http");
                return Err(Broken::fatal(error));
            }
            let from_hub = origin == self.hub;
            let mut request = self.agent.get(&url).header(header::ACCEPT_ENCODING, "identity");
            if let Some(token) = self.settings.token.as_ref().filter(|_| from_hub) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.secret()));
            }
            if let Some(range) = range {
                request = request.header(header::RANGE, range);
            }
            let response = request.call().map_err(|e| Broken::of(&e, &url))?;
            self.answered.store(true, Ordering::Relaxed);
            let (parts, body) = response.into_parts();
            marks.read(&parts.headers);
            let target = text(&parts.headers, "location").filter(|_| parts.status.is_redirection());
            match target {
                Some(target) => url = url::join(&url, target),
                None => {
                    let (status, headers, url) = (parts.status, parts.headers, url::shown(&url));
                    return Ok(Answer { status, headers, body, url, from_hub, marks });
                }
            }
        }
        let error = Error::malformed(url::shown(&url), "too many redirects");
        Err(Broken::fatal(error.expected(format!("at most {MOST_REDIRECTS}"), "more")))
    }
}

impl Broken {
    fn fatal(error: Error) -> Broken {
        Broken { error, again: false }
    }

    fn of(error: &ureq::Error, url: &str) -> Broken {
        use ureq::Error as E;
        let place = url::shown(url);
        let problem = visible_line(&error.to_string()).into_owned();
        let is_trust =
            matches!(error, E::Tls(_) | E::Rustls(_) | E::Pem(_)) || problem.contains("certificate");
        let (kind, again) = match error {
            E::Io(error) if is_trust => (error.kind(), false),
            E::Io(error) => (error.kind(), true),
            E::Timeout(_) => (std::io::ErrorKind::TimedOut, true),
            E::HostNotFound | E::ConnectionFailed | E::ConnectProxyFailed(_) => {
                (std::io::ErrorKind::NotConnected, true)
            }
            E::Protocol(_) | E::BodyStalled => (std::io::ErrorKind::InvalidData, true),
            _ => (std::io::ErrorKind::Other, false),
        };
        let error = Error::io(place, &std::io::Error::new(not_missing(kind), problem));
        let help =
            "If a proxy of your network has certificates of its own, name their PEM file in SSL_CERT_FILE.";
        Broken { error: if is_trust { error.help(help) } else { error }, again }
    }
}

/// An I/O error is about a missing file only if a file is missing.
fn not_missing(kind: std::io::ErrorKind) -> std::io::ErrorKind {
    if kind == std::io::ErrorKind::NotFound { std::io::ErrorKind::Other } else { kind }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("settings", &self.settings).finish_non_exhaustive()
    }
}
