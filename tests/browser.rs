//! The recipe `browser` in a browser: its GGUF split loads in wllama, which is llama.cpp in WebAssembly, and says there
//! what our runtime says; with an mmproj file also of images.
//!
//! The page is `browser/page.html`. Skipped where Chromium or wllama (`cargo xtask oracle --browser`) is missing, unless
//! `GEMMA_CONVERT_BROWSER=require` is set, as `.ci/run` does.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use xtask::oracle::wllama;

use crate::clients::images;
use crate::support::{self, chromium};

/// llama.cpp rounds activations to 8 bits where a weight has 4, and we do not. So the two may part where two tokens are
/// nearly as likely as each other (they were seen to at 0.007 nats). After these prompts no two are nearer than 0.04.
const PROMPTS: [&str; 2] = ["In 1912 the", "Natural resources:"];
const TOKENS: &str = "32";

/// The tiny e2b in several parts.
fn convert(folder: &Path) -> Vec<PathBuf> {
    let more = ["--recipe", "browser", "--split-max-size", "1MB", "-q"];
    support::convert(&support::fixture("e2b"), folder, &more).good();
    let names = support::names(folder).into_iter().filter(|name| name.ends_with(".gguf"));
    let parts: Vec<_> = names.map(|name| folder.join(name)).collect();
    assert!(parts.len() >= 3, "{parts:?}");
    parts
}

/// What our runtime says.
fn ours(parts: &[PathBuf], prompt: &str) -> Value {
    let first = parts[0].to_str().unwrap();
    support::run(["generate", first, "-p", prompt, "-n", TOKENS, "--json", "-q"]).good().json()
}

/// What the page posts of a model: a file, or the first part of a split.
fn visit(browser: &Path, wllama: &Path, model: &Path, more: &str) -> Value {
    let page = testkit::root().join("tests/browser/page.html");
    let media = images::media();
    let routes = [
        ("/page.html", page.as_path()),
        ("/wllama/", wllama),
        ("/model/", model.parent().unwrap()),
        ("/media/", &media),
    ];
    let name = model.file_name().unwrap().to_str().unwrap();
    chromium::visit(browser, &routes, &format!("/page.html?model=/model/{name}{more}"))
}

/// What it posts of a split.
fn in_the_browser(browser: &Path, wllama: &Path, parts: &[PathBuf]) -> Value {
    let prompts: String =
        PROMPTS.iter().map(|prompt| format!("&prompt={}", prompt.replace(' ', "+"))).collect();
    visit(browser, wllama, &parts[0], &format!("&tokens={TOKENS}{prompts}"))
}

/// The ids that an answer consists of.
fn ids(answer: &Value) -> Vec<u64> {
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    tokens.iter().map(|token| token["id"].as_u64().unwrap()).collect()
}

#[test]
fn a_browser_says_what_we_say() {
    let (Some(browser), Some(wllama)) = (chromium::find(), wllama::for_tests()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let parts = convert(dir.path());
    let theirs = in_the_browser(&browser, &wllama, &parts);
    assert_eq!(theirs["error"], Value::Null, "{theirs:#}");
    assert_eq!(theirs["architecture"], "gemma4");
    let answers = theirs["answers"].as_array().unwrap();
    assert_eq!(answers.len(), PROMPTS.len());
    for (prompt, answer) in PROMPTS.iter().zip(answers) {
        let ours = ours(&parts, prompt);
        let ours_ids: Vec<u64> = serde_json::from_value(ours["tokens"].clone()).unwrap();
        assert_eq!(ids(answer), ours_ids, "{prompt}");
        assert_eq!(answer["choices"][0]["text"], ours["text"], "{prompt}");
        assert_eq!(answer["choices"][0]["finish_reason"], ours["finish"], "{prompt}");
        let prompt_ids = ours["prompt_tokens"].as_array().unwrap();
        assert_eq!(answer["usage"]["prompt_tokens"], prompt_ids.len(), "{prompt}");
    }
}

#[test]
fn a_browser_reads_images() {
    let (Some(browser), Some(wllama)) = (chromium::find(), wllama::for_tests()) else { return };
    let folder = images::checkpoint("e2b");
    let [model, mmproj] = images::convert(&folder);
    let pictures: String = images::IMAGES.iter().map(|image| format!("&image=/media/{image}")).collect();
    let text = images::TEXT.replace(' ', "+");
    let more = format!("&mmproj=/model/mmproj-f32.gguf&tokens={}&text={text}{pictures}", images::TOKENS);
    let theirs = visit(&browser, &wllama, &model, &more);
    assert_eq!(theirs["error"], Value::Null, "{theirs:#}");
    let answers = theirs["answers"].as_array().unwrap();
    assert_eq!(answers.len(), images::IMAGES.len());
    for (image, answer) in images::IMAGES.iter().zip(answers) {
        let ours = images::ours(&model, Some(&mmproj), image);
        assert_eq!(answer["choices"][0]["message"]["content"], ours, "{image}");
    }
}

/// A browser that says the same whatever it is given would prove nothing.
#[test]
fn a_damaged_part_does_not_go_unseen() {
    let (Some(browser), Some(wllama)) = (chromium::find(), wllama::for_tests()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let parts = convert(dir.path());
    let (ours, last) = (ours(&parts, PROMPTS[0]), parts.last().unwrap());
    let ours: Vec<u64> = serde_json::from_value(ours["tokens"].clone()).unwrap();
    let whole = fs::read(last).unwrap();

    fs::write(last, &whole[..whole.len() - 100]).unwrap();
    let cut = in_the_browser(&browser, &wllama, &parts);
    assert!(
        cut["error"].is_string() && cut["errors"].to_string().contains("not within the file bounds"),
        "{cut:#}"
    );

    fs::remove_file(last).unwrap();
    let absent = in_the_browser(&browser, &wllama, &parts);
    assert!(absent["error"].is_string(), "{absent:#}");

    // A file that llama.cpp has no reason to refuse: half of the part's weights are zero.
    let mut zeroed = whole;
    let half = zeroed.len() / 2;
    zeroed[half..].fill(0);
    fs::write(last, zeroed).unwrap();
    let other = in_the_browser(&browser, &wllama, &parts);
    assert_eq!(ids(&other["answers"][0]).len(), ours.len());
    assert_ne!(ids(&other["answers"][0]), ours);
}
