//! A decoded sound: mono samples at 16 kHz.

mod compressed;
mod mel;
mod mono;
mod preprocess;
mod resample;
mod tokens;
mod wav;

use std::fs::File;
use std::io::{Cursor, Read, SeekFrom};
use std::path::Path;

use base::{Error, Result};
use symphonia::core::io::MediaSource;

pub use mel::{MEL_BINS, Mel, MelFloor, log_mel, mel_filters, window};
pub use preprocess::{AudioPreprocess, MelWindows};
pub use tokens::{SAMPLES_PER_TOKEN, SampleTokens, sample_tokens};

use mono::Mono;

/// Samples per second of a [`Sound`].
pub const SAMPLE_RATE: u32 = 16_000;

/// Maximum length of a sound in seconds. A longer one is refused: by its declared length before it is decoded, and while
/// it is decoded.
pub const MAX_SECONDS: u64 = 3600;

/// Maximum number of samples of one window of E2B and E4B: 30 seconds.
pub const MAX_WINDOW: usize = 480_000;

/// Minimum number of samples that have a frame in transformers.
pub const MIN_SAMPLES: usize = 161;

/// Maximum size in bytes of what is read from a pipe, or given as bytes. An hour of PCM with 16 bits, two channels, 48 kHz
/// fits. There is no limit of the size of a file, only of its length in seconds.
const MAX_PIPED_BYTES: u64 = 1 << 30;

/// A sound: mono, [`SAMPLE_RATE`] samples per second, full scale at ±1.
#[derive(Clone, Debug, PartialEq)]
pub struct Sound {
    /// The samples. All are finite.
    pub samples: Vec<f32>,
    /// Samples per second of the file, which were converted if it is not [`SAMPLE_RATE`].
    pub rate: u32,
    /// Channels of the file, whose mean was taken.
    pub channels: usize,
}

impl Sound {
    /// Reads a WAV, FLAC, MP3 or Ogg/Vorbis file; see [`Sound::decode`].
    ///
    /// # Errors
    /// Those of [`Sound::decode`] and of [`Error::io`]; the place is the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Sound> {
        let path = path.as_ref();
        let io = |e| Error::io(path.display(), &e);
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.is_file() {
            decode(file).map_err(|error| error.within(path.display()))
        } else {
            Sound::decode(base::read_all(file, path.display(), MAX_PIPED_BYTES)?, path.display())
        }
    }

    /// Decodes the bytes of a WAV, FLAC, MP3 or Ogg/Vorbis file; `place` names them in errors.
    ///
    /// Integer samples become value / 2^(bits−1), so 16-bit PCM is value / 32768 exactly; of 8-bit WAV, value − 128 is
    /// that value. Channels become one by their mean in f32, as in transformers (numpy's `mean`); llama.cpp (miniaudio)
    /// does the same for two channels, and weighs more channels by their position.
    ///
    /// llama.cpp itself reads WAV, FLAC and MP3 only.
    ///
    /// Another sample rate is converted by a windowed sinc filter that is flat to 0.9 of the lower Nyquist frequency,
    /// which is close to soxr's HQ, transformers' without torchcodec. torchcodec, torchaudio and miniaudio (llama.cpp:
    /// linear interpolation) have other filters, so a sound of 16 kHz is the one that all of them agree on. Its length is
    /// ⌈n · 16000 / rate⌉.
    ///
    /// # Errors
    /// `Unsupported` for another format or codec, and an odd sample rate; `Limit` for more than [`MAX_SECONDS`];
    /// `Malformed` for damaged files, no samples, and a sample that is not finite. A WAV whose data end before their
    /// declared length is truncated and refused; behind that length, bytes are other chunks. The length 0xffffffff is
    /// that of a program that writes to a pipe: the data end with the file. A FLAC with fewer samples than declared, or
    /// another checksum, is refused. MP3 and Ogg have no reliable length: a truncated one is a shorter sound.
    pub fn decode(bytes: Vec<u8>, place: impl std::fmt::Display) -> Result<Sound> {
        decode(Cursor::new(bytes)).map_err(|error| error.within(place))
    }

    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(SAMPLE_RATE)
    }
}

fn decode(mut source: impl MediaSource + 'static) -> Result<Sound> {
    let io = |e| Error::io("sound", &e);
    let length = source.seek(SeekFrom::End(0)).map_err(io)?;
    source.rewind().map_err(io)?;
    let mut start = Vec::new();
    source.by_ref().take(12).read_to_end(&mut start).map_err(io)?;
    source.rewind().map_err(io)?;
    let mono = match kind(&start)? {
        Kind::Wav => wav::read(source, length)?,
        Kind::Compressed => compressed::read(Box::new(source))?,
    };
    mono.into_sound()
}

enum Kind {
    Wav,
    Compressed,
}

/// The kind of a file by its first bytes. An MP3 begins with a tag or with a frame, whose first 11 bits are ones.
fn kind(start: &[u8]) -> Result<Kind> {
    let is_frame = matches!(start, [0xff, second, ..] if second & 0xe0 == 0xe0);
    match start {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E'] => Ok(Kind::Wav),
        [b'f', b'L', b'a', b'C', ..] | [b'O', b'g', b'g', b'S', ..] | [b'I', b'D', b'3', ..] => {
            Ok(Kind::Compressed)
        }
        _ if is_frame => Ok(Kind::Compressed),
        _ => {
            let found = if start.is_empty() { "an empty file" } else { "other bytes at the beginning" };
            Err(Error::unsupported("format", "not a sound of a known format")
                .expected("WAV, FLAC, MP3 or Ogg/Vorbis", found)
                .help("Convert it first: ffmpeg -i FILE -ac 1 -ar 16000 -c:a pcm_s16le FILE.wav"))
        }
    }
}
