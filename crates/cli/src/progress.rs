//! One bar for the whole input, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(crate) struct Bar {
    bar: ProgressBar,
    quiet: bool,
}

impl Bar {
    /// `what` says what is being made of `bytes` bytes of input.
    pub(crate) fn new(what: &str, bytes: u64, quiet: bool) -> Bar {
        // hidden by indicatif itself when stderr is no terminal
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(bytes), target).with_message(what.to_owned());
        let style = "{msg} [{bar:32}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        bar.set_style(
            ProgressStyle::with_template(style)
                .map_or_else(|_| ProgressStyle::default_bar(), |s| s.progress_chars("=> ")),
        );
        Bar { bar, quiet }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl convert::Progress for Bar {
    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn note(&self, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| eprintln!("note: {text}"));
        }
    }
}
