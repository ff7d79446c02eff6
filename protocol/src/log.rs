//! The record framing shared by journal and spool: a segment header and checksummed records
//! (journal-file.md 4).
//!
//! ```text
//! segment header, 64 bytes          record
//!  0  8 B  magic of the log          0  u32  payload length, bytes
//!  8  u16  version = 1               4  u8   kind, 1..
//! 10  u16  reserved                  5  3 B  reserved = 0
//! 12  u32  shard                     8  u64  sequence, without gaps
//! 16  u64  campaign                 16  u64  committed: highest sequence known to be on disk
//! 24  u64  first sequence           24  ...  payload
//! 32  16 B incarnation              ...  u32 CRC-32C of everything before it in the record
//! 48  u32  epoch
//! 52  8 B  reserved
//! 60  u32  CRC-32C of bytes 0..60
//! ```

use crate::{
    CampaignId, Epoch, Incarnation, ShardId, WireError,
    codec::{Put, Reader},
    limits::LOG_PAYLOAD_BYTES_MAX,
};
use std::ops::RangeInclusive;

/// Version of the format.
pub const VERSION: u16 = 1;
/// Bytes of a segment header.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a record besides its payload.
pub const RECORD_OVERHEAD_BYTES: usize = 28;

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The campaign.
    pub campaign: CampaignId,
    /// The shard of the node that wrote it.
    pub shard: ShardId,
    /// The epoch of that shard.
    pub epoch: Epoch,
    /// The process life that wrote it.
    pub incarnation: Incarnation,
    /// Sequence of its first record; 1 and above.
    pub first_sequence: u64,
}

impl SegmentHeader {
    /// The 64 bytes at the start of the file.
    #[must_use]
    pub fn encode(&self, magic: [u8; 8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.put(&magic);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_u32(self.shard.0);
        out.put_u64(self.campaign.0);
        out.put_u64(self.first_sequence);
        out.put(&self.incarnation.0);
        out.put_u32(self.epoch.0);
        out.put(&[0; 8]);
        let checksum = crc32c::crc32c(&out);
        out.put_u32(checksum);
        out
    }

    /// Reads the start of a segment.
    ///
    /// # Errors
    /// Too short, another magic or version, a wrong checksum, a field out of range.
    pub fn decode(magic: [u8; 8], bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("a segment header", bytes);
        let covered = r.bytes(SEGMENT_HEADER_BYTES - 4)?;
        let checksum = r.u32()?;
        let mut r = Reader::new("a segment header", covered);
        if r.array::<8>()? != magic {
            return Err(WireError::Magic { what: "a segment" });
        }
        let version = r.u16()?;
        if version != VERSION {
            return Err(WireError::Version { what: "a segment", version, known: VERSION });
        }
        if crc32c::crc32c(covered) != checksum {
            return Err(WireError::Checksum { what: "a segment header" });
        }
        r.reserved::<2>()?;
        let shard = r.shard()?;
        let campaign = CampaignId(r.u64()?);
        let first_sequence = r.u64()?;
        // Sequences begin at 1, and whoever counts on from one must not overflow.
        if first_sequence == 0 || first_sequence == u64::MAX {
            return Err(WireError::Value { field: "first sequence", value: first_sequence });
        }
        let incarnation = Incarnation(r.array()?);
        let epoch = Epoch(r.u32()?);
        r.reserved::<8>()?;
        Ok(Self { campaign, shard, epoch, incarnation, first_sequence })
    }
}

/// One record of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What the payload is; 1 and above.
    pub kind: u8,
    /// Its place in the log, counted over all segments.
    pub sequence: u64,
    /// The highest sequence that was known to be on disk when this record was written.
    pub committed: u64,
    /// The content.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Appends the record.
    ///
    /// # Panics
    /// When the payload exceeds [`LOG_PAYLOAD_BYTES_MAX`], the kind is 0, or the record claims
    /// to be on disk itself.
    pub fn put(&self, out: &mut Vec<u8>) {
        assert!(self.committed < self.sequence, "only earlier records are known to be on disk");
        assert!(self.payload.len() <= LOG_PAYLOAD_BYTES_MAX, "a record's payload is bounded");
        assert!(self.kind != 0, "kind 0 is the unwritten end of a segment");
        let start = out.len();
        out.put_u32(u32::try_from(self.payload.len()).expect("asserted above"));
        out.put(&[self.kind, 0, 0, 0]);
        out.put_u64(self.sequence);
        out.put_u64(self.committed);
        out.put(self.payload);
        let checksum = crc32c::crc32c(&out[start..]);
        out.put_u32(checksum);
    }
}

/// How a scan of a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// Every byte belongs to a record, or the rest is unwritten (zeros).
    Clean,
    /// The last bytes are no whole record: the write that a crash interrupted.
    TornTail {
        /// Why the bytes are no record.
        error: WireError,
    },
}

/// Walks the records of one segment, given the bytes after its header.
///
/// Stops at the first bytes that are no valid record in sequence; [`Scan::end`] then says whether
/// that is the clean end. What lies behind it is for the caller to judge: see [`Scan::salvage`].
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    next_sequence: u64,
    end: Option<ScanEnd>,
}

impl<'a> Scan<'a> {
    /// A scan of `bytes`, whose first record must have `first_sequence`.
    #[must_use]
    pub const fn new(bytes: &'a [u8], first_sequence: u64) -> Self {
        Self { bytes, at: 0, next_sequence: first_sequence, end: None }
    }

    /// Bytes of `bytes` that are valid records so far.
    #[must_use]
    pub const fn valid_bytes(&self) -> usize {
        self.at
    }

    /// The sequence that the next record must have.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// How the scan ended; `None` while records still come.
    #[must_use]
    pub const fn end(&self) -> Option<ScanEnd> {
        self.end
    }

    /// After the end, of a segment that has `before` bytes in front of these: whether the bad bytes
    /// are those of a record that was written as a whole and changed since. A write that was cut
    /// off leaves zeros: to the end of what was written, or all over a sector of 512 bytes.
    #[must_use]
    pub fn was_whole(&self, before: usize) -> bool {
        const SECTOR: usize = 512;
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize)
        else {
            return false;
        };
        // No cut makes a length that no record has.
        let bytes = RECORD_OVERHEAD_BYTES + length.min(LOG_PAYLOAD_BYTES_MAX);
        if length <= LOG_PAYLOAD_BYTES_MAX && bytes > written_length(rest) {
            return false;
        }
        let begin = before + self.at;
        let end = begin + bytes.min(rest.len());
        let mut at = begin;
        while at < end {
            let next = end.min((at / SECTOR + 1) * SECTOR);
            if rest[at - begin..next - begin].iter().all(|byte| *byte == 0) {
                return false;
            }
            at = next;
        }
        true
    }

    /// After the end: how many records, each with a payload of at least so many bytes, may have
    /// stood in the bad bytes. One, when it says itself that it ends where the bytes do.
    #[must_use]
    pub fn bad_records_max(&self, payload_bytes_min: usize) -> u64 {
        let rest = &self.bytes[self.at..];
        let written = written_length(rest);
        let length = rest.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize);
        if length.is_some_and(|length| length.saturating_add(RECORD_OVERHEAD_BYTES) == written) {
            return 1;
        }
        written.div_ceil(RECORD_OVERHEAD_BYTES + payload_bytes_min) as u64
    }

    /// After the end: valid records that still follow somewhere behind the bad bytes, which a torn
    /// tail cannot have. Their presence means corruption in the middle. Their sequences rise.
    ///
    /// Looks at every byte once. A checksum is computed only where a header could stand whose
    /// sequence the records before it leave possible, so that no content that a peer has a hand in
    /// makes the search slow.
    #[must_use]
    pub fn salvage(&self) -> Vec<Record<'a>> {
        let mut found = Vec::new();
        let mut sequence_min = self.next_sequence;
        let mut at = self.at + 1;
        // Behind the last byte that is not zero lies room that was never written.
        let written = written_length(self.bytes);
        while at < written && at + RECORD_OVERHEAD_BYTES <= self.bytes.len() {
            let rest = &self.bytes[at..];
            // Records follow one another in a segment: this many at most lie before `at`.
            let records_before = (at - self.at) / RECORD_OVERHEAD_BYTES;
            let sequence_max = self.next_sequence.saturating_add(records_before as u64 + 1);
            if !may_begin_record(rest, sequence_min..=sequence_max) {
                at += 1;
            } else if let Ok(Some((record, length))) = read_record(rest) {
                sequence_min = record.sequence + 1;
                found.push(record);
                at += length;
            } else {
                at += 1;
            }
        }
        found
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        if self.end.is_some() {
            return None;
        }
        let rest = &self.bytes[self.at..];
        // A record starts with its length and kind, never all zero: only then look at the rest.
        let unwritten = rest.iter().take(8).all(|byte| *byte == 0);
        if unwritten && written_length(rest) == 0 {
            self.end = Some(ScanEnd::Clean);
            return None;
        }
        match read_record(rest) {
            Ok(Some((record, length))) if record.sequence == self.next_sequence => {
                self.at += length;
                self.next_sequence += 1;
                Some(record)
            }
            Ok(Some((record, _))) => {
                let error = WireError::Value { field: "record sequence", value: record.sequence };
                self.end = Some(ScanEnd::TornTail { error });
                None
            }
            Ok(None) => {
                let error = WireError::Value { field: "record kind", value: 0 };
                self.end = Some(ScanEnd::TornTail { error });
                None
            }
            Err(error) => {
                self.end = Some(ScanEnd::TornTail { error });
                None
            }
        }
    }
}

/// How many of `bytes` lie before the zeros at their end: the room of a segment that was never
/// written. Compares blocks, so that 64 MiB of it cost milliseconds in any build.
#[must_use]
pub fn written_length(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 4_096] = [0; 4_096];
    let mut end = bytes.len();
    while end > 0 {
        let block = &bytes[end.saturating_sub(ZEROS.len())..end];
        if *block != ZEROS[..block.len()] {
            let last = block.iter().rposition(|byte| *byte != 0).expect("it is not all zeros");
            return end - block.len() + last + 1;
        }
        end -= block.len();
    }
    0
}

/// Whether a record with one of these sequences may begin here: all that can be told without its
/// checksum, cheapest first.
fn may_begin_record(bytes: &[u8], sequences: RangeInclusive<u64>) -> bool {
    let Some(head) = bytes.first_chunk::<24>() else { return false };
    if head[4] == 0 || head[5] | head[6] | head[7] | head[2] | head[3] != 0 {
        return false;
    }
    let mut r = Reader::new("a log record", &head[8..]);
    match (r.u64(), r.u64()) {
        (Ok(sequence), Ok(committed)) => sequences.contains(&sequence) && committed < sequence,
        _ => false,
    }
}

/// The record at the start of `bytes` and its length on disk; `None` where nothing was written.
fn read_record(bytes: &[u8]) -> Result<Option<(Record<'_>, usize)>, WireError> {
    let mut r = Reader::new("a log record", bytes);
    let length = r.u32()? as usize;
    if length > LOG_PAYLOAD_BYTES_MAX {
        return Err(WireError::TooLarge {
            what: "a log record",
            length,
            limit: LOG_PAYLOAD_BYTES_MAX,
        });
    }
    let kind = r.u8()?;
    if kind == 0 {
        return Ok(None);
    }
    r.reserved::<3>()?;
    let (sequence, committed) = (r.u64()?, r.u64()?);
    let payload = r.bytes(length)?;
    let covered = &bytes[..RECORD_OVERHEAD_BYTES - 4 + length];
    if r.u32()? != crc32c::crc32c(covered) {
        return Err(WireError::Checksum { what: "a log record" });
    }
    // Whoever counts on from these must not overflow, and no record knows itself to be on disk.
    if sequence == u64::MAX {
        return Err(WireError::Value { field: "record sequence", value: sequence });
    }
    if committed >= sequence {
        return Err(WireError::Value { field: "committed sequence", value: committed });
    }
    let record = Record { kind, sequence, committed, payload };
    Ok(Some((record, RECORD_OVERHEAD_BYTES + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment's bytes after its header: `count` records of `payload_bytes` from sequence 1.
    fn segment(count: u64, payload_bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for sequence in 1..=count {
            let payload = vec![sequence as u8; payload_bytes];
            Record { kind: 1, sequence, committed: sequence - 1, payload: &payload }.put(&mut out);
        }
        out
    }

    /// Scans and salvages: valid bytes, sequences found in order, and behind bad bytes, the end.
    fn read(bytes: &[u8], first: u64) -> (usize, Vec<u64>, Vec<u64>, Option<ScanEnd>) {
        let mut scan = Scan::new(bytes, first);
        let found = scan.by_ref().map(|record| record.sequence).collect();
        let salvaged = match scan.end() {
            Some(ScanEnd::TornTail { .. }) => scan.salvage(),
            _ => Vec::new(),
        };
        let salvaged = salvaged.iter().map(|record| record.sequence).collect();
        (scan.valid_bytes(), found, salvaged, scan.end())
    }

    #[test]
    fn a_cut_anywhere_keeps_the_whole_records_before_it() {
        let bytes = segment(3, 10);
        for cut in 0..=bytes.len() {
            let (valid, found, salvaged, end) = read(&bytes[..cut], 1);
            let whole = cut / 38;
            assert_eq!(
                (valid, found.len(), salvaged.len()),
                (whole * 38, whole, 0),
                "cut at {cut}"
            );
            assert_eq!(end == Some(ScanEnd::Clean), cut % 38 == 0, "cut at {cut}");
        }
        let mut unwritten = bytes.clone();
        unwritten.resize(bytes.len() + 5_000, 0);
        assert_eq!(read(&unwritten, 1).3, Some(ScanEnd::Clean));
    }

    #[test]
    fn the_written_part_ends_with_the_last_byte_that_is_not_zero() {
        for length in [0, 1, 4_095, 4_096, 4_097, 8_192, 20_000] {
            assert_eq!(written_length(&vec![0; length]), 0);
            for last in [0, 1, 4_095, 4_096, 8_191, 8_192, 19_999] {
                if last < length {
                    let mut bytes = vec![0; length];
                    bytes[last] = 1;
                    assert_eq!(written_length(&bytes), last + 1, "{length} bytes");
                }
            }
        }
    }

    #[test]
    fn records_are_found_behind_bad_bytes_in_front_of_unwritten_room() {
        let mut bytes = segment(3, 10);
        // A write whose blocks reached the disk out of order: zeros, then records.
        bytes[38..76].fill(0);
        let whole = bytes.len();
        bytes.resize(whole + 3 * 4_096, 0);
        assert_eq!((read(&bytes, 1).1, read(&bytes, 1).2), (vec![1], vec![3]));
    }

    #[test]
    fn records_behind_bad_bytes_are_found_once_and_in_order() {
        let mut bytes = segment(5, 10);
        // What stood in this place before, or was copied here, does not come up again.
        bytes.extend_from_slice(&segment(3, 10));
        bytes[38] ^= 1;
        assert_eq!(read(&bytes, 1).1, [1]);
        assert_eq!(read(&bytes, 1).2, [3, 4, 5]);
    }

    #[test]
    fn a_sequence_that_nobody_could_count_on_from_is_no_record() {
        let check = |sequence: u64, committed: u64, first: u64, expected: &str| {
            let mut bytes = Vec::new();
            bytes.put_u32(0);
            bytes.put(&[1, 0, 0, 0]);
            bytes.put_u64(sequence);
            bytes.put_u64(committed);
            let checksum = crc32c::crc32c(&bytes);
            bytes.put_u32(checksum);
            let (_, found, salvaged, end) = read(&bytes, first);
            assert!(found.is_empty() && salvaged.is_empty());
            let Some(ScanEnd::TornTail { error }) = end else { panic!("refused") };
            assert_eq!(error.to_string(), format!("{expected}, which is out of range"));
        };
        let most = u64::MAX;
        check(most, 0, most, "record sequence has the value 18446744073709551615");
        check(5, 5, 5, "committed sequence has the value 5");
        check(5, most, 5, "committed sequence has the value 18446744073709551615");
        check(7, 0, 5, "record sequence has the value 7");
    }

    #[test]
    fn no_checksum_is_computed_for_what_cannot_be_a_record() {
        // The densest bytes that look like lengths and kinds: one start in seven, each of 4,096
        // bytes. Their sequences are none that this segment can hold.
        let hostile: Vec<u8> = [0x00, 0x10, 0, 0, 1, 0, 0].repeat(10_000);
        let begins = |sequences: RangeInclusive<u64>| {
            let starts = 0..hostile.len();
            starts.filter(|at| may_begin_record(&hostile[*at..], sequences.clone())).count()
        };
        assert!(begins(0..=u64::MAX) > 9_000, "it is the sequence that tells");
        assert_eq!(begins(1..=1 << 32), 0);
        let bytes = segment(3, 10);
        let starts: Vec<usize> =
            (0..bytes.len()).filter(|at| may_begin_record(&bytes[*at..], 1..=9)).collect();
        assert_eq!(starts, [0, 38, 76]);
    }

    #[test]
    fn a_full_segment_is_read_to_its_end() {
        // 64 MiB of records as long as an open's, one of them bad.
        let mut bytes = segment(64 * 1024 * 1024 / 172, 144);
        let count = bytes.len() as u64 / 172;
        bytes[172 * 2] ^= 1;
        let (valid, found, salvaged, _) = read(&bytes, 1);
        assert_eq!((valid, found.len()), (344, 2));
        assert_eq!(salvaged.len() as u64, count - 3);
        assert_eq!(salvaged.last(), Some(&count));
    }
}
