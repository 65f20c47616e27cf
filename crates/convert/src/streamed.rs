//! A checkpoint whose weights are not on the disk: its files come in order, such as from a download, and are read once.

use checkpoint::Checkpoint;
use plan::{Origin, OutputTensor, Plan};
use tensor::{Error, Result};

/// The files of weights in the order of the plan's inputs, each from its beginning to its end; for a part of a run, ranges of them.
///
/// The folder of the checkpoint has files of the same names and sizes, of which only the headers are read.
pub trait StreamedFiles: Send {
    /// Fills `out` with the next bytes of the file `name`, which are those at `offset`. The next file begins after the last byte of this
    /// one; a part of a run leaves ranges out.
    ///
    /// # Errors
    /// Those of the source.
    fn read(&mut self, name: &str, offset: u64, out: &mut [u8]) -> Result<()>;

    /// The SHA-256 with which [`finish`](Self::finish) compares the file `name`, if it does.
    fn verified_sha256(&self, name: &str) -> Option<String>;

    /// Called after the last byte: whether all bytes were right. No output appears before.
    ///
    /// # Errors
    /// `Malformed` for bytes that were not.
    fn finish(&mut self) -> Result<()>;
}

/// Refuses plans that read a part of the weights twice.
///
/// # Errors
/// `Recipe`.
pub(crate) fn check(plan: &Plan) -> Result<()> {
    let tensors = || plan.artifacts.iter().flat_map(|artifact| artifact.tensors());
    let twice = |tensor: &OutputTensor| match &tensor.from {
        // codes and scales lie apart
        Origin::Checkpoint(stored) if stored.pieces.are_scaled() || stored.pieces.are_packed() => {
            Some("the weights are quantised already or stored in another layout, and are read more than once")
        }
        // a scale of the whole tensor is known after its last row
        Origin::Scales(_) if tensor.desc.shape.is_empty() => Some("the weights are read more than once"),
        _ => None,
    };
    match tensors().find_map(|tensor| Some((tensor, twice(tensor)?))) {
        None => Ok(()),
        Some((tensor, why)) => Err(Error::recipe("‹stream›", format!("{why}: tensor {}", tensor.desc.name))
            .help("Download the model: leave ‹stream› out.")),
    }
}

/// Compares the header of a file, as far as it is in `bytes`, with that of the plan, which nothing has verified.
///
/// # Errors
/// `Malformed` for another header.
pub(crate) fn check_header(checkpoint: &Checkpoint, file: usize, offset: u64, bytes: &[u8]) -> Result<()> {
    let shard = &checkpoint.shards()[file];
    let count = shard.data_start.saturating_sub(offset).min(bytes.len() as u64) as usize;
    let mut planned = vec![0; count];
    checkpoint.read_at(file, offset, &mut planned)?;
    if planned == bytes[..count] {
        return Ok(());
    }
    Err(Error::malformed(&shard.name, "the header is not the one that was read before")
        .help("The transfer or a server on the way is damaged. Nothing was kept; run again."))
}
