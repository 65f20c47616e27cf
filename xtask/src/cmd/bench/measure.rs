//! Runs one command and says what it took: wall time, processor time, peak memory.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a process took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) wall: Duration,
    pub(super) user: Duration,
    pub(super) system: Duration,
    /// Peak resident bytes, pages of mapped files included.
    pub(super) peak: u64,
}

impl Cost {
    /// Processor time.
    pub(super) fn processor(&self) -> Duration {
        self.user + self.system
    }

    /// The cost of both, one after the other.
    pub(super) fn then(self, next: Cost) -> Cost {
        Cost {
            wall: self.wall + next.wall,
            user: self.user + next.user,
            system: self.system + next.system,
            peak: self.peak.max(next.peak),
        }
    }
}

/// The median by wall time; of an even number the shorter one.
pub(super) fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by_key(|cost| cost.wall);
    costs[(costs.len() - 1) / 2]
}

/// Runs the command to its end. Its output is shown only when it fails.
pub(super) fn run(command: &mut Command) -> Result<Cost> {
    let log = tempfile::tempfile()?;
    forget_own_peak();
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let (status, usage) = wait(child.id())?;
    let wall = start.elapsed();
    if status != 0 {
        bail!("{command:?} failed:\n{}", end_of(log)?);
    }
    Ok(Cost {
        wall,
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        // Kilobytes on Linux, bytes on macOS.
        peak: usage.ru_maxrss as u64 * if cfg!(target_os = "macos") { 1 } else { 1024 },
    })
}

/// The peak of a child begins with that of the process that starts it: on Linux it becomes what is in memory now.
fn forget_own_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The wait status and resource usage of one child: the standard library gives only the first, and
/// `getrusage` only the largest peak of all children so far.
fn wait(pid: u32) -> Result<(i32, libc::rusage)> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live locals of the right types; `pid` is our child, not waited for yet.
        let waited = unsafe { libc::wait4(pid as libc::pid_t, &mut status, 0, &mut usage) };
        if waited != -1 {
            return Ok((status, usage));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error).context("wait4");
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
}

fn end_of(mut log: std::fs::File) -> Result<String> {
    use std::io::{Read, Seek};
    log.rewind()?;
    let mut text = Vec::new();
    log.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_time_are_those_of_the_child() {
        let sh = |script: &str| run(Command::new("sh").args(["-c", script]));
        let big = sh("dd if=/dev/zero of=/dev/null bs=64M count=1").unwrap();
        let small = sh("sleep 0.1").unwrap();
        assert!(big.peak > 64 << 20, "{big:?}");
        assert!(small.peak < 32 << 20 && small.wall >= Duration::from_millis(100), "{small:?}");
        assert!(small.then(big).peak == big.peak);
    }

    #[test]
    fn a_failure_shows_the_output() {
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 2"])).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }
}
