//! The one error type: who is at fault, where, what was expected and found, what to do.
//!
//! Libraries build it, the command line shows it and turns the fault into an exit code.

use std::fmt;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An input file contradicts its format or another file.
    Malformed,
    /// Valid input that this tool does not handle.
    Unsupported,
    /// The recipe or an option asks for something that cannot be.
    Recipe,
    /// A size or a count is beyond what this tool accepts.
    Limit,
    /// The place to write to cannot take the output: it exists, is not writable or is too small.
    Target,
    /// The operating system failed to read or write.
    Io,
}

impl Fault {
    /// The name in machine-readable output.
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

/// An error a person can act on. Displays as `place: problem (expected …, found …)`, then the help on a line of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    fault: Fault,
    place: String,
    problem: String,
    expected: Option<(String, String)>,
    help: Option<String>,
}

impl Error {
    /// An error of the given fault. `place` names the file, tensor, key or option.
    pub fn new(fault: Fault, place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Error(Box::new(Inner {
            fault,
            place: place.to_string(),
            problem: problem.to_string(),
            expected: None,
            help: None,
        }))
    }

    /// See [`Fault::Malformed`].
    pub fn malformed(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::new(Fault::Malformed, place, problem)
    }

    /// See [`Fault::Unsupported`].
    pub fn unsupported(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::new(Fault::Unsupported, place, problem)
    }

    /// See [`Fault::Recipe`].
    pub fn recipe(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::new(Fault::Recipe, place, problem)
    }

    /// See [`Fault::Limit`].
    pub fn limit(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::new(Fault::Limit, place, problem)
    }

    /// See [`Fault::Target`].
    pub fn target(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::new(Fault::Target, place, problem)
    }

    /// A failed system call on `place`. A missing input file is malformed input, not an I/O failure.
    pub fn io(place: impl fmt::Display, error: &std::io::Error) -> Self {
        let fault = if error.kind() == std::io::ErrorKind::NotFound { Fault::Malformed } else { Fault::Io };
        Self::new(fault, place, error)
    }

    /// A failed system call on something being written: see [`Fault::Target`].
    pub fn write(place: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(Fault::Target, place, error)
    }

    /// Adds what should have been there and what was.
    #[must_use]
    pub fn expected(mut self, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        self.0.expected = Some((expected.to_string(), found.to_string()));
        self
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn help(mut self, help: impl fmt::Display) -> Self {
        self.0.help = Some(help.to_string());
        self
    }

    /// Puts an outer place before the inner one: `model.safetensors: tensor x: …`.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.0.place = format!("{outer}: {}", self.0.place);
        self
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        self.0.fault
    }

    /// The file, tensor, key or option.
    pub fn place(&self) -> &str {
        &self.0.place
    }

    /// What is wrong there.
    pub fn problem(&self) -> &str {
        &self.0.problem
    }

    /// `(expected, found)`, where the error has them.
    pub fn expected_found(&self) -> Option<(&str, &str)> {
        self.0.expected.as_ref().map(|(e, f)| (e.as_str(), f.as_str()))
    }

    /// What to do, where the error knows.
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

impl std::error::Error for Error {}
