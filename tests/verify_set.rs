//! `verify` of several artifacts: each has the figures that it has alone, the base reads the text once, a broken file fails alone, and
//! a folder is compared with its manifest.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use gemma_convert::{
    Chunks, Outcome, Progress, Report, Scored, SetReport, Silent, Task, Unit, Verify, VerifySet,
};
use serde_json::Value;
use tensor::TensorSource;

use crate::support::{command, convert, fixture, names, run, sha256, text};

/// Progress that keeps the name and the total of each task.
#[derive(Default)]
struct Recorded(Mutex<Vec<(String, u64)>>);

struct Nothing;

impl Task for Nothing {
    fn advance(&self, _: u64) {}
}

impl Progress for Recorded {
    fn begin(&self, name: &str, total: u64, _: Unit) -> Box<dyn Task + '_> {
        self.0.lock().unwrap().push((name.to_owned(), total));
        Box::new(Nothing)
    }

    fn note(&self, _: &str) {}
}

impl Recorded {
    fn totals(&self, of: &str) -> Vec<u64> {
        let tasks = self.0.lock().unwrap();
        tasks.iter().filter(|(name, _)| name == of).map(|(_, total)| *total).collect()
    }
}

fn draft(out: &Path) {
    let [target, assistant] = ["e2b", "e2b-assistant"].map(|name| fixture(name).to_str().unwrap().to_owned());
    let out = out.to_str().unwrap();
    run(["draft", "convert", &assistant, "--target", &target, "--type", "q8_0", "-o", out, "-q"]).good();
}

/// The settings of a short text.
fn short(mut verify: Verify) -> Verify {
    (verify.context, verify.chunks) = (128, Some(Chunks(0..2)));
    verify
}

/// The report without times and steps that were not run.
fn figures(report: Report) -> Report {
    Report { seconds: Default::default(), skipped: Vec::new(), ..report }
}

fn report<'r>(set: &'r SetReport, name: &str) -> &'r Report {
    let is_it = |report: &&Report| report.artifact.path.ends_with(name);
    set.reports.iter().find(is_it).unwrap_or_else(|| panic!("{name}: {set:#?}"))
}

#[test]
fn each_artifact_has_the_report_that_it_has_alone() {
    let home = tempfile::tempdir().unwrap();
    let (out, e2b, assistant) = (home.path().join("out"), fixture("e2b"), fixture("e2b-assistant"));
    convert(&e2b, &out, &["--type", "q4_0", "--type", "q8_0", "--mmproj", "bf16", "-q"]).good();
    draft(&out);
    let mut job = VerifySet::new([&out]).against(&e2b).text(text("eval.txt"));
    job.options = short(job.options);
    job.assistant = Some(assistant.clone());
    let together = Recorded::default();
    let set = job.run(&together).unwrap();
    assert!(set.passed && set.outcome == Outcome::Passed, "{set:#?}");
    assert_eq!((set.findings.len(), set.unverified.len()), (0, 0), "{set:#?}");
    let found: Vec<_> =
        set.reports.iter().map(|r| r.artifact.path.strip_prefix(out.to_str().unwrap()).unwrap()).collect();
    assert_eq!(found, ["/draft-q8_0.gguf", "/mmproj-bf16.gguf", "/model-q4_0.gguf", "/model-q8_0.gguf"]);

    let mut work = Vec::new();
    for name in ["model-q4_0.gguf", "model-q8_0.gguf"] {
        let progress = Recorded::default();
        let alone = short(Verify::new(out.join(name)).against(&e2b).text(text("eval.txt")));
        let alone = alone.run(&progress).unwrap();
        assert!(alone.kld.as_ref().unwrap().mean > 0.0);
        assert_eq!(figures(report(&set, name).clone()), figures(alone), "{name}");
        work.extend(progress.totals("perplexity"));
    }
    // two models twice, or three models once
    assert_eq!(work[0], work[1]);
    assert_eq!(together.totals("perplexity"), [work[0] / 2 * 3]);

    let draft = Verify::new(out.join("draft-q8_0.gguf")).against(&assistant).run(&Silent).unwrap();
    assert!(draft.passed && draft.tensors.is_some());
    assert_eq!(figures(report(&set, "draft-q8_0.gguf").clone()), figures(draft));
    let mmproj = Verify::new(out.join("mmproj-bf16.gguf")).against(&e2b).run(&Silent).unwrap();
    assert_eq!(figures(report(&set, "mmproj-bf16.gguf").clone()), figures(mmproj));

    // files in another order, one of them twice, and logits: those of the base
    let logits = ["set", "single"].map(|name| home.path().join(name));
    let files = ["model-q8_0.gguf", "model-q4_0.gguf", "model-q8_0.gguf"].map(|name| out.join(name));
    let mut some = VerifySet { artifacts: files.to_vec(), ..job.clone() };
    some.options.save_logits = Some(logits[0].clone());
    let some = some.run(&Silent).unwrap();
    assert_eq!(some.reports.len(), 2);
    for one in &some.reports {
        assert_eq!(figures(one.clone()), figures(report(&set, &one.artifact.path).clone()));
    }
    let mut single = short(Verify::new(&files[0]).against(&e2b).text(text("eval.txt")));
    single.save_logits = Some(logits[1].clone());
    single.run(&Silent).unwrap();
    assert_eq!(sha256(&logits[0]), sha256(&logits[1]));

    // over the logits in the file, and without a base: perplexity alone
    let stored = VerifySet::new(files.clone()).against(&logits[0]).run(&Silent).unwrap();
    let alone = Verify::new(&files[1]).against(&logits[0]).run(&Silent).unwrap();
    assert_eq!(figures(report(&stored, "model-q4_0.gguf").clone()), figures(alone));
    let mut none = VerifySet::new(files).text(text("eval.txt"));
    none.options = short(none.options);
    let none = none.run(&Silent).unwrap();
    assert_eq!(none.outcome, Outcome::CheckedAlone);
    for one in &none.reports {
        let perplexity = |report: &Report| report.perplexity.as_ref().unwrap().artifact;
        assert_eq!(perplexity(one), perplexity(report(&set, &one.artifact.path)));
        assert!(one.kld.is_none());
    }
}

/// The JSON of a run over a short text.
fn verify(artifacts: &[&Path], more: &[&str]) -> (Option<i32>, Value) {
    let artifacts = artifacts.iter().map(|path| path.to_str().unwrap());
    let (model, text) = (fixture("e2b"), text("eval.txt"));
    let common = [
        "--against",
        model.to_str().unwrap(),
        "--text",
        text.to_str().unwrap(),
        "-c",
        "128",
        "--chunks",
        "2",
    ];
    let run = run(["verify", "--json", "-q"]
        .into_iter()
        .chain(artifacts)
        .chain(common)
        .chain(more.iter().copied()));
    assert!(matches!(run.code, Some(0 | 1)), "{}", run.stderr);
    (run.code, run.json())
}

#[test]
fn a_broken_file_fails_alone() {
    let home = tempfile::tempdir().unwrap();
    convert(&fixture("e2b"), home.path(), &["--type", "q4_0", "--type", "f32", "-q"]).good();
    let file = |name: &str| home.path().join(name);
    let good = file("model-q4_0.gguf");
    let bytes = fs::read(&good).unwrap();
    // flipped bits in the weights
    let mut flipped = bytes.clone();
    let end = flipped.len();
    flipped[end - 4000..].iter_mut().for_each(|byte| *byte ^= 0x55);
    fs::write(file("flipped.gguf"), flipped).unwrap();
    fs::write(file("cut.gguf"), &bytes[..end / 2]).unwrap();
    // a number that is none, which the runtime refuses
    let set = gguf::GgufSet::open(file("model-f32.gguf")).unwrap();
    let index = set.tensors().iter().position(|desc| desc.name == "blk.3.ffn_up.weight").unwrap();
    let at = set.parts()[0].offsets()[index] as usize + 400;
    let mut nan = fs::read(file("model-f32.gguf")).unwrap();
    nan[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(file("nan.gguf"), nan).unwrap();

    let [flipped, cut, nan] = ["flipped.gguf", "cut.gguf", "nan.gguf"].map(file);
    let (code, json) = verify(&[&flipped, &cut, &good, &nan], &["--max-kld", "0.5", "--keep-going"]);
    assert_eq!((code, &json["passed"], &json["outcome"]), (Some(1), &false.into(), &"failed".into()));
    let reports = json["reports"].as_array().unwrap();
    let passed: Vec<_> = reports.iter().map(|report| report["passed"].as_bool().unwrap()).collect();
    assert_eq!(passed, [false, false, true, false], "{json:#}");
    assert!(reports[0]["kld"]["mean"].as_f64() > reports[2]["kld"]["mean"].as_f64());
    assert!(reports[2]["thresholds"][0]["holds"] == true);
    let problem = |report: &Value| report["findings"].to_string();
    assert!(problem(&reports[0]).contains("blk."), "{}", problem(&reports[0]));
    assert!(problem(&reports[1]).contains("cut.gguf"), "{}", problem(&reports[1]));
    assert!(
        problem(&reports[3]).contains("layer 3") && problem(&reports[3]).contains("not finite"),
        "{}",
        problem(&reports[3])
    );
    assert!(problem(&reports[3]).contains("1 weights are NaN"), "{}", problem(&reports[3]));
    let (_, alone) = verify(&[&good], &["--max-kld", "0.5"]);
    assert_eq!(reports[2]["kld"], alone["kld"]);

    // all forms name each file; GitHub sees the failures
    let files = [&flipped, &cut, &good].map(|path| path.to_str().unwrap());
    let [html, markdown] = ["page.html", "summary.md"].map(|name| file(name).to_str().unwrap().to_owned());
    let model = fixture("e2b").to_str().unwrap().to_owned();
    let options = ["verify", "--html", &html, "--markdown", &markdown, "--against", &model];
    let mut command = command([&options, &files[..]].concat());
    let output = command.env("GITHUB_ACTIONS", "true").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    for form in
        [stdout, fs::read_to_string(html).unwrap(), fs::read_to_string(markdown).unwrap().replace('\\', "")]
    {
        for word in ["flipped.gguf", "cut.gguf", "model-q4_0.gguf", "Failed: 2 of 3 files"] {
            assert!(form.contains(word), "{word}: {form}");
        }
    }
    let annotated: Vec<_> = stderr.lines().filter(|line| line.starts_with("::error title=")).collect();
    assert!(annotated.iter().any(|line| line.contains("flipped.gguf")), "{stderr}");
    assert!(annotated.iter().any(|line| line.contains("cut.gguf")), "{stderr}");
    assert!(annotated.iter().all(|line| !line.contains("model-q4_0.gguf::")), "{stderr}");
}

#[test]
fn a_folder_is_compared_with_its_manifest() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    convert(&fixture("e2b"), &out, &["--type", "q4_0", "--type", "q8_0", "--type", "bf16", "-q"]).good();
    // renamed, missing, of another run
    fs::rename(out.join("model-q4_0.gguf"), out.join("Gemma-Q4_0.gguf")).unwrap();
    fs::remove_file(out.join("model-q8_0.gguf")).unwrap();
    let other = home.path().join("other");
    convert(&fixture("e2b"), &other, &["--type", "q5_0", "-q"]).good();
    fs::copy(other.join("model-q5_0.gguf"), out.join("model-q5_0.gguf")).unwrap();
    let (code, json) = verify(&[&out], &[]);
    let finding = |index: usize| {
        let finding = &json["findings"][index];
        [&finding["severity"], &finding["place"], &finding["problem"]]
            .map(|text| text.as_str().unwrap_or_default())
    };
    assert_eq!((code, json["findings"].as_array().unwrap().len()), (Some(1), 2), "{json:#}");
    let [severity, place, problem] = finding(0);
    assert_eq!((severity, place), ("failure", "model-q8_0.gguf"));
    assert!(problem.contains("manifest.json lists it, and the folder lacks it"), "{problem}");
    assert_eq!(finding(1), ["warning", "model-q5_0.gguf", "no manifest of the folder lists it"]);
    let reports = json["reports"].as_array().unwrap();
    assert_eq!(reports.len(), 3);
    assert!(reports.iter().all(|report| report["passed"] == true), "{json:#}");
    assert_eq!(json["outcome"], "failed");

    // a folder without a manifest
    fs::remove_file(out.join("manifest.json")).unwrap();
    let (code, json) = verify(&[&out], &[]);
    assert_eq!((code, &json["findings"], &json["passed"]), (Some(0), &Value::Null, &true.into()), "{json:#}");
}

/// A split is one artifact; importance matrices and adapters are none; a checkpoint folder is one, alone and in a folder.
#[test]
fn each_file_is_what_it_is() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let e2b = fixture("e2b");
    convert(&e2b, &out, &["--type", "q8_0", "--split-max-size", "1MB", "-q"]).good();
    convert(&e2b, &out.join("folder"), &["--recipe", "bf16-safetensors", "-q"]).good();
    let imatrix = out.join("imatrix.gguf");
    let [model, corpus] = [&e2b, &text("calib.txt")].map(|path| path.to_str().unwrap().to_owned());
    run(["calibrate", &model, "--text", &corpus, "--chunks", "2", "-o", imatrix.to_str().unwrap(), "-q"])
        .good();
    draft(&out);
    let extract = ["draft", "extract", &model, "--layers", "1,3,5,7", "--type", "bf16", "-q", "-o"];
    run([&extract[..], &[out.join("layers.gguf").to_str().unwrap()]].concat()).good();

    let parts = names(&out).into_iter().filter(|name| name.contains("-of-")).count();
    assert!(parts > 1);
    let (code, json) = verify(&[&out], &[]);
    let paths: Vec<_> = json["reports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|report| {
            Path::new(report["artifact"]["path"].as_str().unwrap())
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let part = format!("model-q8_0-00001-of-{parts:05}.gguf");
    assert_eq!(paths, ["draft-q8_0.gguf", "layers.gguf", &part, "folder"], "{json:#}");
    assert_eq!((code, &json["outcome"]), (Some(0), &"checked_alone".into()), "{json:#}");
    let [unverified] = json["unverified"].as_array().unwrap().as_slice() else { panic!("{json:#}") };
    assert!(unverified["path"].as_str().unwrap().ends_with("imatrix.gguf"));
    assert!(unverified["why"].as_str().unwrap().contains("importance matrix"), "{unverified}");
    let note = |index: usize| json["reports"][index]["findings"].to_string();
    assert!(note(0).contains("--assistant"), "{}", note(0));
    assert!(note(1).contains("[1, 3, 5, 7]"), "{}", note(1));
    for index in [2, 3] {
        assert!(json["reports"][index]["kld"]["mean"].as_f64().is_some(), "{json:#}");
        assert_eq!(json["reports"][index]["outcome"], "passed");
    }
    // the parts as a shell lists them
    let all: Vec<PathBuf> =
        names(&out).into_iter().filter(|name| name.contains("-of-")).map(|name| out.join(name)).collect();
    let all: Vec<&Path> = all.iter().map(PathBuf::as_path).collect();
    let (code, json) = verify(&all, &[]);
    assert_eq!((code, json["reports"].as_array().unwrap().len()), (Some(0), 1), "{json:#}");
    // one folder of safetensors is one artifact
    let (code, json) = verify(&[&out.join("folder")], &[]);
    assert_eq!(
        (code, json["artifact"]["variant"].is_string() || json["artifact"]["path"].is_string()),
        (Some(0), true)
    );
    assert!(json.get("reports").is_none());

    // a part that is missing
    fs::remove_file(out.join(&part)).unwrap();
    let (code, json) = verify(&[&out], &["--assistant", fixture("e2b-assistant").to_str().unwrap()]);
    assert_eq!((code, &json["reports"][0]["outcome"]), (Some(1), &"passed".into()), "{json:#}");
    assert_eq!(json["reports"][2]["passed"], false);
    assert!(json["findings"].to_string().contains(&part), "{json:#}");
}

/// Conversations with images: every text model reads them with the mmproj file.
#[test]
fn conversations_with_images_are_read_by_all() {
    let home = tempfile::tempdir().unwrap();
    let (e2b, out) = (fixture("e2b"), home.path().join("out"));
    convert(&e2b, &out, &["--type", "q4_0", "--type", "q8_0", "--mmproj", "f32", "-q"]).good();
    let settings = |mut verify: Verify| {
        verify.mmproj = Some(out.join("mmproj-f32.gguf"));
        verify.scored = Scored::Answers;
        verify.against(&e2b).text(testkit::fixtures("golden/multimodal/conversations.jsonl"))
    };
    let mut job = VerifySet::new([&out]);
    job.options = settings(job.options);
    let set = job.run(&Silent).unwrap();
    assert!(set.passed, "{set:#?}");
    for name in ["model-q4_0.gguf", "model-q8_0.gguf"] {
        let alone = settings(Verify::new(out.join(name))).run(&Silent).unwrap();
        assert!(alone.text.as_ref().unwrap().media > 0 && alone.kld.is_some());
        assert_eq!(figures(report(&set, name).clone()), figures(alone));
    }
    assert!(report(&set, "mmproj-f32.gguf").kld.is_none());
}

#[test]
fn what_has_no_effect_on_a_set_is_refused() {
    let home = tempfile::tempdir().unwrap();
    convert(&fixture("31b"), home.path(), &["--type", "q4_0", "--type", "q8_0", "-q"]).good();
    let (folder, model) = (home.path().to_str().unwrap(), fixture("31b").to_str().unwrap().to_owned());
    let file = home.path().join("model-q4_0.gguf").to_str().unwrap().to_owned();
    let logits = home.path().join("logits").to_str().unwrap().to_owned();
    let absent = home.path().join("absent.gguf").to_str().unwrap().to_owned();
    let image = testkit::fixtures("golden/multimodal/wide.png").to_str().unwrap().to_owned();
    let empty = tempfile::tempdir().unwrap();
    let cases: [(&[&str], i32, &str); 8] = [
        (&[folder, "--recipe", "q4_0"], 2, "several recipes"),
        (&[folder, "--save-logits", &logits], 2, "logits of one model"),
        (&[folder, "--assistant", &model], 2, "not a draft model"),
        (&[&file, "--assistant", &model], 2, "no effect with one artifact"),
        (&[&file, &absent], 3, "absent.gguf"),
        (&[folder, "--max-kld", "0.1"], 2, "not measured"),
        (&[folder, "--against", &model, "--image", &image], 2, "only towers"),
        (&[empty.path().to_str().unwrap()], 3, "config.json"),
    ];
    for (args, code, word) in cases {
        let refused = run([&["verify"], args].concat());
        assert!(refused.refusal(code).contains(word), "{args:?}: {}", refused.stderr);
    }
}
