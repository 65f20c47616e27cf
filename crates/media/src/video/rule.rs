//! Which frames of a video are taken, and the text around them.
//!
//! Sources: transformers' `models/gemma4/video_processing_gemma4.py`, `processing_gemma4.py` and
//! `video_processing_utils.py`; llama.cpp's `tools/mtmd/mtmd-helper.cpp`.

use std::fmt;
use std::str::FromStr;

use base::{Error, Result};

use super::{VIDEO_FRAMES, Video, expect_frames};
use crate::ImagePreprocess;

/// How a video becomes images and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoPreprocess {
    /// transformers: 32 frames at equal distances, each with a budget of 70 soft tokens, each after its time.
    Transformers,
    /// llama.cpp: 4 frames a second, each as large as an image may be, a time every 5 seconds.
    LlamaCpp,
}

/// A piece of the prompt of a video.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VideoPart {
    /// Text, to be tokenized with what is around it.
    Text(String),
    /// The soft tokens of a frame, by its number in [`Video::frames`], between the marks of an image.
    Frame(usize),
}

impl VideoPreprocess {
    /// `transformers` or `llama.cpp`.
    pub const fn name(self) -> &'static str {
        match self {
            VideoPreprocess::Transformers => "transformers",
            VideoPreprocess::LlamaCpp => "llama.cpp",
        }
    }

    /// How each frame is resized.
    pub const fn image(self) -> ImagePreprocess {
        match self {
            VideoPreprocess::Transformers => ImagePreprocess::Transformers { budget: 70 },
            VideoPreprocess::LlamaCpp => ImagePreprocess::LLAMA_CPP,
        }
    }

    /// Frames per second where nothing tells it.
    pub(super) const fn default_fps(self) -> f64 {
        match self {
            VideoPreprocess::Transformers => 24.0,
            VideoPreprocess::LlamaCpp => LLAMA_FPS,
        }
    }

    /// The frames that are taken of a list of `total` images.
    pub(super) fn choose_of_list(self, total: usize) -> Result<Vec<usize>> {
        match self {
            VideoPreprocess::Transformers if total > VIDEO_FRAMES => Ok(chosen(total)),
            _ => {
                expect_frames(total)?;
                Ok((0..total).collect())
            }
        }
    }

    /// The parts of the prompt of a video, in order. transformers: `mm:ss ` before each frame, a space between frames.
    /// llama.cpp: `Video:` at the beginning, `[0m5.00s]` after the first frame and after each that begins another 5
    /// seconds.
    pub fn parts(self, video: &Video) -> Vec<VideoPart> {
        let mut parts = Vec::new();
        match self {
            VideoPreprocess::Transformers => {
                for (number, frame) in video.frames.iter().enumerate() {
                    let (seconds, space) =
                        (frame.seconds.max(0.0) as u64, if number == 0 { "" } else { " " });
                    parts.push(VideoPart::Text(format!("{space}{:02}:{:02} ", seconds / 60, seconds % 60)));
                    parts.push(VideoPart::Frame(number));
                }
            }
            VideoPreprocess::LlamaCpp => {
                parts.push(VideoPart::Text("Video:".to_owned()));
                let mut next = 0.0;
                for (number, frame) in video.frames.iter().enumerate() {
                    parts.push(VideoPart::Frame(number));
                    // In f32, as there.
                    let milliseconds = frame.seconds as f32 * 1000.0;
                    if milliseconds >= next {
                        let seconds = milliseconds / 1000.0;
                        let minutes = (seconds / 60.0) as u32;
                        let rest = seconds - minutes as f32 * 60.0;
                        parts.push(VideoPart::Text(format!("[{minutes}m{rest:.2}s]")));
                        next += 5000.0;
                    }
                }
            }
        }
        parts
    }
}

/// Frames that llama.cpp takes of a second.
pub(super) const LLAMA_FPS: f64 = 4.0;

/// The frames that transformers takes of a video of `total` frames, which are at least [`VIDEO_FRAMES`].
pub(super) fn chosen(total: usize) -> Vec<usize> {
    (0..VIDEO_FRAMES).map(|number| number * total / VIDEO_FRAMES).collect()
}

impl FromStr for VideoPreprocess {
    type Err = Error;

    fn from_str(name: &str) -> Result<VideoPreprocess> {
        let known = [VideoPreprocess::Transformers, VideoPreprocess::LlamaCpp];
        known.into_iter().find(|known| known.name() == name).ok_or_else(|| {
            Error::recipe("video preprocessing", "unknown name")
                .expected("transformers or llama.cpp", format!("{name:?}"))
        })
    }
}

impl fmt::Display for VideoPreprocess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
