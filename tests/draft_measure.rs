//! `draft measure`: figures that follow from one another and from what the models say, in every form.

use std::fs;

use crate::support::{self, fixture, run};
use serde_json::Value;

fn measure(draft: &str, target: &str, more: &[&str]) -> support::Run {
    let text = support::text("eval.txt");
    let [draft, target] = [draft, target].map(fixture);
    let args = ["draft", "measure", draft.to_str().unwrap(), "--target", target.to_str().unwrap()];
    let cut = ["--text", text.to_str().unwrap(), "--context", "128", "--chunks", "3"];
    run([&args[..], &cut, more].concat())
}

fn number(json: &Value, key: &str) -> f64 {
    json[key].as_f64().unwrap_or_else(|| panic!("{key}: {json:#}"))
}

/// Both kinds of drafts. What follows for the best burst size from one look at each token, is what the run does: guess for
/// guess.
#[test]
fn the_run_takes_the_guesses_that_were_foreseen() {
    for (draft, target) in [("e2b-assistant", "e2b"), ("26b-a4b-assistant", "26b-a4b"), ("31b", "e2b")] {
        let json = measure(draft, target, &["--json"]).good().json();
        assert_eq!(
            (number(&json, "schema"), number(&json, "tokens"), number(&json, "said")),
            (1.0, 189.0, 189.0)
        );
        let bursts = json["bursts"].as_array().unwrap();
        assert_eq!(bursts.len(), 8);
        let best = &bursts[number(&json, "best") as usize - 1];
        let measured = &json["measured"];
        assert_eq!(measured["same_text"], true);
        for key in ["drafted", "taken", "guesses"] {
            assert_eq!(measured[key], best[key], "{draft} {key}");
        }
        let [top1, acceptance, cost] = ["top1", "acceptance", "cost"].map(|key| number(&json, key));
        assert!(top1 > 0.3 && top1 < 0.9 && acceptance > 0.4 && acceptance < 0.95, "{top1} {acceptance}");
        for (burst, guesses) in bursts.iter().zip(1..) {
            let [drafted, taken, passes] = ["drafted", "taken", "passes"].map(|key| number(burst, key));
            // each pass says a token more than it takes, and each text begins with a token from its prompt
            assert_eq!(passes + taken, 189.0 - 3.0);
            let ideal = 186.0 / (drafted * cost + passes);
            assert!((number(burst, "ideal") - ideal).abs() < 1e-9);
            let sampled =
                (1.0 - acceptance.powi(guesses + 1)) / (1.0 - acceptance) / (f64::from(guesses) * cost + 1.0);
            assert!((number(burst, "ideal_sampled") - sampled).abs() < 1e-9);
            assert!(number(burst, "implied") <= number(best, "implied"));
        }
        let taken: Vec<f64> = bursts.iter().map(|burst| number(burst, "accepted")).collect();
        assert!(taken[0] > 0.2 && taken[7] >= taken[0], "{taken:?}");
    }
}

/// A model agrees with itself, and all its guesses are right but for the rounding of longer sums.
#[test]
fn a_model_is_its_own_perfect_draft() {
    let json = measure("31b", "31b", &["--json"]).good().json();
    assert_eq!((number(&json, "top1"), number(&json, "acceptance") > 0.999_99), (1.0, true));
    for burst in json["bursts"].as_array().unwrap() {
        assert!(number(burst, "taken") >= number(burst, "drafted") - 4.0, "{burst}");
    }
}

#[test]
fn every_form_has_the_figures() {
    let dir = tempfile::tempdir().unwrap();
    let [html, markdown] = ["report.html", "report.md"].map(|name| dir.path().join(name));
    let forms = ["--html", html.to_str().unwrap(), "--markdown", markdown.to_str().unwrap()];
    let text = measure("e2b-assistant", "e2b", &forms).good().stdout;
    let [html, markdown] = [html, markdown].map(|path| fs::read_to_string(path).unwrap());
    for form in [&text, &html, &markdown] {
        assert!(form.contains("189 tokens of text") && form.contains("the same text"), "{form}");
    }
    assert_eq!(markdown.lines().filter(|line| line.starts_with("| ")).count(), 1 + 2 + 1 + 8);
    assert_eq!(html.matches("<svg").count(), 2, "one drawing for wide windows, one for phones");
    assert!(html.contains("Speed-up by burst size") && !html.contains("NaN"), "{html}");
}

#[test]
fn a_draft_of_another_model_is_refused() {
    assert!(measure("e2b-assistant", "26b-a4b", &[]).refusal(3).contains("differs from the target's"));
    assert!(measure("e2b-assistant", "e2b-assistant", &[]).refusal(3).contains("a draft model"));
    let [draft, target] = ["31b", "e2b"].map(fixture);
    let args = ["draft", "measure", draft.to_str().unwrap(), "--target", target.to_str().unwrap()];
    let nothing = run([&args[..], &["--text", "/nowhere/text.txt"]].concat());
    assert!(nothing.refusal(3).contains("/nowhere/text.txt"), "{}", nothing.stderr);
}
