//! The error type: the party at fault, the place, the expected and found values, the remedy.
//!
//! Libraries create it; the command line displays it and turns the fault into an exit code.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The party at fault, who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An input file contradicts its format or another file.
    Malformed,
    /// Valid input that this tool does not handle.
    Unsupported,
    /// The recipe or an option requests something impossible.
    Recipe,
    /// A size or a count exceeds a limit of this tool.
    Limit,
    /// The output cannot be written: the file exists, the place is not writable or the disk is full.
    Target,
    /// The operating system failed to read or write.
    Io,
}

impl Fault {
    /// Name in machine-readable output.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Malformed => "malformed",
            Fault::Unsupported => "unsupported",
            Fault::Recipe => "recipe",
            Fault::Limit => "limit",
            Fault::Target => "target",
            Fault::Io => "io",
        }
    }
}

/// The cause of an error, for code that reacts to it. Messages may change; kinds do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value that contradicts its format, another value, or a precondition.
    Invalid,
    /// A missing key, tensor, field or file.
    Missing,
    /// An output that already exists.
    Exists,
    /// A failed system call.
    Io(io::ErrorKind),
}

/// An error that a person can act on. Displays as `place: problem (expected …, found …)`, then the help on a separate
/// line.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    fault: Fault,
    kind: ErrorKind,
    place: String,
    problem: String,
    expected: Option<(String, String)>,
    help: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with the given fault. `place` names the file, tensor, key or option.
    pub fn new(fault: Fault, place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Error(Box::new(Inner {
            fault,
            kind: ErrorKind::Invalid,
            place: place.to_string(),
            problem: problem.to_string(),
            expected: None,
            help: None,
            source: None,
        }))
    }

    /// An error with [`Fault::Malformed`].
    pub fn malformed(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::new(Fault::Malformed, place, problem)
    }

    /// An error with [`Fault::Unsupported`].
    pub fn unsupported(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::new(Fault::Unsupported, place, problem)
    }

    /// An error with [`Fault::Recipe`].
    pub fn recipe(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::new(Fault::Recipe, place, problem)
    }

    /// An error with [`Fault::Limit`].
    pub fn limit(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::new(Fault::Limit, place, problem)
    }

    /// An error with [`Fault::Target`].
    pub fn target(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::new(Fault::Target, place, problem)
    }

    /// A missing key, tensor, field or file of an input: see [`Fault::Malformed`].
    pub fn missing(place: impl fmt::Display) -> Self {
        Self::malformed(place, "missing").with_kind(ErrorKind::Missing)
    }

    /// An output that already exists: see [`Fault::Target`].
    pub fn exists(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::target(place, problem).with_kind(ErrorKind::Exists)
    }

    /// A failed system call on `place`. A missing input file and a folder in its place are malformed input, not I/O failures.
    pub fn io(place: impl fmt::Display, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => {
                Self::new(Fault::Malformed, place, error).with_kind(ErrorKind::Missing)
            }
            kind @ io::ErrorKind::IsADirectory => {
                Self::new(Fault::Malformed, place, "a folder, where a file should be")
                    .with_kind(ErrorKind::Io(kind))
            }
            kind => Self::new(Fault::Io, place, error).with_kind(ErrorKind::Io(kind)),
        }
        .with_source(copy_of(error))
    }

    /// A failed system call on an output: see [`Fault::Target`].
    pub fn write(place: impl fmt::Display, error: &io::Error) -> Self {
        Self::new(Fault::Target, place, error)
            .with_kind(ErrorKind::Io(error.kind()))
            .with_source(copy_of(error))
    }

    #[must_use]
    fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Stores the underlying error, for [`std::error::Error::source`].
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// The same error with another fault and place, for a value that came from elsewhere. The old error is the source.
    #[must_use]
    pub fn moved(self, fault: Fault, place: impl fmt::Display) -> Self {
        let (source, mut moved) = (self.clone(), self);
        (moved.0.fault, moved.0.place) = (fault, place.to_string());
        moved.with_source(source)
    }

    /// Adds the expected and the found value.
    #[must_use]
    pub fn expected(mut self, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        self.0.expected = Some((expected.to_string(), found.to_string()));
        self
    }

    /// Adds the remedy.
    #[must_use]
    pub fn help(mut self, help: impl fmt::Display) -> Self {
        self.0.help = Some(help.to_string());
        self
    }

    /// Puts an outer place before the inner one: `model.safetensors: tensor x: …`. An error that names the outer place already stays as
    /// it is.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        let outer = outer.to_string();
        let is_named = |rest: &str| rest.is_empty() || rest.starts_with(':');
        if !self.0.place.strip_prefix(&outer).is_some_and(is_named) {
            self.0.place = format!("{outer}: {}", self.0.place);
        }
        self
    }

    /// The party at fault.
    pub fn fault(&self) -> Fault {
        self.0.fault
    }

    /// The cause, for code.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file, tensor, key or option.
    pub fn place(&self) -> &str {
        &self.0.place
    }

    /// The problem at that place.
    pub fn problem(&self) -> &str {
        &self.0.problem
    }

    /// `(expected, found)`, if the error has them.
    pub fn expected_found(&self) -> Option<(&str, &str)> {
        self.0.expected.as_ref().map(|(e, f)| (e.as_str(), f.as_str()))
    }

    /// The remedy, if the error has one.
    pub fn help_text(&self) -> Option<&str> {
        self.0.help.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.place, self.0.problem)?;
        if let Some((expected, found)) = &self.0.expected {
            write!(f, " (expected {expected}, found {found})")?;
        }
        if let Some(help) = &self.0.help {
            write!(f, "\n{help}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.fault.name())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Errors are equal if they display the same; their sources may differ.
impl PartialEq for Error {
    fn eq(&self, other: &Error) -> bool {
        let (a, b) = (&self.0, &other.0);
        (a.fault, a.kind) == (b.fault, b.kind)
            && (&a.place, &a.problem) == (&b.place, &b.problem)
            && (&a.expected, &a.help) == (&b.expected, &b.help)
    }
}

impl Eq for Error {}

/// A copy of an `io::Error`, which is not `Clone`: from the system's error code, else from the text.
fn copy_of(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_once() {
        let place = |inner: &str| Error::malformed(inner, "bad").within("a.gguf").to_string();
        assert_eq!(place("key k"), "a.gguf: key k: bad");
        assert_eq!(place("a.gguf"), "a.gguf: bad");
        assert_eq!(place("a.gguf: key k"), "a.gguf: key k: bad");
        assert_eq!(place("a.gguf.partial"), "a.gguf: a.gguf.partial: bad");
    }

    #[test]
    fn kinds_and_sources_are_for_code() {
        let code = if cfg!(windows) { 5 } else { 13 };
        let denied = io::Error::from_raw_os_error(code);
        let error = Error::write("out", &denied);
        assert_eq!(
            (error.fault(), error.kind()),
            (Fault::Target, ErrorKind::Io(io::ErrorKind::PermissionDenied))
        );
        let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(source.raw_os_error(), Some(code));
        let absent = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(Error::io("in", &absent).kind(), ErrorKind::Missing);
        assert_eq!(Error::io("in", &absent).fault(), Fault::Malformed);
        let moved = Error::missing("key a").moved(Fault::Recipe, "recipe: a");
        assert_eq!(moved.to_string(), "recipe: a: missing");
        assert_eq!((moved.kind(), moved.fault()), (ErrorKind::Missing, Fault::Recipe));
        assert_eq!(moved.source().unwrap().to_string(), "key a: missing");
        assert_eq!(moved, Error::missing("recipe: a").moved(Fault::Recipe, "recipe: a"));
    }
}
