//! URLs: their origin, redirects, encoded segments.

use base::{Error, Result};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::Uri;

/// What stays as it is in a segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What no URL contains as it is. Servers send some of it in redirects.
const FOREIGN: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Scheme, host and port: the token is sent to one origin only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    pub(crate) fn of(url: &str) -> Result<Origin> {
        let wrong = || Error::malformed(shown(url), "not an http(s) URL");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let scheme = uri.scheme_str().ok_or_else(wrong)?.to_lowercase();
        let default = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return Err(wrong()),
        };
        let host = uri.host().ok_or_else(wrong)?.to_lowercase();
        Ok(Origin { scheme, host, port: uri.port_u16().unwrap_or(default) })
    }

    /// True for a connection without encryption, if the other one has it.
    pub(crate) fn is_weaker_than(&self, other: &Origin) -> bool {
        self.scheme == "http" && other.scheme == "https"
    }
}

/// One segment of a path, percent-encoded: a slash inside becomes `%2F`.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// A path, each segment percent-encoded.
pub(crate) fn path(text: &str) -> String {
    text.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// The target of a redirect or a link in an answer to `base`.
pub(crate) fn join(base: &str, target: &str) -> String {
    let target = &utf8_percent_encode(target, FOREIGN).to_string();
    let scheme_end = base.find("://").map_or(0, |at| at + 3);
    let host_end = base[scheme_end..].find(['/', '?', '#']).map_or(base.len(), |at| scheme_end + at);
    if target.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
        return target.clone();
    }
    if target.starts_with("//") {
        return format!("{}{target}", &base[..scheme_end.saturating_sub(2)]);
    }
    if target.starts_with('/') {
        return format!("{}{target}", &base[..host_end]);
    }
    let path = base[..].split(['?', '#']).next().unwrap_or(base);
    let folder = path[host_end..].rfind('/').map_or(path.len(), |at| host_end + at);
    format!("{}/{target}", &path[..folder])
}

/// A URL for messages: without the query, which may contain a signature.
pub(crate) fn shown(url: &str) -> String {
    base::visible_line(url.split('?').next().unwrap_or(url)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_differ_in_scheme_host_and_port() {
        let origin = |url| Origin::of(url).unwrap();
        assert_eq!(origin("https://hub.example/a?b"), origin("HTTPS://HUB.example:443/c"));
        for other in ["http://hub.example/", "https://hub.example:444/", "https://cdn.example/"] {
            assert_ne!(origin("https://hub.example/"), origin(other), "{other}");
        }
        let (open, closed) = (origin("http://hub.example/"), origin("https://hub.example/"));
        assert!(open.is_weaker_than(&closed));
        assert!(!closed.is_weaker_than(&open) && !open.is_weaker_than(&open));
        for wrong in ["ftp://hub.example/", "/a", "", "https:///a"] {
            assert!(Origin::of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn targets_are_resolved() {
        let base = "https://hub.example:8/a/b?c=/d";
        for (target, url) in [
            ("https://cdn.example/x?y=http://z", "https://cdn.example/x?y=http://z"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/x?y", "https://hub.example:8/x?y"),
            ("x?y=:", "https://hub.example:8/a/x?y=:"),
            ("/a b/é%20[1]", "https://hub.example:8/a%20b/%C3%A9%20[1]"),
        ] {
            assert_eq!(join(base, target), url);
        }
        assert_eq!(join("https://hub.example", "x"), "https://hub.example/x");
    }

    #[test]
    fn segments_are_encoded() {
        assert_eq!(segment("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(path("a b/c[1].json"), "a%20b/c%5B1%5D.json");
        assert_eq!(shown("https://cdn.example/x?Signature=s"), "https://cdn.example/x");
    }
}
