//! Retries: which failures pass, how long to wait, when to give up.
//!
//! A server that says how long (`Retry-After`, or `t` of `RateLimit`) is obeyed; else the waits double from a second on.
//! The count of failures begins anew when the work has advanced.

use std::time::{Duration, SystemTime};

use base::{Error, Progress, Result};
use ureq::http::StatusCode;

use crate::client::{Answer, Broken, Client};

/// Waits in succession without progress, before an error.
const MOST_WAITS: u32 = 5;
/// The same before any server has answered: the network is missing rather than disturbed.
const MOST_WAITS_UNANSWERED: u32 = 2;
/// A server that asks for a longer wait is not waited for. The hub's windows have 5 minutes.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// A failure that may pass.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// The error, if it does not pass.
    pub(crate) error: Error,
    /// The wait that the server asks for.
    pub(crate) wait: Option<Duration>,
}

impl Trouble {
    pub(crate) fn new(error: Error) -> Trouble {
        Trouble { error, wait: None }
    }

    /// The failure of an answer with a status that passes; `None` for another status.
    pub(crate) fn of(answer: &Answer) -> Option<Trouble> {
        let status = answer.status.as_u16();
        if ![408, 429, 500, 502, 503, 504].contains(&status) {
            return None;
        }
        let error = Error::io(
            &answer.url,
            &std::io::Error::other(format!("the server answers with status {}", answer.status)),
        );
        let error = if answer.status == StatusCode::TOO_MANY_REQUESTS {
            error.help("Too many requests from this account or address. An access token (HF_TOKEN) raises the limit.")
        } else {
            error
        };
        Some(Trouble { error, wait: asked(answer) })
    }
}

/// The wait that the headers of an answer ask for.
fn asked(answer: &Answer) -> Option<Duration> {
    let after = answer.header("retry-after").and_then(|value| retry_after(value, SystemTime::now()));
    // The window ends within the second after `t`.
    let limit = || answer.header("ratelimit").and_then(rate_limit).map(|wait| wait + Duration::from_secs(1));
    after.or_else(limit)
}

/// `Retry-After`: seconds, or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    httpdate::parse_http_date(value).ok().map(|date| date.duration_since(now).unwrap_or_default())
}

/// `RateLimit: "api";r=0;t=42`: the end of the window, if nothing is left in it.
fn rate_limit(value: &str) -> Option<Duration> {
    let parameter = |name: &str| {
        value
            .split(';')
            .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')?.trim().parse::<u64>().ok())
    };
    parameter("t").filter(|_| parameter("r").unwrap_or(0) == 0).map(Duration::from_secs)
}

/// Counts failures of one piece of work, and waits.
pub(crate) struct Patience<'a> {
    client: &'a Client,
    progress: &'a dyn Progress,
    failures: u32,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(client: &'a Client, progress: &'a dyn Progress) -> Patience<'a> {
        Patience { client, progress, failures: 0 }
    }

    /// The work has advanced.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Waits for the next attempt.
    ///
    /// # Errors
    /// That of the trouble, if there were too many, or if the wait would be too long.
    pub(crate) fn wait(&mut self, trouble: Trouble) -> Result<()> {
        let most = if self.client.was_answered() { MOST_WAITS } else { MOST_WAITS_UNANSWERED };
        let wait = trouble.wait.unwrap_or_else(|| backoff(self.failures));
        self.failures += 1;
        if self.failures > most {
            return Err(trouble.error);
        }
        if wait > LONGEST_WAIT {
            let help = format!("The server asks to wait {} minutes; run again then.", wait.as_secs() / 60);
            return Err(trouble.error.help(help));
        }
        let (place, problem) = (trouble.error.place(), trouble.error.problem());
        let seconds = wait.as_secs_f64();
        self.progress.note(&format!("{place}: {problem}; attempt {} in {seconds:.0} s", self.failures + 1));
        (self.client.sleep)(wait);
        Ok(())
    }

    /// Waits after an exchange without an answer.
    ///
    /// # Errors
    /// As [`wait`](Self::wait); at once for a failure that would repeat itself.
    pub(crate) fn wait_broken(&mut self, broken: Broken) -> Result<()> {
        if broken.again { self.wait(Trouble::new(broken.error)) } else { Err(broken.error) }
    }
}

/// 1, 2, 4 … s, and up to a quarter of a second more, so that many clients do not return at once.
fn backoff(failures: u32) -> Duration {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(1 << failures.min(10)) + Duration::from_millis(u64::from(clock.subsec_nanos() % 250))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_how_long() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 30);
        for (value, seconds) in [
            ("2", Some(2.0)),
            ("0.5", Some(0.5)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30.0)),
            ("Sun, 06 Nov 1993 08:49:37 GMT", None),
            ("-1", None),
            ("soon", None),
        ] {
            let wait = retry_after(value, now).map(|wait| wait.as_secs_f64());
            assert_eq!(wait.filter(|wait| *wait > 0.0), seconds, "{value}");
        }
        assert_eq!(rate_limit("\"api\";r=0;t=42"), Some(Duration::from_secs(42)));
        assert_eq!(rate_limit("\"api\";r=10;t=42"), None);
        assert_eq!(rate_limit("\"api\";r=0"), None);
    }

    #[test]
    fn waits_double() {
        let seconds: Vec<_> = (0..5).map(|failures| backoff(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16]);
    }
}
