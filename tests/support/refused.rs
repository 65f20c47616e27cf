//! Input that must be refused: what every command says about it, and that nothing is left in the target.

use serde_json::Value;

use super::{Folder, Run, convert, convert_args, names, run};

/// One way to break a checkpoint.
pub(crate) struct Case {
    pub(crate) what: &'static str,
    pub(crate) base: &'static str,
    /// All of this is in the message.
    pub(crate) says: &'static [&'static str],
    pub(crate) breaks: fn(&Folder),
}

/// When the damage can be seen.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(crate) enum Seen {
    /// By every command.
    Opening,
    /// By `plan` and `convert`.
    Planning,
    /// Only when the weights are read.
    Reading,
}

pub(crate) fn case(
    what: &'static str,
    base: &'static str,
    says: &'static [&'static str],
    breaks: fn(&Folder),
) -> Case {
    Case { what, base, says, breaks }
}

pub(crate) fn all_refused(seen: Seen, options: &[&str], cases: &[Case]) {
    for case in cases {
        #[allow(clippy::print_stdout, reason = "shown only when the test fails: what it was at")]
        {
            println!("{}", case.what);
        }
        let folder = Folder::of(case.base);
        (case.breaks)(&folder);
        refused(&folder, seen, options, case.says);
    }
}

pub(crate) fn refused(folder: &Folder, seen: Seen, options: &[&str], says: &[&str]) {
    let path = folder.path();
    let model = path.to_str().unwrap();
    let plan: Vec<_> = ["plan", model].iter().chain(options).copied().collect();
    let attempts = [
        (Seen::Opening, run(["inspect", model])),
        (Seen::Planning, run(plan)),
        (Seen::Reading, convert(&path, &folder.out(), options)),
    ];
    for (by, attempt) in attempts {
        if by < seen {
            attempt.good();
            continue;
        }
        let message = attempt.refusal(3);
        for &part in says {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
        assert_eq!(attempt.stdout, "");
    }
    let as_json: Vec<_> =
        ["--json".to_owned()].into_iter().chain(convert_args(&path, &folder.out(), options)).collect();
    documented(&run(as_json));
    assert_eq!(names(&folder.out()), [""; 0]);
}

/// The document of `--json` says the same as the message.
pub(crate) fn documented(run: &Run) {
    let message = run.refusal(3);
    let document = run.json();
    let error = &document["error"];
    assert_eq!(error["exit_code"], 3);
    assert!(["malformed", "unsupported", "limit", "target"].map(Value::from).contains(&error["fault"]));
    for field in ["place", "problem", "expected", "found", "help"] {
        if let Some(text) = error[field].as_str() {
            assert!(!text.is_empty() && message.contains(text), "{field} {text:?} is not in {message}");
        }
    }
    assert!(error["place"].is_string() && error["problem"].is_string());
}
