//! Sounds against transformers and against the decoders and the resampler that it uses.

use std::f64::consts::PI;

use media::{AudioPreprocess, MAX_WINDOW, MEL_BINS, MelFloor, SAMPLE_RATE, Sound, log_mel, sample_tokens};
use safetensors::SafeTensors;

fn multimodal(name: &str) -> Vec<u8> {
    testkit::read(format!("golden/multimodal/{name}"))
}

fn stock(name: &str) -> Vec<u8> {
    testkit::read(format!("golden/media/{name}"))
}

/// The largest difference, and the root of Σ(a−b)² / Σb².
fn differences(found: &[f32], golden: &[f32]) -> (f32, f64) {
    assert_eq!(found.len(), golden.len());
    let pairs = || found.iter().zip(golden).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let worst = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let (error, size) =
        pairs().fold((0.0, 0.0), |(error, size), (a, b)| (error + (a - b).powi(2), size + b * b));
    (worst as f32, (error / size).sqrt())
}

#[test]
fn log_mel_is_that_of_transformers() {
    let bytes = multimodal("preprocess.safetensors");
    let goldens = SafeTensors::deserialize(&bytes).unwrap();
    for name in ["chirp-1.37s", "chirp-3s"] {
        let sound = Sound::decode(multimodal(&format!("{name}.wav")), name).unwrap();
        let mel = AudioPreprocess::Transformers.windows(&sound.samples).unwrap();
        assert_eq!((mel.windows.len(), mel.cut), (1, 0));
        let mel = &mel.windows[0];
        let mask = goldens.tensor(&format!("{name}.mask")).unwrap();
        let valid =
            mask.data().chunks(mask.data().len() / mask.shape()[0]).filter(|mask| mask[0] != 0).count();
        assert_eq!(mel.frames, valid, "{name}");
        let golden = testkit::floats(goldens.tensor(&format!("{name}.mel")).unwrap().data());
        let (worst, rms) = differences(&mel.values, &golden[..valid * MEL_BINS]);
        assert!(worst <= 1e-3 && rms <= 2e-5, "{name}: {worst}, {rms}");
        assert!(golden[valid * MEL_BINS..].iter().all(|value| *value == 0.0));
        let tokens = if name == "chirp-3s" { 75 } else { 34 };
        assert_eq!(mel.soft_tokens(), tokens);
    }
}

#[test]
fn window_and_filters_are_those_of_transformers() {
    let bytes = multimodal("preprocess.safetensors");
    let goldens = SafeTensors::deserialize(&bytes).unwrap();
    for (name, found) in [("window", media::window().to_vec()), ("mel_filters", media::mel_filters())] {
        let golden = testkit::floats(goldens.tensor(name).unwrap().data());
        assert_eq!(found.len(), golden.len());
        let worst = found.iter().zip(&golden).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-7, "{name}: {worst}");
    }
}

#[test]
fn floors_differ_in_silence_only() {
    let silence = vec![0.0; 16_000];
    for floor in [MelFloor::Add, MelFloor::Max] {
        let mel = log_mel(&silence, floor).unwrap();
        assert_eq!((mel.frames, mel.values.len()), (99, 99 * MEL_BINS));
        assert!(mel.values.iter().all(|value| *value == 0.001_f64.ln() as f32));
    }
    let sound = Sound::decode(multimodal("chirp-1.37s.wav"), "chirp").unwrap();
    let add = log_mel(&sound.samples, MelFloor::Add).unwrap();
    let max = log_mel(&sound.samples, MelFloor::Max).unwrap();
    for (add, max) in add.values.iter().zip(&max.values) {
        let mel = f64::from(*add).exp() - 0.001;
        assert!((mel.max(0.001).ln() - f64::from(*max)).abs() < 1e-3);
    }
}

#[test]
fn frames_follow_the_number_of_samples() {
    let noise: Vec<f32> =
        (0..2 * MAX_WINDOW + 1).map(|n| ((n * 7919) % 1001) as f32 / 1001.0 - 0.5).collect();
    for samples in [0, 1, 159, 160] {
        let error = AudioPreprocess::Transformers.windows(&noise[..samples]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("sound: too short (expected at least 161 samples (10 ms), found {samples})")
        );
    }
    for (samples, frames) in [(161, 1), (320, 1), (321, 2), (MAX_WINDOW, 2999)] {
        assert_eq!(log_mel(&noise[..samples], MelFloor::Add).unwrap().frames, frames);
    }
    assert!(log_mel(&noise[..MAX_WINDOW + 1], MelFloor::Add).is_err());

    let transformers = AudioPreprocess::Transformers.windows(&noise[..MAX_WINDOW + 5]).unwrap();
    assert_eq!((transformers.windows.len(), transformers.cut), (1, 5));
    let llama = AudioPreprocess::LlamaCpp;
    let frames = |samples: usize| -> Vec<usize> {
        let windows = llama.windows(&noise[..samples]).unwrap();
        assert_eq!(windows.cut, 0);
        windows.windows.iter().map(|mel| mel.frames).collect()
    };
    assert_eq!(frames(2), [1]);
    assert_eq!(frames(160), [1]);
    assert_eq!(frames(MAX_WINDOW + 500), [2999, 3]);
    assert_eq!(frames(2 * MAX_WINDOW), [2999, 2999]);
    for samples in [0, 1, MAX_WINDOW + 1] {
        assert!(llama.windows(&noise[..samples]).is_err(), "{samples}");
    }
}

#[test]
fn tokens_of_the_12b_are_raw_samples() {
    assert_eq!(sample_tokens(&[]).rows, 0);
    let samples: Vec<f32> = (1..=641).map(|n| n as f32).collect();
    let tokens = sample_tokens(&samples);
    assert_eq!((tokens.rows, tokens.values.len()), (2, 1280));
    assert_eq!(tokens.values[..641], samples);
    assert!(tokens.values[641..].iter().all(|value| *value == 0.0));
}

#[test]
fn files_decode_as_in_libsndfile() {
    for (name, worst, rms) in [("chirp.flac", 0.0, 0.0), ("chirp.ogg", 1e-6, 1e-6), ("chirp.mp3", 1e-5, 1e-5)]
    {
        let sound = Sound::decode(stock(name), name).unwrap();
        let golden = testkit::floats(&stock(&format!("{name}.f32")));
        let found = differences(&sound.samples, &golden);
        assert!(found.0 <= worst && found.1 <= rms, "{name}: {found:?}");
        assert_eq!(sound.channels, if name == "chirp.flac" { 2 } else { 1 });
    }
    let sound = Sound::open(testkit::fixtures("golden/media/stereo.wav")).unwrap();
    assert_eq!((sound.samples.len(), sound.rate, sound.channels), (320, 22_050, 2));
}

#[test]
fn other_rates_come_close_to_soxr() {
    for rate in [8_000u32, 22_050, 44_100, 48_000] {
        let seconds = 0.1;
        let chirp = |n: u32| {
            let t = f64::from(n) / f64::from(rate);
            let phase = 2.0 * PI * (100.0 * t + (6000.0 - 100.0) / (2.0 * seconds) * t * t);
            (0.5 * phase.sin()) as f32
        };
        let samples: Vec<f32> = (0..rate / 10).map(chirp).collect();
        let bytes: Vec<u8> = samples.iter().flat_map(|value| value.to_le_bytes()).collect();
        let sound = Sound::decode(float_wav(rate, &bytes), "chirp").unwrap();
        assert_eq!(sound.rate, rate);
        let golden = testkit::floats(&stock(&format!("chirp-{rate}.f32")));
        // A chirp of 8 kHz has frequencies above its Nyquist frequency, which come back mirrored near the edge.
        let (worst, rms) = differences(&sound.samples, &golden);
        let limits = if rate == 8_000 { (0.01, 0.01) } else { (1e-3, 3e-4) };
        assert!(worst <= limits.0 && rms <= limits.1, "{rate}: {worst}, {rms}");
    }
}

fn float_wav(rate: u32, data: &[u8]) -> Vec<u8> {
    let mut wav = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x03\0\x01\0".to_vec();
    wav.extend(rate.to_le_bytes());
    wav.extend((rate * 4).to_le_bytes());
    wav.extend(b"\x04\0\x20\0data");
    wav.extend((data.len() as u32).to_le_bytes());
    wav.extend(data);
    wav
}

#[test]
fn samples_of_16_bits_are_exact() {
    let bytes = multimodal("chirp-3s.wav");
    let sound = Sound::decode(bytes.clone(), "chirp").unwrap();
    assert_eq!((sound.samples.len(), sound.rate, sound.channels), (48_000, SAMPLE_RATE, 1));
    assert_eq!(sound.seconds(), 3.0);
    let data = &bytes[bytes.len() - 96_000..];
    for (sample, pair) in sound.samples.iter().zip(data.as_chunks::<2>().0) {
        assert_eq!(sample.to_bits(), (f32::from(i16::from_le_bytes(*pair)) / 32_768.0).to_bits());
    }
}
