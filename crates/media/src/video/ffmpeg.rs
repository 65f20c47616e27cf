//! Video files, by the programs ffprobe and ffmpeg. No decoder of our own: videos need many, and none in Rust has them.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use base::{Error, Result};

use super::rule::{LLAMA_FPS, chosen};
use super::{Frames, VIDEO_FRAMES, Video, VideoPreprocess, expect_frames, ppm};

/// Bytes of a program's messages that are kept.
const MAX_MESSAGES: u64 = 1 << 16;

/// The programs that read video files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// ffmpeg: a path, or a name that the shell would find.
    pub ffmpeg: PathBuf,
    /// ffprobe, likewise.
    pub ffprobe: PathBuf,
}

impl Default for Programs {
    /// `ffmpeg` and `ffprobe` in `PATH`.
    fn default() -> Programs {
        Programs { ffmpeg: PathBuf::from("ffmpeg"), ffprobe: PathBuf::from("ffprobe") }
    }
}

pub(super) fn read(path: &Path, rule: VideoPreprocess, programs: &Programs) -> Result<Video> {
    let probed = Probed::of(path, rule, programs)?;
    let mut filter = OsString::new();
    let (chosen, fps) = match rule {
        VideoPreprocess::Transformers => {
            let Some(total) = probed.frames.filter(|total| *total >= VIDEO_FRAMES) else {
                return Err(too_few(probed.frames.unwrap_or(0)));
            };
            let chosen = chosen(total);
            let terms: Vec<String> = chosen.iter().map(|index| format!("eq(n,{index})")).collect();
            // New times, so that no chosen frame is repeated to fill the gap to the next.
            filter.push(format!("select='{}',setpts=N/(25*TB)", terms.join("+")));
            (Some(chosen), probed.fps.unwrap_or(rule.default_fps()))
        }
        VideoPreprocess::LlamaCpp => {
            if let Some(seconds) = probed.seconds {
                expect_frames((seconds * LLAMA_FPS).round() as usize)?;
            }
            filter.push(format!("fps={LLAMA_FPS:.6}"));
            (None, LLAMA_FPS)
        }
    };
    let mut command = Command::new(&programs.ffmpeg);
    command.args(["-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-i"]).arg(address(path));
    command.args(["-map", "0:v:0"]).arg("-vf").arg(filter);
    if chosen.is_some() {
        command.args(["-r", "25", "-frames:v"]).arg(VIDEO_FRAMES.to_string());
    }
    command.args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"]);
    let mut running = Running::start(command, "ffmpeg")?;
    let mut frames = Frames::default();
    let mut stream = BufReader::with_capacity(1 << 16, running.output()?);
    let mut number = 0;
    loop {
        let image = match ppm::next(&mut stream) {
            Ok(None) => break,
            Ok(Some(image)) => image,
            // At the end of its output, the program's own words say more. Elsewhere it may still be writing, and is ended.
            Err(error) => {
                let ended = stream.fill_buf().is_ok_and(|rest| rest.is_empty());
                return Err(if ended { running.failed().unwrap_or(error) } else { error });
            }
        };
        let index = chosen.as_ref().map_or(number, |chosen| chosen.get(number).copied().unwrap_or(number));
        frames.push(image, index as f64 / fps)?;
        number += 1;
    }
    running.finish()?;
    match chosen {
        Some(_) if number < VIDEO_FRAMES => Err(too_few(number)),
        None if number == 0 => Err(Error::malformed("video", "no frames in it")),
        _ => Ok(frames.into_video()),
    }
}

fn too_few(frames: usize) -> Error {
    Error::unsupported("video", "fewer frames than transformers takes, which it refuses")
        .expected(format!("at least {VIDEO_FRAMES} frames"), frames)
        .help("Extract the frames into a folder and give that: ffmpeg -i VIDEO FOLDER/%04d.png")
}

/// A path as ffmpeg's address of a file, which is never an option, a pipe or an address of the network.
fn address(path: &Path) -> OsString {
    let mut address = OsString::from("file:");
    address.push(path);
    address
}

/// What ffprobe says about the first video stream.
struct Probed {
    frames: Option<usize>,
    fps: Option<f64>,
    seconds: Option<f64>,
}

impl Probed {
    fn of(path: &Path, rule: VideoPreprocess, programs: &Programs) -> Result<Probed> {
        let mut command = Command::new(&programs.ffprobe);
        command.args(["-v", "error", "-protocol_whitelist", "file,pipe", "-select_streams", "v:0"]);
        if rule == VideoPreprocess::Transformers {
            // Packets and not the header's number, which may be absent or wrong; torchcodec counts them as well.
            command.arg("-count_packets");
        }
        command.args([
            "-show_entries",
            "stream=codec_type,avg_frame_rate,nb_read_packets,duration:format=duration",
        ]);
        command.args(["-of", "default=noprint_wrappers=1"]).arg(address(path));
        let mut running = Running::start(command, "ffprobe")?;
        let mut text = String::new();
        let mut output = running.output()?.take(MAX_MESSAGES);
        output.read_to_string(&mut text).map_err(|e| Error::io("ffprobe", &e))?;
        drop(output);
        running.finish()?;
        let values = |key: &str| -> Vec<&str> {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .filter(|(name, _)| *name == key)
                .map(|(_, value)| value.trim())
                .collect()
        };
        if values("codec_type").is_empty() {
            return Err(Error::malformed("video", "no video in the file").expected("a video stream", "none"));
        }
        let number =
            |text: &&str| text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
        Ok(Probed {
            frames: values("nb_read_packets").first().and_then(|text| text.parse().ok()),
            fps: values("avg_frame_rate").first().and_then(|text| rate(text)),
            // Of the stream, else of the file.
            seconds: values("duration").iter().find_map(number),
        })
    }
}

/// A rate such as 30000/1001; 0/0 where it is unknown.
fn rate(text: &str) -> Option<f64> {
    let (above, below) = text.split_once('/').unwrap_or((text, "1"));
    let rate = above.parse::<f64>().ok()? / below.parse::<f64>().ok()?;
    Some(rate).filter(|rate| rate.is_finite() && *rate > 0.0)
}

/// A program that runs; it ends when this is dropped.
struct Running {
    name: &'static str,
    child: Child,
    messages: Option<thread::JoinHandle<Vec<u8>>>,
}

impl Running {
    fn start(mut command: Command, name: &'static str) -> Result<Running> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| cannot_start(command.get_program(), &e))?;
        // A program stops when nobody reads its messages.
        let messages = child.stderr.take().map(|mut stream| {
            thread::spawn(move || {
                let mut kept = Vec::new();
                let _ = stream.by_ref().take(MAX_MESSAGES).read_to_end(&mut kept);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
                kept
            })
        });
        Ok(Running { name, child, messages })
    }

    fn output(&mut self) -> Result<std::process::ChildStdout> {
        self.child.stdout.take().ok_or_else(|| Error::new(base::Fault::Io, self.name, "no output"))
    }

    /// Waits for the end; its output was read or dropped.
    fn finish(&mut self) -> Result<()> {
        self.failed().map_or(Ok(()), Err)
    }

    /// Waits for the end; the error of a program that failed.
    fn failed(&mut self) -> Option<Error> {
        let status = match self.child.wait() {
            Ok(status) => status,
            Err(e) => return Some(Error::io(self.name, &e)),
        };
        let messages = self.messages.take().and_then(|messages| messages.join().ok()).unwrap_or_default();
        if status.success() {
            return None;
        }
        let text = String::from_utf8_lossy(&messages);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
        Some(Error::malformed(
            self.name,
            format!("cannot read the video ({status}): {}", base::visible_line(last)),
        ))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cannot_start(program: &OsStr, error: &std::io::Error) -> Error {
    let place = program.to_string_lossy();
    match error.kind() {
        ErrorKind::NotFound => Error::unsupported(place, "not installed, and needed for video files")
            .help("Install ffmpeg, which has it, or extract frames elsewhere into a folder and give that."),
        _ => Error::io(place, error),
    }
}
