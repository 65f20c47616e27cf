//! Log-mel frames, the input of the audio tower of E2B and E4B.
//!
//! Sources: transformers' `models/gemma4/feature_extraction_gemma4.py` and llama.cpp's `tools/mtmd/mtmd-audio.cpp`
//! (`mtmd_audio_preprocessor_gemma4a`). Both compute in f32 or a mixture, this in f64 throughout.

use std::f64::consts::PI;
use std::sync::LazyLock;

use base::{Error, Result};
use realfft::{RealFftPlanner, RealToComplex};

use super::{MAX_WINDOW, MIN_SAMPLES};

/// Values of a frame.
pub const MEL_BINS: usize = 128;

/// Samples of a frame, between frames, and of the FFT.
const FRAME: usize = 320;
const HOP: usize = 160;
const FFT: usize = 512;

/// Frequencies of the FFT, and the distance between two in Hz.
const BINS: usize = FFT / 2 + 1;
const BIN_HERTZ: f64 = super::SAMPLE_RATE as f64 / FFT as f64;

/// Zeros before the first sample.
const PAD: usize = FRAME / 2;

const FLOOR: f64 = 0.001;

/// How the logarithm of silence is kept finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MelFloor {
    /// ln(mel + 0.001): transformers.
    Add,
    /// ln(max(mel, 0.001)): llama.cpp.
    Max,
}

/// Log-mel frames of one window of a sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Mel {
    /// Number of frames: 100 a second.
    pub frames: usize,
    /// `frames` × [`MEL_BINS`] values, low frequencies first.
    pub values: Vec<f32>,
}

impl Mel {
    /// Number of soft tokens that the tower makes of the frames: it halves them twice, rounded up.
    pub fn soft_tokens(&self) -> usize {
        self.frames.div_ceil(2).div_ceil(2)
    }
}

/// The log-mel frames of one window: 161 to 480,000 samples at 16 kHz make ⌊(n − 161) / 160⌋ + 1 frames.
///
/// # Errors
/// `Malformed` for less than [`MIN_SAMPLES`], `Limit` for more than [`MAX_WINDOW`] samples.
pub fn log_mel(samples: &[f32], floor: MelFloor) -> Result<Mel> {
    if samples.len() < MIN_SAMPLES {
        return Err(too_short(samples.len()));
    }
    if samples.len() > MAX_WINDOW {
        return Err(Error::limit("sound", "too long for one window")
            .expected(format!("at most {MAX_WINDOW} samples (30 s)"), samples.len()));
    }
    Ok(frames(samples, (samples.len() - MIN_SAMPLES) / HOP + 1, floor))
}

pub(super) fn too_short(samples: usize) -> Error {
    Error::malformed("sound", "too short")
        .expected(format!("at least {MIN_SAMPLES} samples (10 ms)"), samples)
}

/// The first `frames` frames; zeros follow the samples.
pub(super) fn frames(samples: &[f32], frames: usize, floor: MelFloor) -> Mel {
    let fft: std::sync::Arc<dyn RealToComplex<f64>> = RealFftPlanner::new().plan_fft_forward(FFT);
    let (mut input, mut output, mut scratch) =
        (fft.make_input_vec(), fft.make_output_vec(), fft.make_scratch_vec());
    let (window, triangles) = (&*WINDOW, &*TRIANGLES);
    let mut values = Vec::with_capacity(frames * MEL_BINS);
    for frame in 0..frames {
        input.fill(0.0);
        // Sample i of a frame is sample frame · HOP + i − PAD of the sound.
        for (place, (value, weight)) in input.iter_mut().zip(window).enumerate() {
            let sample = (frame * HOP + place).checked_sub(PAD).and_then(|number| samples.get(number));
            *value = sample.map_or(0.0, |sample| f64::from(*sample) * weight);
        }
        fft.process_with_scratch(&mut input, &mut output, &mut scratch)
            .unwrap_or_else(|_| unreachable!("the buffers have the lengths that the plan made"));
        let magnitudes: [f64; BINS] = std::array::from_fn(|bin| output[bin].norm());
        values.extend(triangles.iter().map(|(first, weights)| {
            let pairs = magnitudes[*first..].iter().zip(weights);
            let mel: f64 = pairs.map(|(magnitude, weight)| magnitude * weight).sum();
            let floored = match floor {
                MelFloor::Add => mel + FLOOR,
                MelFloor::Max => mel.max(FLOOR),
            };
            floored.ln() as f32
        }));
    }
    Mel { frames, values }
}

static WINDOW: LazyLock<[f64; FRAME]> = LazyLock::new(window);

/// The periodic Hann window of 320 samples.
pub fn window() -> [f64; FRAME] {
    std::array::from_fn(|n| 0.5 - 0.5 * (2.0 * PI * n as f64 / FRAME as f64).cos())
}

/// For each mel bin, the first frequency that it has a weight for, and the weights from there.
static TRIANGLES: LazyLock<Vec<(usize, Vec<f64>)>> = LazyLock::new(|| {
    let filters = mel_filters();
    let column = |mel: usize| (0..BINS).map(move |bin| (bin, mel));
    let triangle = |mel: usize| {
        let weights: Vec<f64> = column(mel).map(|(bin, mel)| filters[bin * MEL_BINS + mel]).collect();
        let first = weights.iter().position(|weight| *weight > 0.0).unwrap_or(0);
        let end = weights.iter().rposition(|weight| *weight > 0.0).map_or(0, |last| last + 1);
        (first, weights[first..end].to_vec())
    };
    (0..MEL_BINS).map(triangle).collect()
});

/// The mel filters, 257 frequencies × [`MEL_BINS`]: triangles between 130 edges at equal distances on the HTK mel scale
/// from 0 to 8000 Hz, each with its peak at 1. The lowest lies between two frequencies and is zero.
pub fn mel_filters() -> Vec<f64> {
    let highest = 2595.0 * (1.0_f64 + 8000.0 / 700.0).log10();
    let edge = |number: usize| {
        let mel = highest * number as f64 / (MEL_BINS + 1) as f64;
        700.0 * (10.0_f64.powf(mel / 2595.0) - 1.0)
    };
    let edges: Vec<f64> = (0..MEL_BINS + 2).map(edge).collect();
    let mut filters = Vec::with_capacity(BINS * MEL_BINS);
    for bin in 0..BINS {
        let hertz = bin as f64 * BIN_HERTZ;
        filters.extend(edges.windows(3).map(|edges| {
            let (rise, fall) = (edges[1] - edges[0], edges[2] - edges[1]);
            ((hertz - edges[0]) / rise).min((edges[2] - hertz) / fall).max(0.0)
        }));
    }
    filters
}
