//! Logs and slots on disk: whatever a crash left there is read without a panic, and never out of
//! order.

use crate::{
    seeds::{self, vectors},
    tape::Tape,
};
use yao_protocol::{
    cursor::{self, Cursor},
    journal::{self, Event},
    log::{Record, Scan, SegmentHeader},
    slots::{Slot, SlotPair},
    spool::{self, Open, Watermark},
};

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let records = seeds::of(&[vectors!("log-record")]);
    let segments = seeds::of(&[vectors!("segment-header")]);
    let joined = [records.concat(), records.concat()].concat();
    let rest =
        seeds::of(&[vectors!("spool-open"), vectors!("journal-event"), vectors!("watermark")]);
    let all = [records, segments, vec![joined], rest].concat();
    all.into_iter().map(|bytes| [vec![5], bytes].concat()).collect()
}

pub(crate) fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let first = u64::from(tape.byte());
    let bytes = tape.rest();
    for first in [first, 5, 1, u64::MAX] {
        scan(bytes, first);
    }
    if let Ok(open) = Open::decode(bytes) {
        assert_eq!(open.encode()[..], *bytes);
    }
    if let Ok(watermark) = Watermark::decode(bytes) {
        assert_eq!(watermark.encode(), bytes);
    }
    if let Ok(cursor) = Cursor::decode(bytes) {
        assert_eq!(cursor.encode(), bytes);
    }
    for magic in [journal::MAGIC, spool::MAGIC] {
        if let Ok(header) = SegmentHeader::decode(magic, bytes) {
            let again = header.encode(magic);
            assert_eq!(again[..], bytes[..again.len()]);
        }
    }
    if let Some((kind, payload)) = bytes.split_first()
        && let Ok(event) = Event::decode(*kind, payload)
    {
        assert_eq!(event.encode(), (*kind, payload.to_vec()));
    }
    slots(bytes);
}

fn scan(bytes: &[u8], first: u64) {
    let mut scan = Scan::new(bytes, first);
    let mut again = Vec::new();
    for (read, record) in (0_u64..).zip(scan.by_ref()) {
        assert_eq!(record.sequence, first.wrapping_add(read), "sequences have no gap");
        record.put(&mut again);
    }
    assert!(scan.valid_bytes() <= bytes.len());
    assert_eq!(again, bytes[..again.len()], "what is read was written");
    let salvaged = scan.salvage();
    let rises = |one: &Record<'_>, next: &Record<'_>| one.sequence < next.sequence;
    assert!(salvaged.is_sorted_by(rises), "salvaged records rise");
    assert!(salvaged.iter().all(|record| record.sequence >= scan.next_sequence()));
}

/// A pair of slots: the one that these bytes make, and the same torn.
fn slots(bytes: &[u8]) {
    let payload = bytes[..bytes.len().min(256)].to_vec();
    let good = Slot { sequence: 7, payload }.encode(cursor::MAGIC);
    let mut torn = good.clone();
    for (index, byte) in bytes.iter().enumerate().take(16) {
        let at = (usize::from(*byte) * 16 + index) % torn.len();
        torn[at] ^= *byte;
    }
    for file in [[good.clone(), torn.clone()].concat(), [torn.clone(), good.clone()].concat()] {
        // Never a panic; whether two copies are a pair is the reader's to say.
        drop(SlotPair::decode(cursor::MAGIC, &file));
    }
    if torn != good
        && let Ok(slot) = Slot::decode(cursor::MAGIC, &torn)
    {
        assert_eq!(slot.encode(cursor::MAGIC), torn, "a slot that was torn is not believed");
    }
    drop(SlotPair::decode(cursor::MAGIC, bytes));
}
