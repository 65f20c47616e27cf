//! Progress bars and notes on stderr; bars only on a terminal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use gemma_convert::{Progress, Task, Unit};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::options::with_options;
use super::outcome::tell;

/// `--quiet`, for the whole process, like its stderr.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Switches progress bars and notes off.
pub(crate) fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Whether only errors go to stderr.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// `HF_HUB_DISABLE_PROGRESS_BARS`, for the whole process.
static NO_BARS: AtomicBool = AtomicBool::new(false);

/// Switches progress bars off; notes stay.
#[cfg(feature = "hub")]
pub(crate) fn hide_bars() {
    NO_BARS.store(true, Ordering::Relaxed);
}

fn has_bars() -> bool {
    !is_quiet() && !NO_BARS.load(Ordering::Relaxed)
}

/// `--verbose`, for the whole process.
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Switches details on.
pub(crate) fn set_verbose(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// Whether details are shown.
pub(crate) fn is_verbose() -> bool {
    VERBOSE.load(Ordering::Relaxed)
}

/// Progress on the terminal.
#[derive(Default)]
pub(crate) struct Console {
    /// The visible bar, which is suspended while a note is printed.
    current: Mutex<Option<ProgressBar>>,
}

impl Progress for Console {
    fn begin(&self, name: &str, total: u64, unit: Unit) -> Box<dyn Task + '_> {
        let style = match unit {
            Unit::Bytes => "{msg} [{bar:32}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            Unit::Steps => "{msg} [{bar:32}] {percent} %, {eta} left",
        };
        // indicatif hides the bar if stderr is not a terminal
        let target = if has_bars() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target)
            .with_message(base::visible_line(name).into_owned());
        bar.set_style(
            ProgressStyle::with_template(style)
                .map_or_else(|_| ProgressStyle::default_bar(), |s| s.progress_chars("=> ")),
        );
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        Box::new(Bar(bar))
    }

    fn note(&self, note: &str) {
        if is_quiet() {
            return;
        }
        let line = format!("note: {}\n", base::visible(&with_options(note)));
        match &*self.current.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(bar) => bar.suspend(|| tell(&line)),
            None => tell(&line),
        }
    }
}

struct Bar(ProgressBar);

impl Task for Bar {
    fn advance(&self, by: u64) {
        self.0.inc(by);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
