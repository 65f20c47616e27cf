//! One bar for the whole input, on a terminal only.

use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::outcome::tell;

/// `--quiet`: of the whole process, as its stderr is.
static QUIET: AtomicBool = AtomicBool::new(false);

/// No progress bar and no notes from now on.
pub(crate) fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Whether only errors go to stderr.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// `what` says what is being made of `bytes` bytes of input.
    pub(crate) fn new(what: &str, bytes: u64) -> Bar {
        Bar::styled(what, bytes, "{msg} [{bar:32}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
    }

    /// For work that is not measured in bytes.
    pub(crate) fn steps(what: &str, steps: u64) -> Bar {
        Bar::styled(what, steps, "{msg} [{bar:32}] {percent} %, {eta} left")
    }

    fn styled(what: &str, len: u64, style: &str) -> Bar {
        // hidden by indicatif itself when stderr is no terminal
        let target = if is_quiet() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(len), target)
            .with_message(base::visible_line(what).into_owned());
        bar.set_style(
            ProgressStyle::with_template(style)
                .map_or_else(|_| ProgressStyle::default_bar(), |s| s.progress_chars("=> ")),
        );
        Bar { bar }
    }

    pub(crate) fn advance(&self, by: u64) {
        self.bar.inc(by);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl convert::Progress for Bar {
    fn advance(&self, bytes: u64) {
        Bar::advance(self, bytes);
    }

    fn note(&self, text: &str) {
        if !is_quiet() {
            self.bar.suspend(|| tell(&format!("note: {}\n", base::visible(text))));
        }
    }
}

/// Tells what a user should know about what was given.
pub(crate) fn notes(notes: &[String]) {
    if is_quiet() {
        return;
    }
    notes.iter().for_each(|note| tell(&format!("note: {note}\n")));
}
