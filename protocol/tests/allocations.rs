//! No decoder allocates from a length that a peer sent: whatever the bytes claim, no allocation is
//! larger than a small multiple of what really arrived.
#![expect(unsafe_code, reason = "a measuring global allocator can only be written so")]

#[path = "formats/cases.rs"]
mod cases;
#[path = "formats/codecs.rs"]
mod codecs;
#[path = "formats/crafted.rs"]
mod crafted;
#[path = "formats/fields.rs"]
mod fields;
#[path = "formats/grants.rs"]
mod grants;
#[path = "formats/numbers.rs"]
mod numbers;
#[path = "formats/reclaim.rs"]
mod reclaim;
#[path = "formats/texts.rs"]
mod texts;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// Decoded records may be this much larger than their bytes; and error texts, tables.
const GROWTH: usize = 8;
const SMALL: usize = 4_096;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Measuring;

// SAFETY: every call is handed to the system's allocator unchanged; noting a size has no effect on
// memory.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.with(|largest| largest.set(largest.get().max(size)));
        // SAFETY: the caller's promises are handed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Measuring = Measuring;

fn largest_while(run: impl FnOnce()) -> usize {
    LARGEST.with(|largest| largest.set(0));
    run();
    LARGEST.with(Cell::get)
}

#[test]
fn no_allocation_is_made_from_a_claimed_length() {
    // Derives the keys once, so that their tables are not counted.
    codecs::key_set();
    for (format, name, bytes) in cases::valid() {
        let (_, codec) = codecs::CODECS.iter().find(|(known, _)| known == format).expect("known");
        for at in 0..bytes.len().min(300) {
            let mut lying = bytes.clone();
            for byte in lying.iter_mut().skip(at).take(4) {
                *byte = 0xff;
            }
            let largest = largest_while(|| drop(codec(&lying)));
            let most = GROWTH * bytes.len() + SMALL;
            assert!(largest <= most, "{format}, {name}: {largest} bytes at once for byte {at}");
        }
    }
    for (format, name, bytes) in cases::invalid() {
        let (_, codec) = codecs::CODECS.iter().find(|(known, _)| *known == format).expect("known");
        let largest = largest_while(|| drop(codec(&bytes)));
        assert!(largest <= GROWTH * bytes.len() + SMALL, "{format}, {name}: {largest} at once");
    }
}

#[test]
fn the_measure_sees_an_allocation() {
    assert!(largest_while(|| drop(vec![0_u8; 1 << 20])) >= 1 << 20);
}
