//! Damaged headers: no panic, no allocation larger than the file, and an accepted header lays out to the same bytes.

mod common;

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell;

use common::data;
use gguf::{Header, Layout};

struct Watched;

thread_local! { static LARGEST: Cell<usize> = const { Cell::new(0) }; }

fn note(size: usize) {
    // The cell may be gone while a thread ends.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call is passed unchanged to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        note(memory.size());
        // SAFETY: the caller's promises hold for the inner call.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, memory) }
    }

    unsafe fn realloc(&self, at: *mut u8, memory: Memory, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as above.
        unsafe { System.realloc(at, memory, size) }
    }
}

#[global_allocator]
static WATCHED: Watched = Watched;

/// Reads `bytes` as a file of `len` bytes. True if it was accepted; then its layout must give the same bytes.
fn read(bytes: &[u8], len: usize, what: &str) -> bool {
    LARGEST.set(0);
    let read = Header::read(&mut &bytes[..], len as u64);
    let largest = LARGEST.get();
    // Small files may still need a table of keys.
    assert!(largest <= len.max(8192), "{what}: {largest} bytes allocated for a file of {len}");
    let Ok(header) = read else { return false };
    let descs = header.tensors.iter().map(|t| t.desc.clone()).collect();
    let layout = Layout::new(&header.metadata, descs).unwrap();
    // Padding may have any value: ggml does not check it.
    let end = layout.header.iter().rposition(|&b| b != 0).unwrap() + 1;
    assert!(layout.header[..end] == bytes[..end], "{what}: read as something else");
    assert_eq!(layout.header.len() as u64, header.data_start, "{what}");
    assert_eq!(layout.tensors, header.tensors, "{what}");
    true
}

const FILES: [&str; 3] = ["types.gguf", "whole.gguf", "part-00002-of-00003.gguf"];

fn data_start(file: &[u8]) -> usize {
    Header::read(&mut &file[..], file.len() as u64).unwrap().data_start as usize
}

#[test]
fn cut_anywhere() {
    for name in FILES {
        let file = data(name);
        assert!(read(&file, file.len(), name));
        for len in 0..=data_start(&file) {
            let what = format!("{name} cut to {len}");
            assert!(!read(&file[..len], len, &what), "{what}: accepted");
            // Fewer bytes than the size announces: the file shrank after it was opened.
            if len < data_start(&file) {
                read_shrunk(&file[..len], file.len(), &what);
            }
        }
    }
}

fn read_shrunk(bytes: &[u8], len: usize, what: &str) {
    LARGEST.set(0);
    let read = Header::read(&mut &bytes[..], len as u64);
    assert!(LARGEST.get() <= len.max(8192), "{what}");
    // A read succeeds only if the cut removed nothing but padding.
    if let Ok(header) = read {
        assert!(header.data_start as usize - bytes.len() < 32, "{what}: accepted");
    }
}

#[test]
fn every_bit_flipped_and_every_byte_made_extreme() {
    let (mut accepted, mut refused) = (0, 0);
    for name in FILES {
        let mut file = data(name);
        let len = file.len();
        for at in 0..data_start(&file) {
            let good = file[at];
            let flips = (0..8).map(|bit| good ^ 1 << bit);
            for bad in flips.chain([0x00, 0x7f, 0xff]).filter(|&bad| bad != good) {
                file[at] = bad;
                let ok = read(&file, len, &format!("{name} with {bad:#04x} at {at}"));
                *(if ok { &mut accepted } else { &mut refused }) += 1;
            }
            file[at] = good;
        }
    }
    // Both results must occur, or the test shows nothing: numbers and letters may change, lengths and types may not.
    assert!(accepted > 1000 && refused > 1000, "{accepted} accepted, {refused} refused");
}
