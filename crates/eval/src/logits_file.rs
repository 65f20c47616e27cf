//! Reader and writer of llama-perplexity's file of base logits (`--kl-divergence-base`).
//!
//! Little endian: `_logits_`; context, vocabulary and number of chunks as i32; the tokens of the chunks as i32; for
//! each scored position (`context / 2` up to the last but one) a row of u16: a scale as f32, the lowest log probability
//! as f32, and for each token of the vocabulary its distance from that in units of the scale. The number of u16 per row
//! is even. 16 bits for 16 nats leave an error of about 1e-4 nat in each log probability.
//!
//! Source: `tools/perplexity/perplexity.cpp` of ggml-org/llama.cpp.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use base::{OutputFile, Positioned};
use tensor::{Error, Result};
use text::Sequence;

/// The first bytes of the file.
const MAGIC: &[u8; 8] = b"_logits_";
/// Logits at this distance below the largest stand for all smaller ones.
const DEPTH: f32 = 16.0;
const HEADER: u64 = 20;
/// The most tokens of a file that the reader accepts.
const MAX_TOKENS: u64 = 32 << 20;

/// A logits file open for reading.
#[derive(Debug)]
pub struct LogitsFile {
    path: PathBuf,
    file: File,
    context: usize,
    vocab: usize,
    tokens: Vec<u32>,
}

impl LogitsFile {
    /// Whether a file begins with the magic bytes. False for an unreadable file.
    pub fn is_one(path: &Path) -> bool {
        let mut magic = [0; 8];
        base::open_regular(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok()) && magic == *MAGIC
    }

    /// Opens a file and reads everything except the rows.
    ///
    /// # Errors
    /// `Malformed` for another format, impossible sizes or a length that does not match them; `Limit` for too many
    /// tokens; `Io`.
    pub fn open(path: &Path) -> Result<LogitsFile> {
        let malformed = |problem: &str| Error::malformed(path.display(), problem);
        let io = |e: std::io::Error| Error::io(path.display(), &e);
        let mut file = base::open_regular(path)?;
        let len = file.metadata().map_err(io)?.len();
        let mut header = [0; HEADER as usize];
        file.read_exact(&mut header).map_err(|_| malformed("too short for a file of logits"))?;
        if header[..8] != *MAGIC {
            return Err(malformed("not a file of logits")
                .help("llama-perplexity writes them with --kl-divergence-base."));
        }
        let ints = header[8..].as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b));
        let sizes: Vec<u64> = ints.map(|n| u64::try_from(n).unwrap_or(0)).collect();
        let (context, vocab, chunks) = (sizes[0], sizes[1], sizes[2]);
        if context < 2 || vocab == 0 || chunks == 0 {
            return Err(malformed("impossible sizes")
                .expected("context, vocabulary and chunks", format!("{sizes:?}")));
        }
        let row_bytes = 2 * row_len(vocab as usize) as u64;
        let expected = u128::from(chunks)
            * (u128::from(context) * 4 + u128::from(scored(context)) * u128::from(row_bytes))
            + u128::from(HEADER);
        if expected != u128::from(len) {
            return Err(
                malformed("its length does not fit its sizes").expected(format!("{expected} bytes"), len)
            );
        }
        if chunks * context > MAX_TOKENS {
            return Err(Error::limit(path.display(), "too many tokens")
                .expected(format!("at most {MAX_TOKENS}"), chunks * context));
        }
        let mut bytes = vec![0; (chunks * context * 4) as usize];
        file.read_exact(&mut bytes).map_err(io)?;
        let tokens: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        if let Some(at) = tokens.iter().position(|&token| u64::from(token) >= vocab) {
            return Err(
                malformed("a token beyond its vocabulary").expected(format!("ids below {vocab}"), tokens[at])
            );
        }
        Ok(LogitsFile {
            path: path.to_owned(),
            file,
            context: context as usize,
            vocab: vocab as usize,
            tokens,
        })
    }

    /// Number of tokens per chunk.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Number of tokens of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// The chunks as they were evaluated, each with `bos` as its first token.
    pub fn sequences(&self, bos: u32) -> Vec<Sequence> {
        let chunks = self.tokens.chunks_exact(self.context);
        let sequence = |chunk: &[u32]| Sequence {
            tokens: std::iter::once(bos).chain(chunk[1..].iter().copied()).collect(),
            scored: (self.context / 2 + 1..self.context).collect(),
            media: Vec::new(),
        };
        chunks.map(sequence).collect()
    }

    /// Reads the log probabilities of the tokens from `first` on. `row` is the scored position, counted over all
    /// chunks.
    ///
    /// # Errors
    /// `Io`; `Malformed` for a scale that is not finite.
    pub(crate) fn read(&self, row: usize, first: usize, bytes: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        let io = |e: std::io::Error| Error::io(self.path.display(), &e);
        let start = HEADER + 4 * self.tokens.len() as u64 + row as u64 * 2 * row_len(self.vocab) as u64;
        let mut head = [0; 8];
        self.file.read_exact_at(&mut head, start).map_err(io)?;
        let (scale, least) = head.split_at(4);
        let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let (scale, least) = (float(scale), float(least));
        if !(scale.is_finite() && least.is_finite()) {
            return Err(Error::malformed(self.path.display(), format!("row {row} has no finite scale")));
        }
        bytes.resize(2 * out.len(), 0);
        self.file.read_exact_at(bytes, start + 8 + 2 * first as u64).map_err(io)?;
        for (out, steps) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *out = scale * f32::from(u16::from_le_bytes(*steps)) + least;
        }
        Ok(())
    }
}

/// Number of scored positions per chunk.
fn scored(context: u64) -> u64 {
    context - 1 - context / 2
}

/// Number of u16 values per row.
fn row_len(vocab: usize) -> usize {
    vocab.next_multiple_of(2) + 4
}

/// A logits file open for writing.
#[derive(Debug)]
pub struct LogitsWriter {
    file: BufWriter<OutputFile>,
    row: Vec<u16>,
}

impl LogitsWriter {
    /// Begins a file for these sequences. `output` must be empty.
    ///
    /// # Errors
    /// `Recipe` unless all sequences have the same length and a scored second half, because the format has no other
    /// form; `Target`.
    pub fn new(output: OutputFile, sequences: &[Sequence], vocab: u64) -> Result<LogitsWriter> {
        let path = output.path().to_owned();
        let context = sequences.first().map_or(0, |s| s.tokens.len());
        let fits =
            |s: &Sequence| s.tokens.len() == context && s.scored.iter().copied().eq(context / 2 + 1..context);
        if !sequences.iter().all(fits) {
            return Err(Error::recipe(
                path.display(),
                "a file of logits holds chunks of one length, scored in their second half",
            )
            .help("Conversations cannot be written; give plain text."));
        }
        let fail = |e: std::io::Error| Error::write(path.display(), &e);
        let mut file = BufWriter::with_capacity(1 << 20, output);
        file.write_all(MAGIC).map_err(fail)?;
        let sizes = [context as u64, vocab, sequences.len() as u64];
        let ints = sizes.into_iter().chain(sequences.iter().flat_map(|s| &s.tokens).map(|&t| u64::from(t)));
        for int in ints {
            let int = i32::try_from(int).map_err(|e| Error::limit(path.display(), e))?;
            file.write_all(&int.to_le_bytes()).map_err(fail)?;
        }
        Ok(LogitsWriter { file, row: Vec::new() })
    }

    /// Writes the logits of the next scored position.
    ///
    /// # Errors
    /// `Target`.
    pub(crate) fn write(&mut self, logits: &[f32]) -> Result<()> {
        self.row.clear();
        self.row.resize(row_len(logits.len()), 0);
        pack(logits, &mut self.row);
        let bytes: Vec<u8> = self.row.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.file.write_all(&bytes).map_err(|e| self.file.get_ref().fail(&e))
    }

    /// Completes the file and renames it to its final name.
    ///
    /// # Errors
    /// `Target`.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(|e| self.file.get_ref().fail(&e))?;
        // the buffer is empty
        let (output, _) = self.file.into_parts();
        output.publish()
    }
}

/// Encodes a row with the arithmetic of the source: f32, except for the sum of exponentials.
fn pack(logits: &[f32], row: &mut [u16]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let min = logits.iter().copied().fold(f32::INFINITY, f32::min).max(max - DEPTH);
    let sum: f64 = logits.iter().map(|&l| f64::from((l - max).exp())).sum();
    let least = min - max - sum.ln() as f32;
    let scale = (max - min) / 65535.0;
    for (at, value) in [scale, least].into_iter().enumerate() {
        let bits = value.to_bits();
        row[2 * at] = bits as u16;
        row[2 * at + 1] = (bits >> 16) as u16;
    }
    if scale != 0.0 {
        let inverse = 1.0 / scale;
        for (steps, &logit) in row[4..].iter_mut().zip(logits) {
            *steps = if logit > min { (inverse * (logit - min)).round_ties_even() as u16 } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use base::FileKind;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logits");
        let sequence = Sequence { tokens: vec![2, 5, 4, 3, 1, 0], scored: vec![4, 5], ..Sequence::default() };
        let sequences = [sequence.clone(), sequence];
        let output = OutputFile::replacing(&path, FileKind::Logits, false).unwrap();
        let mut writer = LogitsWriter::new(output, &sequences, 7).unwrap();
        let rows: Vec<Vec<f32>> = (0..4)
            .map(|row| {
                (0..7).map(|n| ((n * row) % 5) as f32 * 1.7 - 40.0 * f32::from(u8::from(n == 6))).collect()
            })
            .collect();
        rows.iter().for_each(|row| writer.write(row).unwrap());
        writer.finish().unwrap();

        assert!(LogitsFile::is_one(&path));
        let file = LogitsFile::open(&path).unwrap();
        assert_eq!((file.context(), file.vocab()), (6, 7));
        assert_eq!(file.sequences(2), sequences);
        for (number, row) in rows.iter().enumerate() {
            let mut read = [0.0; 5];
            file.read(number, 2, &mut Vec::new(), &mut read).unwrap();
            let z = row.iter().map(|l| l.exp()).sum::<f32>().ln();
            for (read, logit) in read[..4].iter().zip(&row[2..]) {
                assert!((read - (logit - z)).abs() < 2e-4, "{read} {}", logit - z);
            }
            // 40 below the others: stored as the lowest value
            let max = row.iter().copied().fold(0.0, f32::max);
            assert!((read[4] - (max - 16.0 - z)).abs() < 2e-4, "{}", read[4]);
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logits");
        let sequences = [Sequence { tokens: vec![2, 1], ..Sequence::default() }];
        LogitsWriter::new(OutputFile::sequential(&path).unwrap(), &sequences, 3).unwrap().finish().unwrap();
        let good = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8], says: &str| {
            std::fs::write(&path, bytes).unwrap();
            let error = LogitsFile::open(&path).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        refused(&good[..12], "too short");
        refused(&good[..good.len() - 1], "length");
        refused(&[b"GGUF", &good[4..]].concat(), "not a file of logits");
        let mut huge = good.clone();
        huge[16..20].copy_from_slice(&i32::MAX.to_le_bytes());
        refused(&huge, "length");
        let mut negative = good.clone();
        negative[8..12].copy_from_slice(&(-1i32).to_le_bytes());
        refused(&negative, "impossible sizes");
        let mut token = good;
        token[20..24].copy_from_slice(&9i32.to_le_bytes());
        refused(&token, "beyond its vocabulary");
    }

    #[test]
    fn only_chunks_of_one_length_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let uneven = [Sequence { tokens: vec![2, 1, 1], scored: vec![1, 2], ..Sequence::default() }];
        let output = OutputFile::sequential(&dir.path().join("x")).unwrap();
        assert!(LogitsWriter::new(output, &uneven, 3).is_err());
        assert!(!dir.path().join("x").exists());
    }
}
