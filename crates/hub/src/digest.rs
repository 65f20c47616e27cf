//! The two hashes by which the hub identifies a file: SHA-256 of large files, git's SHA-1 of small ones.

use base::{Sha256, hex};
use sha1::{Digest, Sha1};

/// A hash in progress.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    GitSha1(Sha1),
}

impl Hasher {
    pub(crate) fn sha256() -> Hasher {
        Hasher::Sha256(Sha256::new())
    }

    /// The hash of a git blob of `size` bytes.
    pub(crate) fn git(size: u64) -> Hasher {
        Hasher::GitSha1(Sha1::new().chain_update(format!("blob {size}\0")))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hash) => hash.update(bytes),
            Hasher::GitSha1(hash) => hash.update(bytes),
        }
    }

    /// The hash in hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        match self {
            Hasher::Sha256(hash) => hex(&hash.finish()),
            Hasher::GitSha1(hash) => hex(&hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_sha256sum() {
        let mut git = Hasher::git(6); // `printf 'hello\n' | git hash-object --stdin`
        git.update(b"hello\n");
        assert_eq!(git.finish(), "ce013625030ba8dba906f756967f9e9ca394464a");
        let empty = Hasher::sha256().finish();
        assert_eq!(empty, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
