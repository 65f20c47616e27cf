//! The library: its examples run, and its errors name no option of the command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gemma_convert::{
    Calibrate, Convert, DraftMeasure, ErrorKind, Fault, Generate, Layers, MeasureSensitivity, Planning,
    Prompt, Silent, Verify, rename_settings,
};

use crate::support::{fixture, text};

/// An example, built beside this test.
fn example(name: &str, args: &[&Path]) -> Output {
    let here = std::env::current_exe().unwrap();
    let program: PathBuf = here.ancestors().nth(2).unwrap().join("examples").join(name);
    Command::new(&program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}; `cargo build --examples` builds it", program.display()))
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn examples_run() {
    let home = tempfile::tempdir().unwrap();
    let (checkpoint, out) = (fixture("e2b"), home.path().join("out"));
    let said = stdout(&example("convert", &[&checkpoint, &out]));
    assert!(said.contains("model-q4_0.gguf\n") && said.contains("model-q8_0.gguf\n"), "{said}");
    let file = out.join("model-q4_0.gguf");
    let said = stdout(&example("verify", &[&file, &checkpoint, &text("eval.txt")]));
    assert!(said.contains("KL divergence 0.0"), "{said}");
    let said = stdout(&example("generate", &[&file, Path::new("The sea is")]));
    assert!(said.contains("32 tokens, finish: length"), "{said}");
}

#[test]
fn errors_name_settings_and_no_options() {
    let home = tempfile::tempdir().unwrap();
    let (e2b, out) = (fixture("e2b"), home.path().join("out"));
    Convert::new(&e2b, &out).recipe("q4_0").run(&Silent).unwrap();
    let exists = Convert::new(&e2b, &out).recipe("q4_0").run(&Silent).unwrap_err();
    assert_eq!((exists.fault(), exists.kind()), (Fault::Target, ErrorKind::Exists));
    let absent = Convert::new(home.path().join("absent"), &out).recipe("q4_0").run(&Silent).unwrap_err();
    assert_eq!((absent.fault(), absent.kind()), (Fault::Malformed, ErrorKind::Missing));

    let mut chat = Generate::new(&e2b, "");
    chat.prompt = Prompt::Chat {
        messages: vec![serde_json::json!({ "role": "user", "content": "Hello" })],
        thinking: None,
        tools: Vec::new(),
    };
    chat.context = Some(1 << 40);
    let mut long = Planning::new(&e2b).recipe("q4_0");
    long.estimate.context = Some(u64::MAX);
    let mut chunks = Calibrate::new(&e2b, home.path().join("new.gguf")).text(text("calib.txt"));
    chunks.text.chunks = Some("100000..200000".parse().unwrap());
    let errors = [
        exists,
        Convert::new(&e2b, &out).recipe("q4_0").text(text("calib.txt")).force().run(&Silent).unwrap_err(),
        Convert::new(&e2b, &out).recipe("q4_0-calibrated").run(&Silent).unwrap_err(),
        Convert::new(&e2b, &out).recipe("auto").run(&Silent).unwrap_err(),
        Convert::new(&e2b, &out).recipe("q4_0").set("typo").run(&Silent).unwrap_err(),
        Convert::new(&e2b, out.join("a.gguf")).recipe("q4_0").recipe("q8_0").run(&Silent).unwrap_err(),
        gemma_convert::DraftExtract {
            layers: Layers::Count(4),
            context: 512,
            convert: Convert::new(&e2b, &out),
        }
        .run(&Silent)
        .unwrap_err(),
        Calibrate::new(&e2b, home.path().join("new.gguf")).run(&Silent).unwrap_err(),
        chunks.run(&Silent).unwrap_err(),
        MeasureSensitivity::new(&e2b, home.path().join("new.json")).run(&Silent).unwrap_err(),
        DraftMeasure::new(&e2b, &e2b).run(&Silent).unwrap_err(),
        Verify::new(out.join("model-q4_0.gguf")).max_kld(-1.0).run(&Silent).unwrap_err(),
        chat.run(&Silent, &mut |_| Ok(true)).unwrap_err(),
        long.run().unwrap_err(),
    ];
    for error in errors {
        let text = error.to_string();
        assert!(!text.contains("--"), "{text}");
        let shown = rename_settings(&text, |name| format!("--{name}"));
        assert!(!shown.contains('‹') && !shown.contains('›'), "{shown}");
    }
}

#[test]
fn what_is_there_is_skipped() {
    let home = tempfile::tempdir().unwrap();
    let (e2b, out) = (fixture("e2b"), home.path().join("out"));
    let first = Convert::new(&e2b, &out).recipe("q4_0").run(&Silent).unwrap();
    let file = out.join("model-q4_0.gguf");
    let written = || std::fs::metadata(&file).unwrap().modified().unwrap();
    let before = written();

    let again = Convert::new(&e2b, &out).recipe("q4_0").skip_existing().run(&Silent).unwrap();
    assert_eq!(again.artifacts, first.artifacts);
    assert_eq!(again.manifest, first.manifest);
    assert_eq!(written(), before);

    // one of two is there: the other is made, and the manifest has both
    let more = Convert::new(&e2b, &out).recipe("q4_0").recipe("q8_0").skip_existing().run(&Silent).unwrap();
    assert_eq!(more.artifacts.len(), 2);
    assert_eq!(written(), before);
    let alone = home.path().join("alone");
    let alone = Convert::new(&e2b, alone).recipe("q8_0").run(&Silent).unwrap();
    assert_eq!(more.artifacts[1].outputs, alone.artifacts[0].outputs);
    let manifest = std::fs::read_to_string(&more.manifest).unwrap();
    assert!(manifest.contains("model-q4_0.gguf") && manifest.contains("model-q8_0.gguf"));

    // of another plan, or cut: refused as without the option
    let other = Convert::new(&e2b, &out).recipe("q4_0").set("metadata.name=Other").skip_existing();
    assert_eq!(other.run(&Silent).unwrap_err().kind(), ErrorKind::Exists);
    std::fs::File::options().write(true).open(&file).unwrap().set_len(1000).unwrap();
    let cut = Convert::new(&e2b, &out).recipe("q4_0").skip_existing().run(&Silent).unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::Exists);
}
