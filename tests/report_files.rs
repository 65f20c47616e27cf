//! The files that reports go to: each option over each thing that may be there already.
//! What is in a report belongs in `verify.rs` and `report_page.rs`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::{self, Folder, Run, command, convert, fixture, names, run, text};

/// The options that name a file, and whether one adds to it.
const OPTIONS: [(&str, bool); 4] =
    [("--report-json", false), ("--html", false), ("--markdown", true), ("--save-logits", false)];

/// A small artifact, verified with a text, so that each option has something to write.
struct Artifact {
    folder: Folder,
    file: PathBuf,
}

impl Artifact {
    fn new() -> Artifact {
        let folder = Folder::of("31b");
        let file = folder.out().join("model-q4_0.gguf");
        convert(&folder.path(), &folder.out(), &["--type", "q4_0"]).good();
        Artifact { folder, file }
    }

    fn verify(&self, more: &[&str]) -> Run {
        let text = text("eval.txt");
        let file = self.file.to_str().unwrap();
        let args = ["verify", file, "--text", text.to_str().unwrap(), "-c", "32", "--chunks", "1", "-q"];
        run([&args, more].concat())
    }

    fn report(&self, option: &str, path: &Path) -> Run {
        self.verify(&[option, path.to_str().unwrap()])
    }

    fn place(&self) -> PathBuf {
        let place = self.folder.home().join("reports");
        let _ = fs::remove_dir_all(&place);
        fs::create_dir(&place).unwrap();
        place
    }
}

#[test]
fn a_report_replaces_reports_of_its_kind_and_nothing_else() {
    let artifact = Artifact::new();
    let place = artifact.place();
    for (option, appends) in OPTIONS {
        let path = place.join(option);
        artifact.report(option, &path).good();
        let first = fs::metadata(&path).unwrap().len();
        assert!(first > 0, "{option}");
        artifact.report(option, &path).good();
        assert_eq!(fs::metadata(&path).unwrap().len() > first * 3 / 2, appends, "{option}");
    }
    let made: Vec<_> = OPTIONS.iter().map(|(option, _)| fs::read(place.join(option)).unwrap()).collect();
    let others = [
        ("a GGUF file", fs::read(&artifact.file).unwrap()),
        ("a safetensors file", fs::read(fixture("31b").join(support::WEIGHTS)).unwrap()),
        ("a manifest", fs::read(artifact.folder.out().join("manifest.json")).unwrap()),
        ("JSON of another kind", fs::read(fixture("31b").join("config.json")).unwrap()),
        ("another web page", b"<!doctype html><p>mine".to_vec()),
        ("another text", b"notes of a year\n".to_vec()),
    ];
    let reports = OPTIONS.iter().map(|(option, _)| *option).zip(made);
    let others: Vec<(&str, Vec<u8>)> = others.into_iter().chain(reports).collect();
    for (option, appends) in OPTIONS {
        for (what, bytes) in &others {
            let is_text = matches!(*what, "another text" | "--markdown");
            if *what == option || appends && is_text {
                continue;
            }
            for link in [false, true] {
                let place = artifact.place();
                let [path, real] = ["named", "real"].map(|name| place.join(name));
                fs::write(if link { &real } else { &path }, bytes).unwrap();
                if link {
                    symlink("real", &path).unwrap();
                }
                let refused = artifact.report(option, &path);
                let message = refused.refusal(3);
                assert!(message.contains(place.to_str().unwrap()), "{option} over {what}: {message}");
                assert!(appends || message.contains("--force"), "{option} over {what}: {message}");
                assert_eq!(refused.stdout, "", "before the work");
                assert!(fs::read(&path).unwrap() == *bytes, "{option} over {what}");
                assert_eq!(names(&place).len(), 1 + usize::from(link), "{:?}", names(&place));
            }
        }
        // with --force it may
        let place = artifact.place();
        let path = place.join("named");
        fs::write(&path, "notes of a year\n").unwrap();
        artifact.verify(&[option, path.to_str().unwrap(), "--force"]).good();
        assert!(appends || !fs::read(&path).unwrap().starts_with(b"notes"), "{option}");
    }
}

/// A report goes to devices, pipes and streams as it is, and to where a link leads.
#[test]
fn a_report_goes_where_a_shell_would_send_it() {
    let artifact = Artifact::new();
    for (option, appends) in OPTIONS {
        artifact.report(option, Path::new("/dev/null")).good();
        assert!(!Path::new("/dev/null.partial").exists());

        let place = artifact.place();
        let [link, real] = ["link", "real"].map(|name| place.join(name));
        symlink("real", &link).unwrap();
        artifact.report(option, &link).good();
        assert!(link.is_symlink() && fs::metadata(&real).unwrap().len() > 0, "{option}");

        // a pipe, and a file that stdout is redirected to
        if option != "--save-logits" {
            let piped = artifact.report(option, Path::new("/dev/stdout")).good();
            assert!(piped.stdout.contains("model-q4_0.gguf") && piped.stdout.len() > 1000, "{option}");
            let out = place.join("out");
            let mut verify =
                command(["verify", artifact.file.to_str().unwrap(), "-q", option, "/dev/stdout"]);
            let status = verify.stdout(fs::File::create(&out).unwrap()).status().unwrap();
            assert!(status.success());
            let both = fs::read_to_string(&out).unwrap();
            let alone = run(["verify", artifact.file.to_str().unwrap(), "-q"]).good().stdout;
            let first = alone.lines().next().unwrap();
            let begins = match option {
                "--report-json" => "{",
                "--html" => "<!DOCTYPE html>",
                _ => "### ",
            };
            assert!(
                both.trim_start().starts_with(begins) && both.contains(&format!("\n{first}\n")),
                "{option}: {both}"
            );
        }
        // an empty file, as mktemp makes, is nobody's
        let empty = place.join("empty");
        fs::write(&empty, "").unwrap();
        artifact.report(option, &empty).good();
        assert!(fs::metadata(&empty).unwrap().len() > 0 || appends, "{option}");
    }
}

/// A report says how to repeat it: command, date, and the hash of what was read. The page names no folder.
#[test]
fn a_report_can_be_repeated() {
    let artifact = Artifact::new();
    let place = artifact.place();
    let [page, json] = ["page.html", "report.json"].map(|name| place.join(name));
    let (base, text) = (fixture("31b"), text("eval.txt"));
    let args = [
        OsStr::new("verify"),
        artifact.file.as_os_str(),
        OsStr::new("--against"),
        base.as_os_str(),
        OsStr::new("--text"),
        text.as_os_str(),
        OsStr::new("--html"),
        page.as_os_str(),
        OsStr::new("--report-json"),
        json.as_os_str(),
    ];
    let run = |folder: &Path| {
        let more = ["-c", "32", "--chunks", "2", "-q", "--token", "hf_secret"];
        let mut verify = command(args.iter().copied().chain(more.iter().map(OsStr::new)));
        let verify = verify.current_dir(folder).env("SOURCE_DATE_EPOCH", "1795992540");
        let output = verify.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (support::json(&json), fs::read_to_string(&page).unwrap())
    };
    let (report, page) = run(artifact.folder.home());
    let said = &report["run"];
    assert_eq!(said["date"], "2026-11-29T22:49:00Z");
    let out = artifact.folder.out();
    let below = out.strip_prefix(artifact.folder.home()).unwrap().display().to_string();
    assert_eq!(
        said["command"],
        format!(
            "gemma-convert verify {below}/model-q4_0.gguf --against 31b --text eval.txt --html \
             reports/page.html --report-json reports/report.json -c 32 --chunks 2 -q"
        )
    );
    let read: Vec<_> = said["files"].as_array().unwrap().iter().map(|file| file["sha256"].clone()).collect();
    assert_eq!(read, [support::sha256(&artifact.file), support::sha256(&text)]);

    // the tokens that diverge most, in their text, with two guesses
    let worst = report["text"]["worst"].as_array().unwrap();
    let kld = |token: &serde_json::Value| token["kld"].as_f64().unwrap();
    assert_eq!(worst.len(), 20);
    assert!(worst.windows(2).all(|pair| kld(&pair[0]) >= kld(&pair[1])));
    assert_eq!(kld(&worst[0]), report["kld"]["max"].as_f64().unwrap());
    let whole = fs::read_to_string(&text).unwrap();
    for token in worst {
        let shown = format!("{}{}", token["before"].as_str().unwrap(), token["next"].as_str().unwrap());
        // a byte token is a part of a character
        assert!(whole.contains(&shown) || shown.contains('\u{fffd}'), "{shown:?}");
        for model in ["base", "artifact"] {
            let p = token[model]["p"].as_f64().unwrap();
            assert!(p > 0.0 && p <= 1.0 && token[model]["text"].is_string(), "{token}");
        }
    }

    for folder in [artifact.folder.home(), testkit::root().as_path()] {
        assert!(!page.contains(folder.to_str().unwrap()), "{page}");
    }
    for shown in ["2026-11-29T22:49:00Z", &support::sha256(&artifact.file), "Tokens that diverge most"] {
        assert!(page.contains(shown), "{shown}");
    }
    // the date and the place are all that a run adds, but for the times of the steps
    let again = run(&testkit::root()).0;
    assert_eq!((&again["run"]["date"], &again["run"]["files"]), (&said["date"], &said["files"]));
    assert_eq!(again["text"], report["text"]);
}

/// What cannot be written is known before the work.
#[test]
fn places_that_cannot_be_written() {
    let artifact = Artifact::new();
    for (option, _) in OPTIONS {
        let place = artifact.place();
        fs::create_dir(place.join("folder")).unwrap();
        fs::write(place.join("file"), "x").unwrap();
        for path in [place.join("folder"), place.join("nowhere/report"), place.join("file/report")] {
            let refused = artifact.report(option, &path);
            let message = refused.refusal(3);
            assert!(message.contains(path.to_str().unwrap()), "{option}: {message}");
            assert_eq!(refused.stdout, "", "before the work");
        }
        assert_eq!(names(&place), ["file", "folder"]);
    }
    // two reports in one file
    let place = artifact.place();
    let path = place.join("both");
    let both = ["--html", path.to_str().unwrap(), "--report-json", path.to_str().unwrap()];
    assert!(artifact.verify(&both).refusal(2).contains("two outputs have this name"));
    assert_eq!(names(&place), [""; 0]);
}

/// What fails at the end costs the report, and not the verdict.
#[test]
fn a_disk_that_is_full_at_the_end() {
    let artifact = Artifact::new();
    for option in ["--report-json", "--html", "--markdown"] {
        let place = artifact.place();
        let other = place.join("other.html");
        let more = if option == "--html" { "--report-json" } else { "--html" };
        let failed = artifact.verify(&[option, "/dev/full", more, other.to_str().unwrap()]);
        let message = failed.refusal(3);
        assert!(message.contains("/dev/full: No space left"), "{message}");
        let plain = artifact.verify(&[]).good().stdout;
        assert_eq!(failed.stdout.lines().next(), plain.lines().next());
        assert!(fs::metadata(&other).unwrap().len() > 0, "the other report is there");
        let json = artifact.verify(&["--json", option, "/dev/full"]);
        json.refusal(3);
        assert_eq!(json.json()["passed"], true);
    }
}

/// `--json` is a flag, wherever it stands.
#[test]
fn a_flag_takes_no_file() {
    let artifact = Artifact::new();
    let file = artifact.file.to_str().unwrap();
    let second = artifact.folder.out().join("second.gguf");
    fs::copy(&artifact.file, &second).unwrap();
    let before = support::sha256(&second);
    // the name after it is another artifact
    for args in [
        ["verify", "--json", second.to_str().unwrap(), file],
        ["verify", file, "--json", second.to_str().unwrap()],
    ] {
        assert_eq!(run(args).good().json()["reports"].as_array().unwrap().len(), 2);
        assert_eq!(support::sha256(&second), before, "{args:?}");
    }
    for args in [
        vec!["--json", "verify", file, "--html", second.to_str().unwrap()],
        vec!["verify", file, &format!("--json={}", second.display())],
    ] {
        let code = run(&args).code;
        assert!(matches!(code, Some(2 | 3)), "{args:?}: {code:?}");
        assert_eq!(support::sha256(&second), before, "{args:?}");
    }
    let report = artifact.folder.home().join("report.json");
    run(["verify", "--json", file]).good().json();
    for spelling in [format!("--json={}", report.display()), format!("--report-json={}", report.display())] {
        let written = run(["verify", file, &spelling]).good();
        assert!(!written.stdout.starts_with('{'), "stdout is for people");
        assert_eq!(support::json(&report)["schema"], 1);
        fs::remove_file(&report).unwrap();
    }
    let both = run(["verify", file, "--json", "--report-json", report.to_str().unwrap()]).good();
    assert_eq!(both.json()["artifact"], support::json(&report)["artifact"]);
}
