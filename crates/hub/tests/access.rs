//! Repositories: unknown, private, gated, renamed; revisions; tokens.

use base::ErrorKind;
use hub::{HubModel, HubToken, ModelArgument, Settings};
use std::io::ErrorKind as IoKind;
use testkit::hub::{Access, FakeHub, Side};

use crate::support::{ID, Place, WEIGHTS, repo, sharded};

fn with_token(place: &Place, token: &str) -> hub::Hub {
    let token = Some(HubToken::new(token, "the variable HF_TOKEN").unwrap());
    place.client_with(Settings { token, ..place.settings() })
}

fn fetch(place: &Place, token: &str) -> base::Result<hub::Snapshot> {
    with_token(place, token).fetch(&HubModel::parse(ID).unwrap(), 0, &place.log)
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let place = Place::new(repo().access(Access::Gated("hf_right".to_owned())));
    place.hub.accept_token("hf_right");
    fetch(&place, "hf_right").unwrap();
    let seen = place.hub.seen();
    assert!(seen.iter().all(|seen| (seen.side == Side::Hub) == seen.authorization.is_some()), "{seen:?}");
    assert!(
        seen.iter().any(|seen| seen.path.contains("resolve-cache")),
        "the token survives a redirect of the hub"
    );
}

#[test]
fn gated_repositories_say_how_to_get_in() {
    let place = Place::new(repo().access(Access::Gated("hf_right".to_owned())));
    place.hub.accept_token("hf_other");
    let error = place.fetch(ID).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io(IoKind::PermissionDenied));
    let page = format!("{}/{ID}", place.hub.endpoint());
    let help = error.help_text().unwrap();
    assert!(help.contains(&page) && help.contains("HF_TOKEN"), "{error}");
    let error = fetch(&place, "hf_other").unwrap_err();
    let help = error.help_text().unwrap();
    assert!(
        help.contains(&page) && help.contains("with the account of the token from the variable HF_TOKEN"),
        "{error}"
    );
}

#[test]
fn a_rejected_token_names_its_source() {
    let place = Place::new(repo());
    let error = fetch(&place, "hf_wrong").unwrap_err();
    assert!(error.problem().contains("rejects the access token"), "{error}");
    assert!(error.help_text().unwrap().contains("the variable HF_TOKEN"), "{error}");
    assert!(!error.to_string().contains("hf_wrong"), "{error}");
}

#[test]
fn unknown_and_private_repositories() {
    let place = Place::new(repo().access(Access::Private("hf_right".to_owned())));
    place.hub.accept_token("hf_other");
    for id in ["google/gemma-5", ID] {
        let error = place.fetch(id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.problem().contains("no such model") && error.problem().contains("private"), "{error}");
        assert!(error.help_text().unwrap().contains("HF_TOKEN"), "{error}");
    }
    let error = fetch(&place, "hf_other").unwrap_err();
    assert!(error.help_text().unwrap().contains("whether the token"), "{error}");

    // a path that does not exist was tried too
    let ModelArgument::Hub(model) = ModelArgument::parse("no/folder".as_ref()).unwrap() else {
        panic!("no id")
    };
    let error = place.client().fetch(&model, 0, &place.log).unwrap_err();
    assert!(error.help_text().unwrap().contains("no file or folder no/folder either"), "{error}");
}

#[test]
fn revisions() {
    let place = Place::new(repo());
    let commits = repo().commits();
    for (revision, commit) in
        [("main", 1), ("v1", 0), ("refs/pr/1", 0), (commits[0].as_str(), 0), (commits[1].as_str(), 1)]
    {
        let snapshot = place.fetch(&format!("{ID}@{revision}")).unwrap();
        assert_eq!(snapshot.commit, commits[commit], "{revision}");
        assert_eq!(snapshot.revision, revision);
        assert!(snapshot.folder.ends_with(&commits[commit]));
    }
    let error = place.fetch(&format!("{ID}@v2")).unwrap_err();
    assert_eq!((error.kind(), error.problem()), (ErrorKind::Missing, "no such revision"));
    let help = error.help_text().unwrap();
    assert!(help.contains("main") && help.contains("v1"), "{help}");
}

#[test]
fn a_branch_that_moves_does_not_mix_commits() {
    let place = Place::new(repo());
    let commits = repo().commits();
    place.hub.set_ref(ID, "main", &commits[0]);
    let client = place.client();
    let remote = client.open(&HubModel::parse(ID).unwrap(), &place.log).unwrap();
    place.hub.set_ref(ID, "main", &commits[1]);
    let snapshot = remote.fetch(0, &place.log).unwrap();
    assert_eq!(snapshot.commit, commits[0]);
    assert!(
        std::fs::read(snapshot.folder.join(WEIGHTS)).unwrap()
            == crate::support::noise(crate::support::SIZE, 1)
    );
    let names_main = |path: &str| path.contains("main");
    assert!(!place.hub.seen_of(Side::Hub, "resolve").iter().any(|seen| names_main(&seen.path)));
}

#[test]
fn renamed_repositories_get_their_new_name() {
    let hub = FakeHub::start([repo()]);
    hub.rename("google/old-name", ID);
    let place = Place::of(hub);
    for id in ["google/old-name", "Google/gemma-4-e2b-IT", ID] {
        let snapshot = place.fetch(id).unwrap();
        assert_eq!(snapshot.id, ID);
        assert!(snapshot.folder.starts_with(place.repo_folder()));
    }
    let downloads = place.hub.seen_of(Side::Cdn, "").len();
    assert_eq!(downloads, 2, "one download of each large file");
}

#[test]
fn the_list_has_pages() {
    let place = Place::new(sharded());
    place.hub.page_size(3);
    let snapshot = place.fetch(ID).unwrap();
    assert!(place.hub.seen_of(Side::Hub, "/tree/").len() > 3);
    let expected = [
        "LICENSE",
        "README.md",
        "additional_chat_templates/tool use.jinja",
        "config.json",
        "model.safetensors.index.json",
        "s-1.safetensors",
        "s-2.safetensors",
        "s-3.safetensors",
        "tokenizer.json",
    ];
    assert_eq!(snapshot.files, expected);
    for name in expected {
        assert!(snapshot.folder.join(name).is_file(), "{name}");
    }
    for name in ["pytorch_model.bin", "original", "old.safetensors", ".gitattributes"] {
        assert!(!snapshot.folder.join(name).exists(), "{name}");
    }
    let (total, done) = place.log.bytes();
    assert_eq!(total, done);
}

#[test]
fn a_repository_without_safetensors() {
    let gguf = testkit::hub::FakeRepo::new(ID)
        .commit([("config.json", b"{}".to_vec()), ("m-Q4_0.gguf", b"GGUF".to_vec())]);
    let error = Place::new(gguf).fetch(ID).unwrap_err();
    assert_eq!(error.fault(), base::Fault::Unsupported);
    assert!(error.help_text().unwrap().contains("original checkpoint"), "{error}");
}
