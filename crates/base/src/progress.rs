//! Progress of long work: jobs tell it, a program shows it.

/// The receiver of progress. Calls come from many threads.
pub trait Progress: Sync {
    /// A piece of work begins. It ends when the returned task is dropped.
    fn begin(&self, name: &str, total: u64, unit: Unit) -> Box<dyn Task + '_>;

    /// A fact that a user should know: about the input, or about a decision of the job.
    fn note(&self, note: &str);
}

/// A piece of work in progress.
pub trait Task: Sync {
    /// Another `by` units of the total are done.
    fn advance(&self, by: u64);
}

/// The unit of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of a file.
    Bytes,
    /// Steps without a size, such as a token through a layer.
    Steps,
}

/// Drops all progress and all notes.
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
