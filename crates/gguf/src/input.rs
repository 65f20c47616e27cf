//! A bounded reader: reads and allocates no more than the rest of the file.

use std::io::{ErrorKind, Read};

use tensor::{Error, Result};

/// Maximum bytes before the first tensor byte. Gemma's vocabulary takes 16 MB.
const MAX_HEADER: u64 = 256 << 20;
/// Maximum number of strings in all arrays: each takes more memory than bytes in the file. Gemma has 262,144 tokens and
/// 514,906 merges.
const MAX_TEXTS: u64 = 4 << 20;

/// Sequential reader of a file, which knows the file's length.
pub(crate) struct Input<'a> {
    from: &'a mut dyn Read,
    at: u64,
    len: u64,
    texts: u64,
    /// The item that is being read: the place of every error.
    pub(crate) place: String,
}

impl<'a> Input<'a> {
    pub(crate) fn new(from: &'a mut dyn Read, len: u64) -> Self {
        Input { from, at: 0, len, texts: 0, place: "header".into() }
    }

    /// Number of bytes read.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// A `Malformed` error at the current place.
    pub(crate) fn malformed(&self, problem: impl std::fmt::Display) -> Error {
        Error::malformed(&self.place, problem)
    }

    /// Checks that the rest of the file can hold `count` items of at least `size` bytes.
    pub(crate) fn expect(&self, count: u64, size: u64) -> Result<()> {
        let left = self.len - self.at;
        match count.checked_mul(size) {
            Some(bytes) if bytes > left => {
                Err(self.malformed("the file is too short").expected(format!("{bytes} bytes"), left))
            }
            None => Err(self.malformed(format!("the file cannot hold {count} of these"))),
            Some(bytes) if bytes > MAX_HEADER.saturating_sub(self.at) => {
                Err(Error::limit(&self.place, format!("metadata larger than {MAX_HEADER} bytes")))
            }
            Some(_) => Ok(()),
        }
    }

    /// Counts `count` more strings, or similar items, and checks the limit for the file.
    pub(crate) fn expect_texts(&mut self, count: u64) -> Result<()> {
        self.texts = self.texts.saturating_add(count);
        if self.texts > MAX_TEXTS {
            return Err(Error::limit(&self.place, "implausibly many strings")
                .expected(format!("at most {MAX_TEXTS} in the file"), self.texts));
        }
        Ok(())
    }

    /// Capacity to reserve for `count` items of `T`: no more memory than the file has bytes left.
    pub(crate) fn room<T>(&self, count: u64) -> usize {
        let left = (self.len - self.at).min(MAX_HEADER) / size_of::<T>().max(1) as u64;
        count.min(left) as usize
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        self.from.read_exact(out).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => self.malformed("the file ended while it was being read"),
            _ => Error::io(&self.place, &e),
        })?;
        self.at += out.len() as u64;
        Ok(())
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.expect(1, N as u64)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// A string of at most `max` bytes.
    pub(crate) fn string(&mut self, max: u64) -> Result<String> {
        let len = self.u64()?;
        if len > max {
            return Err(self.malformed("too long").expected(format!("at most {max} bytes"), len));
        }
        self.expect(len, 1)?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.malformed("not valid UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::Fault;

    #[test]
    fn metadata_has_a_limit_whatever_the_file_holds() {
        let mut nothing = std::io::empty();
        let input = Input::new(&mut nothing, 1 << 40);
        assert!(input.expect(MAX_HEADER, 1).is_ok());
        assert_eq!(input.expect(MAX_HEADER / 8 + 1, 8).unwrap_err().fault(), Fault::Limit);
        assert_eq!(input.expect(u64::MAX, 8).unwrap_err().fault(), Fault::Malformed);
        assert_eq!(input.expect(1 << 41, 1).unwrap_err().fault(), Fault::Malformed);
        assert!(input.room::<String>(u64::MAX) * size_of::<String>() <= MAX_HEADER as usize);
    }

    #[test]
    fn a_file_that_shrinks_is_malformed() {
        let mut four: &[u8] = &[0; 4];
        let error = Input::new(&mut four, 8).u64().unwrap_err();
        assert_eq!(error.fault(), Fault::Malformed);
    }
}
