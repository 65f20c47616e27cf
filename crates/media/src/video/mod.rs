//! A video: frames with their times, chosen by the rule of a stack.

mod ffmpeg;
mod images;
mod ppm;
mod rule;

use std::path::{Path, PathBuf};

use base::{Error, Result};

use crate::Image;

pub use ffmpeg::Programs;
pub use images::natural_order;
pub use rule::{VideoPart, VideoPreprocess};

/// Number of frames that transformers takes.
pub const VIDEO_FRAMES: usize = 32;

/// Maximum number of frames of a video by llama.cpp's rule: 64 seconds. llama.cpp has no limit.
pub const MAX_FRAMES: usize = 256;

/// Maximum size of the decoded frames of a video in bytes.
pub const MAX_VIDEO_BYTES: u64 = 2 << 30;

/// A frame of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The picture, at the size of the video.
    pub image: Image,
    /// Time from the beginning of the video.
    pub seconds: f64,
}

/// The chosen frames of a video; the sound is not used, as in both stacks.
#[derive(Clone, Debug, PartialEq)]
pub struct Video {
    /// The frames in the order of time, at least one.
    pub frames: Vec<Frame>,
}

impl Video {
    /// Reads a video file with the programs ffprobe and ffmpeg, or the images in a folder: see [`Video::from_folder`].
    ///
    /// # Errors
    /// `Unsupported` if ffmpeg is not installed, or a video has fewer frames than transformers takes; `Malformed` for a
    /// file that ffmpeg cannot read; `Limit` for more than [`MAX_FRAMES`] frames, or [`MAX_VIDEO_BYTES`]; those of
    /// [`Video::from_folder`].
    pub fn open(path: impl AsRef<Path>, rule: VideoPreprocess, programs: &Programs) -> Result<Video> {
        let path = path.as_ref();
        if path.is_dir() {
            return Video::from_folder(path, rule, None);
        }
        // ffmpeg would wait for a pipe, and opens addresses of the network.
        base::open_regular(path)?;
        ffmpeg::read(path, rule, programs).map_err(|error| error.within(path.display()))
    }

    /// The PNG, JPEG and WebP files in a folder as frames, in the natural order of their names: frame-9 before
    /// frame-10. Other files are ignored. See [`Video::from_images`].
    ///
    /// # Errors
    /// `Malformed` for a folder without images; those of [`Video::from_images`].
    pub fn from_folder(folder: impl AsRef<Path>, rule: VideoPreprocess, fps: Option<f64>) -> Result<Video> {
        Video::from_images(&images::in_folder(folder.as_ref())?, rule, fps)
    }

    /// Image files as the frames of a video, in the order given; `fps` are the frames in a second.
    ///
    /// transformers: of more than [`VIDEO_FRAMES`] the same are chosen as of a video file, of fewer all are taken, where
    /// transformers accepts only frames that were chosen before; without `fps`, 24 as there. llama.cpp has no lists of
    /// frames: all are taken as if they had been chosen, at 4 a second without `fps`.
    ///
    /// # Errors
    /// Those of [`Image::open`]; `Malformed` for no images; `Recipe` for an `fps` that is not positive; `Limit` for more
    /// than [`MAX_FRAMES`] frames, or [`MAX_VIDEO_BYTES`].
    pub fn from_images(paths: &[PathBuf], rule: VideoPreprocess, fps: Option<f64>) -> Result<Video> {
        if let Some(fps) = fps.filter(|fps| !(fps.is_finite() && *fps > 0.0)) {
            return Err(Error::recipe("frames per second", "not a rate").expected("a positive number", fps));
        }
        if paths.is_empty() {
            return Err(Error::malformed("video", "no frames").expected("at least one image", 0));
        }
        let fps = fps.unwrap_or(rule.default_fps());
        let mut frames = Frames::default();
        for index in rule.choose_of_list(paths.len())? {
            frames.push(Image::open(&paths[index])?, index as f64 / fps)?;
        }
        Ok(frames.into_video())
    }
}

/// Frames as they are decoded, within bounds.
#[derive(Default)]
struct Frames {
    frames: Vec<Frame>,
    bytes: u64,
}

impl Frames {
    fn push(&mut self, image: Image, seconds: f64) -> Result<()> {
        self.bytes += image.rgb().len() as u64;
        if self.bytes > MAX_VIDEO_BYTES {
            return Err(Error::limit("video", "its frames are too large together")
                .expected(format!("at most {MAX_VIDEO_BYTES} bytes of RGB"), "more")
                .help("Reduce the size of the frames, or their number."));
        }
        self.frames.push(Frame { image, seconds });
        expect_frames(self.frames.len())
    }

    fn into_video(self) -> Video {
        Video { frames: self.frames }
    }
}

fn expect_frames(frames: usize) -> Result<()> {
    if frames > MAX_FRAMES {
        return Err(Error::limit("video", "too many frames")
            .expected(format!("at most {MAX_FRAMES}: {} seconds at 4 a second", MAX_FRAMES / 4), frames)
            .help("Cut the video."));
    }
    Ok(())
}
