//! Sounds that are odd, damaged or too long.

use base::Fault;
use media::{MAX_SECONDS, Sound};

/// A WAV file; `declared` is what the header says about the data.
fn wav(format: u16, channels: u16, rate: u32, bits: u16, data: &[u8], declared: u32) -> Vec<u8> {
    let frame = channels * (bits / 8);
    let mut wav = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0".to_vec();
    wav.extend([format, channels].map(u16::to_le_bytes).concat());
    wav.extend([rate, rate.wrapping_mul(frame.into())].map(u32::to_le_bytes).concat());
    wav.extend([frame, bits].map(u16::to_le_bytes).concat());
    wav.extend(b"data");
    wav.extend(declared.to_le_bytes());
    wav.extend(data);
    wav
}

fn pcm16(data: &[u8]) -> Vec<u8> {
    wav(1, 1, 16_000, 16, data, data.len() as u32)
}

fn refused(bytes: Vec<u8>, fault: Fault, text: &str) {
    let error = Sound::decode(bytes, "sound").unwrap_err();
    assert_eq!(error.fault(), fault, "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

fn samples(bytes: Vec<u8>) -> Vec<f32> {
    Sound::decode(bytes, "sound").unwrap().samples
}

#[test]
fn encodings_have_their_scale() {
    let decode = |format, bits, data: &[u8]| samples(wav(format, 1, 16_000, bits, data, data.len() as u32));
    assert_eq!(decode(1, 8, &[0, 128, 255]), [-1.0, 0.0, 127.0 / 128.0]);
    assert_eq!(decode(1, 16, &[0, 0x80, 1, 0]), [-1.0, 1.0 / 32_768.0]);
    assert_eq!(decode(1, 24, &[0, 0, 0x80, 1, 0, 0]), [-1.0, 1.0 / 8_388_608.0]);
    assert_eq!(decode(1, 32, &[0, 0, 0, 0x80, 0, 0, 0, 0x40]), [-1.0, 0.5]);
    assert_eq!(decode(3, 32, &1.5f32.to_le_bytes()), [1.5]);
    assert_eq!(decode(3, 64, &(-0.25f64).to_le_bytes()), [-0.25]);
    // Two channels: their mean.
    assert_eq!(samples(wav(1, 2, 16_000, 16, &[0, 0x40, 0, 0xe0], 4)), [0.125]);
}

#[test]
fn an_extensible_header_names_its_format() {
    let plain = pcm16(&[0, 0x40]);
    let mut extensible = plain[..16].to_vec();
    extensible.extend(40u32.to_le_bytes());
    extensible.extend(0xfffeu16.to_le_bytes());
    extensible.extend(&plain[22..36]);
    extensible.extend([22, 0, 16, 0, 4, 0, 0, 0, 1, 0]);
    extensible.extend([0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71]);
    extensible.extend(&plain[36..]);
    assert_eq!(samples(extensible.clone()), [0.5]);
    extensible[50] = 0x72;
    refused(extensible, Fault::Unsupported, "format 65534 of 16 bits");
}

#[test]
fn declared_lengths_are_true_or_unknown() {
    let data = [0, 0x40, 0, 0xc0];
    let declared = |declared| wav(1, 1, 16_000, 16, &data, declared);
    refused(declared(6), Fault::Malformed, "expected 6 bytes, found 4");
    refused(declared(0x7fff_f000), Fault::Malformed, "truncated");
    refused(declared(0), Fault::Malformed, "declared as empty");
    refused(declared(3), Fault::Malformed, "a multiple of 2 bytes");
    assert_eq!(samples(declared(2)), [0.5]);
    assert_eq!(samples(declared(u32::MAX)), [0.5, -0.5]);
    // Chunks before and behind the data.
    let mut chunks = declared(4)[..12].to_vec();
    chunks.extend(b"LIST\x03\0\0\0abc\0");
    chunks.extend(&declared(4)[12..]);
    chunks.extend(b"LIST\x04\0\0\0abcd");
    assert_eq!(samples(chunks), [0.5, -0.5]);
}

#[test]
fn damaged_headers_are_refused() {
    let good = pcm16(&[0, 0x40]);
    for length in 0..good.len() {
        let error = Sound::decode(good[..length].to_vec(), "sound").unwrap_err();
        assert!(matches!(error.fault(), Fault::Malformed | Fault::Unsupported), "{length}: {error}");
    }
    refused(pcm16(&[]), Fault::Malformed, "empty (expected at least one sample, found 0)");
    refused(wav(1, 0, 16_000, 16, &[], 0), Fault::Malformed, "contradicts itself");
    refused(wav(1, 1, 16_000, 12, &[0; 4], 4), Fault::Unsupported, "format 1 of 12 bits");
    refused(wav(2, 1, 16_000, 4, &[0; 4], 4), Fault::Unsupported, "format 2 of 4 bits");
    refused(wav(1, 1, 0, 16, &[0; 4], 4), Fault::Unsupported, "found 0 Hz");
    refused(wav(1, 1, u32::MAX, 16, &[0; 4], 4), Fault::Unsupported, "1000 to 384000 Hz");
    refused(wav(1, 300, 16_000, 8, &[0; 300], 300), Fault::Unsupported, "1 to 256");
    let mut no_format = good[..12].to_vec();
    no_format.extend(&good[36..]);
    refused(no_format, Fault::Malformed, "before the data");
}

#[test]
fn samples_that_are_no_numbers_have_a_place() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        let mut data = vec![0; 4 * 20_000];
        data[4 * 16_000..][..4].copy_from_slice(&value.to_le_bytes());
        refused(wav(3, 1, 16_000, 32, &data, 80_000), Fault::Malformed, "sample 16000, at 1.000 s");
    }
}

#[test]
fn more_than_an_hour_is_refused() {
    let seconds = MAX_SECONDS as u32 + 1;
    // By its header, which lies here; the file is not read for it.
    let data = vec![128; 1_000 * seconds as usize];
    refused(wav(1, 1, 1_000, 8, &data, data.len() as u32), Fault::Limit, "at most 3600 seconds");
    refused(wav(1, 1, 1_000, 8, &data, u32::MAX), Fault::Limit, "at most 3600 seconds");
    assert_eq!(samples(wav(1, 1, 1_000, 8, &data[..5_000], 5_000)).len(), 80_000);
}

#[test]
fn compressed_files_are_complete() {
    let file = |name: &str| testkit::read(format!("golden/media/{name}"));
    let flac = file("chirp.flac");
    for length in (0..flac.len()).step_by(97) {
        let error = Sound::decode(flac[..length].to_vec(), "flac").unwrap_err();
        assert!(error.fault() != Fault::Io, "{length}: {error}");
    }
    let mut flipped = flac.clone();
    let middle = flac.len() / 2;
    flipped[middle] ^= 0x10;
    refused(flipped, Fault::Malformed, "sound");
    for name in ["chirp.ogg", "chirp.mp3"] {
        let bytes = file(name);
        let whole = samples(bytes.clone()).len();
        for length in (0..bytes.len()).step_by(211) {
            if let Ok(sound) = Sound::decode(bytes[..length].to_vec(), name) {
                assert!(sound.samples.len() <= whole, "{name} {length}");
            }
        }
    }
}

#[test]
fn other_formats_are_named() {
    for bytes in [&b""[..], b"text", b"RIFF\0\0\0\0AVI ", b"\x1aE\xdf\xa3", b"\0\0\0\x20ftypM4A "] {
        refused(bytes.to_vec(), Fault::Unsupported, "expected WAV, FLAC, MP3 or Ogg/Vorbis");
    }
    let missing = Sound::open("no/such.wav").unwrap_err();
    assert!(missing.to_string().starts_with("no/such.wav: "), "{missing}");
}
