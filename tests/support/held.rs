//! Runs that are held at a point, so that no test depends on how fast the machine is.

use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::Run;

/// So many runs may be over before they can be held: a busy machine does not look at them often enough.
const ATTEMPTS: usize = 50;

/// A run that is held (SIGSTOP) where `there` says so, and still says so when it is held. `start` begins it afresh, without
/// what an earlier one has made.
///
/// # Panics
/// When none can be held.
pub(crate) fn held(mut start: impl FnMut() -> Child, there: impl Fn() -> bool) -> Child {
    for attempt in 0..ATTEMPTS {
        let mut child = start();
        while !there() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
        }
        if child.try_wait().unwrap().is_none() {
            let pid = Pid::from_child(&child);
            kill_process(pid, Signal::STOP).unwrap();
            let stopped = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
            // where it is over instead, there is nothing left to wait for
            if !stopped.is_some_and(|(_, status)| status.stopped()) {
                continue;
            }
            if there() {
                testkit::retried("a run that was over before it could be held", attempt);
                return child;
            }
            child.kill().unwrap();
        }
        let _ = child.wait();
    }
    panic!("none of {ATTEMPTS} runs could be held where it should");
}

/// Lets a held run go on.
pub(crate) fn go_on(child: &Child) {
    kill_process(Pid::from_child(child), Signal::CONT).unwrap();
}

/// The end of a held run that is sent a signal before it goes on.
///
/// # Panics
/// When it is over before the signal reaches it, again and again.
pub(crate) fn signalled(signal: Signal, hold: impl Fn() -> Child) -> (std::process::ExitStatus, Run) {
    for attempt in 0..ATTEMPTS {
        let child = hold();
        kill_process(Pid::from_child(&child), signal).unwrap();
        go_on(&child);
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            testkit::retried("a run that was over before it could be signalled", attempt);
            return (output.status, Run::of(output));
        }
    }
    panic!("all of {ATTEMPTS} runs were over before they could be signalled");
}
