//! Videos: lists of images, and ffmpeg played by scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base::Fault;
use media::{Frame, Image, MAX_FRAMES, Programs, VIDEO_FRAMES, Video, VideoPart, VideoPreprocess};
use tempfile::TempDir;

const TRANSFORMERS: VideoPreprocess = VideoPreprocess::Transformers;
const LLAMA_CPP: VideoPreprocess = VideoPreprocess::LlamaCpp;

/// A folder with `count` copies of an image; names are in another order as text.
fn folder(count: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let png = testkit::read("golden/media/orientation-1.png");
    for number in 0..count {
        fs::write(folder.path().join(format!("frame-{number}.png")), &png).unwrap();
    }
    fs::write(folder.path().join("notes.txt"), "not a frame").unwrap();
    fs::write(folder.path().join(".hidden.png"), "not a frame").unwrap();
    folder
}

fn seconds(video: &Video) -> Vec<f64> {
    video.frames.iter().map(|frame| frame.seconds).collect()
}

#[test]
fn folders_are_chosen_from_as_videos_are() {
    let few = folder(12);
    let video = Video::open(few.path(), TRANSFORMERS, &Programs::default()).unwrap();
    assert_eq!(seconds(&video), (0..12).map(|n| f64::from(n) / 24.0).collect::<Vec<_>>());
    let many = folder(100);
    let video = Video::from_folder(many.path(), TRANSFORMERS, Some(2.0)).unwrap();
    assert_eq!(seconds(&video), (0..32).map(|n| f64::from(n * 100 / 32) / 2.0).collect::<Vec<_>>());
    let video = Video::from_folder(many.path(), LLAMA_CPP, None).unwrap();
    assert_eq!(seconds(&video), (0..100).map(|n| f64::from(n) / 4.0).collect::<Vec<_>>());
}

#[test]
fn bad_lists_are_refused() {
    let image = folder(1).keep().join("frame-0.png");
    let paths = vec![image.clone(); MAX_FRAMES + 1];
    let error = Video::from_images(&paths, LLAMA_CPP, None).unwrap_err();
    assert_eq!(error.fault(), Fault::Limit, "{error}");
    assert_eq!(Video::from_images(&paths, TRANSFORMERS, None).unwrap().frames.len(), VIDEO_FRAMES);
    for fps in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = Video::from_images(&paths[..1], TRANSFORMERS, Some(fps)).unwrap_err();
        assert_eq!(error.fault(), Fault::Recipe, "{error}");
    }
    assert_eq!(Video::from_images(&[], LLAMA_CPP, None).unwrap_err().fault(), Fault::Malformed);
    let error = Video::from_folder(folder(0).path(), LLAMA_CPP, None).unwrap_err();
    assert!(error.to_string().contains("no frames in the folder"), "{error}");
    fs::remove_dir_all(image.parent().unwrap()).unwrap();
}

fn frames(seconds: &[f64]) -> Video {
    let image = Image::new(1, 1, vec![0; 3]).unwrap();
    Video {
        frames: seconds.iter().map(|seconds| Frame { image: image.clone(), seconds: *seconds }).collect(),
    }
}

#[test]
fn prompts_have_the_times_of_both_stacks() {
    let text = |parts: Vec<VideoPart>| -> String {
        parts
            .iter()
            .map(|part| match part {
                VideoPart::Text(text) => text.clone(),
                VideoPart::Frame(number) => format!("<{number}>"),
            })
            .collect()
    };
    let video = frames(&[0.0, 59.99, 61.5, 3_725.0]);
    assert_eq!(text(TRANSFORMERS.parts(&video)), "00:00 <0> 00:59 <1> 01:01 <2> 62:05 <3>");
    let quarters: Vec<f64> = (0..45).map(|n| f64::from(n) / 4.0).collect();
    let prompt = text(LLAMA_CPP.parts(&frames(&quarters)));
    assert!(prompt.starts_with("Video:<0>[0m0.00s]<1><2>"), "{prompt}");
    assert!(prompt.contains("<19><20>[0m5.00s]<21>") && prompt.contains("<40>[0m10.00s]<41>"), "{prompt}");
    assert_eq!(prompt.matches('[').count(), 3);
    let prompt = text(LLAMA_CPP.parts(&frames(&[0.0, 61.5, 62.0])));
    assert_eq!(prompt, "Video:<0>[0m0.00s]<1>[1m1.50s]<2>[1m2.00s]");
    for rule in [TRANSFORMERS, LLAMA_CPP] {
        assert_eq!(rule.name().parse::<VideoPreprocess>().unwrap(), rule);
    }
}

fn script(folder: &Path, name: &str, body: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\necho \"$@\" > '{}/{name}.args'\n{body}\n", folder.display()))
        .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A video file, and programs that do what the scripts say.
fn played(probe: &str, decode: &str) -> (TempDir, PathBuf, Programs) {
    let folder = tempfile::tempdir().unwrap();
    let video = folder.path().join("video.mp4");
    fs::write(&video, "video").unwrap();
    let programs = Programs {
        ffmpeg: script(folder.path(), "ffmpeg", decode),
        ffprobe: script(folder.path(), "ffprobe", probe),
    };
    (folder, video, programs)
}

const PROBED: &str = "printf 'codec_type=video\\navg_frame_rate=30000/1001\\nduration=N/A\\nnb_read_packets=64\\nduration=2.1\\n'";

fn pictures(count: usize) -> String {
    format!("i=0; while [ $i -lt {count} ]; do printf 'P6\\n1 1\\n255\\nabc'; i=$((i+1)); done")
}

#[test]
fn ffmpeg_is_asked_for_the_frames_of_the_rule() {
    let (folder, video, programs) = played(PROBED, &pictures(32));
    let read = Video::open(&video, TRANSFORMERS, &programs).unwrap();
    let expected: Vec<f64> = (0..32).map(|n| f64::from(n * 2) / (30_000.0 / 1_001.0)).collect();
    assert_eq!(seconds(&read), expected);
    assert_eq!(read.frames[31].image.rgb(), b"abc");
    let args = fs::read_to_string(folder.path().join("ffmpeg.args")).unwrap();
    assert!(args.contains("select='eq(n,0)+eq(n,2)+") && args.contains("+eq(n,62)',setpts="), "{args}");
    assert!(args.contains(&format!("-i file:{}", video.display())), "{args}");
    assert!(fs::read_to_string(folder.path().join("ffprobe.args")).unwrap().contains("-count_packets"));

    let (folder, video, programs) = played(PROBED, &pictures(9));
    let read = Video::open(&video, LLAMA_CPP, &programs).unwrap();
    assert_eq!(seconds(&read), (0..9).map(|n| f64::from(n) / 4.0).collect::<Vec<_>>());
    let args = fs::read_to_string(folder.path().join("ffmpeg.args")).unwrap();
    assert!(args.contains("fps=4.000000") && !args.contains("select"), "{args}");
}

#[test]
fn failures_of_ffmpeg_are_told() {
    let fails = |probe: &str, decode: &str, rule, fault, text: &str| {
        let (_folder, video, programs) = played(probe, decode);
        let error = Video::open(&video, rule, &programs).unwrap_err();
        assert!(error.fault() == fault && error.to_string().contains(text), "{error:?}");
    };
    let few = "printf 'codec_type=video\\navg_frame_rate=0/0\\nnb_read_packets=31\\n'";
    let long = "printf 'codec_type=video\\nduration=65.0\\n'";
    let broken = "echo 'moov atom not found' >&2; exit 1";
    fails(few, "", TRANSFORMERS, Fault::Unsupported, "expected at least 32 frames, found 31");
    fails(PROBED, &pictures(31), TRANSFORMERS, Fault::Unsupported, "found 31");
    fails(long, "", LLAMA_CPP, Fault::Limit, "64 seconds");
    fails(PROBED, &pictures(300), LLAMA_CPP, Fault::Limit, "at most 256");
    fails(broken, "", LLAMA_CPP, Fault::Malformed, "moov atom not found");
    fails(PROBED, broken, LLAMA_CPP, Fault::Malformed, "moov atom not found");
    fails(
        PROBED,
        &format!("printf 'P6\\n1 1\\n255\\nab'; {broken}"),
        LLAMA_CPP,
        Fault::Malformed,
        "moov atom",
    );
    fails(PROBED, "yes 'not a picture'", LLAMA_CPP, Fault::Malformed, "not an image");
    fails("true", "", LLAMA_CPP, Fault::Malformed, "no video in the file");
    fails(PROBED, "", LLAMA_CPP, Fault::Malformed, "no frames in it");

    let (_folder, video, mut programs) = played(PROBED, "");
    programs.ffprobe = PathBuf::from("no-such-program-of-video");
    let error = Video::open(&video, LLAMA_CPP, &programs).unwrap_err();
    assert!(error.to_string().contains("not installed") && error.help_text().is_some(), "{error}");
    assert!(
        Video::open("no/such.mp4", LLAMA_CPP, &programs).unwrap_err().to_string().starts_with("no/such.mp4")
    );
}
