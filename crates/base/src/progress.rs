//! Progress of long work, reported by jobs and displayed by programs.

/// A receiver of progress. Any thread may call it.
pub trait Progress: Sync {
    /// Begins a piece of work of `total` units, which ends when the returned task is dropped.
    fn begin(&self, name: &str, total: u64, unit: Unit) -> Box<dyn Task + '_>;

    /// A note for the user, about the input or about a decision of the job.
    fn note(&self, note: &str);
}

/// A piece of work in progress.
pub trait Task: Sync {
    /// Reports that `by` more units of the total are done.
    fn advance(&self, by: u64);
}

/// The unit in which a piece of work is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of a file.
    Bytes,
    /// Steps without a size, such as a token through a layer.
    Steps,
}

/// Discards all progress and all notes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64, _: Unit) -> Box<dyn Task + '_> {
        Box::new(Silent)
    }

    fn note(&self, _: &str) {}
}

impl Task for Silent {
    fn advance(&self, _: u64) {}
}
