//! From a sound to log-mel windows: the two ways that the stacks have.

use base::Result;

use super::mel::{self, Mel, MelFloor, log_mel};
use super::{MAX_WINDOW, MIN_SAMPLES};

/// How a sound becomes input of the audio tower of E2B and E4B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioPreprocess {
    /// transformers: one window, the rest is cut off, [`MelFloor::Add`].
    Transformers,
    /// llama.cpp: windows of 30 seconds, [`MelFloor::Max`].
    LlamaCpp,
}

/// The windows of a sound.
#[derive(Clone, Debug, PartialEq)]
pub struct MelWindows {
    /// One window for transformers, one for each 30 seconds for llama.cpp. The tower sees each by itself; their soft
    /// tokens follow each other.
    pub windows: Vec<Mel>,
    /// Samples at the end that no window has.
    pub cut: usize,
}

impl AudioPreprocess {
    /// How the logarithm of silence is kept finite.
    pub const fn floor(self) -> MelFloor {
        match self {
            AudioPreprocess::Transformers => MelFloor::Add,
            AudioPreprocess::LlamaCpp => MelFloor::Max,
        }
    }

    /// The log-mel windows of samples at 16 kHz.
    ///
    /// # Errors
    /// `Malformed` for a sound without a frame: less than [`MIN_SAMPLES`] samples for transformers; for llama.cpp, which
    /// makes one frame of 2 to 160 samples, a sound or a last window of one sample.
    pub fn windows(self, samples: &[f32]) -> Result<MelWindows> {
        match self {
            AudioPreprocess::Transformers => {
                let kept = &samples[..samples.len().min(MAX_WINDOW)];
                let window = log_mel(kept, self.floor())?;
                Ok(MelWindows { windows: vec![window], cut: samples.len() - kept.len() })
            }
            AudioPreprocess::LlamaCpp => {
                if samples.is_empty() {
                    return Err(mel::too_short(0));
                }
                let windows = samples.chunks(MAX_WINDOW).map(|piece| llama_window(piece, self.floor()));
                Ok(MelWindows { windows: windows.collect::<Result<_>>()?, cut: 0 })
            }
        }
    }
}

fn llama_window(piece: &[f32], floor: MelFloor) -> Result<Mel> {
    match piece.len() {
        // llama.cpp's division rounds toward zero: −159 / 160 + 1 frames.
        2..MIN_SAMPLES => Ok(mel::frames(piece, 1, floor)),
        _ => log_mel(piece, floor),
    }
}
