//! What a cursor file means and how far it may rise (M1, M2). Pure: the file is the shell's.
//!
//! A cursor never guesses: whatever is missing, foreign or copied is an error that says so, and
//! nothing is issued.

use thiserror::Error;
use yao_protocol::{
    CampaignId, Epoch, Incarnation, ShardId, WaveIndex, WireError,
    cursor::{Cursor, GrantRecord},
    slots::SlotPair,
};

/// The largest block of packets that is reserved at once (M1: B is clamped to it).
pub const BLOCK_MAX: u32 = 32_768;
/// The smallest block.
pub const BLOCK_MIN: u32 = 64;

/// What the cursor of a wave must say to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The campaign.
    pub campaign: CampaignId,
    /// The shard.
    pub shard: ShardId,
    /// The generation of the shard.
    pub generation: u8,
    /// The wave.
    pub wave: WaveIndex,
    /// The epoch.
    pub epoch: Epoch,
    /// The seed file's Merkle root.
    pub merkle_root: [u8; 32],
    /// Packets of the section.
    pub count: u32,
    /// Inode of the open file.
    pub inode: u64,
    /// Birth time of the open file, ns.
    pub born_ns: u64,
}

/// Where a start goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// H: everything below may have been issued, nothing above it was.
    pub high: u32,
    /// One slot was lost: both must be written with this H before anything is issued.
    pub must_rewrite_both: bool,
}

/// What a start finds in fleet mode. What it may conclude from it is in [`crate::grant::Opening`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where issuing stopped, as far as this disk knows.
    pub recovered: Recovered,
    /// Inode of the file in which the cursor was made, when it is another one: this is a copy, or a
    /// restored backup.
    pub moved_from: Option<u64>,
    /// The process life that wrote the newest slot.
    pub written_by: Incarnation,
    /// The boot in which it was written.
    pub boot_id: [u8; 16],
    /// Settlement was asked for this section.
    pub asked: bool,
    /// The grant that was in force.
    pub grant: Option<GrantRecord>,
}

/// Why nothing may be issued from a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CursorError {
    /// The valid slot is no cursor.
    #[error("the cursor is unreadable ({0}); how far packets were issued is unknown, so none are")]
    Content(WireError),
    /// It belongs to something else.
    #[error(
        "the cursor is another one's: its {field} is {found}, expected {expected}; \
         point node.state at this shard's own directory"
    )]
    Foreign {
        /// What differs.
        field: &'static str,
        /// What it says.
        found: u64,
        /// What it should say.
        expected: u64,
    },
    /// The seed file is not the one that was initialised.
    #[error("the cursor belongs to another seed file (its Merkle root differs); use that file")]
    OtherSeed,
    /// The file is a copy or was restored.
    #[error(
        "the state directory was copied or restored (inode {found}, expected {expected}): packets \
         may have been issued since, so it must not go on; use the directory it was made from"
    )]
    Copied {
        /// The inode that the cursor remembers.
        expected: u64,
        /// The inode of the file at hand.
        found: u64,
    },
    /// The cursor was used in fleet mode, where others may have issued from this section, too.
    #[error(
        "the section was issued under grants of settlement (the last one is {id}), which this disk \
         alone cannot go on with; set shard.ownership = \"fleet\""
    )]
    Granted {
        /// The grant that the cursor remembers.
        id: u64,
    },
    /// Settlement was asked for the section, and may have granted it.
    #[error(
        "settlement was asked for the section and may have granted it, so that this disk alone \
         cannot go on; set shard.ownership = \"fleet\""
    )]
    Asked,
    /// H lies behind the section.
    #[error("the cursor stands at {high}, the section has only {count} packets")]
    Range {
        /// H.
        high: u32,
        /// Packets of the section.
        count: u32,
    },
}

/// What the slots in `pair` mean for the section that is `expected`, in local mode.
///
/// # Errors
/// See [`CursorError`]: issue nothing.
pub fn recover(pair: &SlotPair, expected: &Expected) -> Result<Recovered, CursorError> {
    let found = find(pair, expected)?;
    if let Some(GrantRecord { id, .. }) = found.grant {
        return Err(CursorError::Granted { id });
    }
    if found.asked {
        return Err(CursorError::Asked);
    }
    match found.moved_from {
        Some(inode) => Err(CursorError::Copied { expected: inode, found: expected.inode }),
        None => Ok(found.recovered),
    }
}

/// What the slots in `pair` say about the section that is `expected`, in fleet mode: there a copy
/// is no error, for settlement decides who may issue what.
///
/// # Errors
/// See [`CursorError`]: issue nothing.
pub fn find(pair: &SlotPair, expected: &Expected) -> Result<Found, CursorError> {
    let cursor = Cursor::decode(&pair.newest.payload).map_err(CursorError::Content)?;
    check_owner(&cursor, expected)?;
    // With one slot lost, the lost one may have been the newer: H is then as high as it may have
    // said. A slot states that limit for the write that follows it.
    let high = if pair.both_valid { cursor.high } else { cursor.next_high_max };
    if high > expected.count {
        return Err(CursorError::Range { high, count: expected.count });
    }
    let moved = (cursor.inode, cursor.born_ns) != (expected.inode, expected.born_ns);
    Ok(Found {
        recovered: Recovered { high, must_rewrite_both: !pair.both_valid },
        moved_from: moved.then_some(cursor.inode),
        written_by: cursor.incarnation,
        boot_id: cursor.boot_id,
        asked: cursor.asked,
        grant: cursor.grant,
    })
}

fn check_owner(cursor: &Cursor, expected: &Expected) -> Result<(), CursorError> {
    let fields = [
        ("campaign", cursor.campaign.0, expected.campaign.0),
        ("shard", u64::from(cursor.shard.0), u64::from(expected.shard.0)),
        ("generation", u64::from(cursor.generation), u64::from(expected.generation)),
        ("wave", u64::from(cursor.wave.0), u64::from(expected.wave.0)),
        ("epoch", u64::from(cursor.epoch.0), u64::from(expected.epoch.0)),
    ];
    for (field, found, expected) in fields {
        if found != expected {
            return Err(CursorError::Foreign { field, found, expected });
        }
    }
    if cursor.merkle_root != expected.merkle_root {
        return Err(CursorError::OtherSeed);
    }
    Ok(())
}

/// The cursor that `init` writes into both slots: nothing was issued.
#[must_use]
pub fn initial(expected: &Expected, incarnation: Incarnation, boot_id: [u8; 16]) -> Cursor {
    CursorWriter::new(expected, 0, incarnation, boot_id).cursor
}

/// Makes the next slots of one cursor file; each raise is checked before it is written.
#[derive(Clone, Debug)]
pub struct CursorWriter {
    cursor: Cursor,
    count: u32,
}

impl CursorWriter {
    /// Goes on at `high`, which is on disk.
    #[must_use]
    pub fn new(
        expected: &Expected,
        high: u32,
        incarnation: Incarnation,
        boot_id: [u8; 16],
    ) -> Self {
        assert!(high <= expected.count, "H lies in the section");
        let cursor = Cursor {
            campaign: expected.campaign,
            shard: expected.shard,
            generation: expected.generation,
            wave: expected.wave,
            epoch: expected.epoch,
            merkle_root: expected.merkle_root,
            incarnation,
            high,
            next_high_max: high,
            inode: expected.inode,
            born_ns: expected.born_ns,
            boot_id,
            asked: false,
            grant: None,
        };
        Self { cursor, count: expected.count }
    }

    /// The same in fleet mode (M4): every slot says from now on that settlement was asked, and
    /// states this grant.
    #[must_use]
    pub const fn under(mut self, grant: Option<GrantRecord>) -> Self {
        self.cursor.asked = true;
        self.cursor.grant = grant;
        self
    }

    /// The slots that put a grant on disk, in order, with H raised to where it begins. Only the
    /// second states it: a start that finds the first must not take it for a right to what lies
    /// between the old H and the grant, which was granted to somebody else (M4).
    #[must_use]
    pub fn keep(&mut self, grant: GrantRecord) -> [Cursor; 2] {
        let [announced, _] = self.raise(grant.lo.max(self.cursor.high));
        self.cursor.grant = Some(grant);
        [announced, self.cursor]
    }

    /// Gives up what was granted: from the next slot on nobody can go on with it, nor succeed the
    /// life that held it (grants.md 5).
    pub const fn give_up(&mut self) {
        self.cursor.incarnation = Incarnation([0; 16]);
        if let Some(grant) = &mut self.cursor.grant {
            grant.until_ns = 0;
            grant.holder = Incarnation([0; 16]);
        }
    }

    /// Takes what lies below `high` for issued: a journal that is newer than this cursor says so.
    ///
    /// # Panics
    /// When H would leave the section.
    pub fn assume(&mut self, high: u32) {
        let _unwritten = self.raise(high.max(self.cursor.high));
    }

    /// H as of the last slot made.
    #[must_use]
    pub const fn high(&self) -> u32 {
        self.cursor.high
    }

    /// The slots that raise H to `high`, in order; each is on disk before the next is written. The
    /// first only says how far the second will go: whichever of them is torn, the start after it
    /// passes over no packet that the raise would not have handed out (M1, M2).
    ///
    /// # Panics
    /// When H would fall (M2) or leave the section.
    #[must_use]
    pub fn raise(&mut self, high: u32) -> [Cursor; 2] {
        assert!(high >= self.cursor.high, "M2: H never falls");
        assert!(high <= self.count, "H lies in the section");
        self.cursor.next_high_max = high;
        let announced = self.cursor;
        self.cursor.high = high;
        [announced, self.cursor]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yao_protocol::{cursor::MAGIC, limits::SLOT_BYTES, slots::Slot};

    const EXPECTED: Expected = Expected {
        campaign: CampaignId(2015),
        shard: ShardId(17),
        generation: 0,
        wave: WaveIndex(0),
        epoch: Epoch(1),
        merkle_root: [3; 32],
        count: 100_000,
        inode: 11,
        born_ns: 12,
    };

    /// A file whose H was `from`, and which was then raised to `to`.
    fn raised(from: u32, to: u32) -> Vec<u8> {
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        let mut writer = CursorWriter::new(&EXPECTED, from, Incarnation([1; 16]), [2; 16]);
        let [announced, raised] = writer.raise(to);
        for (sequence, cursor) in [(8, announced), (9, raised)] {
            put(&mut bytes, sequence, &cursor);
        }
        bytes
    }

    fn put(bytes: &mut [u8], sequence: u64, cursor: &Cursor) {
        let slot = Slot { sequence, payload: cursor.encode() };
        let offset = usize::try_from(slot.offset()).expect("two slots");
        bytes[offset..offset + SLOT_BYTES].copy_from_slice(&slot.encode(MAGIC));
    }

    fn read(bytes: &[u8], expected: &Expected) -> Result<Recovered, String> {
        let pair = SlotPair::decode(MAGIC, bytes).map_err(|error| error.to_string())?;
        recover(&pair, expected).map_err(|error| error.to_string())
    }

    #[test]
    fn m2_the_newer_slot_wins_and_a_lost_slot_raises_h() {
        let bytes = raised(500, 700);
        let whole = Recovered { high: 700, must_rewrite_both: false };
        assert_eq!(read(&bytes, &EXPECTED), Ok(whole));
        for lost in [0, 1] {
            let mut torn = bytes.clone();
            torn[lost * SLOT_BYTES + 100] ^= 1;
            // The slot that is left says how far the lost one may have gone: it went that far.
            let recovered = read(&torn, &EXPECTED);
            assert_eq!(recovered, Ok(Recovered { high: 700, must_rewrite_both: true }), "{lost}");
        }
    }

    #[test]
    fn m1_a_raise_that_is_torn_skips_no_more_than_it_would_have_handed_out() {
        let mut writer = CursorWriter::new(&EXPECTED, 0, Incarnation([1; 16]), [2; 16]);
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        for sequence in [0, 1] {
            put(&mut bytes, sequence, &writer.cursor);
        }
        let mut sequence = 2;
        let mut old = 0;
        for high in [300, 480, 481, 481, 100_000] {
            for cursor in writer.raise(high) {
                let before = bytes.clone();
                put(&mut bytes, sequence, &cursor);
                let slot = usize::try_from(sequence % 2).expect("0 or 1") * SLOT_BYTES;
                for torn_at in [1, 100, SLOT_BYTES / 2, SLOT_BYTES - 1] {
                    let mut torn = before.clone();
                    torn[slot..slot + torn_at].copy_from_slice(&bytes[slot..slot + torn_at]);
                    let found = read(&torn, &EXPECTED).expect("the other slot is whole").high;
                    assert!((old..=high).contains(&found), "{found}: raised from {old} to {high}");
                }
                sequence += 1;
            }
            let whole = Recovered { high, must_rewrite_both: false };
            assert_eq!(read(&bytes, &EXPECTED), Ok(whole), "on disk before it is used");
            old = high;
        }
    }

    #[test]
    fn m2_no_flip_or_cut_ever_lowers_h() {
        let bytes = raised(500, 700);
        for position in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[position] ^= 0x10;
            let recovered = read(&flipped, &EXPECTED);
            assert!(recovered.is_ok_and(|found| found.high == 700), "flip at {position}");
        }
        for length in [0, 1, SLOT_BYTES, 2 * SLOT_BYTES - 1] {
            assert!(read(&bytes[..length], &EXPECTED).is_err(), "cut to {length}");
        }
        assert!(read(&vec![0; 2 * SLOT_BYTES], &EXPECTED).is_err(), "both lost: never 0");
    }

    #[test]
    fn m4_a_foreign_or_copied_cursor_is_refused_with_one_line() {
        let bytes = raised(0, 0);
        let check = |expected: Expected, word: &str| {
            let error = read(&bytes, &expected).expect_err("refused");
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        };
        check(Expected { campaign: CampaignId(1), ..EXPECTED }, "campaign");
        check(Expected { shard: ShardId(1), ..EXPECTED }, "shard");
        check(Expected { wave: WaveIndex(1), ..EXPECTED }, "wave");
        check(Expected { generation: 1, ..EXPECTED }, "generation");
        check(Expected { epoch: Epoch(2), ..EXPECTED }, "epoch");
        check(Expected { merkle_root: [4; 32], ..EXPECTED }, "seed file");
        check(Expected { inode: 5, ..EXPECTED }, "copied or restored");
        check(Expected { born_ns: 5, ..EXPECTED }, "copied or restored");
    }

    const GRANT: GrantRecord = GrantRecord {
        id: 7,
        lo: 900,
        hi: 1_500,
        holder: Incarnation([1; 16]),
        not_after: yao_protocol::WallTime(5),
        until_ns: 6,
        lifetime_us: 7,
    };

    #[test]
    fn m4_a_grant_is_stated_when_h_has_reached_it_and_not_before() {
        for old in [None, Some(GrantRecord { id: 6, lo: 0, hi: 700, ..GRANT })] {
            let writer = CursorWriter::new(&EXPECTED, 500, Incarnation([1; 16]), [2; 16]);
            let [announced, kept] = writer.under(old).keep(GRANT);
            // A crash between the two leaves the first: what lies between 500 and 900 was granted
            // to somebody else.
            assert_eq!((announced.high, announced.next_high_max), (500, 900));
            assert_eq!(announced.grant, old);
            assert_eq!((kept.high, kept.next_high_max, kept.grant), (900, 900, Some(GRANT)));
        }
        // One that begins below H takes nothing back (M2).
        let mut writer = CursorWriter::new(&EXPECTED, 950, Incarnation([1; 16]), [2; 16]);
        assert_eq!(writer.keep(GRANT).map(|slot| slot.high), [950, 950]);
    }

    #[test]
    fn m4_a_granted_cursor_is_refused_in_local_mode() {
        let mut writer = CursorWriter::new(&EXPECTED, 950, Incarnation([1; 16]), [2; 16]);
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        for (sequence, cursor) in (8..).zip(writer.keep(GRANT)) {
            put(&mut bytes, sequence, &cursor);
        }
        let error = read(&bytes, &EXPECTED).expect_err("settlement decides");
        assert!(error.contains("ownership = \"fleet\""), "{error}");
        let pair = SlotPair::decode(MAGIC, &bytes).expect("both are whole");
        let found = find(&pair, &EXPECTED).expect("fleet mode");
        assert_eq!((found.recovered.high, found.grant), (950, Some(GRANT)));
        // Asked for, too: it may have been granted, and the answer lost.
        let writer = CursorWriter::new(&EXPECTED, 0, Incarnation([1; 16]), [2; 16]);
        let mut asked = writer.under(None);
        for (sequence, cursor) in (8..).zip(asked.raise(0)) {
            put(&mut bytes, sequence, &cursor);
        }
        let error = read(&bytes, &EXPECTED).expect_err("settlement decides");
        assert!(error.contains("was asked") && error.contains("ownership = \"fleet\""), "{error}");
    }

    #[test]
    fn m4_what_is_given_up_names_nobody_to_succeed() {
        let mut writer = CursorWriter::new(&EXPECTED, 950, Incarnation([1; 16]), [2; 16]);
        let _kept = writer.keep(GRANT);
        writer.give_up();
        for slot in writer.raise(950) {
            let grant = slot.grant.expect("its bounds stay");
            assert_eq!((grant.id, grant.lo, grant.hi), (7, 900, 1_500));
            assert_eq!((grant.holder, grant.until_ns), (Incarnation::default(), 0));
            assert_eq!((slot.incarnation, slot.high), (Incarnation::default(), 950));
        }
    }

    #[test]
    #[should_panic(expected = "M2: H never falls")]
    fn m2_a_raise_never_lowers_h() {
        let mut writer = CursorWriter::new(&EXPECTED, 10, Incarnation([0; 16]), [0; 16]);
        assert_eq!(writer.raise(64)[1].high, 64);
        let _falls = writer.raise(63);
    }
}
