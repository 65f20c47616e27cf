//! Faults of the network and of servers: the right bytes arrive, or an error says why not. Wrong bytes never get a name.

use std::time::{Duration, SystemTime};

use base::{ErrorKind, Fault as At};
use testkit::hub::{HubFault, Side};

use crate::support::{Place, SIZE, WEIGHTS, noise, repo};

const FOR_EVER: usize = usize::MAX;

/// A fetch of the first commit with one fault, which it has to survive.
fn survives(side: Side, part: &str, times: usize, fault: HubFault) -> Place {
    let place = Place::new(repo());
    place.hub.plant(side, part, times, fault.clone());
    let model = "google/gemma-4-E2B-it@v1";
    let silent = matches!(fault, HubFault::Stall(_));
    let fetched = if silent { place.fetch_impatiently(model) } else { place.fetch(model) };
    let snapshot = fetched.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    assert!(std::fs::read(snapshot.folder.join(WEIGHTS)).unwrap() == noise(SIZE, 1), "{fault:?}");
    place.check_blobs();
    let (total, done) = place.log.bytes();
    assert_eq!(total, done, "{fault:?}: progress ends at its total");
    place
}

/// A fetch that has to fail; no blob of the weights may exist.
fn fails(side: Side, part: &str, times: usize, fault: HubFault) -> (Place, base::Error) {
    let place = Place::new(repo());
    place.hub.plant(side, part, times, fault.clone());
    let error = place.fetch("google/gemma-4-E2B-it@v1").expect_err(&format!("{fault:?}"));
    let weights = testkit::hub::sha256(&noise(SIZE, 1));
    assert!(!place.blobs().contains(&weights), "{fault:?}");
    place.check_blobs();
    let snapshots = crate::support::names(&place.repo_folder().join("snapshots"));
    for commit in snapshots {
        assert!(!place.repo_folder().join("snapshots").join(commit).join(WEIGHTS).exists(), "{fault:?}");
    }
    (place, error)
}

fn ranges(place: &Place) -> Vec<Option<String>> {
    let weights = testkit::hub::sha256(&noise(SIZE, 1));
    place.hub.seen_of(Side::Cdn, &weights).into_iter().map(|seen| seen.range).collect()
}

#[test]
fn a_cut_body_continues_with_a_range() {
    let place = survives(Side::Cdn, WEIGHTS, 1, HubFault::Cut(1_234_567));
    assert_eq!(ranges(&place), [None, Some("bytes=1234567-".to_owned())]);
    let resolved =
        place.hub.seen_of(Side::Hub, "resolve/").into_iter().filter(|seen| seen.path.ends_with(WEIGHTS));
    assert_eq!(resolved.count(), 2, "the hub signs a fresh URL");
    assert!(place.log.notes().contains("1234567 of 3000000 bytes"), "{}", place.log.notes());
}

#[test]
fn cuts_that_make_progress_are_survived_without_limit() {
    let place = survives(Side::Cdn, WEIGHTS, FOR_EVER, HubFault::Cut(200_000));
    assert_eq!(ranges(&place).len(), SIZE.div_ceil(200_000));
    assert!(place.waits().iter().all(|wait| *wait < 1.5), "the count begins anew: {:?}", place.waits());
}

#[test]
fn a_flipped_byte_never_becomes_a_file() {
    let place = survives(Side::Cdn, WEIGHTS, 1, HubFault::Flip(77));
    assert_eq!(ranges(&place), [None, None], "from the beginning");
    assert!(place.log.notes().contains("wrong SHA-256"), "{}", place.log.notes());

    let (place, error) = fails(Side::Cdn, WEIGHTS, FOR_EVER, HubFault::Flip(77));
    assert_eq!(ranges(&place).len(), 2, "one fresh attempt");
    assert_eq!(error.fault(), At::Malformed);
    let mut flipped = noise(SIZE, 1);
    flipped[77] ^= 1;
    let hashes = (testkit::hub::sha256(&noise(SIZE, 1)), testkit::hub::sha256(&flipped));
    assert_eq!(error.expected_found(), Some((hashes.0.as_str(), hashes.1.as_str())));
    assert!(!place.blobs().iter().any(|name| name.contains("gemma-convert")), "{:?}", place.blobs());
}

#[test]
fn a_small_file_is_verified_too() {
    survives(Side::Hub, "resolve-cache", 1, HubFault::Flip(3));
    let place = Place::new(repo());
    place.hub.plant(Side::Hub, "README.md", FOR_EVER, HubFault::Flip(3));
    let error = place.fetch("google/gemma-4-E2B-it").unwrap_err();
    assert!(error.problem().contains("SHA-1"), "{error}");
}

#[test]
fn a_short_body_is_not_a_file() {
    survives(Side::Cdn, WEIGHTS, 1, HubFault::Short(SIZE / 2));
    let (_, error) = fails(Side::Cdn, WEIGHTS, FOR_EVER, HubFault::Short(SIZE / 2));
    assert_eq!(error.expected_found(), Some(("3000000 bytes", "1500000 bytes")));
}

#[test]
fn ranges_that_are_ignored_or_shifted() {
    let place = Place::new(repo());
    place.hub.plant(Side::Cdn, WEIGHTS, 1, HubFault::Cut(1_000_000));
    place.hub.plant(Side::Cdn, WEIGHTS, FOR_EVER, HubFault::NoRange);
    let snapshot = place.fetch("google/gemma-4-E2B-it@v1").unwrap();
    assert!(std::fs::read(snapshot.folder.join(WEIGHTS)).unwrap() == noise(SIZE, 1));
    assert_eq!(ranges(&place), [None, Some("bytes=1000000-".to_owned())]);

    let place = Place::new(repo());
    place.hub.plant(Side::Cdn, WEIGHTS, 1, HubFault::Cut(1_000_000));
    place.hub.plant(Side::Cdn, WEIGHTS, 1, HubFault::OtherRange);
    let snapshot = place.fetch("google/gemma-4-E2B-it@v1").unwrap();
    assert!(std::fs::read(snapshot.folder.join(WEIGHTS)).unwrap() == noise(SIZE, 1));
    assert!(place.log.notes().contains("another range"), "{}", place.log.notes());
}

#[test]
fn passing_statuses_are_waited_for() {
    for status in [408, 429, 500, 502, 503, 504] {
        for (side, part) in [(Side::Cdn, WEIGHTS), (Side::Hub, "/tree/"), (Side::Hub, "/revision/")] {
            let place = survives(side, part, 1, HubFault::status(status));
            assert_eq!(place.waits().len(), 1, "{status}");
        }
    }
    let (place, error) = fails(Side::Cdn, WEIGHTS, FOR_EVER, HubFault::status(500));
    assert!(error.problem().contains("500"), "{error}");
    let waits: Vec<_> = place.waits().iter().map(|wait| wait.floor()).collect();
    assert_eq!(waits, [1.0, 2.0, 4.0, 8.0, 16.0]);
}

#[test]
fn a_server_says_how_long_to_wait() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
    for (name, value, least, most) in [
        ("Retry-After", "2", 2.0, 2.0),
        ("Retry-After", date.as_str(), 60.0, 101.0),
        ("RateLimit", "\"resolvers\";r=0;t=41", 42.0, 42.0),
    ] {
        for status in [429, 503] {
            let place = survives(Side::Hub, "resolve/", 1, HubFault::status_with(status, name, value));
            let wait = place.waits()[0];
            assert!(wait >= least && wait <= most, "{name}: {value}: {wait}");
        }
    }
    let (place, error) = fails(Side::Hub, WEIGHTS, 1, HubFault::status_with(429, "Retry-After", "86400"));
    assert!(error.help_text().unwrap().contains("1440 minutes"), "{error}");
    assert!(place.waits().is_empty());
}

#[test]
fn an_expired_url_is_signed_anew() {
    let place = survives(Side::Hub, WEIGHTS, 1, HubFault::Expired);
    assert_eq!(place.waits(), [0.0]);
    let (_, error) = fails(Side::Hub, WEIGHTS, FOR_EVER, HubFault::Expired);
    assert!(error.problem().contains("403"), "{error}");
    assert!(!error.to_string().contains("signature"), "{error}");
    let (_, error) = fails(Side::Cdn, WEIGHTS, FOR_EVER, HubFault::status(403));
    assert!(error.problem().contains("403"), "{error}");
}

#[test]
fn a_stalled_body_is_cut_and_continued() {
    let place = survives(Side::Cdn, WEIGHTS, 1, HubFault::Stall(500_000));
    assert!(ranges(&place).contains(&Some("bytes=500000-".to_owned())), "{:?}", ranges(&place));
    survives(Side::Hub, "/tree/", 1, HubFault::Stall(10));
}

#[test]
fn a_portal_is_not_a_hub() {
    for part in ["/revision/", "resolve/"] {
        let (_, error) = fails(Side::Hub, part, FOR_EVER, HubFault::Portal);
        assert!(error.help_text().unwrap().contains("login page"), "{error}");
    }
    let (_, error) = fails(Side::Cdn, WEIGHTS, FOR_EVER, HubFault::Portal);
    assert!(error.problem().contains("another size"), "{error}");
    survives(Side::Cdn, WEIGHTS, 1, HubFault::Portal);
}

#[test]
fn a_list_stays_inside_of_its_folder() {
    for path in ["../../x.json", "/tmp/x.json", "a/../config.json"] {
        let (_, error) = fails(Side::Hub, "/tree/", FOR_EVER, HubFault::Path(path));
        assert_eq!(error.fault(), At::Malformed, "{error}");
        assert!(error.problem().contains("outside"), "{error}");
    }
}

#[test]
fn a_full_disk_is_found_before_the_first_byte() {
    let (place, error) = fails(Side::Hub, "/tree/", FOR_EVER, HubFault::Size(1 << 60));
    assert_eq!(error.fault(), At::Target);
    assert!(error.problem().contains("too full"), "{error}");
    assert!(place.hub.seen_of(Side::Cdn, "").is_empty());
    // the reserve counts too
    let place = Place::new(repo());
    let model = hub::HubModel::parse("google/gemma-4-E2B-it").unwrap();
    let error = place.client().fetch(&model, 1 << 60, &place.log).unwrap_err();
    assert!(error.problem().contains("too full"), "{error}");
}

#[test]
fn no_network_is_said_soon() {
    let place = Place::new(repo());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = hub::Settings { endpoint: format!("http://{nobody}"), ..place.settings() };
    let client = place.client_with(settings);
    let model = hub::HubModel::parse("google/gemma-4-E2B-it").unwrap();
    let error = client.fetch(&model, 0, &place.log).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io(_)), "{error:?}");
    assert_eq!(place.waits().len(), 2);
    // with a complete cache, the error says so
    place.fetch("google/gemma-4-E2B-it").unwrap();
    let error = client.fetch(&model, 0, &place.log).unwrap_err();
    assert!(error.help_text().unwrap().contains("HF_HUB_OFFLINE=1"), "{error}");
}

#[test]
fn a_cache_that_cannot_be_written() {
    let place = Place::new(repo());
    let file = place.folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let settings = hub::Settings { cache: file.join("cache"), ..place.settings() };
    let model = hub::HubModel::parse("google/gemma-4-E2B-it").unwrap();
    let error = place.client_with(settings).fetch(&model, 0, &place.log).unwrap_err();
    assert_eq!(error.fault(), At::Target);
    assert!(error.help_text().unwrap().contains("HF_HUB_CACHE"), "{error}");
}
