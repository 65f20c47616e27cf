//! Downloads that go on: in another client, in another process, beside another process.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use hub::{Hub, HubModel, Settings};
use testkit::hub::{HubFault, Side, sha256};

use crate::support::{ID, Log, Place, SIZE, WEIGHTS, names, noise, repo};

fn weights() -> String {
    let mut second = noise(SIZE, 1);
    second[1000] ^= 1;
    sha256(&second)
}

fn ranges(place: &Place) -> Vec<Option<String>> {
    place.hub.seen_of(Side::Cdn, &weights()).into_iter().map(|seen| seen.range).collect()
}

fn unfinished(place: &Place) -> std::path::PathBuf {
    place.repo_folder().join("blobs").join(format!("{}.gemma-convert.incomplete", weights()))
}

/// A cache in which a download has stopped after `bytes`.
fn stopped_after(bytes: usize) -> Place {
    let place = Place::new(repo());
    place.hub.plant(Side::Cdn, WEIGHTS, 1, HubFault::Cut(bytes));
    place.hub.plant(Side::Cdn, WEIGHTS, usize::MAX, HubFault::status(500));
    place.fetch(ID).unwrap_err();
    assert_eq!(std::fs::metadata(unfinished(&place)).unwrap().len(), bytes as u64);
    place.hub.heal();
    place.hub.forget();
    place.log.bytes();
    place
}

#[test]
fn another_client_goes_on_at_the_offset() {
    let place = stopped_after(2_000_000);
    let snapshot = place.fetch(ID).unwrap();
    assert_eq!(ranges(&place), [Some("bytes=2000000-".to_owned())]);
    assert!(place.log.notes().contains("model.safetensors: continuing at 66 %"), "{}", place.log.notes());
    assert_eq!(sha256(&std::fs::read(snapshot.folder.join(WEIGHTS)).unwrap()), weights());
    let (total, done) = place.log.bytes();
    assert!(total >= SIZE as u64 && total == done, "{total} {done}");
    assert!(!place.blobs().iter().any(|name| name.contains("gemma-convert")), "{:?}", place.blobs());
}

#[test]
fn a_part_that_belongs_to_something_else_is_not_used() {
    for damage in ["record", "longer", "no record"] {
        let place = stopped_after(2_000_000);
        let record = unfinished(&place).with_extension("json");
        match damage {
            "record" => {
                let text = std::fs::read_to_string(&record).unwrap();
                std::fs::write(&record, text.replace("3000000", "3000001")).unwrap();
            }
            "longer" => std::fs::write(unfinished(&place), noise(SIZE + 1, 9)).unwrap(),
            _ => std::fs::remove_file(&record).unwrap(),
        }
        place.fetch(ID).unwrap();
        assert_eq!(ranges(&place), [None], "{damage}");
    }
}

#[test]
fn a_damaged_part_costs_a_fresh_attempt() {
    let place = stopped_after(2_000_000);
    let mut part = std::fs::read(unfinished(&place)).unwrap();
    part[5] ^= 1;
    std::fs::write(unfinished(&place), part).unwrap();
    let snapshot = place.fetch(ID).unwrap();
    assert_eq!(ranges(&place), [Some("bytes=2000000-".to_owned()), None]);
    assert_eq!(sha256(&std::fs::read(snapshot.folder.join(WEIGHTS)).unwrap()), weights());
}

#[test]
fn a_complete_part_is_only_hashed() {
    let place = stopped_after(2_000_000);
    let mut whole = noise(SIZE, 1);
    whole[1000] ^= 1;
    std::fs::write(unfinished(&place), whole).unwrap();
    place.fetch(ID).unwrap();
    assert!(ranges(&place).is_empty());
}

/// The process that [`a_killed_process_goes_on`] starts and kills.
#[test]
fn child() {
    let (Some(endpoint), Some(cache)) = (std::env::var_os("CHILD_ENDPOINT"), std::env::var_os("CHILD_CACHE"))
    else {
        return; // only the other test has a task for it
    };
    let settings = Settings::new(endpoint.to_str().unwrap(), cache.as_ref());
    Hub::new(settings).unwrap().fetch(&HubModel::parse(ID).unwrap(), 0, &Log::default()).unwrap();
}

#[test]
fn a_killed_process_goes_on() {
    let place = Place::new(repo());
    place.hub.plant(Side::Cdn, WEIGHTS, usize::MAX, HubFault::Stall(1_500_000));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "resume::child"])
        .env("CHILD_ENDPOINT", place.hub.endpoint())
        .env("CHILD_CACHE", place.folder.path())
        .spawn()
        .unwrap();
    let part = unfinished(&place);
    while std::fs::metadata(&part).map_or(0, |found| found.len()) < 1_500_000 {
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    place.hub.heal();
    place.hub.forget();
    place.fetch(ID).unwrap();
    assert_eq!(ranges(&place), [Some("bytes=1500000-".to_owned())]);
}

#[test]
fn two_clients_at_once_download_once() {
    let place = Place::new(repo());
    std::thread::scope(|scope| {
        let fetches = [(); 3].map(|()| scope.spawn(|| place.fetch(ID).unwrap()));
        for fetch in fetches {
            assert!(fetch.join().unwrap().folder.join(WEIGHTS).is_file());
        }
    });
    assert_eq!(ranges(&place), [None]);
}

#[test]
fn a_lock_of_another_process_is_waited_for() {
    let place = Place::new(repo());
    let locks = place.folder.path().join(".locks/models--google--gemma-4-E2B-it");
    std::fs::create_dir_all(&locks).unwrap();
    let lock = std::fs::File::create(locks.join(format!("{}.lock", weights()))).unwrap();
    lock.lock().unwrap();
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let fetch = scope.spawn(|| {
            place.fetch(ID).unwrap();
            assert!(released.load(Ordering::SeqCst), "the lock was not waited for");
        });
        while !place.log.notes().contains("another process") && !fetch.is_finished() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        released.store(true, Ordering::SeqCst);
        lock.unlock().unwrap();
        fetch.join().unwrap();
    });
    assert!(names(&locks).contains(&format!("{}.lock", weights())), "lock files stay");
}
