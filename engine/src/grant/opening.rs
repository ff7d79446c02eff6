//! What a start in fleet mode may claim, by what it finds on its disk: the table of grants.md 5.
//! Reads nothing itself, and never guesses: in doubt it burns.

use crate::cursor::Found;
use yao_protocol::{Incarnation, cursor::GrantRecord, grant::Claim};

/// What the memory of the running kernel says of a cursor: a file that is gone after a reboot, and
/// that no backup brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// There is none, or it cannot be read: nothing is known.
    Absent,
    /// The cursor is the one that was written last.
    Agrees,
    /// A newer cursor was on this disk since the machine booted: it was put back to an older state.
    RolledBack,
}

/// What a node that was booted again asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterReboot {
    /// To go on at H. Settlement knows the H of every raise that reached it; a disk that was put
    /// back to before one that did not is not noticed.
    #[default]
    Resume,
    /// For packets that were granted to nobody: nothing that was granted is issued any more, so
    /// that no state of the disk can repeat a packet. In the same boot, too, unless a witness says
    /// that the cursor is the newest, and what it says of the grant has an end.
    Burn,
}

/// Where a life's right begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// What is claimed first.
    pub claim: Claim,
    /// Whom we succeed; zeros when that cannot be said.
    pub previous: Incarnation,
    /// The newest grant that the cursor knows of; 0 = none.
    pub known: u64,
    /// The life that wrote the cursor last: what it was granted it may not have lived to write
    /// down. Zeros when it must not be succeeded by RESUME.
    pub writer: Incarnation,
    /// The predecessor's grant, when it may be used until its end without asking anybody.
    pub held: Option<GrantRecord>,
    /// What the cursor says of the predecessor's grant until a new one stands there. Invariant: its
    /// end is the boot clock's origin unless it is `held`, for a slot that is written now names
    /// this boot: the next start must not take an instant of another boot, or a right that this
    /// one could not prove, for its own.
    pub last: Option<GrantRecord>,
    /// Why, for people.
    pub because: &'static str,
}

impl Opening {
    /// What `found` allows in a life that runs in boot `boot_id`.
    #[must_use]
    pub fn new(
        found: &Found,
        boot_id: [u8; 16],
        witness: Witness,
        after_reboot: AfterReboot,
    ) -> Self {
        let known = found.grant.map_or(0, |grant| grant.id);
        // What the life before was granted is gone on with by nobody, written down or not, where
        // only the disk says that it has ended: a clone of the disk says the same.
        // A grant without an end is one that a start of this boot found and had no answer about: it
        // wrote its name into the cursor, which says nothing of who issued in the boot before.
        let seen_whole = found.grant.is_none_or(|grant| grant.until_ns > 0);
        let proved = found.boot_id == boot_id && witness == Witness::Agrees && seen_whole;
        let burns = after_reboot == AfterReboot::Burn && !proved;
        let base = Self {
            claim: Claim::Burn,
            previous: Incarnation::default(),
            known,
            writer: if burns { Incarnation::default() } else { found.written_by },
            held: None,
            last: found.grant.map(|grant| GrantRecord { until_ns: 0, ..grant }),
            because: "",
        };
        if found.moved_from.is_some() {
            // Nor by a life that finds the first of the two slots that keep what this one is
            // granted: it stands in this file, and names the grant of another directory.
            let nobodys = |grant| GrantRecord { holder: Incarnation::default(), ..grant };
            let because = "the state directory is a copy or was restored";
            return Self { because, last: base.last.map(nobodys), ..base };
        }
        if witness == Witness::RolledBack {
            let because = "the state directory was put back to an older state";
            return Self { because, ..base };
        }
        let Some(grant) = found.grant else {
            return Self { claim: Claim::First, because: "nothing was granted so far", ..base };
        };
        if grant.holder == Incarnation::default() {
            let because = "the life before heard that another one has the section";
            return Self { because, ..base };
        }
        let chained = Self { previous: grant.holder, ..base };
        if burns {
            let because = "shard.after_reboot is \"burn\", and it is not proved that nothing was \
                           issued since";
            return Self { because, ..chained };
        }
        // The lock on the directory tells that its last process of this boot has ended, and the
        // witness that nothing was issued since by a cursor that is not here any more.
        if found.boot_id == boot_id {
            let reaches = found.recovered.high >= grant.lo;
            let held = (witness == Witness::Agrees && reaches).then_some(grant);
            let because = "the last process of this boot has ended";
            let last = held.or(base.last);
            return Self { claim: Claim::Resume, held, last, because, ..chained };
        }
        Self { claim: Claim::Resume, because: "the machine was booted again", ..chained }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Recovered;
    use yao_protocol::WallTime;

    const HOLDER: Incarnation = Incarnation([7; 16]);
    const WRITER: Incarnation = Incarnation([8; 16]);
    const NOBODY: Incarnation = Incarnation([0; 16]);

    fn grant() -> GrantRecord {
        GrantRecord {
            id: 5,
            lo: 10,
            hi: 90,
            holder: HOLDER,
            not_after: WallTime(1),
            until_ns: 2,
            lifetime_us: 3,
        }
    }

    fn found() -> Found {
        Found {
            recovered: Recovered { high: 40, must_rewrite_both: false },
            moved_from: None,
            written_by: WRITER,
            boot_id: [1; 16],
            asked: true,
            grant: Some(grant()),
        }
    }

    /// The start-up table of grants.md 5, row by row: claim, whom we succeed, and whether packets
    /// may be issued before settlement has answered.
    #[test]
    fn m4_a_start_claims_what_its_disk_proves_and_no_more() {
        let check = |found: Found, boot: u8, witness, after, expected| {
            let opening = Opening::new(&found, [boot; 16], witness, after);
            let held = opening.held.is_some();
            assert_eq!((opening.claim, opening.previous, held), expected, "{}", opening.because);
            assert_eq!(opening.known, found.grant.map_or(0, |grant| grant.id));
            let proved = boot == 1 && witness == Witness::Agrees;
            let burns = after == AfterReboot::Burn && !proved;
            assert_eq!(opening.writer, if burns { NOBODY } else { WRITER });
            let until = opening.last.map(|grant| grant.until_ns);
            let stays = if held { grant().until_ns } else { 0 };
            assert_eq!(until, found.grant.map(|_| stays), "no end that this boot cannot know");
        };
        let (resume, burn) = (AfterReboot::Resume, AfterReboot::Burn);
        let fresh = Found { grant: None, ..found() };
        let moved = Found { moved_from: Some(3), ..found() };
        for after in [resume, burn] {
            check(found(), 1, Witness::Agrees, after, (Claim::Resume, HOLDER, true));
            let claim = if after == burn { Claim::Burn } else { Claim::Resume };
            check(found(), 1, Witness::Absent, after, (claim, HOLDER, false));
            check(found(), 1, Witness::RolledBack, after, (Claim::Burn, NOBODY, false));
            // The first slot of a copy's first grant says that nobody holds the one before.
            let first_slot = Opening::new(&moved, [1; 16], Witness::Absent, after).last;
            assert_eq!(first_slot.map(|grant| (grant.id, grant.holder)), Some((5, NOBODY)));
            for witness in [Witness::Absent, Witness::Agrees, Witness::RolledBack] {
                check(moved, 1, witness, after, (Claim::Burn, NOBODY, false));
                check(moved, 2, witness, after, (Claim::Burn, NOBODY, false));
            }
            // Below its grant a cursor never stands; if one does, nothing of it is ours unasked.
            let low = Recovered { high: 9, must_rewrite_both: false };
            let below = Found { recovered: low, ..found() };
            check(below, 1, Witness::Agrees, after, (Claim::Resume, HOLDER, false));
            // A start of this boot has written its name there and was not answered: what it found
            // is no better proved than before, should the operator have chosen "burn" since.
            let unproved = GrantRecord { until_ns: 0, ..grant() };
            let asked = Found { grant: Some(unproved), ..found() };
            let opening = Opening::new(&asked, [1; 16], Witness::Agrees, after);
            assert_eq!((opening.claim, opening.previous), (claim, HOLDER));
            check(fresh, 1, Witness::Absent, after, (Claim::First, NOBODY, false));
            check(fresh, 1, Witness::RolledBack, after, (Claim::Burn, NOBODY, false));
            // The life before heard of another owner, and gave the right up.
            let given_up = GrantRecord { holder: NOBODY, until_ns: 0, ..grant() };
            let opening = |witness, boot| {
                let found = Found { grant: Some(given_up), ..found() };
                Opening::new(&found, [boot; 16], witness, after)
            };
            for (witness, boot) in
                [(Witness::Agrees, 1), (Witness::Absent, 1), (Witness::Absent, 2)]
            {
                let opening = opening(witness, boot);
                assert_eq!((opening.claim, opening.previous), (Claim::Burn, NOBODY));
                assert_eq!(opening.held, None);
            }
        }
        check(found(), 2, Witness::Absent, resume, (Claim::Resume, HOLDER, false));
        check(found(), 2, Witness::Absent, burn, (Claim::Burn, HOLDER, false));
        check(fresh, 2, Witness::Absent, resume, (Claim::First, NOBODY, false));
        check(fresh, 2, Witness::Absent, burn, (Claim::First, NOBODY, false));
    }
}
