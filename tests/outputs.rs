//! What a run leaves behind: the same bytes whatever the threads, the vector instructions, the number of outputs or the
//! run; the manifest that says what they are; ordinary permissions. Whether the bytes are the right ones is for
//! `bytes.rs` to say.

#![allow(clippy::print_stdout, reason = "shown only when a test fails: what it was at")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{
    self, Folder, Run, WEIGHTS, command, convert, convert_args, fixture, names, run, sha256,
};
use serde_json::{Value, json};

/// SHA-256 of all files in a folder.
fn digests(folder: &Path) -> BTreeMap<String, String> {
    names(folder).into_iter().map(|name| (name.clone(), sha256(&folder.join(name)))).collect()
}

fn manifest(folder: &Path) -> Value {
    support::json(&folder.join("manifest.json"))
}

/// One type at a time, then all in one pass at every vector level and with several numbers of threads.
#[test]
fn neither_threads_nor_vectors_nor_company_change_a_byte() {
    let home = tempfile::tempdir().unwrap();
    let model = fixture("31b");
    let types = ["q4_0", "q8_0", "q6_k", "q4_k_m", "iq4_xs", "f16", "bf16"];
    let mut good = BTreeMap::new();
    for preset in types {
        let out = home.path().join(preset);
        convert(&model, &out, &["--type", preset]).good();
        let file = format!("model-{preset}.gguf");
        good.insert(file.clone(), sha256(&out.join(file)));
    }
    let all: Vec<_> = types.iter().flat_map(|preset| ["--type", *preset]).collect();
    let mut manifests = Vec::new();
    for simd in testkit::available("SIMD level", quant::Simd::ALL, quant::Simd::is_available) {
        for threads in ["1", "2", "7"] {
            let simd = format!("{simd:?}").to_lowercase();
            println!("{simd}, {threads} threads");
            let out = home.path().join(format!("{simd}-{threads}"));
            convert(&model, &out, &[all.as_slice(), &["--simd", &simd, "--threads", threads]].concat())
                .good();
            let mut found = digests(&out);
            manifests.push(found.remove("manifest.json").unwrap());
            assert_eq!(found, good);
        }
    }
    manifests.dedup();
    assert_eq!(manifests.len(), 1, "not even the manifest depends on them");
}

/// The same weights in one file and in shards.
#[test]
fn shards_do_not_change_a_byte() {
    let folder = Folder::of("31b");
    convert(&folder.path(), &folder.home().join("whole"), &["--type", "q4_0"]).good();
    folder.shard(3, |_| {});
    convert(&folder.path(), &folder.out(), &["--type", "q4_0"]).good();
    let [one, three] = [folder.home().join("whole"), folder.out()].map(|out| out.join("model-q4_0.gguf"));
    assert_eq!(sha256(&one), sha256(&three));
    let inputs = manifest(&folder.out())["artifacts"][0]["inputs"].take();
    let shards = (0..3).map(|n| support::shard_name(n, 3));
    let read = [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        support::INDEX,
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let read = read.into_iter().map(str::to_owned).filter(|name| folder.file(name).exists());
    let expected: Vec<_> = shards.chain(read).map(|name| described(&folder.path(), &name)).collect();
    assert_eq!(inputs, Value::from(expected));
}

/// A file as the manifest describes it.
fn described(folder: &Path, name: &str) -> Value {
    let path = folder.join(name);
    json!({ "name": name, "bytes": fs::metadata(&path).unwrap().len(), "sha256": sha256(&path) })
}

#[test]
fn the_manifest_says_what_was_made_of_what() {
    let folder = Folder::of("e2b");
    let (model, out) = (folder.path(), folder.out());
    let args = ["--type", "q4_0", "--split-max-size", "1MB", "--set", "metadata.name=Tiny"];
    let run_of_convert = convert(&model, &out, &args).good();
    let plan = run([&["--json", "plan", model.to_str().unwrap()][..], &args].concat()).good().json();

    let parts: Vec<_> = names(&out).into_iter().filter(|name| name != "manifest.json").collect();
    let outputs: Vec<_> = parts.iter().map(|name| described(&out, name)).collect();
    let read = [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let inputs: Vec<_> = [WEIGHTS].into_iter().chain(read).map(|name| described(&model, name)).collect();
    let expected = json!({ "artifacts": [{
        "recipe": "q4_0",
        "settings": {
            "unused_kv": "keep",
            "types": { "preset": "q4_0", "via": "bf16" },
            "output": { "split_max_size": "1MB" },
            "metadata": { "name": "Tiny" },
        },
        "tool": concat!("gemma-convert ", env!("CARGO_PKG_VERSION")),
        "plan_sha256": plan["plan_sha256"],
        "inputs": inputs,
        "outputs": outputs,
    }] });
    assert!(parts.len() > 2 && plan["plan_sha256"].as_str().unwrap().len() == 64);
    assert_eq!(manifest(&out), expected);
    for file in &outputs {
        assert!(run_of_convert.stdout.contains(file["sha256"].as_str().unwrap()), "not shown: {file}");
    }
    // sizes are known before anything is written
    let planned: Vec<_> = plan["artifacts"][0]["files"].as_array().unwrap().iter().collect();
    let planned: Vec<_> = planned.iter().map(|file| [&file["name"], &file["bytes"]]).collect();
    let written: Vec<_> = outputs.iter().map(|file| [&file["name"], &file["bytes"]]).collect();
    assert_eq!(planned, written);
    // the document of `convert --json` has the same entries
    let again = convert(&model, &out, &[args.as_slice(), &["--force", "--json"]].concat()).good();
    assert_eq!(again.json()["artifacts"], expected["artifacts"]);
    assert_eq!(manifest(&out), expected);
}

#[test]
fn the_manifest_of_a_folder_grows() {
    let folder = Folder::of("31b");
    let (model, out) = (folder.path(), folder.out());
    let recipes = || -> Vec<_> {
        let entries = manifest(&out)["artifacts"].as_array().unwrap().clone();
        entries.iter().map(|entry| (entry["recipe"].clone(), entry["outputs"][0].clone())).collect()
    };
    let entry = |preset: &str| (json!(preset), described(&out, &format!("model-{preset}.gguf")));
    convert(&model, &out, &["--type", "q4_0"]).good();
    convert(&model, &out, &["--type", "q8_0", "--type", "f16"]).good();
    assert_eq!(recipes(), ["q4_0", "q8_0", "f16"].map(entry));
    let before = recipes();
    convert(&model, &out, &["--type", "q4_0", "--set", "metadata.name=Other", "--force"]).good();
    assert_eq!(recipes(), ["q8_0", "f16", "q4_0"].map(entry));
    assert_ne!(recipes()[2], before[0]);
    // a file asked for by name has a manifest of its own
    let own = out.join("own.gguf");
    convert(&model, &own, &["--type", "q4_0"]).good();
    assert_eq!(recipes().len(), 3);
    let beside = support::json(&out.join("own.gguf.manifest.json"));
    assert_eq!(beside["artifacts"][0]["outputs"], json!([described(&out, "own.gguf")]));
}

/// Runs beside each other in one folder each find their entry in the manifest.
#[test]
fn runs_beside_each_other_share_the_manifest() {
    let folder = Folder::of("31b");
    let types = ["q4_0", "q8_0", "q5_0", "f16", "bf16", "q5_1"];
    let runs = types.map(|preset| {
        command(convert_args(&folder.path(), &folder.out(), &["--type", preset])).spawn().unwrap()
    });
    for run in runs {
        Run::of(run.wait_with_output().unwrap()).good();
    }
    let entries = manifest(&folder.out())["artifacts"].as_array().unwrap().clone();
    let mut found: Vec<_> = entries.iter().map(|entry| entry["recipe"].as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, ["bf16", "f16", "q4_0", "q5_0", "q5_1", "q8_0"]);
    assert_eq!(names(&folder.out()).len(), 7);
}

#[test]
fn files_have_the_permissions_of_the_umask() {
    let folder = Folder::of("31b");
    for (umask, mode) in [("022", 0o644), ("027", 0o640), ("000", 0o666)] {
        let out = folder.home().join(umask);
        let tool = command(convert_args(&folder.path(), &out, &["--type", "q4_0"]));
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]);
        Run::of(shell.arg(tool.get_program()).args(tool.get_args()).output().unwrap()).good();
        for name in ["model-q4_0.gguf", "manifest.json"] {
            let found = fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{name} under umask {umask}: {found:o}");
        }
    }
}
