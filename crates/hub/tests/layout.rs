//! The cache on disk: written as others write it, read as others leave it.

use std::fs;
use std::path::Path;

use base::ErrorKind;
use testkit::hub::{Side, git_sha1, sha256};

use crate::support::{ID, Place, SIZE, WEIGHTS, names, noise, repo, sharded};

#[test]
fn the_layout_is_the_standard_one() {
    let place = Place::new(repo());
    let commits = repo().commits();
    let snapshot = place.fetch("google/gemma-4-E2B-it@refs/pr/1").unwrap();
    let root = place.repo_folder();
    assert_eq!(names(place.folder.path()), [".locks", "CACHEDIR.TAG", "models--google--gemma-4-E2B-it"]);
    assert_eq!(names(&root), ["blobs", "refs", "snapshots", "trees"]);
    assert_eq!(fs::read_to_string(root.join("refs/refs/pr/1")).unwrap(), commits[0]);
    assert_eq!(snapshot.folder, root.join("snapshots").join(&commits[0]));
    let weights = sha256(&noise(SIZE, 1));
    let config = git_sha1(b"{\"model_type\": \"gemma4\"}");
    for (file, target) in [
        (WEIGHTS, format!("../../blobs/{weights}")),
        ("config.json", format!("../../blobs/{config}")),
        ("additional_chat_templates/tool use.jinja", format!("../../../blobs/{}", git_sha1(b"{{ x }}"))),
    ] {
        assert_eq!(fs::read_link(snapshot.folder.join(file)).unwrap(), Path::new(&target));
    }
    let tree: serde_json::Value =
        serde_json::from_slice(&fs::read(root.join("trees").join(format!("{}.json", commits[0]))).unwrap())
            .unwrap();
    assert_eq!(tree["format_version"], 1);
    assert_eq!(tree["files"].as_object().unwrap().len(), 9, "all files, also those that were not needed");
    assert_eq!(tree["files"][WEIGHTS]["lfs_sha256"], weights);
    assert_eq!(tree["files"]["config.json"]["blob_id"], config);
    // a commit needs no reference
    place.fetch(&format!("{ID}@{}", commits[1])).unwrap();
    assert_eq!(names(&root.join("refs")), ["refs"]);
}

#[test]
fn what_is_there_is_not_asked_for_again() {
    let place = Place::new(repo());
    let first = place.fetch(ID).unwrap();
    place.hub.forget();
    assert_eq!(place.fetch(ID).unwrap(), first);
    let paths: Vec<_> = place.hub.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, [format!("/api/models/{ID}/revision/main")], "where main points, and nothing else");
    place.hub.forget();
    place.fetch(&format!("{ID}@{}", first.commit)).unwrap();
    assert!(place.hub.seen().is_empty(), "a commit does not change");
    // the other commit shares all files but one
    place.fetch("google/gemma-4-E2B-it@v1").unwrap();
    assert_eq!(place.hub.seen_of(Side::Hub, "resolve").len(), 1);
}

#[test]
fn offline_reads_the_cache_and_asks_nobody() {
    let place = Place::new(sharded());
    let error = place.offline(ID).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert!(error.help_text().unwrap().contains("HF_HUB_OFFLINE"), "{error}");
    let snapshot = place.fetch(ID).unwrap();
    place.hub.forget();
    assert_eq!(place.offline(ID).unwrap(), snapshot);
    let by_commit = place.offline(&format!("{ID}@{}", snapshot.commit)).unwrap();
    assert_eq!(by_commit.folder, snapshot.folder);
    // without the list of files, the index says which files belong to it
    fs::remove_dir_all(place.repo_folder().join("trees")).unwrap();
    assert_eq!(place.offline(ID).unwrap(), snapshot);
    fs::remove_file(snapshot.folder.join("s-2.safetensors")).unwrap();
    let error = place.offline(ID).unwrap_err();
    assert!(error.to_string().contains("s-2.safetensors"), "{error}");
    assert!(place.hub.seen().is_empty());
}

#[test]
fn a_partial_snapshot_is_not_a_model() {
    let place = Place::new(sharded());
    let snapshot = place.fetch(ID).unwrap();
    for name in ["config.json", "s-3.safetensors", "model.safetensors.index.json"] {
        let link = snapshot.folder.join(name);
        let target = fs::read_link(&link).unwrap();
        fs::remove_file(&link).unwrap();
        let error = place.offline(ID).unwrap_err();
        assert!(error.place().contains(name), "{error}");
        place.hub.forget();
        place.fetch(ID).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), target);
        assert!(place.hub.seen_of(Side::Hub, "resolve").is_empty(), "the blob was there");
    }
}

#[test]
fn a_blob_of_another_size_is_replaced() {
    // as hf-hub 1.0 leaves an error page under the name of the weights
    let place = Place::new(repo());
    let snapshot = place.fetch(ID).unwrap();
    let blob = fs::canonicalize(snapshot.folder.join(WEIGHTS)).unwrap();
    fs::write(&blob, "<html>an error page</html>").unwrap();
    assert!(place.offline(ID).is_err());
    place.fetch(ID).unwrap();
    assert_eq!(fs::metadata(&blob).unwrap().len(), SIZE as u64);
    place.check_blobs();
}

#[test]
fn folders_with_two_links_and_without_links() {
    let place = Place::new(repo());
    let snapshot = place.fetch(ID).unwrap();
    let link = snapshot.folder.join(WEIGHTS);
    let blob = fs::canonicalize(&link).unwrap();
    // a store that several repositories share: the blob is a link, too
    let shared = place.folder.path().join("blobs/ab");
    fs::create_dir_all(shared.parent().unwrap()).unwrap();
    fs::rename(&blob, &shared).unwrap();
    std::os::unix::fs::symlink("../../blobs/ab", &blob).unwrap();
    place.hub.forget();
    assert_eq!(place.offline(ID).unwrap(), snapshot);
    assert_eq!(place.fetch(ID).unwrap(), snapshot);
    // a file system without links: the snapshot has the file itself
    fs::remove_file(&link).unwrap();
    fs::remove_file(&blob).unwrap();
    fs::rename(&shared, &link).unwrap();
    assert_eq!(place.offline(ID).unwrap(), snapshot);
    assert_eq!(place.fetch(ID).unwrap(), snapshot);
    assert!(place.hub.seen_of(Side::Hub, "resolve").is_empty());
}
