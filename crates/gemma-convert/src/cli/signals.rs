//! Handling of Ctrl-C, TERM and a closed terminal: temporary files are removed, and files kept for a resume are
//! reported.

use crate::cli::outcome::tell;

#[cfg(unix)]
pub(crate) use unix::watch;

/// Removes temporary files when the user presses Ctrl-C or closes the window.
#[cfg(windows)]
pub(crate) fn watch() {
    // without a handler the process just ends
    let _ = ctrlc::set_handler(|| {
        clean_up();
        std::process::exit(130);
    });
}

fn clean_up() {
    for note in base::abandon() {
        tell(&format!("\ninterrupted: {note}\n"));
    }
}

#[cfg(unix)]
mod unix {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::flag;
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;

    use super::clean_up;

    /// Starts a thread that watches for signals. The process ends by the signal, as its parent expects; a second signal
    /// ends it immediately. Signals that the parent process ignores, as with `nohup`, stay ignored.
    pub(crate) fn watch() {
        let ignored = ignored();
        let wanted: Vec<i32> = [SIGINT, SIGTERM, SIGHUP]
            .into_iter()
            .filter(|signal| ignored & (1 << (signal - 1)) == 0)
            .collect();
        let seen = Arc::new(AtomicBool::new(false));
        for signal in &wanted {
            // the order matters: the first signal sets the flag, and the second finds it set
            let second = flag::register_conditional_default(*signal, seen.clone());
            if second.and_then(|_| flag::register(*signal, seen.clone())).is_err() {
                return; // without a handler the process just ends
            }
        }
        let Ok(mut signals) = Signals::new(&wanted) else { return };
        let watch = move || {
            if let Some(signal) = signals.forever().next() {
                clean_up();
                // does not return for these signals
                let _ = emulate_default_handler(signal);
                std::process::exit(128 + signal);
            }
        };
        // without the thread, the flag would swallow the first signal
        if std::thread::Builder::new().name("signals".into()).spawn(watch).is_err() {
            std::process::exit(4);
        }
    }

    /// The signals that the process ignores from its start, one bit each. If the system does not tell, only HUP, which
    /// `nohup` ignores.
    fn ignored() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(1 << (SIGHUP - 1))
    }
}
