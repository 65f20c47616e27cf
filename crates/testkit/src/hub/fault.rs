//! Faults of a hub or its CDN.

use super::State;
use super::wire::Seen;

/// One of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The API and the redirects.
    Hub,
    /// Large files.
    Cdn,
}

/// A fault of one answer. Positions count from the first byte of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubFault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The byte at this position has another value.
    Flip(usize),
    /// The body has this length, and the header says so.
    Short(usize),
    /// So many bytes of the body, then silence.
    Stall(usize),
    /// This status with these headers.
    Status {
        /// The status.
        status: u16,
        /// More headers.
        headers: Vec<(&'static str, String)>,
    },
    /// The hub signs a URL that has expired.
    Expired,
    /// The page of a login form, status 200.
    Portal,
    /// A range is answered with the whole file.
    NoRange,
    /// A range is answered with another one.
    OtherRange,
    /// The list of files says that each file has this size.
    Size(u64),
    /// The list of files has this path in place of each.
    Path(&'static str),
}

impl HubFault {
    /// A status without more headers.
    pub fn status(status: u16) -> HubFault {
        HubFault::Status { status, headers: Vec::new() }
    }

    /// A status with one more header.
    pub fn status_with(status: u16, name: &'static str, value: &str) -> HubFault {
        HubFault::Status { status, headers: vec![(name, value.to_owned())] }
    }
}

/// A fault that waits for requests.
#[derive(Debug)]
pub(super) struct Planted {
    pub(super) side: Side,
    pub(super) part: String,
    pub(super) times: usize,
    pub(super) fault: HubFault,
}

impl State {
    /// The fault that strikes a request, if any.
    pub(super) fn strikes(&mut self, seen: &Seen) -> Option<HubFault> {
        let files = self.repos.iter().flat_map(|repo| &repo.commits).flat_map(|(_, files)| files);
        // URLs of the CDN have the hash of a file, and not its name
        let named: Vec<&str> = files
            .filter(|(_, file)| seen.side == Side::Cdn && seen.path.contains(&file.sha256))
            .map(|(name, _)| name.as_str())
            .collect();
        let hit = |planted: &&mut Planted| {
            let names = || named.iter().any(|name| name.contains(&planted.part));
            planted.side == seen.side && planted.times > 0 && (seen.path.contains(&planted.part) || names())
        };
        let planted = self.planted.iter_mut().find(hit)?;
        planted.times = planted.times.saturating_sub(1);
        Some(planted.fault.clone())
    }
}
