//! Conversion to 16 kHz: a sinc filter under a Kaiser window, one set of weights for each phase.
//!
//! Own code and no crate: the ratio of two rates is rational, so the exact weights fit a table, the length is exact and
//! nothing is delayed. Source of the design: A. Oppenheim and R. Schafer, Discrete-Time Signal Processing, 7.6 (Kaiser
//! window); the edges of the pass band follow soxr's HQ.

use std::f64::consts::PI;
use std::ops::RangeInclusive;

use base::{Error, Result};
use rayon::prelude::*;

use super::SAMPLE_RATE;

/// Rates that are converted.
const RATES: RangeInclusive<u32> = 1_000..=384_000;

/// Maximum number of weights of all phases; rates with few common factors with 16,000 need more.
const MAX_WEIGHTS: usize = 1 << 24;

/// Half the filter in samples of the lower rate. With [`BETA`], the band from 0.91 to 1 of the Nyquist frequency separates
/// what passes from what is down by 120 dB.
const HALF_WIDTH: f64 = 90.0;

/// Shape of the Kaiser window for 120 dB: 0.1102 · (120 − 8.7).
const BETA: f64 = 12.265;

/// Middle of the falling edge, as a part of the lower Nyquist frequency.
const CUTOFF: f64 = 0.956;

pub(super) struct Resampler {
    /// Output sample i lies at input sample i · `down` / `up`.
    up: usize,
    down: usize,
    /// Input samples on each side of an output sample.
    half: usize,
    /// For each phase (i · `down`) mod `up`, the weights of the input samples −`half` … `half` + 1 around the place.
    weights: Vec<f64>,
    /// Input from sample `start` on; negative samples are zeros.
    input: Vec<f32>,
    start: i64,
    read: u64,
    written: u64,
}

impl Resampler {
    pub(super) fn new(rate: u32) -> Result<Resampler> {
        let refuse = |expected: String| {
            Error::unsupported("sample rate", "cannot be converted")
                .expected(expected, format!("{rate} Hz"))
                .help("Convert the sound first: ffmpeg -i FILE -ac 1 -ar 16000 -c:a pcm_s16le FILE.wav")
        };
        if !RATES.contains(&rate) {
            return Err(refuse(format!("{} to {} Hz", RATES.start(), RATES.end())));
        }
        let common = gcd(rate, SAMPLE_RATE);
        let (up, down) = ((SAMPLE_RATE / common) as usize, (rate / common) as usize);
        // Samples of the input for one of the lower rate, and the filter in those units.
        let widening = (down as f64 / up as f64).max(1.0);
        let half = (HALF_WIDTH * widening).ceil() as usize;
        let taps = 2 * half + 2;
        if up * taps > MAX_WEIGHTS {
            return Err(refuse("a rate that has a factor in common with 16000".to_owned()));
        }
        let mut weights = vec![0.0; up * taps];
        weights.par_chunks_exact_mut(taps).enumerate().for_each(|(phase, weights)| {
            let offset = phase as f64 / up as f64;
            for (tap, weight) in weights.iter_mut().enumerate() {
                *weight = kernel((tap as f64 - half as f64 - offset) / widening) / widening;
            }
            // A constant stays what it is, at every phase.
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= sum);
        });
        let input = vec![0.0; half];
        Ok(Resampler { up, down, half, weights, start: -(half as i64), input, read: 0, written: 0 })
    }

    /// Adds input, and appends the output that depends on no later input.
    pub(super) fn push(&mut self, input: &[f32], output: &mut Vec<f32>) {
        self.input.extend(input);
        self.read += input.len() as u64;
        self.write(u64::MAX, output);
    }

    /// Appends the rest of the output: ⌈n · 16000 / rate⌉ in all. Zeros follow the input.
    pub(super) fn finish(&mut self, output: &mut Vec<f32>) {
        self.input.extend(std::iter::repeat_n(0.0, self.half + 2));
        let all = (self.read * self.up as u64).div_ceil(self.down as u64);
        self.write(all, output);
    }

    fn write(&mut self, most: u64, output: &mut Vec<f32>) {
        let (up, down, taps) = (self.up as u64, self.down as u64, 2 * self.half + 2);
        // Place i needs the input up to floor(i · down / up) + half + 1.
        let known = self.start + self.input.len() as i64 - (self.half as i64 + 1);
        let possible = if known <= 0 { 0 } else { (known as u64 * up).div_ceil(down) };
        let end = possible.min(most);
        if end <= self.written {
            return;
        }
        let (start, half) = (self.start, self.half as i64);
        let value = |number: u64| {
            let (place, phase) = (number * down / up, (number * down % up) as usize);
            let first = (place as i64 - half - start) as usize;
            let weights = &self.weights[phase * taps..][..taps];
            let pairs = self.input[first..first + taps].iter().zip(weights);
            pairs.map(|(value, weight)| f64::from(*value) * weight).sum::<f64>() as f32
        };
        output.par_extend((self.written..end).into_par_iter().map(value));
        self.written = end;
        let first = (end * down / up) as i64 - half;
        let used = ((first - self.start).max(0) as usize).min(self.input.len());
        self.input.drain(..used);
        self.start += used as i64;
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The filter at `t` samples of the lower rate.
fn kernel(t: f64) -> f64 {
    let inside = 1.0 - (t / HALF_WIDTH).powi(2);
    if inside < 0.0 {
        return 0.0;
    }
    let x = PI * CUTOFF * t;
    let sinc = if x == 0.0 { 1.0 } else { x.sin() / x };
    CUTOFF * sinc * bessel(BETA * inside.sqrt()) / bessel(BETA)
}

/// The modified Bessel function of the first kind of order 0.
fn bessel(x: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 1..100 {
        term *= (x / (2.0 * f64::from(n))).powi(2);
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(rate: u32, input: &[f32], piece: usize) -> Vec<f32> {
        let mut resampler = Resampler::new(rate).unwrap();
        let mut output = Vec::new();
        input.chunks(piece).for_each(|piece| resampler.push(piece, &mut output));
        resampler.finish(&mut output);
        output
    }

    fn tone(rate: u32, hertz: f64, samples: usize) -> Vec<f32> {
        let step = 2.0 * PI * hertz / f64::from(rate);
        (0..samples).map(|n| (step * n as f64).sin() as f32).collect()
    }

    #[test]
    fn tones_below_the_edge_pass_and_those_above_do_not() {
        for rate in [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000] {
            let nyquist = f64::from(rate.min(SAMPLE_RATE)) / 2.0;
            let samples = rate as usize / 4;
            let length = (samples as u64 * 16_000).div_ceil(rate.into()) as usize;
            let pass = nyquist * 0.9;
            let output = converted(rate, &tone(rate, pass, samples), 777);
            assert_eq!(output.len(), length);
            let golden = tone(SAMPLE_RATE, pass, length);
            let inner = 200..length - 200;
            let worst = inner.clone().map(|n| (output[n] - golden[n]).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{rate}: {worst}");
            if rate > SAMPLE_RATE {
                let output = converted(rate, &tone(rate, 8_200.0, samples), 777);
                let worst = inner.map(|n| output[n].abs()).fold(0.0, f32::max);
                assert!(worst < 1e-5, "{rate}: {worst}");
            }
        }
    }

    #[test]
    fn pieces_make_no_difference() {
        let input = tone(44_100, 440.0, 3_000);
        let whole = converted(44_100, &input, 3_000);
        for piece in [1, 7, 441, 2_999] {
            assert_eq!(converted(44_100, &input, piece), whole, "{piece}");
        }
        for (samples, length) in [(1, 1), (2, 1), (3, 2), (441, 160), (442, 161)] {
            assert_eq!(converted(44_100, &input[..samples], 5).len(), length);
        }
    }

    #[test]
    fn odd_rates_are_refused() {
        for rate in [0, 999, 384_001, u32::MAX] {
            let error = Resampler::new(rate).err().unwrap();
            assert_eq!(error.fault(), base::Fault::Unsupported, "{error}");
        }
        let error = Resampler::new(191_999).err().unwrap();
        assert!(error.to_string().contains("191999 Hz"), "{error}");
        assert!(Resampler::new(44_056).is_ok());
    }
}
