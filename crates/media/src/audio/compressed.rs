//! FLAC, MP3 and Ogg/Vorbis files, by symphonia.

use std::io::ErrorKind;

use base::{Error, Result};
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::errors::Error as Failure;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;

use super::Mono;

const FORMATS: &str = "FLAC, MP3 or Ogg/Vorbis";

pub(super) fn read(source: Box<dyn MediaSource>) -> Result<Mono> {
    let stream = MediaSourceStream::new(source, Default::default());
    let (options, tags) = (FormatOptions::default(), MetadataOptions::default());
    let mut format = symphonia::default::get_probe()
        .probe(&Hint::new(), stream, options, tags)
        .map_err(|e| failure("header", e))?;
    let Some(track) = format.default_track(TrackType::Audio) else { return Err(no_sound()) };
    let Some(params) = track.codec_params.as_ref().and_then(|params| params.audio()) else {
        return Err(no_sound());
    };
    let (id, declared) = (track.id, track.num_frames);
    let options = AudioDecoderOptions::default().verify(true);
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(params, &options)
        .map_err(|e| failure("codec", e))?;
    let mut mono = match (params.sample_rate, params.channels.as_ref()) {
        (Some(rate), Some(channels)) => Some(Mono::new(rate, channels.count(), declared)?),
        _ => None,
    };
    let exact = decoder.codec_info().short_name == "flac";
    let mut values = Vec::new();
    while let Some(packet) = format.next_packet().map_err(|e| failure(&place(mono.as_ref()), e))? {
        if packet.track_id != id {
            continue;
        }
        let buffer = decoder.decode(&packet).map_err(|e| failure(&place(mono.as_ref()), e))?;
        let (rate, channels) = (buffer.spec().rate(), buffer.spec().channels().count());
        let mono = match &mut mono {
            Some(mono) => mono,
            none => none.insert(Mono::new(rate, channels, declared)?),
        };
        if (rate, channels) != (mono.rate(), mono.channels()) {
            return Err(Error::unsupported("sound", "changes its sample rate or channels").expected(
                format!("{} Hz, {}", mono.rate(), mono.channels()),
                format!("{rate} Hz, {channels}"),
            ));
        }
        buffer.copy_to_vec_interleaved(&mut values);
        mono.push(&values)?;
    }
    let mono = mono.ok_or_else(no_sound)?;
    if exact {
        if let Some(declared) = declared.filter(|declared| *declared > mono.read()) {
            return Err(Error::malformed("sound", "truncated: fewer samples than declared")
                .expected(declared, mono.read())
                .help("Get the file again; it was not transferred or saved to its end."));
        }
        if decoder.finalize().verify_ok == Some(false) {
            return Err(Error::malformed("sound", "damaged: its checksum does not fit"));
        }
    }
    Ok(mono)
}

fn place(mono: Option<&Mono>) -> String {
    let seconds = mono.map_or(0.0, |mono| mono.read() as f64 / f64::from(mono.rate().max(1)));
    format!("sound, after {seconds:.3} s")
}

fn no_sound() -> Error {
    Error::malformed("file", "no sound in it").expected(FORMATS, "no track of sound")
}

fn failure(place: &str, failure: Failure) -> Error {
    match failure {
        Failure::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => {
            Error::malformed(place, "truncated").expected("more data", "the end of the file")
        }
        Failure::IoError(e) => Error::io(place, &e),
        Failure::LimitError(_) => Error::limit(place, failure),
        Failure::Unsupported(_) | Failure::ResetRequired => Error::unsupported(place, failure)
            .expected(FORMATS, "another codec or a chain of streams")
            .help("Convert it first: ffmpeg -i FILE -ac 1 -ar 16000 -c:a pcm_s16le FILE.wav"),
        _ => Error::malformed(place, format!("damaged: {failure}")),
    }
}
