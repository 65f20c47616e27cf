//! Files without a copy: streams in order, and small ranges.

use std::io::Read;
use std::time::Duration;

use base::Fault as At;
use hub::{HubModel, Settings};
use testkit::hub::{FakeRepo, HubFault, Side};

use crate::support::{ID, Place, SIZE, WEIGHTS, noise, repo, small_files};

#[test]
fn a_stream_reconnects_and_is_verified() {
    for fault in
        [None, Some(HubFault::Cut(1_000_000)), Some(HubFault::Stall(999_999)), Some(HubFault::status(503))]
    {
        let place = Place::new(repo());
        let client = place.client_with(Settings { read_timeout: Duration::from_secs(1), ..place.settings() });
        let remote = client.open(&HubModel::parse("google/gemma-4-E2B-it@v1").unwrap(), &place.log).unwrap();
        let file = remote.file(WEIGHTS).unwrap();
        if let Some(fault) = fault.clone() {
            place.hub.plant(Side::Cdn, WEIGHTS, 1, fault);
        }
        let mut stream = remote.stream(file, 0, &place.log);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(stream.offset(), SIZE as u64);
        stream.finish().unwrap();
        assert!(bytes == noise(SIZE, 1), "{fault:?}");
        assert!(place.blobs().is_empty(), "nothing is kept");
    }
}

#[test]
fn a_stream_that_ignores_ranges_goes_on_at_its_offset() {
    let place = Place::new(repo());
    let client = place.client();
    let remote = client.open(&HubModel::parse("google/gemma-4-E2B-it@v1").unwrap(), &place.log).unwrap();
    place.hub.plant(Side::Cdn, WEIGHTS, 1, HubFault::Cut(1_000_000));
    place.hub.plant(Side::Cdn, WEIGHTS, usize::MAX, HubFault::NoRange);
    let mut stream = remote.stream(remote.file(WEIGHTS).unwrap(), 0, &place.log);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    stream.finish().unwrap();
    assert!(bytes == noise(SIZE, 1));
}

#[test]
fn a_flipped_byte_is_found_at_the_end_of_a_stream() {
    let place = Place::new(repo());
    let client = place.client();
    let remote = client.open(&HubModel::parse(ID).unwrap(), &place.log).unwrap();
    let file = remote.file(WEIGHTS).unwrap();
    place.hub.plant(Side::Cdn, WEIGHTS, 1, HubFault::Flip(SIZE - 1));
    let mut stream = remote.stream(file, 0, &place.log);
    std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    assert_eq!(stream.finish().unwrap_err().fault(), At::Malformed);

    let mut stream = remote.stream(file, 0, &place.log);
    stream.read_exact(&mut [0; 10]).unwrap();
    let error = stream.finish().unwrap_err();
    assert_eq!(error.expected_found(), Some(("3000000 bytes", "10")));
}

#[test]
fn headers_of_shards_are_read_alone() {
    for header in [200, 400_000] {
        let mut shard = (header as u64).to_le_bytes().to_vec();
        shard.extend(noise(header, 5));
        let whole = [shard.clone(), noise(SIZE, 6)].concat();
        let place = Place::new(FakeRepo::new(ID).commit([small_files(), vec![(WEIGHTS, whole)]].concat()));
        let client = place.client();
        let remote = client.open(&HubModel::parse(ID).unwrap(), &place.log).unwrap();
        let found = remote.safetensors_header(remote.file(WEIGHTS).unwrap(), &place.log).unwrap();
        assert!(found == shard, "{header}");
        let ranges: Vec<_> =
            place.hub.seen_of(Side::Cdn, "").into_iter().map(|seen| seen.range.unwrap()).collect();
        let expected: &[&str] =
            if header == 200 { &["bytes=0-262143"] } else { &["bytes=0-262143", "bytes=262144-400007"] };
        assert_eq!(ranges, expected);
    }
}

#[test]
fn ranges_outside_of_a_file_and_headers_that_are_none() {
    let place = Place::new(repo());
    let client = place.client();
    let remote = client.open(&HubModel::parse(ID).unwrap(), &place.log).unwrap();
    let file = remote.file(WEIGHTS).unwrap();
    let part = remote.read_range(file, SIZE as u64 - 7, 7, &place.log).unwrap();
    assert_eq!(part, noise(SIZE, 1)[SIZE - 7..]);
    assert!(remote.read_range(file, 5, 0, &place.log).unwrap().is_empty());
    for (offset, len) in [(SIZE as u64, 1), (u64::MAX, 1), (0, SIZE as u64 + 1)] {
        let error = remote.read_range(file, offset, len, &place.log).unwrap_err();
        assert_eq!(error.fault(), At::Limit);
    }
    assert_eq!(remote.safetensors_header(file, &place.log).unwrap_err().fault(), At::Malformed);
    let config = remote.file("LICENSE").unwrap();
    assert_eq!(remote.safetensors_header(config, &place.log).unwrap_err().fault(), At::Malformed);
    assert!(remote.file("absent").is_err());
}
