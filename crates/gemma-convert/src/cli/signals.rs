//! What Ctrl-C, TERM and a closed terminal do: temporary files go, and what stays for a resume is said.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::cli::outcome::tell;

/// Watches for signals from now on, in a thread of its own. The process ends by the signal, as its parent expects; a second one
/// ends it at once. Signals that the parent has had ignored, as `nohup` and shells do, stay ignored.
pub(crate) fn watch() {
    let ignored = ignored();
    let wanted: Vec<i32> =
        [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0).collect();
    let seen = Arc::new(AtomicBool::new(false));
    for signal in &wanted {
        // in this order: the first signal sets the flag, the second finds it set
        let second = flag::register_conditional_default(*signal, seen.clone());
        if second.and_then(|_| flag::register(*signal, seen.clone())).is_err() {
            return; // without a handler the process just ends
        }
    }
    let Ok(mut signals) = Signals::new(&wanted) else { return };
    let watch = move || {
        if let Some(signal) = signals.forever().next() {
            for note in base::abandon() {
                tell(&format!("\ninterrupted: {note}\n"));
            }
            // does not return for these signals
            let _ = emulate_default_handler(signal);
            std::process::exit(128 + signal);
        }
    };
    // where no thread can be made, signals do what they do without a handler: the flag alone would swallow the first
    if std::thread::Builder::new().name("signals".into()).spawn(watch).is_err() {
        std::process::exit(4);
    }
}

/// The signals that the process ignores from its start, a bit each. Where the system does not say, none but HUP, which
/// `nohup` has ignored.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(1 << (SIGHUP - 1))
}
