//! The life of a granted right: what is asked of settlement, when, and what its answers mean.
//!
//! ```text
//!            ask                    GRANTED                     on disk
//! (nothing) ------> asked ---------------------> being kept ------------> in force <-+
//!    ^                | HELD, ROLLED_BACK, ...                               | ask    | kept
//!    +----------------+  later, perhaps with another claim                   +--------+
//!                        in force and HELD by another: lost, for this life
//! ```

use super::Opening;
use crate::time::Timestamp;
use yao_protocol::{
    CampaignId, Epoch, Incarnation, ShardId, WallTime, WaveIndex,
    cursor::GrantRecord,
    grant::{Claim, GrantAnswer, GrantRequest, NodeName, Verdict},
    keys::SignKey,
    limits::GRANT_PACKETS_MAX,
    settlement::digest,
};

/// An answer that has not come after this long will not come, ns: the agent gives up after 5 s.
const ANSWER_NS_MAX: u64 = 6_000_000_000;
/// Requests lie at least this far apart, ns.
const PAUSE_NS_MIN: u64 = 50_000_000;
/// And at most this far while nothing is granted, ns: an operator who has mended something waits no
/// longer.
const PAUSE_NS_MAX: u64 = 5_000_000_000;
/// A request that could not even be handed to the agent is made again after this long, ns: at each
/// start the agent comes a moment later than the issuer.
const UNSENT_NS: u64 = 100_000_000;
/// A raise of H is told to settlement at once, but not more often than this, ns.
const REPORT_NS: u64 = 1_000_000_000;
/// A grant that holds for longer is used for so long only, us: a day. What ends too early is always
/// safe, and to refuse it would end the right for as long as settlement's clock was ahead.
const LIFETIME_US_MAX: u64 = 86_400_000_000;

/// What an operator is told of [`Verdict::Unknown`].
const UNKNOWN: &str = "settlement knows of no grant of this section: its database was replaced, or \
                       this directory was copied or restored before its first grant (then the \
                       original alone may issue)";
/// And of [`Verdict::Contradicts`].
const CONTRADICTS: &str = "settlement refuses this section: its plan has no such section, or knows \
                           it with other bounds or another seed file, or the shard was sealed or \
                           packets of it were taken back; compare shard.seed with its plans";

const _: () = assert!(PAUSE_NS_MIN < UNSENT_NS && UNSENT_NS < PAUSE_NS_MAX);
const _: () = assert!(PAUSE_NS_MAX < ANSWER_NS_MAX);

/// Who asks, and for which section. Never changes in a life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The campaign.
    pub campaign: CampaignId,
    /// The shard.
    pub shard: ShardId,
    /// The generation of the shard.
    pub generation: u8,
    /// The epoch of the ticket key.
    pub epoch: Epoch,
    /// The wave.
    pub wave: WaveIndex,
    /// Index in the shard of the section's first packet.
    pub first: u32,
    /// Packets of the section.
    pub count: u32,
    /// This process life.
    pub incarnation: Incarnation,
    /// The Merkle root of the seed file.
    pub merkle_root: [u8; 32],
    /// The node's name.
    pub node: NodeName,
}

/// A grant as it binds us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    record: GrantRecord,
    /// H when it was asked for: what lies above was new.
    stated: u32,
}

impl Held {
    const fn until(&self) -> Timestamp {
        Timestamp::from_ns(self.record.until_ns)
    }

    /// When half of its time is over.
    const fn renew_at(&self) -> Timestamp {
        let half_ns = self.record.lifetime_us.saturating_mul(500);
        Timestamp::from_ns(self.record.until_ns.saturating_sub(half_ns))
    }

    /// Whether less than half of its packets are left above `high`.
    fn is_half_used(&self, high: u32) -> bool {
        let given = self.record.hi.saturating_sub(self.stated.max(self.record.lo));
        let left = self.record.hi.saturating_sub(high);
        left == 0 || u64::from(left) * 2 < u64::from(given)
    }
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    digest: [u8; 32],
    /// When it was made: what it is granted counts from here, before settlement's clock began.
    at: Timestamp,
    claim: Claim,
    previous: Incarnation,
    high: u32,
}

/// The right of one process life to one section.
#[derive(Clone, Debug)]
pub struct Fleet {
    asker: Asker,
    /// What the next request claims, and what it builds on.
    claim: Claim,
    previous: Incarnation,
    known: u64,
    /// Lives of this directory that may have been granted what they did not live to write down:
    /// [`Opening::writer`], and those before it. None once it was tried.
    writers: Vec<Incarnation>,
    held: Option<Held>,
    /// Granted, and on its way to the disk.
    keeping: Option<Held>,
    asked: Option<Asked>,
    /// No request before this.
    ask_at: Timestamp,
    asked_last: Timestamp,
    /// The H that settlement has heard of.
    reported: u32,
    nonce: u64,
    /// Whether something may have been granted to us by an answer that did not come.
    unheard: bool,
    lost: bool,
    /// Why nothing new was granted, for people.
    trouble: Option<String>,
}

impl Fleet {
    /// A right that begins with `opening`. A predecessor's grant that is over is none.
    #[must_use]
    pub fn new(now: Timestamp, asker: Asker, opening: &Opening) -> Self {
        let held = opening.held.map(|record| Held { record, stated: record.lo });
        let held = held.filter(|held| now < held.until());
        Self {
            asker,
            claim: opening.claim,
            previous: opening.previous,
            known: opening.known,
            writers: Some(opening.writer)
                .filter(|writer| *writer != Incarnation::default())
                .into_iter()
                .collect(),
            held,
            keeping: None,
            asked: None,
            ask_at: Timestamp::default(),
            asked_last: Timestamp::default(),
            reported: 0,
            nonce: 0,
            unheard: false,
            lost: false,
            trouble: None,
        }
    }

    /// Whether what is claimed lies above everything that was granted before.
    #[must_use]
    pub fn burns(&self) -> bool {
        self.claim == Claim::Burn
    }

    /// These lives stand in the journal, oldest first: of those behind the holder each may have
    /// asked, been granted, and died before it wrote that down. Those before it may be alive: the
    /// journal of a copy begins with lives of the directory that it was made from, and only its
    /// first grant tells where its own begin. Of no consequence where the directory cannot prove
    /// that it is the only one, and before the first grant.
    pub fn follow(&mut self, lives: impl Iterator<Item = Incarnation>) {
        if self.claim == Claim::Resume {
            let mut behind = lives.skip_while(|life| *life != self.previous);
            if behind.next().is_some() {
                self.writers.extend(behind);
            }
        }
    }

    pub(super) const fn is_being_kept(&self) -> bool {
        self.keeping.is_some()
    }

    pub(super) fn ceiling(&self) -> u32 {
        self.held.map_or(0, |held| held.record.hi)
    }

    pub(super) fn until(&self) -> Timestamp {
        self.held.map_or(Timestamp::default(), |held| held.until())
    }

    /// The grant in force, over or not.
    #[must_use]
    pub fn grant(&self) -> Option<&GrantRecord> {
        self.held.as_ref().map(|held| &held.record)
    }

    /// Why nothing new was granted when it was asked for last.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether another one has taken the section over: then nothing is issued in this life.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    pub(super) fn deadline(&self, now: Timestamp, high: u32) -> Timestamp {
        let until = self.until();
        let end = if now < until { until } else { Timestamp::NEVER };
        let ask = if self.lost || self.keeping.is_some() {
            Timestamp::NEVER
        } else if let Some(asked) = &self.asked {
            asked.at.plus_ns(ANSWER_NS_MAX)
        } else {
            self.wants_at(high).max(self.ask_at)
        };
        end.min(ask)
    }

    /// When the next request is wanted, were there no pause between requests.
    fn wants_at(&self, high: u32) -> Timestamp {
        let Some(held) = self.held.filter(|_| self.claim == Claim::Extend) else {
            return Timestamp::default();
        };
        if held.record.hi < self.asker.count && held.is_half_used(high) {
            return Timestamp::default();
        }
        let report_at = if high > self.reported {
            self.asked_last.plus_ns(REPORT_NS)
        } else {
            Timestamp::NEVER
        };
        held.renew_at().min(report_at)
    }

    /// The signed request to send now, if any; `high` is H as it is on disk.
    pub(crate) fn poll(&mut self, now: Timestamp, high: u32, key: &SignKey) -> Option<Vec<u8>> {
        if let Some(asked) = &self.asked
            && now >= asked.at.plus_ns(ANSWER_NS_MAX)
        {
            self.asked = None;
            self.unheard = true;
            self.trouble = Some("settlement does not answer".to_owned());
        }
        let is_busy = self.lost || self.keeping.is_some() || self.asked.is_some();
        if is_busy || now < self.ask_at || now < self.wants_at(high) {
            return None;
        }
        // Rises, and is another one in a clone of this very memory: were the two to send the same
        // bytes, both would be answered with the same grant.
        self.nonce = now.as_ns().max(self.nonce + 1);
        let Asker { campaign, shard, generation, epoch, wave, first, count, .. } = self.asker;
        let request = GrantRequest {
            claim: self.claim,
            campaign,
            shard,
            generation,
            epoch,
            wave,
            first,
            count,
            high,
            known: self.known,
            nonce: self.nonce,
            incarnation: self.asker.incarnation,
            previous: self.previous,
            merkle_root: self.asker.merkle_root,
            node: self.asker.node.clone(),
        };
        let bytes = request.encode(key);
        self.asked = Some(Asked {
            digest: digest(&bytes),
            at: now,
            claim: self.claim,
            previous: self.previous,
            high,
        });
        self.asked_last = now;
        self.ask_at = now.plus_ns(PAUSE_NS_MIN);
        Some(bytes)
    }

    /// The request could not be handed over.
    pub(crate) fn on_unsent(&mut self, now: Timestamp) {
        self.asked = None;
        self.ask_at = now.plus_ns(UNSENT_NS);
        self.trouble = Some("no agent serves that could ask settlement".to_owned());
    }

    /// The request did not reach settlement.
    pub(crate) fn on_unanswered(&mut self, now: Timestamp, retry_after_ms: u32) {
        if self.asked.take().is_some() {
            self.unheard = true;
            let pause_ns = u64::from(retry_after_ms).saturating_mul(1_000_000);
            self.ask_at = now.plus_ns(pause_ns.clamp(PAUSE_NS_MIN, PAUSE_NS_MAX));
            self.trouble =
                Some("settlement gave no answer; the agent's log may say why".to_owned());
        }
    }

    /// Whether the request with this digest is under way.
    pub(crate) fn awaits(&self, request_digest: &[u8; 32]) -> bool {
        self.asked.is_some_and(|asked| asked.digest == *request_digest)
    }

    /// The answer to this request came, and is not wanted any more.
    pub(crate) fn forget(&mut self, request_digest: &[u8; 32]) {
        self.asked.take_if(|asked| asked.digest == *request_digest);
    }

    /// Settlement's answer, its signature good. What must be kept on disk before it counts, if
    /// anything: then comes [`Self::on_kept`].
    pub(crate) fn on_answer(
        &mut self,
        now: Timestamp,
        answer: &GrantAnswer,
    ) -> Option<GrantRecord> {
        // Only the answer to these very bytes: an old grant that is sent again means nothing.
        let asked = self.asked.take_if(|asked| asked.digest == answer.request_digest)?;
        if answer.verdict != Verdict::Granted {
            self.refused(now, &asked, answer);
            return None;
        }
        let record = GrantRecord {
            id: answer.id,
            lo: answer.lo,
            hi: answer.hi,
            holder: answer.holder,
            not_after: answer.not_after,
            until_ns: until(&asked, answer).as_ns(),
            lifetime_us: lifetime_us(answer),
        };
        if !self.is_sound(&asked, &record) {
            self.unheard = true;
            self.later(now, PAUSE_NS_MAX, "settlement granted what was not asked for".to_owned());
            return None;
        }
        self.known = record.id;
        self.keeping = Some(Held { record, stated: asked.high });
        Some(record)
    }

    /// The grant is on disk: it counts from now on. `false` when it is not the one that was kept.
    pub(crate) fn on_kept(&mut self, id: u64) -> bool {
        let Some(kept) = self.keeping.take_if(|held| held.record.id == id) else { return false };
        self.reported = kept.stated;
        self.unheard = false;
        self.held = Some(kept);
        self.claim = Claim::Extend;
        self.previous = Incarnation::default();
        self.writers.clear();
        self.trouble = None;
        true
    }

    /// Whether a grant is one that we can have asked for. Settlement's word is believed, but it
    /// must not send us back below what we have issued.
    fn is_sound(&self, asked: &Asked, record: &GrantRecord) -> bool {
        let begins = match (asked.claim, &self.held) {
            // It begins later than ours when a RESUME was granted and its answer got lost.
            (Claim::Extend, Some(held)) => {
                let lowest = held.record.lo;
                (lowest..=asked.high.max(lowest)).contains(&record.lo)
                    && record.hi >= held.record.hi
            }
            (Claim::Resume, Some(_)) => record.lo == asked.high,
            // What a predecessor was granted above its H it may not have lived to write down. And
            // a ledger that has forgotten it may know of packets that were presented.
            _ => record.lo >= asked.high,
        };
        let fresh = record.hi.saturating_sub(record.lo.max(asked.high));
        begins
            && record.holder == self.asker.incarnation
            && record.hi <= self.asker.count
            && fresh <= GRANT_PACKETS_MAX
    }

    fn refused(&mut self, now: Timestamp, asked: &Asked, answer: &GrantAnswer) {
        let is_ours = answer.holder == self.asker.incarnation;
        match answer.verdict {
            // An earlier request of ours was granted, and its answer got lost. Now it is known.
            Verdict::Held if is_ours && self.unheard => {
                self.unheard = false;
                self.retry(now, Claim::Extend, Incarnation::default());
            }
            // Every answer of ours came: a clone of this process speaks in its name.
            Verdict::Held if is_ours => self.lose(answer),
            // The predecessor was granted more than it lived to write down.
            Verdict::Held if asked.claim == Claim::Resume && answer.holder == asked.previous => {
                self.retry(now, Claim::Resume, asked.previous);
            }
            Verdict::Held if asked.claim != Claim::Burn && self.is_writer(answer.holder) => {
                self.writers.retain(|writer| *writer != answer.holder);
                self.retry(now, Claim::Resume, answer.holder);
            }
            Verdict::Held | Verdict::RolledBack if self.held.is_some() => self.lose(answer),
            Verdict::Held if asked.claim == Claim::Burn && answer.id != self.known => {
                self.retry(now, Claim::Burn, asked.previous);
            }
            Verdict::Held | Verdict::RolledBack => self.wait_to_burn(now, answer),
            Verdict::Unknown => {
                self.later(now, PAUSE_NS_MAX, UNKNOWN.to_owned());
                return;
            }
            Verdict::Contradicts => {
                self.later(now, PAUSE_NS_MAX, CONTRADICTS.to_owned());
                return;
            }
            Verdict::Granted => unreachable!("it was looked at before"),
        }
        self.known = answer.id;
    }

    /// A life of this directory that was not tried yet.
    fn is_writer(&self, holder: Incarnation) -> bool {
        self.writers.contains(&holder)
    }

    /// The same once more, with what is known now.
    fn retry(&mut self, now: Timestamp, claim: Claim, previous: Incarnation) {
        (self.claim, self.previous) = (claim, previous);
        self.ask_at = now.plus_ns(PAUSE_NS_MIN);
    }

    /// Another one holds the section, or more was issued than this disk knows: only what was
    /// granted to nobody can be ours, when the grant in force has ended for certain.
    fn wait_to_burn(&mut self, now: Timestamp, answer: &GrantAnswer) {
        (self.claim, self.previous) = (Claim::Burn, Incarnation::default());
        let end = answer.not_after.plus_us(u64::from(answer.margin_ms) * 1_000);
        let wait_ns = end.0.saturating_sub(answer.decided_at.0).saturating_mul(1_000);
        let (id, until) = (answer.id, Rfc3339(answer.not_after));
        let why = if answer.verdict == Verdict::RolledBack {
            let why = self.against_us(answer);
            format!("{why}; this node goes on above grant {id} when that has ended, at {until}")
        } else {
            let (node, holder) = (&answer.node, answer.holder);
            format!(
                "node \"{node}\" (incarnation {holder}) holds the section by grant {id} until \
                 {until}"
            )
        };
        self.later(now, wait_ns, why);
    }

    fn lose(&mut self, answer: &GrantAnswer) {
        self.held = None;
        self.lost = true;
        let why = self.against_us(answer);
        self.trouble = Some(format!("{why}; this process issues nothing any more"));
    }

    /// What a refusal says against our right, for people. To be called before `known` is set from
    /// it.
    fn against_us(&self, answer: &GrantAnswer) -> String {
        let GrantAnswer { verdict, id, seen, holder, node, .. } = answer;
        if *verdict == Verdict::RolledBack {
            return format!(
                "settlement has heard of packets below position {seen} that this disk has not: \
                 the disk was put back to an older state"
            );
        }
        if *id < self.known {
            let known = self.known;
            return format!(
                "settlement's newest grant is {id}, and this node has {known}: its database was \
                 put back to an older state"
            );
        }
        if *holder == self.asker.incarnation {
            return format!(
                "grant {id} was asked for in this process's own name ({holder}), and not by it: a \
                 clone of this machine runs with its memory; end it"
            );
        }
        format!("node \"{node}\" (incarnation {holder}) has taken the section over by grant {id}")
    }

    fn later(&mut self, now: Timestamp, pause_ns: u64, why: String) {
        self.ask_at = now.plus_ns(pause_ns.clamp(PAUSE_NS_MIN, PAUSE_NS_MAX));
        self.trouble = Some(why);
    }
}

/// Until when a grant binds the one who asked at `asked.at`: settlement's clock began later than
/// that, and clocks may run apart by the margin.
fn until(asked: &Asked, answer: &GrantAnswer) -> Timestamp {
    let lifetime_ns = lifetime_us(answer).saturating_mul(1_000);
    let margin_ns = u64::from(answer.margin_ms).saturating_mul(1_000_000);
    asked.at.plus_ns(lifetime_ns.saturating_sub(margin_ns))
}

/// For how long a grant holds, as far as it is believed.
fn lifetime_us(answer: &GrantAnswer) -> u64 {
    answer.lifetime_us().min(LIFETIME_US_MAX)
}

struct Rfc3339(WallTime);

impl std::fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&yao_protocol::schedule::format_rfc3339(self.0))
    }
}
