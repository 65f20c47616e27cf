//! Runs that are cut short: whatever the moment, a file under its final name is whole, and the next run succeeds.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::held::{go_on, held, signalled};
use crate::support::{self, Folder, Run, command, convert, convert_args, names, sha256};
use rustix::process::Signal;
use serde_json::Value;
use testkit::SplitMix64;

/// Several outputs, made slowly, so that there is time to be cut short.
const SLOW: [&str; 8] =
    ["--type=q4_k_m", "--type=q8_0", "--type=bf16", "--quiet", "--threads", "2", "--simd", "scalar"];

/// In the order of the folder.
const OUTPUTS: [&str; 3] = ["model-bf16.gguf", "model-q4_k_m.gguf", "model-q8_0.gguf"];

/// What a whole run makes, and how long it takes.
struct Good {
    folder: Folder,
    digests: Vec<String>,
    time: Duration,
}

impl Good {
    fn new() -> Good {
        let folder = Folder::of("e2b");
        let out = folder.home().join("good");
        let start = Instant::now();
        convert(&folder.path(), &out, &SLOW).good();
        let time = start.elapsed();
        let digests = OUTPUTS.iter().map(|name| sha256(&out.join(name))).collect();
        Good { folder, digests, time }
    }

    fn start(&self, options: &[&str]) -> Child {
        let mut command = command(convert_args(&self.folder.path(), &self.folder.out(), options));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Every file under a final name is the good one, and the manifest speaks only of good ones.
    fn check(&self) {
        let out = self.folder.out();
        for name in names(&out) {
            if let Some(number) = OUTPUTS.iter().position(|output| *output == name) {
                assert_eq!(sha256(&out.join(&name)), self.digests[number], "{name}");
            } else if name == "manifest.json" {
                let manifest = support::json(&out.join(name));
                for file in manifest["artifacts"].as_array().unwrap().iter().flat_map(outputs) {
                    assert_eq!(file.1, sha256(&out.join(&file.0)), "{}", file.0);
                }
            } else {
                assert!(name.ends_with(".partial"), "{name} should not be there");
            }
        }
    }

    /// The next run makes everything, and takes away what the last one left.
    fn run_again(&mut self) {
        let options = [SLOW.as_slice(), &["--force"]].concat();
        let start = Instant::now();
        convert(&self.folder.path(), &self.folder.out(), &options).good();
        self.time = start.elapsed();
        self.check();
        assert_eq!(names(&self.folder.out()), [&["manifest.json"], OUTPUTS.as_slice()].concat());
    }
}

fn outputs(entry: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let files = entry["outputs"].as_array().unwrap();
    files.iter().map(|file| (text(&file["name"]), text(&file["sha256"]))).collect()
}

fn unfinished(folder: &Path) -> bool {
    names(folder).iter().any(|name| name.ends_with(".gguf.partial"))
}

/// True if a run writes in `folder`: it gives a file its length after it has locked it.
fn writing(folder: &Path) -> bool {
    let begun = |name: &String| fs::metadata(folder.join(name)).is_ok_and(|file| file.len() > 0);
    names(folder).iter().any(|name| name.ends_with(".gguf.partial") && begun(name))
}

/// A run that is held after it has begun to write and before any output has its final name.
fn held_while_writing(good: &Good) -> Child {
    let out = good.folder.out();
    let start = || {
        if out.exists() {
            fs::remove_dir_all(&out).unwrap();
        }
        good.start(&SLOW)
    };
    held(start, || writing(&out) && OUTPUTS.iter().all(|name| !out.join(name).exists()))
}

/// Of the moments a quarter is where files begin, a quarter is spread over the whole run, half over its end, where files get
/// their names. Rounds go on until enough runs have been killed at all, and while they wrote.
#[test]
fn killed_again_and_again() {
    let mut good = Good::new();
    let mut random = SplitMix64(0x0123_4567_89ab_cdef);
    let (mut killed, mut partials) = (0, 0);
    for round in 0..500 {
        // every other time there are whole files to be replaced
        if round % 2 == 0 && good.folder.out().exists() {
            fs::remove_dir_all(good.folder.out()).unwrap();
        }
        let share = random.below(1000) as f64 / 1000.0;
        let share = if round % 4 < 2 { share } else { 0.8 + 0.3 * share };
        let mut child = good.start(&[SLOW.as_slice(), &["--force"]].concat());
        if round % 4 == 0 {
            while !unfinished(&good.folder.out()) && child.try_wait().unwrap().is_none() {}
        } else {
            sleep(good.time.mul_f64(share));
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        killed += i32::from(status.signal() == Some(9));
        partials += i32::from(unfinished(&good.folder.out()));
        assert!(status.signal() == Some(9) || status.success());
        good.check();
        good.run_again();
        if round >= 49 && killed >= 20 && partials >= 10 {
            testkit::retried("rounds until enough runs were killed", round - 49);
            return;
        }
    }
    panic!("{killed} of 500 were killed, {partials} of them while writing");
}

/// Only the signal that no parent makes its children ignore, as shells do with others for what runs in the background.
#[test]
fn told_to_stop() {
    let mut good = Good::new();
    let (status, run) = signalled(Signal::TERM, || held_while_writing(&good));
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()), "{}", run.stderr);
    assert!(names(&good.folder.out()).iter().all(|name| !name.ends_with(".partial")), "left behind");
    good.check();
    assert!(OUTPUTS.iter().all(|name| !good.folder.out().join(name).exists()), "it was told to stop");
    good.run_again();
}

/// What a killed run left is not taken for anything, whatever is in it.
#[test]
fn leftovers() {
    let good = Good::new();
    let out = good.folder.out();
    fs::create_dir(&out).unwrap();
    let partial = |number: usize| out.join(format!("{}.partial", OUTPUTS[number]));
    fs::write(partial(0), "").unwrap();
    fs::write(partial(1), vec![0x55; 20_000_000]).unwrap();
    fs::copy(good.folder.home().join("good").join(OUTPUTS[2]), partial(2)).unwrap();
    fs::write(out.join("manifest.json.partial"), "{").unwrap();
    let options: Vec<_> = SLOW.into_iter().filter(|&option| option != "--quiet").collect();
    let run = convert(&good.folder.path(), &out, &options).good();
    for name in &OUTPUTS[1..] {
        assert!(
            run.stderr.contains(&format!("{name}: an unfinished file of an earlier run")),
            "{}",
            run.stderr
        );
    }
    good.check();
    assert_eq!(names(&out), [&["manifest.json"], OUTPUTS.as_slice()].concat());
}

/// A second run with the same output gives way to the first, and does it no harm.
#[test]
fn two_runs_into_one_file() {
    let good = Good::new();
    let first = held_while_writing(&good);
    let second = convert(&good.folder.path(), &good.folder.out(), &SLOW);
    let message = second.refusal(3);
    assert!(message.contains(".gguf.partial: another run is writing this file"), "{message}");
    go_on(&first);
    Run::of(first.wait_with_output().unwrap()).good();
    good.check();
    assert_eq!(names(&good.folder.out()), [&["manifest.json"], OUTPUTS.as_slice()].concat());
}

/// Many runs with the same outputs at once: some succeed, the others say why not, the files are whole.
#[test]
fn many_runs_into_one_file() {
    let good = Good::new();
    let options = [SLOW.as_slice(), &["--force"]].concat();
    let runs: Vec<_> = (0..8)
        .map(|number| {
            sleep(good.time.mul_f64(0.3 * f64::from(number % 2)));
            good.start(&options)
        })
        .collect();
    let mut made = 0;
    for run in runs {
        let run = Run::of(run.wait_with_output().unwrap());
        match run.code {
            Some(0) => made += 1,
            _ => assert!(run.refusal(3).contains("another run is writing this file"), "{}", run.stderr),
        }
    }
    assert!(made > 0);
    good.check();
    assert_eq!(names(&good.folder.out()), [&["manifest.json"], OUTPUTS.as_slice()].concat());
}

/// A checkpoint that is written to while it is read is no input.
#[test]
fn a_checkpoint_that_changes() {
    let good = Good::new();
    let child = held_while_writing(&good);
    let weights = good.folder.file(support::WEIGHTS);
    let file = fs::File::options().append(true).open(&weights).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    go_on(&child);
    let run = Run::of(child.wait_with_output().unwrap());
    let message = run.refusal(3);
    assert!(message.contains("was changed while it was being read"), "{message}");
    assert_eq!(names(&good.folder.out()), [""; 0]);
}
