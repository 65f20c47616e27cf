//! Models on the hub in place of folders, over a fake hub.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use testkit::hub::{Access, FakeHub, FakeRepo, HubFault, Side};

use crate::support::{self, Run, WEIGHTS, convert, fixture};

const ID: &str = "google/gemma-4-E2B-it";

/// Of the tiny E2B's weights.
const SHA256: &str = "9a2d1c6ecbd11de305ebc2b151057d741fff6d5a3ee33341c1421803854ce67d";

/// A fake hub with the tiny E2B, and an empty cache.
struct Place {
    hub: FakeHub,
    home: TempDir,
}

impl Place {
    fn new() -> Place {
        Place::of(repo())
    }

    fn of(repo: FakeRepo) -> Place {
        Place { hub: FakeHub::start([repo]), home: tempfile::tempdir().unwrap() }
    }

    /// The binary, with the environment of this hub and this cache.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = support::command(args);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HF_")) {
            command.env_remove(name);
        }
        command
            .env("HF_ENDPOINT", self.hub.endpoint())
            .env("HF_HOME", self.home.path().join("hf"))
            .env_remove("TRANSFORMERS_OFFLINE")
            .current_dir(self.home.path());
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args).output().unwrap())
    }

    fn out(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    /// The size of the largest file in the cache.
    fn largest_blob(&self) -> Option<u64> {
        let blobs = self.home.path().join("hf/hub/models--google--gemma-4-E2B-it/blobs");
        fs::read_dir(blobs).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).max()
    }

    fn part(&self) -> Option<std::path::PathBuf> {
        let blobs = self.home.path().join("hf/hub/models--google--gemma-4-E2B-it/blobs");
        let entries = fs::read_dir(blobs).into_iter().flatten().map(|entry| entry.unwrap().path());
        entries.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "incomplete"))
    }
}

fn repo() -> FakeRepo {
    FakeRepo::new(ID).commit_folder(&fixture("e2b")).reference("v1")
}

/// The output and the manifest of a conversion.
fn made(folder: &Path) -> (Vec<u8>, serde_json::Value) {
    let file = fs::read(folder.join("model-q8_0.gguf")).unwrap();
    let manifest = support::json(&folder.join("manifest.json"));
    (file, manifest["artifacts"][0].clone())
}

#[test]
fn an_id_converts_to_the_bytes_of_the_folder() {
    let place = Place::new();
    let e2b = fixture("e2b");
    place.run(&["convert", e2b.to_str().unwrap(), "--type", "q8_0", "-o", "local"]).good();
    place.run(&["convert", &format!("{ID}@main"), "--type", "q8_0", "-o", "remote"]).good();
    let ((local, local_entry), (remote, entry)) = (made(&place.out("local")), made(&place.out("remote")));
    assert!(local == remote);
    let hash_once = ["--hash-input", "always"];
    place.run(&[&["convert", ID, "--type", "q8_0", "-o", "hashed"][..], &hash_once].concat()).good();
    assert_eq!(local_entry["inputs"], made(&place.out("hashed")).1["inputs"]);
    assert_eq!(local_entry["source"], serde_json::Value::Null);
    let commit = repo().commits().pop().unwrap();
    let source = serde_json::json!({
        "endpoint": place.hub.endpoint(), "repository": ID, "revision": "main", "commit": commit,
    });
    assert_eq!(entry["source"], source);

    // again, without the network
    let args = ["convert", ID, "--offline", "--type", "q8_0", "-o", "offline"];
    place.hub.forget();
    place.run(&args).good();
    let revision = ["convert", ID, "--revision", "v1", "--type", "q8_0", "-o", "tagged"];
    assert!(place.hub.seen().is_empty());
    place.run(&revision).good();
    assert_eq!(made(&place.out("tagged")).1["source"]["revision"], "v1");
    assert!(place.hub.seen_of(Side::Cdn, "").is_empty(), "the tag has the same files");
    assert!(made(&place.out("offline")).0 == local);
}

/// The hash of a download is taken as long as nothing has written to the file since, and the manifest says so.
#[test]
fn the_hash_of_a_download_is_not_computed_again() {
    let place = Place::new();
    let weights = |folder: &str, options: &[&str]| {
        place.run(&[&["convert", ID, "--type", "q8_0", "-q", "-o", folder][..], options].concat()).good();
        let entry = made(&place.out(folder)).1;
        entry["inputs"].as_array().unwrap().iter().find(|file| file["name"] == WEIGHTS).unwrap().clone()
    };
    let hashed = serde_json::json!({ "name": WEIGHTS, "bytes": 15_867_864, "sha256": SHA256 });
    let with = |key: &str, value: Option<&str>| {
        let mut entry = hashed.clone();
        match value {
            Some(value) => entry[key] = value.into(),
            None => drop(entry.as_object_mut().unwrap().remove(key)),
        }
        entry
    };
    let downloaded = with("verified_by", Some("download"));
    assert_eq!(weights("streamed", &["--stream"]), downloaded);
    assert_eq!(weights("known", &[]), downloaded);
    assert_eq!(weights("always", &["--hash-input", "always"]), hashed);
    assert_eq!(weights("never", &["--hash-input", "never"]), with("sha256", None));
    for folder in ["known", "never"] {
        let file = place.out(folder).join("model-q8_0.gguf");
        place.run(&["verify", file.to_str().unwrap(), "--against", ID]).good();
    }
    // the time of the file is after that of its link
    let blob = place.home.path().join("hf/hub/models--google--gemma-4-E2B-it/blobs").join(SHA256);
    let file = fs::File::options().append(true).open(blob).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(60)).unwrap();
    assert_eq!(weights("changed", &[]), hashed);
    let run = place.run(&["convert", ID, "--type", "q8_0", "-o", "out", "--hash-input", "no"]);
    assert!(run.refusal(2).contains("error: --hash-input: not a way"), "{}", run.stderr);
}

/// An adapter on the hub, of a model on the hub that is streamed or not.
#[test]
fn an_adapter_may_be_an_id() {
    let golden = testkit::fixtures("golden/lora/plain-e2b");
    let adapter = FakeRepo::new("me/adapter").commit_folder(&golden);
    let place = Place { hub: FakeHub::start([repo(), adapter]), home: tempfile::tempdir().unwrap() };
    let (e2b, golden) = (fixture("e2b"), format!("{}:0.5", golden.display()));
    let convert = |model: &str, adapter: &str, out: &str, more: &[&str]| {
        let args = ["convert", model, "--lora", adapter, "--type", "q8_0", "-o", out];
        place.run(&[&args[..], more].concat()).good();
        made(&place.out(out))
    };
    let (local, _) = convert(e2b.to_str().unwrap(), &golden, "local", &[]);
    let (streamed, entry) = convert(ID, "hf://me/adapter:0.5", "streamed", &["--stream"]);
    assert!(place.largest_blob().is_none_or(|bytes| bytes < 1 << 20), "the model was downloaded");
    assert!(streamed == local);
    assert_eq!(entry["adapters"][0]["scale"], 0.5);
    assert!(convert(ID, "me/adapter:0.5", "remote", &[]).0 == local);
}

#[test]
fn every_command_takes_an_id() {
    let place = Place::new();
    place.run(&["inspect", ID]).good();
    place.run(&["types", ID]).good();
    place.run(&["generate", ID, "-p", "The", "-n", "1"]).good();
    place.run(&["convert", ID, "--type", "q8_0", "-o", "out"]).good();
    place.run(&["verify", "out/model-q8_0.gguf", "--against", ID]).good();
    let json = place.run(&["plan", ID, "--type", "q4_0", "--json", "-q"]).good();
    assert!(json.stderr.is_empty(), "{}", json.stderr);
    json.json();
    let whole = place.hub.seen_of(Side::Cdn, "").into_iter().filter(|seen| seen.range.is_none()).count();
    assert_eq!(whole, 2, "weights and tokenizer, once");
}

/// The outputs and the manifest of `--stream` are those of a download; the cache gets no weights.
#[test]
fn a_stream_converts_to_the_same_bytes() {
    let args = |out| ["convert", ID, "--type", "q8_0", "--mmproj", "bf16", "-o", out];
    let usual = Place::new();
    usual.run(&args("out")).good();
    for fault in [None, Some(HubFault::Cut(5_000_000)), Some(HubFault::status(503)), Some(HubFault::Expired)]
    {
        let place = Place::new();
        if let Some(fault) = fault.clone() {
            // the first answer of the CDN is the header, which ends before the fault
            let (side, times) =
                if matches!(fault, HubFault::Cut(_)) { (Side::Cdn, 2) } else { (Side::Hub, 1) };
            place.hub.plant(side, WEIGHTS, times, fault);
        }
        place.run(&[&args("out")[..], &["--stream"]].concat()).good();
        let [whole, streamed] = [&usual, &place].map(|place| made(&place.out("out")).1);
        for key in ["inputs", "outputs", "plan_sha256", "settings"] {
            assert_eq!(whole[key], streamed[key], "{fault:?}");
        }
        for name in ["model-q8_0.gguf", "mmproj-bf16.gguf"] {
            assert!(
                fs::read(usual.out("out").join(name)).unwrap()
                    == fs::read(place.out("out").join(name)).unwrap()
            );
        }
        assert_eq!(
            place.largest_blob(),
            Some(fs::metadata(fixture("e2b").join("tokenizer.json")).unwrap().len())
        );
    }
    // weights of the cache are read there
    usual.hub.forget();
    usual.run(&[&args("again")[..], &["--stream"]].concat()).good();
    assert!(usual.hub.seen_of(Side::Cdn, "").is_empty());
}

/// Each part of a conversion downloads the ranges that it needs, and joined they are the single run.
#[test]
fn parts_are_streamed() {
    let (usual, what) = (Place::new(), ["--type", "q8_0", "--mmproj", "bf16"]);
    usual.run(&[&["convert", ID, "-o", "out"], &what[..]].concat()).good();
    let machines = [Place::new(), Place::new(), Place::new()];
    let mut folders = Vec::new();
    for (number, machine) in (1..).zip(&machines) {
        let part = format!("{number}/3");
        machine.run(&[&["convert", ID, "--stream", "--part", &part, "-o", "out"], &what[..]].concat()).good();
        let begins: Vec<_> =
            machine.hub.seen_of(Side::Cdn, "").into_iter().filter_map(|seen| seen.range).collect();
        assert!(number == 1 || begins.iter().any(|range| !range.starts_with("bytes=0-")), "{begins:?}");
        folders.push(machine.out("out"));
    }
    let join: Vec<&str> =
        ["join"].into_iter().chain(folders.iter().map(|folder| folder.to_str().unwrap())).collect();
    // the parts come from hubs of different addresses
    assert!(machines[0].run(&join).code == Some(3));
    let one = Place::new();
    for number in 1..=3 {
        let part = format!("{number}/3");
        one.run(&[&["convert", ID, "--stream", "--part", &part, "-o", "out"], &what[..]].concat()).good();
    }
    one.run(&["join", "out"]).good();
    for name in ["model-q8_0.gguf", "mmproj-bf16.gguf"] {
        assert!(
            fs::read(usual.out("out").join(name)).unwrap() == fs::read(one.out("out").join(name)).unwrap()
        );
    }
}

/// Whether weights are on a quantization grid is not known before they arrive, so nothing is said about it.
#[test]
fn a_stream_does_not_judge_the_quantization_grid() {
    let folder = crate::qat::qat(tensor::DType::BF16, |name| name.contains("_proj"));
    let place = Place::of(FakeRepo::new(ID).commit_folder(&folder.path()));
    let args = |out| ["convert", ID, "--type", "q4_0", "-o", out];
    let streamed = place.run(&[&args("streamed")[..], &["--stream"]].concat()).good();
    let whole = place.run(&args("whole")).good();
    const UNKNOWN: &str = "quantization grid (QAT) is not known";
    assert!(streamed.stderr.contains(UNKNOWN), "{}", streamed.stderr);
    assert!(
        whole.stderr.contains("quantization grid") && !whole.stderr.contains(UNKNOWN),
        "{}",
        whole.stderr
    );
}

/// A wrong byte never becomes a file, and what cannot be streamed is refused before anything is asked for.
#[test]
fn a_stream_is_verified_and_refused_where_it_is_not_enough() {
    let place = Place::new();
    let convert = |more: &[&str]| place.run(&[&["convert", ID, "--stream", "-o", "out"], more].concat());
    for more in [&["--recipe", "q4_0-calibrated", "--text", "calib.txt"][..], &["--recipe", "q4_0-qat"]] {
        assert!(convert(more).refusal(2).contains("more than once"));
    }
    assert!(place.hub.seen().is_empty());
    assert!(convert(&["--recipe", "sfp8"]).refusal(2).contains("more than once"));
    let bundle = |more: &[&str]| {
        place.run(&[&["convert", ID, "-o", "x.litertlm", "--recipe", "litertlm-int4"], more].concat())
    };
    assert!(bundle(&["--stream"]).refusal(2).contains("a bundle is made of weights on the disk"));
    // it is downloaded, and is smaller than the graph
    assert!(bundle(&[]).refusal(3).contains("another architecture than that of the graph skeleton"));
    let folder = fixture("e2b");
    let local = place.run(&["convert", folder.to_str().unwrap(), "--stream", "--type", "q8_0", "-o", "out"]);
    assert!(local.refusal(2).contains("--stream"));
    for at in [100, 9_000_000, fs::metadata(folder.join(WEIGHTS)).unwrap().len() as usize - 1] {
        let place = Place::new();
        place.run(&["inspect", ID]).good();
        place.hub.plant(Side::Cdn, WEIGHTS, usize::MAX, HubFault::Flip(at));
        place.run(&["convert", ID, "--stream", "--type", "q8_0", "-o", "out"]).refusal(3);
        assert!(support::names(&place.out("out")).is_empty(), "{at}");
    }
}

/// A plan by headers alone is the plan of the whole model.
#[test]
fn a_plan_downloads_no_weights() {
    let place = Place::new();
    let plan = |args: &[&str]| place.run(&[&["plan", ID, "--json"], args].concat()).good();
    let by_headers = plan(&["--type", "q4_0", "--mmproj", "bf16"]);
    assert!(by_headers.stderr.contains("only the headers were downloaded"), "{}", by_headers.stderr);
    place.run(&["inspect", ID, "--tensors"]).good();
    let bytes = |seen: &testkit::hub::Seen| seen.range.clone().unwrap_or_default();
    let ranges: Vec<_> = place.hub.seen_of(Side::Cdn, "").iter().map(bytes).collect();
    assert_eq!(ranges.iter().filter(|range| *range == "bytes=0-262143").count(), 2, "{ranges:?}");
    assert!(ranges.len() == 3, "two headers and the tokenizer: {ranges:?}");

    // a recipe that samples weights has them downloaded, and then they are used
    let sampled = plan(&["--type", "q4_0", "--set", "types.lattice=auto"]);
    assert!(!sampled.stderr.contains("only the headers"), "{}", sampled.stderr);
    let whole = plan(&["--type", "q4_0", "--mmproj", "bf16"]);
    assert_eq!(by_headers.json(), whole.json());
}

/// Shapes of packed weights are values of small tensors, which are downloaded with the headers.
#[test]
fn headers_of_a_quantised_model_are_enough() {
    let folder = crate::quantised::packed_integers();
    let place = Place::of(FakeRepo::new(ID).commit_folder(&folder.path()));
    let plan = || place.run(&["plan", ID, "--json", "--type", "q8_0"]).good();
    let by_headers = plan();
    assert!(by_headers.stderr.contains("only the headers were downloaded"), "{}", by_headers.stderr);
    place.run(&["inspect", ID, "--tensors"]).good();
    let stream = place.run(&["convert", ID, "--stream", "--type", "q8_0", "-o", "out"]);
    assert!(stream.refusal(2).contains("quantised already"), "{}", stream.stderr);
    let blob = |seen: &testkit::hub::Seen| seen.range.is_none();
    let whole = place.hub.seen_of(Side::Cdn, "").into_iter().filter(blob).count();
    assert_eq!(whole, 1, "the tokenizer");
    place.run(&["convert", ID, "--type", "q8_0", "-o", "remote"]).good();
    convert(&folder.path(), &place.out("local"), &["--type", "q8_0"]).good();
    assert!(made(&place.out("remote")).0 == made(&place.out("local")).0);
    // whether weights are on a quantization grid is a note, and not known from headers
    let [by_headers, whole] = [by_headers, plan()].map(|run| {
        let mut plan = run.json();
        (plan["artifacts"][0].as_object_mut().unwrap().remove("notes").unwrap().to_string(), plan)
    });
    assert!(!by_headers.0.contains("grid") && whole.0.contains("grid"), "{} {}", by_headers.0, whole.0);
    assert_eq!(by_headers.1, whole.1);
}

/// What a training leaves beside an adapter is not downloaded.
#[test]
fn an_adapter_may_have_other_weights_beside_it() {
    let golden = testkit::fixtures("golden/lora/plain-e2b");
    let files = fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().path());
    let files =
        files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()));
    let head = ("v_head.safetensors".to_owned(), vec![1; 100]);
    let adapter = FakeRepo::new("me/adapter").commit(files.chain([head]));
    let place = Place { hub: FakeHub::start([repo(), adapter]), home: tempfile::tempdir().unwrap() };
    place.run(&["plan", ID, "--type", "q4_0", "--lora", "me/adapter"]).good();
    let refused = place.run(&["plan", "me/adapter", "--type", "q4_0"]);
    assert!(refused.refusal(3).contains("a LoRA adapter of"), "{}", refused.stderr);
    assert!(place.hub.seen().iter().all(|seen| !seen.path.contains("v_head")));
}

#[test]
fn a_killed_download_goes_on() {
    let place = Place::new();
    let args = ["convert", ID, "--type", "q8_0", "-o", "out"];
    place.hub.plant(Side::Cdn, WEIGHTS, usize::MAX, HubFault::Stall(5_000_000));
    let mut killed = place.command(&args).spawn().unwrap();
    while place.part().and_then(|part| fs::metadata(part).ok()).is_none_or(|part| part.len() < 5_000_000) {
        assert!(killed.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(10));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!place.out("out").exists());
    place.hub.heal();
    place.hub.forget();
    let run = place.run(&args).good();
    assert!(run.stderr.contains("model.safetensors: continuing at 31 %"), "{}", run.stderr);
    let ranges: Vec<_> = place.hub.seen_of(Side::Cdn, "").into_iter().filter_map(|seen| seen.range).collect();
    assert_eq!(ranges, ["bytes=5000000-"]);
    place.run(&["convert", fixture("e2b").to_str().unwrap(), "--type", "q8_0", "-o", "local"]).good();
    assert!(made(&place.out("local")).0 == made(&place.out("out")).0);
}

#[test]
fn a_flipped_byte_never_becomes_an_output() {
    let place = Place::new();
    place.hub.plant(Side::Cdn, WEIGHTS, usize::MAX, HubFault::Flip(8_000_000));
    let run = place.run(&["convert", ID, "--type", "q8_0", "-o", "out"]);
    assert!(run.refusal(3).contains("wrong SHA-256"), "{}", run.stderr);
    assert!(!place.out("out").exists());
}

#[test]
fn mistakes_are_found_before_the_download() {
    let place = Place::new();
    let run = place.run(&["convert", ID, "--recipe", "no-such-recipe", "-o", "out"]);
    run.refusal(2);
    assert!(place.hub.seen().is_empty(), "{:?}", place.hub.seen());
}

#[test]
fn ids_and_paths_that_are_neither() {
    let place = Place::new();
    let run = place.run(&["inspect", "google/gemma-5"]);
    let said = run.refusal(3);
    assert!(
        said.contains("no such model on") && said.contains("no file or folder google/gemma-5 either"),
        "{said}"
    );
    let run = place.run(&["inspect", "google/gemma-5", "--offline"]);
    assert!(run.refusal(3).contains("offline"), "{}", run.stderr);
    // a folder of the same name wins
    let folder = place.out("google/gemma-4-E2B-it");
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(fixture("e2b"), &folder).unwrap();
    place.hub.forget();
    place.run(&["inspect", ID]).good();
    assert!(place.hub.seen().is_empty());
    place.run(&["inspect", &format!("hf://{ID}")]).good();
    assert!(!place.hub.seen().is_empty());
}

#[test]
fn tokens_come_from_the_option_or_the_environment() {
    let place = Place::of(repo().access(Access::Gated("hf_right".to_owned())));
    place.hub.accept_token("hf_right");
    let run = place.run(&["inspect", ID]);
    assert!(run.refusal(4).contains("accept the terms"), "{}", run.stderr);
    let run = place.run(&["inspect", ID, "--token", "hf_wrong"]);
    assert!(run.refusal(4).contains("the option --token"), "{}", run.stderr);
    let by_variable = place.command(&["inspect", ID]).env("HF_TOKEN", "hf_right").output().unwrap();
    Run::of(by_variable).good();
    place.run(&["inspect", ID, "--token", "hf_right"]).good();
}
