//! huggingface_hub of Python: its cache and ours are the same.

use std::process::Command;

use xtask::oracle::Oracle;

use crate::support::{ID, Place, WEIGHTS, noise, repo, sharded};

/// Runs Python with huggingface_hub at the fake hub, with the cache of `place`. `None` where there is no such Python.
fn python(place: &Place, script: &str, offline: bool) -> Option<String> {
    let oracle = Oracle::for_tests()?;
    let output = Command::new(&oracle.python)
        .args(["-c", &format!("import huggingface_hub as h\n{script}")])
        .env("HF_ENDPOINT", place.hub.endpoint())
        .env("HF_HUB_CACHE", place.folder.path())
        .env("HF_HOME", place.folder.path().join("home"))
        .env("HF_HUB_DISABLE_XET", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
        .env_remove("HF_TOKEN")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[test]
fn python_reads_our_cache_offline() {
    let place = Place::new(sharded());
    let ours = place.fetch(ID).unwrap();
    place.hub.forget();
    let needed = "['*.json', 's-*.safetensors', 'README.md', 'LICENSE', '*.jinja']";
    let script = format!("print(h.snapshot_download('{ID}', allow_patterns={needed}))");
    let Some(theirs) = python(&place, &script, true) else { return };
    assert_eq!(theirs, ours.folder.to_str().unwrap());
    let script = format!("print(h.hf_hub_download('{ID}', 's-2.safetensors'))");
    assert_eq!(python(&place, &script, true).unwrap(), ours.folder.join("s-2.safetensors").to_str().unwrap());
    assert!(place.hub.seen().is_empty());
    // and finds nothing to complain about, or to fetch again
    let script = "print(len(h.scan_cache_dir().warnings), [r.repo_id for r in h.scan_cache_dir().repos])";
    assert_eq!(python(&place, script, true).unwrap(), format!("0 ['{ID}']"));
    let script = format!("print(h.hf_hub_download('{ID}', 's-2.safetensors'))");
    python(&place, &script, false).unwrap();
    assert!(place.hub.seen().iter().all(|seen| seen.method == "HEAD"), "{:?}", place.hub.seen());
}

#[test]
fn python_sees_a_file_of_ours_that_is_missing() {
    let place = Place::new(sharded());
    let ours = place.fetch(ID).unwrap();
    std::fs::remove_file(ours.folder.join("s-1.safetensors")).unwrap();
    let script = format!(
        "try:\n  h.snapshot_download('{ID}', allow_patterns=['s-*.safetensors'])\n  print('complete')\n\
         except Exception as e:\n  print(type(e).__name__)"
    );
    let Some(said) = python(&place, &script, true) else { return };
    assert_ne!(said, "complete", "the list of files in trees/ is read");
}

#[test]
fn we_read_the_cache_of_python_offline() {
    let place = Place::new(repo());
    let script = format!("print(h.snapshot_download('{ID}', revision='v1'))");
    let Some(theirs) = python(&place, &script, false) else { return };
    place.hub.forget();
    let ours = place.offline("google/gemma-4-E2B-it@v1").unwrap();
    assert_eq!(ours.folder.to_str().unwrap(), theirs);
    assert!(std::fs::read(ours.folder.join(WEIGHTS)).unwrap() == noise(crate::support::SIZE, 1));
    assert!(place.hub.seen().is_empty());
    // online, nothing is missing
    let again = place.fetch("google/gemma-4-E2B-it@v1").unwrap();
    assert_eq!(again, ours);
    assert!(place.hub.seen_of(testkit::hub::Side::Hub, "resolve").is_empty());
}

#[test]
fn both_write_the_same_names() {
    let (ours, theirs) = (Place::new(repo()), Place::new(repo()));
    let script = format!("h.snapshot_download('{ID}')");
    let Some(_) = python(&theirs, &script, false) else { return };
    ours.fetch(ID).unwrap();
    let listed = |place: &Place| {
        let commit = repo().commits().pop().unwrap();
        let root = place.repo_folder();
        let tree = std::fs::read(root.join("trees").join(format!("{commit}.json"))).unwrap();
        let tree: serde_json::Value = serde_json::from_slice(&tree).unwrap();
        let link = std::fs::read_link(root.join("snapshots").join(&commit).join(WEIGHTS)).unwrap();
        (tree, link, std::fs::read(root.join("refs/main")).unwrap())
    };
    assert_eq!(listed(&ours), listed(&theirs));
    let theirs = theirs.blobs();
    assert!(ours.blobs().iter().all(|blob| theirs.contains(blob)), "{:?} {theirs:?}", ours.blobs());
}
