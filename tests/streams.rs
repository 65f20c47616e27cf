//! Stdout and stderr that cannot take a line, and signals. What is verified or written does not depend on somebody reading along.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::support::held::{go_on, held, signalled};
use crate::support::{Folder, Run, command, convert, convert_args, fixture, names, sha256, text};
use rustix::process::{Pid, Signal, kill_process};

/// A stream that takes nothing: a full device, or a pipe whose reader has gone.
fn unwritable() -> [(&'static str, Stdio); 2] {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    [("full", full.into()), ("closed", writer.into())]
}

/// Command lines by the exit code that they end with, whatever stderr takes.
fn commands(home: &Path) -> Vec<(i32, Vec<String>)> {
    let model = fixture("31b").display().to_string();
    let gguf = home.join("made/model-q4_0.gguf").display().to_string();
    let eval = text("eval.txt").display().to_string();
    let out = |name: &str| home.join(name).display().to_string();
    let lines: [(i32, &[&str]); 13] = [
        (2, &["plan", &model, "--recipe", "nonsense"]),
        (2, &["plan", &model, "--nonsense"]),
        (2, &[]),
        (2, &["verify", &gguf, "--json", "--max-kld", "-1"]),
        (3, &["convert", "/nonexistent", "--type", "q4_0", "-o", &out("nowhere")]),
        (3, &["inspect", "/nonexistent"]),
        (0, &["--help"]),
        (0, &["--version"]),
        (0, &["inspect", &gguf]),
        (0, &["convert", &model, "--type", "q4_0", "-o", &out("noted")]),
        (0, &["verify", &gguf]),
        (0, &["generate", &model, "-p", "hi", "-n", "2"]),
        (
            0,
            &[
                "calibrate",
                &model,
                "--text",
                &eval,
                "--chunks",
                "1",
                "-c",
                "64",
                "-o",
                &out("imatrix"),
                "--force",
            ],
        ),
    ];
    lines.into_iter().map(|(code, args)| (code, args.iter().map(|&a| a.to_owned()).collect())).collect()
}

/// A folder with a conversion, and one in which a conversion has a note to say: a killed run has left something.
fn prepared() -> Folder {
    let folder = Folder::of("31b");
    convert(&folder.path(), &folder.home().join("made"), &["--type", "q4_0"]).good();
    again(&folder);
    folder
}

fn again(folder: &Folder) {
    let noted = folder.home().join("noted");
    let _ = fs::remove_dir_all(&noted);
    fs::create_dir(&noted).unwrap();
    fs::write(noted.join("model-q4_0.gguf.partial"), "left").unwrap();
}

#[test]
fn nobody_reads_stderr() {
    let folder = prepared();
    for (code, args) in commands(folder.home()) {
        for (what, stderr) in unwritable() {
            again(&folder);
            let status = command(&args).stdout(Stdio::null()).stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(code), "{args:?}: stderr {what}");
            if args.iter().any(|arg| arg.ends_with("noted")) {
                let [noted, made] =
                    ["noted", "made"].map(|name| sha256(&folder.home().join(name).join("model-q4_0.gguf")));
                assert_eq!(noted, made, "stderr {what}");
            }
        }
    }
}

/// A result that is lost is a failure; a reader that has had enough is none.
#[test]
fn stdout_takes_nothing() {
    let folder = prepared();
    for (code, args) in commands(folder.home()) {
        for (what, stdout) in unwritable() {
            again(&folder);
            let output = command(&args).stdout(stdout).stderr(Stdio::piped()).output().unwrap();
            let expected = if what == "full" && code == 0 { 4 } else { code };
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(expected), "{args:?}: stdout {what}: {said}");
            assert_eq!(said.contains("stdout: No space left"), expected == 4, "{args:?}: {said}");
        }
        // neither
        let [(_, stdout), _] = unwritable();
        let [(_, stderr), _] = unwritable();
        again(&folder);
        let status = command(&args).stdout(stdout).stderr(stderr).status().unwrap();
        assert_eq!(status.code(), Some(if code == 0 { 4 } else { code }), "{args:?}");
    }
}

/// With signals as they are at a terminal, also where the tests run in the background of a shell.
fn start(args: &[String]) -> Child {
    let tool = command(args);
    let mut env = std::process::Command::new("env");
    env.arg("--default-signal=INT,HUP,TERM").arg(tool.get_program()).args(tool.get_args());
    env.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn any(folder: &Path, ending: &str) -> bool {
    folder.exists() && names(folder).iter().any(|name| name.ends_with(ending))
}

/// Whatever is being made, its temporary files go, and what was there stays.
#[test]
fn interrupted() {
    let folder = Folder::of("e2b");
    let model = folder.path().display().to_string();
    let eval = text("eval.txt").display().to_string();
    let place = |name: &str| {
        let place = folder.home().join(name);
        let _ = fs::remove_dir_all(&place);
        fs::create_dir(&place).unwrap();
        fs::write(place.join("mine"), "x").unwrap();
        place
    };
    let gguf = folder.home().join("model.gguf");
    convert(&folder.path(), &gguf, &["--type", "q8_0"]).good();
    let gguf = gguf.display().to_string();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let out = place("out");
        let file = |name: &str| out.join(name).display().to_string();
        let args = |parts: &[&str]| parts.iter().map(|&part| part.to_owned()).collect::<Vec<_>>();
        let slow = ["--type=q4_k_m", "--type=q5_k_m", "--type=q6_k", "--threads=1", "--simd=scalar"];
        let runs = [
            (convert_args(&folder.path(), &out, &slow), ".gguf.partial"),
            (
                convert_args(
                    &folder.path(),
                    &out,
                    &["--recipe=bf16-safetensors", "--max-shard-size=1MB", "--threads=1"],
                ),
                ".safetensors.partial",
            ),
            (
                args(&[
                    "draft",
                    "extract",
                    &model,
                    "--layers",
                    "0,1,2,3",
                    "--type",
                    "q4_k_m",
                    "--threads=1",
                    "--simd=scalar",
                    "-o",
                    &file(""),
                ]),
                ".partial",
            ),
            (
                args(&[
                    "verify",
                    &gguf,
                    "--against",
                    &model,
                    "--text",
                    &eval,
                    "--html",
                    &file("page.html"),
                    "--save-logits",
                    &file("logits"),
                    "--threads=1",
                ]),
                ".partial",
            ),
        ];
        for (args, begun) in runs {
            let afresh = || {
                place("out");
                start(&args)
            };
            let (status, run) = signalled(signal, || held(afresh, || any(&out, begun)));
            assert_eq!(status.signal(), Some(signal.as_raw()), "{args:?}: {}", run.stderr);
            assert_eq!(names(&out), ["mine"], "{args:?}");
        }
    }
}

/// A signal that the parent has had ignored is ignored, as for runs in the background.
#[test]
fn a_signal_that_is_ignored() {
    let folder = Folder::of("31b");
    let out = folder.out();
    let args = convert_args(&folder.path(), &out, &["--type=q4_k_m", "--threads=1", "--simd=scalar"]);
    let start = || {
        let _ = fs::remove_dir_all(&out);
        let tool = command(&args);
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", "trap '' INT HUP; exec \"$@\"", "sh"])
            .arg(tool.get_program())
            .args(tool.get_args());
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let child = held(start, || any(&out, ".gguf.partial"));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    go_on(&child);
    Run::of(child.wait_with_output().unwrap()).good();
    assert_eq!(names(&out), ["manifest.json", "model-q4_k_m.gguf"]);
}

/// Layers that are rounded for a text are worth hours: they stay, and the user is told where.
#[test]
fn what_stays_for_a_resume_is_said() {
    let folder = Folder::of("e2b");
    let (out, calib) = (folder.out(), text("calib.txt"));
    let more =
        ["--recipe", "q4_0-calibrated", "--text", calib.to_str().unwrap(), "--chunks", "16", "--threads=1"];
    let store = out.join("model-calibrated-q4_0.calibration");
    let afresh = || {
        let _ = fs::remove_dir_all(&out);
        start(&convert_args(&folder.path(), &out, &more))
    };
    let (status, run) = signalled(Signal::INT, || held(afresh, || any(&store, "blk.0.gguf")));
    let said = run.stderr;
    assert_eq!(status.signal(), Some(Signal::INT.as_raw()), "{said}");
    assert!(said.contains(store.to_str().unwrap()) && said.contains("goes on from there"), "{said}");
    assert!(!any(&store, ".partial") && !any(&out, ".partial"), "{:?}", names(&store));
}
