//! The right to issue from a wave's section, as a node asks for it and settlement grants it
//! (grants.md 2 and 3; M4, fleet mode).
//!
//! The request is signed with the shard's ticket key, the answer with settlement's key: the agent
//! that carries both can make neither. An answer names the bytes of its request, so that an old one
//! answers nothing.
//!
//! ```text
//! request                                   answer
//!   0  4 B  "YAOQ"                            0  4 B  "YAOG"
//!   4  u16  version = 1                       4  u16  version = 1
//!   6  u8   claim                             6  u8   verdict
//!   7  u8   generation                        7  u8   generation
//!   8  u64  campaign                          8  u64  campaign
//!  16  u32  shard                            16  u32  shard
//!  20  u32  epoch                            20  u32  epoch
//!  24  u16  wave                             24  u16  wave
//!  26  u16  reserved = 0                     26  u16  reserved = 0
//!  28  u32  first index of the section       28  u32  settlement key id
//!  32  u32  packets of the section           32  u64  grant id, 0 = none
//!  36  u32  H                                40  u32  lo
//!  40  u64  newest grant known, 0 = none     44  u32  hi
//!  48  u64  nonce                            48  u32  highest H seen
//!  56  16 B incarnation                      52  u32  margin, ms
//!  72  16 B previous incarnation             56  u64  decided at, us
//!  88  32 B Merkle root                      64  u64  not after, us
//! 120  64 B node                             72  16 B incarnation that holds it
//! 184  64 B signature                        88  32 B BLAKE3 of the request
//!                                           120  64 B node that holds it
//!                                           184  64 B signature
//! ```

use crate::{
    CampaignId, Epoch, Incarnation, KeyId, ShardId, WallTime, WaveIndex, WireError,
    codec::{Put, Reader},
    keys::{Context, KeySet, PublicKey, SIGNATURE_BYTES, SignKey, context},
    limits::NODE_NAME_BYTES_MAX,
    settlement,
};
use std::fmt;

const REQUEST_MAGIC: [u8; 4] = *b"YAOQ";
const ANSWER_MAGIC: [u8; 4] = *b"YAOG";
const VERSION: u16 = 1;
/// Bytes of a request, and of an answer.
pub const GRANT_BYTES: usize = 248;

/// Where an answer names its request.
const DIGEST_OFFSET: usize = 88;

/// A node's name as people gave it, for those who ask who holds a grant: UTF-8 without control
/// characters, at most [`NODE_NAME_BYTES_MAX`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeName(String);

impl NodeName {
    /// The name in `text`, without control characters and cut to its limit.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut name: String = text.chars().filter(|letter| !letter.is_control()).collect();
        name.truncate(name.floor_char_boundary(NODE_NAME_BYTES_MAX));
        Self(name)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn put(&self, out: &mut Vec<u8>) {
        let end = out.len() + 1 + NODE_NAME_BYTES_MAX;
        out.put_u8(u8::try_from(self.0.len()).expect("cut when it was made"));
        out.put(self.0.as_bytes());
        out.resize(end, 0);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        const TEXT: WireError = WireError::Text { field: "a node's name" };
        let length = usize::from(r.u8()?);
        let bytes = r.bytes(NODE_NAME_BYTES_MAX)?;
        let (name, rest) = bytes.split_at_checked(length).ok_or(TEXT)?;
        let name = std::str::from_utf8(name).map_err(|_| TEXT)?;
        if name.chars().any(char::is_control) || rest.iter().any(|byte| *byte != 0) {
            return Err(TEXT);
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a request builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Claim {
    /// Nobody was ever granted this section.
    First = 1,
    /// We hold it, and want more of it, or longer.
    Extend = 2,
    /// The previous incarnation held it and has ended, and H covers all that it issued.
    Resume = 3,
    /// Whatever was granted is over, and how far it was issued is unknown: none of it is asked for.
    Burn = 4,
}

impl Claim {
    const ALL: [Self; 4] = [Self::First, Self::Extend, Self::Resume, Self::Burn];

    /// The claim with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|claim| *claim as u8 == number)
    }

    /// Its name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Extend => "extend",
            Self::Resume => "resume",
            Self::Burn => "burn",
        }
    }
}

/// A node asks for the right to issue from one wave's section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRequest {
    /// What it builds on.
    pub claim: Claim,
    /// The campaign.
    pub campaign: CampaignId,
    /// The shard.
    pub shard: ShardId,
    /// The generation of the shard.
    pub generation: u8,
    /// The epoch of the ticket key that signs.
    pub epoch: Epoch,
    /// The wave.
    pub wave: WaveIndex,
    /// Index in the shard of the section's first packet.
    pub first: u32,
    /// Packets of the section.
    pub count: u32,
    /// H as it is on the node's disk: packets below it may have been issued. At most `count`.
    pub high: u32,
    /// The newest grant of this section that the node knows of; 0 = none. Compared and set.
    pub known: u64,
    /// Tells this request from every other one of this incarnation.
    pub nonce: u64,
    /// The process life that asks.
    pub incarnation: Incarnation,
    /// Which incarnation it succeeds, compared and set; zeros when it cannot say.
    pub previous: Incarnation,
    /// The Merkle root of the shard's seed file.
    pub merkle_root: [u8; 32],
    /// The node's name.
    pub node: NodeName,
}

impl GrantRequest {
    /// Whose request these bytes say they are. Nothing is checked.
    #[must_use]
    pub fn sender(bytes: &[u8]) -> Option<(CampaignId, ShardId)> {
        settlement::sender(bytes, REQUEST_MAGIC)
    }

    /// The signed bytes.
    #[must_use]
    pub fn encode(&self, key: &SignKey) -> Vec<u8> {
        let mut out = Vec::with_capacity(GRANT_BYTES);
        out.put(&REQUEST_MAGIC);
        out.put_u16(VERSION);
        out.put(&[self.claim as u8, self.generation]);
        out.put_u64(self.campaign.0);
        out.put_u32(self.shard.0);
        out.put_u32(self.epoch.0);
        out.put_u16(self.wave.0);
        out.put_u16(0);
        out.put_u32(self.first);
        out.put_u32(self.count);
        out.put_u32(self.high);
        out.put_u64(self.known);
        out.put_u64(self.nonce);
        out.put(&self.incarnation.0);
        out.put(&self.previous.0);
        out.put(&self.merkle_root);
        self.node.put(&mut out);
        signed(out, key, context::GRANT_REQUEST)
    }

    /// Reads a request and checks its signature.
    ///
    /// # Errors
    /// A wrong form, no key for (campaign, shard, epoch), a wrong signature, an H above the
    /// section, a section above 2^32, no incarnation.
    pub fn decode(bytes: &[u8], keys: &KeySet) -> Result<Self, WireError> {
        const WHAT: &str = "a grant request";
        let (covered, signature) = split(WHAT, bytes)?;
        let mut r = Reader::new(WHAT, covered);
        known_format(WHAT, REQUEST_MAGIC, &mut r)?;
        let claim = r.u8()?;
        let claim = Claim::from_number(claim)
            .ok_or(WireError::Value { field: "claim", value: u64::from(claim) })?;
        let generation = r.u8()?;
        let campaign = CampaignId(r.u64()?);
        let (shard, epoch) = (r.shard()?, Epoch(r.u32()?));
        let wave = WaveIndex(r.u16()?);
        r.reserved::<2>()?;
        let (first, count, high) = (r.u32()?, r.u32()?, r.u32()?);
        let request = Self {
            claim,
            campaign,
            shard,
            generation,
            epoch,
            wave,
            first,
            count,
            high,
            known: r.u64()?,
            nonce: r.u64()?,
            incarnation: Incarnation(r.array()?),
            previous: Incarnation(r.array()?),
            merkle_root: r.array()?,
            node: NodeName::read(&mut r)?,
        };
        r.finish()?;
        let key = keys.ticket(campaign, shard, epoch);
        authentic(WHAT, key, context::GRANT_REQUEST, covered, signature)?;
        let out_of = |field, value: u32| Err(WireError::Value { field, value: u64::from(value) });
        if first.checked_add(count).is_none() {
            return out_of("section count", count);
        }
        if high > count {
            return out_of("H", high);
        }
        if request.incarnation == Incarnation::default() {
            return Err(WireError::Value { field: "incarnation", value: 0 });
        }
        Ok(request)
    }
}

/// What settlement says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// The asker may issue the packets at positions `lo` to `hi` until `not_after`.
    Granted = 1,
    /// The request builds on something else than what is recorded. The answer tells who holds the
    /// section, by which grant, and until when.
    Held = 2,
    /// The claim is right, but more was issued than the request's H says: the node's disk was put
    /// back to an older state.
    RolledBack = 3,
    /// Nothing was ever granted of this section.
    Unknown = 4,
    /// The plan has no such section, or it is recorded with other bounds or another seed file.
    Contradicts = 5,
}

impl Verdict {
    const ALL: [Self; 5] =
        [Self::Granted, Self::Held, Self::RolledBack, Self::Unknown, Self::Contradicts];

    /// The verdict with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| *verdict as u8 == number)
    }
}

/// Settlement's answer: the grant that is in force now, whoever holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantAnswer {
    /// The word on the request.
    pub verdict: Verdict,
    /// The campaign, as in the request.
    pub campaign: CampaignId,
    /// The shard, as in the request.
    pub shard: ShardId,
    /// The generation, as in the request.
    pub generation: u8,
    /// The epoch, as in the request.
    pub epoch: Epoch,
    /// The wave, as in the request.
    pub wave: WaveIndex,
    /// Which settlement key signs.
    pub key_id: KeyId,
    /// The newest grant of this section; 0 when there is none.
    pub id: u64,
    /// Position of the first packet that its holder may issue.
    pub lo: u32,
    /// Position behind the last one.
    pub hi: u32,
    /// The highest H that any holder has stated.
    pub seen: u32,
    /// Clocks may be wrong by this much, ms: the holder stops so much earlier than `not_after`, and
    /// nobody succeeds it before so much later.
    pub margin_ms: u32,
    /// When settlement decided, by its own clock.
    pub decided_at: WallTime,
    /// Until when the grant holds, by the same clock.
    pub not_after: WallTime,
    /// Who holds it; zeros when nobody ever did.
    pub holder: Incarnation,
    /// The holder's node.
    pub node: NodeName,
    /// BLAKE3 of the request's bytes, signature included.
    pub request_digest: [u8; 32],
}

impl GrantAnswer {
    /// The signed bytes.
    #[must_use]
    pub fn encode(&self, key: &SignKey) -> Vec<u8> {
        let mut out = Vec::with_capacity(GRANT_BYTES);
        out.put(&ANSWER_MAGIC);
        out.put_u16(VERSION);
        out.put(&[self.verdict as u8, self.generation]);
        out.put_u64(self.campaign.0);
        out.put_u32(self.shard.0);
        out.put_u32(self.epoch.0);
        out.put_u16(self.wave.0);
        out.put_u16(0);
        out.put_u32(self.key_id.0);
        out.put_u64(self.id);
        out.put_u32(self.lo);
        out.put_u32(self.hi);
        out.put_u32(self.seen);
        out.put_u32(self.margin_ms);
        out.put_u64(self.decided_at.0);
        out.put_u64(self.not_after.0);
        out.put(&self.holder.0);
        out.put(&self.request_digest);
        self.node.put(&mut out);
        signed(out, key, context::GRANT)
    }

    /// Reads an answer and checks its signature.
    ///
    /// # Errors
    /// A wrong form, an unknown settlement key, a wrong signature, a range that ends before it
    /// begins, a grant without id or that is over when it is made.
    pub fn decode(bytes: &[u8], keys: &KeySet) -> Result<Self, WireError> {
        const WHAT: &str = "a grant";
        let (covered, signature) = split(WHAT, bytes)?;
        let mut r = Reader::new(WHAT, covered);
        known_format(WHAT, ANSWER_MAGIC, &mut r)?;
        let verdict = r.u8()?;
        let verdict = Verdict::from_number(verdict)
            .ok_or(WireError::Value { field: "verdict", value: u64::from(verdict) })?;
        let generation = r.u8()?;
        let campaign = CampaignId(r.u64()?);
        let (shard, epoch) = (r.shard()?, Epoch(r.u32()?));
        let wave = WaveIndex(r.u16()?);
        r.reserved::<2>()?;
        let answer = Self {
            verdict,
            campaign,
            shard,
            generation,
            epoch,
            wave,
            key_id: KeyId(r.u32()?),
            id: r.u64()?,
            lo: r.u32()?,
            hi: r.u32()?,
            seen: r.u32()?,
            margin_ms: r.u32()?,
            decided_at: WallTime(r.u64()?),
            not_after: WallTime(r.u64()?),
            holder: Incarnation(r.array()?),
            request_digest: r.array()?,
            node: NodeName::read(&mut r)?,
        };
        r.finish()?;
        let key = keys.settlement(answer.key_id);
        authentic(WHAT, key, context::GRANT, covered, signature)?;
        if answer.hi < answer.lo {
            return Err(WireError::Value { field: "hi", value: u64::from(answer.hi) });
        }
        if answer.verdict == Verdict::Granted {
            if answer.id == 0 {
                return Err(WireError::Value { field: "grant id", value: 0 });
            }
            if answer.not_after <= answer.decided_at {
                return Err(WireError::Value { field: "not after", value: answer.not_after.0 });
            }
        }
        Ok(answer)
    }

    /// The digest of the request that these bytes claim to answer, unproved: so that what nobody
    /// asked for costs no signature check.
    #[must_use]
    pub fn peek_request_digest(bytes: &[u8]) -> Option<[u8; 32]> {
        if bytes.len() != GRANT_BYTES {
            return None;
        }
        bytes.get(DIGEST_OFFSET..)?.first_chunk().copied()
    }

    /// How long the grant holds from the moment it was decided, us.
    #[must_use]
    pub const fn lifetime_us(&self) -> u64 {
        self.not_after.0.saturating_sub(self.decided_at.0)
    }
}

fn signed(mut out: Vec<u8>, key: &SignKey, context: Context) -> Vec<u8> {
    let signature = key.sign(context, &out);
    out.put(&signature);
    debug_assert_eq!(out.len(), GRANT_BYTES, "both have one size");
    out
}

fn split<'a>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<(&'a [u8], &'a [u8; SIGNATURE_BYTES]), WireError> {
    let short = WireError::Short { what, have: bytes.len(), need: GRANT_BYTES };
    bytes.split_last_chunk::<SIGNATURE_BYTES>().ok_or(short)
}

fn known_format(what: &'static str, magic: [u8; 4], r: &mut Reader<'_>) -> Result<(), WireError> {
    if r.array::<4>()? != magic {
        return Err(WireError::Magic { what });
    }
    match r.u16()? {
        VERSION => Ok(()),
        version => Err(WireError::Version { what, version, known: VERSION }),
    }
}

fn authentic(
    what: &'static str,
    key: Option<PublicKey>,
    context: Context,
    covered: &[u8],
    signature: &[u8; SIGNATURE_BYTES],
) -> Result<(), WireError> {
    match key {
        Some(key) if key.verifies(context, covered, signature) => Ok(()),
        _ => Err(WireError::Forged { what }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_is_cut_between_characters_and_holds_no_control() {
        assert_eq!(NodeName::new("node-1\n\u{1b}[31m").as_str(), "node-1[31m");
        assert_eq!(NodeName::new(&"摇".repeat(40)).as_str(), "摇".repeat(21));
        assert_eq!(NodeName::new(&"x".repeat(80)).as_str().len(), NODE_NAME_BYTES_MAX);
    }
}
