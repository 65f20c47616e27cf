//! `verify` in parts: the process that joins them makes the report of the single run, finding for finding and bit for bit, or says what
//! is wrong with the parts.

use std::fs;
use std::path::{Path, PathBuf};

use gemma_convert::{Chunks, Part, Report, Silent, Verify};
use tensor::TensorSource;

use crate::support::{convert, fixture, run, text};

/// Chunks of 256 tokens: six batches of the text.
fn job(artifact: &Path, base: Option<&Path>) -> Verify {
    let mut job = Verify::new(artifact).text(text("eval.txt"));
    job.base = base.map(Path::to_owned);
    (job.context, job.chunks) = (256, Some(Chunks(0..24)));
    job
}

/// The report without times.
fn timeless(report: Report) -> Report {
    Report { seconds: Default::default(), ..report }
}

fn single(job: &Verify) -> Report {
    timeless(job.run(&Silent).unwrap())
}

fn in_parts(job: &Verify, out: &Path, count: u32) -> Report {
    for number in (1..=count).rev() {
        // the memory does not matter
        let text_memory = if number % 2 == 0 { 1 << 30 } else { 1 << 16 };
        let job = Verify { text_memory, ..job.clone() };
        job.run_part(Part::new(number, count).unwrap(), out, &Silent).unwrap();
    }
    timeless(job.join(&[out.to_owned()], &Silent).unwrap())
}

/// A converted model.
fn model(home: &Path, name: &str, options: &[&str]) -> PathBuf {
    let out = home.join(name);
    convert(&fixture(name), &out, options).good();
    let mut files = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|e| e == "gguf")).unwrap_or(out)
}

#[test]
fn any_number_of_parts_has_the_report_of_the_single_run() {
    let home = tempfile::tempdir().unwrap();
    for (name, options) in [("e2b", ["--type", "q4_0"]), ("26b-a4b", ["--recipe", "sfp8"])] {
        let (artifact, base) = (model(home.path(), name, &options), fixture(name));
        let job = job(&artifact, Some(&base)).max_kld(10.0);
        let whole = single(&job);
        assert!(whole.passed && whole.kld.is_some() && whole.tensors.is_some(), "{:?}", whole.findings);
        // 9: more than there are batches
        for count in [1, 2, 9] {
            let out = home.path().join(format!("{name}-in-{count}"));
            let of_parts = Verify { thresholds: Default::default(), ..job.clone() };
            for number in 1..=count {
                of_parts.run_part(Part::new(number, count).unwrap(), &out, &Silent).unwrap();
            }
            // the limit is that of the process that joins
            assert!(timeless(job.join(&[out], &Silent).unwrap()) == whole, "{name} in {count} parts");
        }
    }
}

#[test]
fn a_model_without_a_base_is_read_in_parts() {
    let home = tempfile::tempdir().unwrap();
    let artifact = model(home.path(), "31b", &["--type", "q8_0"]);
    let job = job(&artifact, None);
    let whole = single(&job);
    assert!(whole.perplexity.is_some() && whole.kld.is_none());
    assert!(in_parts(&job, &home.path().join("parts"), 3) == whole);
}

#[test]
fn faults_have_the_findings_of_the_single_run() {
    let home = tempfile::tempdir().unwrap();
    let artifact = model(home.path(), "e2b", &["--type", "q4_0"]);
    // without its manifest, so that other bytes are no failure of the file itself
    fs::remove_file(artifact.with_file_name("manifest.json")).unwrap();
    let set = gguf::GgufSet::open(&artifact).unwrap();
    let file = &set.parts()[0];
    let mut bytes = fs::read(&artifact).unwrap();
    for (name, at) in [("blk.0.ffn_up.weight", 700), ("blk.3.attn_q.weight", 90)] {
        let index = file.tensors().iter().position(|desc| desc.name == name).unwrap();
        bytes[file.offsets()[index] as usize + at] ^= 0x55;
    }
    fs::write(&artifact, bytes).unwrap();
    for keep_going in [false, true] {
        let job = Verify { keep_going, ..job(&artifact, Some(&fixture("e2b"))) };
        let whole = single(&job);
        assert!(!whole.passed && whole.kld.is_some() == keep_going);
        let out = home.path().join(format!("parts-{keep_going}"));
        let joined = in_parts(&job, &out, 4);
        assert!(joined == whole, "{:#?}\n{:#?}", joined.findings, whole.findings);
    }
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let (artifact, base) = (model(home.path(), "e2b", &["--type", "q4_0"]), fixture("e2b"));
    let job = job(&artifact, Some(&base));
    let out = home.path().join("parts");
    let part = |job: &Verify, number| job.run_part(Part::new(number, 2).unwrap(), &out, &Silent).unwrap();
    let refused = |job: &Verify| job.join(std::slice::from_ref(&out), &Silent).unwrap_err().to_string();
    let first = part(&job, 1);
    assert!(refused(&job).contains("parts 2/2 are missing"), "{}", refused(&job));
    part(&job, 2);
    // other options than those of the parts
    for (differs, other) in [
        ("options of the text", Verify { context: 128, ..job.clone() }),
        ("text", Verify { texts: vec![text("calib.txt")], ..job.clone() }),
        ("base", Verify { base: Some(artifact.clone()), ..job.clone() }),
        ("steps", Verify { weights: false, ..job.clone() }),
    ] {
        let message = refused(&other);
        assert!(message.contains(&format!("these differ: {differs}")), "{message}");
    }
    // a file that was damaged on its way
    let measured = first.record.with_extension("measured");
    let mut bytes = fs::read(&measured).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&measured, bytes).unwrap();
    assert!(refused(&job).contains("has changed"), "{}", refused(&job));
    part(&job, 1);
    assert!(job.join(std::slice::from_ref(&out), &Silent).unwrap().passed);
}

#[test]
fn the_commands_say_what_follows_and_what_does_not_go_together() {
    let home = tempfile::tempdir().unwrap();
    let (artifact, base) = (model(home.path(), "e2b", &["--type", "q4_0"]), fixture("e2b"));
    let (out, page) = (home.path().join("parts"), home.path().join("report.html"));
    let [artifact, base, out, page] =
        [&artifact, &base, &out, &page].map(|path| path.to_str().unwrap().to_owned());
    let eval = text("eval.txt");
    let verify = |more: &[&str]| {
        let args = ["verify", &artifact, "--against", &base, "--text", eval.to_str().unwrap(), "-c", "128"];
        run(args.iter().chain(&["--chunks", "8"]).chain(more).copied())
    };
    let part =
        |number: &str, more: &[&str]| verify(&[&["--part", number, "-o", out.as_str()], more].concat());
    assert!(part("1/2", &[]).good().stdout.contains(&format!("--join {out}")));
    part("2/2", &[]).good();
    // the command `join` has no checkpoint and no limits
    assert!(run(["join", &out]).refusal(3).contains("--join"));
    assert!(verify(&["--join", &out, "--html", &page]).good().stdout.contains("KL divergence, mean"));
    assert!(fs::read_to_string(&page).unwrap().contains("KL divergence"));
    // parts stay: a limit can be tried with them
    assert_eq!(verify(&["--join", &out, "--max-kld", "0.000001"]).code, Some(1));

    for (options, why) in [
        (&["--html", page.as_str()][..], "a part makes no report"),
        (&["--max-kld", "0.1"], "a part checks no limits"),
        (&["--require-manifest"], "a part checks no --require-manifest"),
        (&["--save-logits", "x.logits"], "--save-logits"),
        (&[base.as_str()], "several artifacts are verified by one process"),
    ] {
        let refused = part("1/2", options);
        assert!(refused.refusal(2).contains(why), "{options:?}: {}", refused.stderr);
    }
    assert!(verify(&["--part", "1/2"]).refusal(2).contains("no folder for what the part measures"));
}
