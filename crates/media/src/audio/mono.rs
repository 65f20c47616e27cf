//! Decoded samples as they come: mixed to one channel, checked, brought to 16 kHz.

use base::{Error, Result};

use super::resample::Resampler;
use super::{MAX_SECONDS, SAMPLE_RATE, Sound};

/// Larger samples are no sound; their sums could overflow.
const MAX_VALUE: f32 = 1e6;

/// Maximum number of channels.
const MAX_CHANNELS: usize = 256;

pub(super) struct Mono {
    rate: u32,
    channels: usize,
    resampler: Option<Resampler>,
    mixed: Vec<f32>,
    samples: Vec<f32>,
    /// Samples of the file so far.
    read: u64,
}

impl Mono {
    /// For `rate` samples per second of `channels` channels; `declared` is their number, where a file tells it.
    pub(super) fn new(rate: u32, channels: usize, declared: Option<u64>) -> Result<Mono> {
        if channels == 0 || channels > MAX_CHANNELS {
            return Err(Error::unsupported("channels", "an impossible number")
                .expected(format!("1 to {MAX_CHANNELS}"), channels));
        }
        let resampler = if rate == SAMPLE_RATE { None } else { Some(Resampler::new(rate)?) };
        let mono = Mono { rate, channels, resampler, mixed: Vec::new(), samples: Vec::new(), read: 0 };
        mono.expect_length(declared.unwrap_or(0))?;
        Ok(mono)
    }

    fn expect_length(&self, samples: u64) -> Result<()> {
        if samples > MAX_SECONDS * u64::from(self.rate) {
            return Err(Error::limit("length", "too long")
                .expected(format!("at most {MAX_SECONDS} seconds"), "more")
                .help("Cut the sound."));
        }
        Ok(())
    }

    pub(super) fn channels(&self) -> usize {
        self.channels
    }

    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    /// Samples of the file so far, of each channel.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Adds samples: the values of all channels, one sample after the other.
    pub(super) fn push(&mut self, interleaved: &[f32]) -> Result<()> {
        self.mixed.clear();
        let count = self.channels as f32;
        // The order of numpy's `mean`: a sum in f32, then a division.
        let mean = |sample: &[f32]| sample.iter().sum::<f32>() / count;
        self.mixed.extend(interleaved.chunks_exact(self.channels).map(mean));
        if let Some(place) = self.mixed.iter().position(|value| !(0.0..=MAX_VALUE).contains(&value.abs())) {
            let number = self.read + place as u64;
            let seconds = number as f64 / f64::from(self.rate);
            return Err(Error::malformed(
                format!("sample {number}, at {seconds:.3} s"),
                "not a finite value of a sound",
            )
            .expected("a number near −1 … 1", self.mixed[place]));
        }
        self.read += self.mixed.len() as u64;
        self.expect_length(self.read)?;
        match &mut self.resampler {
            None => self.samples.extend(&self.mixed),
            Some(resampler) => resampler.push(&self.mixed, &mut self.samples),
        }
        Ok(())
    }

    pub(super) fn into_sound(mut self) -> Result<Sound> {
        if self.read == 0 {
            return Err(Error::malformed("sound", "empty").expected("at least one sample", 0));
        }
        if let Some(resampler) = &mut self.resampler {
            resampler.finish(&mut self.samples);
        }
        Ok(Sound { samples: self.samples, rate: self.rate, channels: self.channels })
    }
}
