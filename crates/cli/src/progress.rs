//! One bar for the whole input, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::outcome::tell;

pub(crate) struct Bar {
    bar: ProgressBar,
    quiet: bool,
}

impl Bar {
    /// `what` says what is being made of `bytes` bytes of input.
    pub(crate) fn new(what: &str, bytes: u64, quiet: bool) -> Bar {
        Bar::styled(
            what,
            bytes,
            quiet,
            "{msg} [{bar:32}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        )
    }

    /// For work that is not measured in bytes.
    pub(crate) fn steps(what: &str, steps: u64, quiet: bool) -> Bar {
        Bar::styled(what, steps, quiet, "{msg} [{bar:32}] {percent} %, {eta} left")
    }

    fn styled(what: &str, len: u64, quiet: bool, style: &str) -> Bar {
        // hidden by indicatif itself when stderr is no terminal
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(len), target)
            .with_message(base::visible_line(what).into_owned());
        bar.set_style(
            ProgressStyle::with_template(style)
                .map_or_else(|_| ProgressStyle::default_bar(), |s| s.progress_chars("=> ")),
        );
        Bar { bar, quiet }
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
        if !self.quiet {
            self.bar.suspend(|| tell(&format!("note: {}\n", base::visible(text))));
        }
    }
}

/// Tells what a user should know about what was given.
pub(crate) fn notes(notes: &[String], quiet: bool) {
    if quiet {
        return;
    }
    notes.iter().for_each(|note| tell(&format!("note: {note}\n")));
}
