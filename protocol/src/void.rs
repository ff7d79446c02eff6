//! Voiding: the operator asks settlement to take packets back, and settlement's signed answer says
//! which of them it did (M10; reclaim.md 3).
//!
//! The request is signed with the campaign key. Settlement judges each packet by its own rows and
//! clock; what it voided once is void for ever, and belongs to one child generation.
//!
//! ```text
//! request, 136 bytes                       answer
//!  0  4 B  "YAOV"                           0  4 B  "YAOW"
//!  4  u16  version = 1                      4  u16  version = 1
//!  6  u16  reserved = 0                     6  u16  reserved = 0
//!  8  u64  campaign                         8  32 B as in the request: campaign to reserved
//! 16  u32  shard                            40 32 B plan digest, as in the request
//! 20  u8   generation                       72 u64  voided at, Unix us
//! 21  u8   child generation, above it       80 u32  settlement key id
//! 22  u16  reserved = 0                     84 u32  how many are void
//! 24  u32  first: index in the shard        88 ...  bitmap, bit n of byte m is packet
//! 28  u32  count, 1..=65,536                        first + 8 m + n; unused bits 0
//! 32  u64  reserved = 0                     ..  64 B signature
//! 40  32 B plan digest of the child
//! 72  64 B signature
//! ```

use crate::{
    CampaignId, KeyId, PacketId, PacketIndex, ShardId, WallTime, WireError,
    codec::{Put, Reader},
    keys::{KeySet, PublicKey, SIGNATURE_BYTES, SignKey, context},
    limits::VOID_PACKETS_MAX,
};

const REQUEST_MAGIC: [u8; 4] = *b"YAOV";
const ANSWER_MAGIC: [u8; 4] = *b"YAOW";
const VERSION: u16 = 1;
/// Bytes of a request.
pub const VOID_REQUEST_BYTES: usize = 72 + SIGNATURE_BYTES;
const ANSWER_HEADER_BYTES: usize = 88;
/// Bytes of the longest answer.
pub const VOID_ANSWER_BYTES_MAX: usize =
    ANSWER_HEADER_BYTES + VOID_PACKETS_MAX as usize / 8 + SIGNATURE_BYTES;
const REQUEST: &str = "a void request";
const ANSWER: &str = "a void answer";

/// Which packets are to be taken back, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoidRequest {
    /// The campaign.
    pub campaign: CampaignId,
    /// The shard of the packets.
    pub shard: ShardId,
    /// Their generation.
    pub generation: u8,
    /// The generation that their value goes to; above theirs.
    pub child: u8,
    /// Index of the first.
    pub first: u32,
    /// How many; 1..=[`VOID_PACKETS_MAX`].
    pub count: u32,
    /// Digest of the plan of the child generation: another plan never gets these packets.
    pub plan_digest: [u8; 32],
}

impl VoidRequest {
    /// The packet at `position` of the range.
    #[must_use]
    pub fn packet(&self, position: u32) -> PacketId {
        PacketId::new(self.generation, self.shard, PacketIndex(self.first + position))
    }

    /// The signed bytes.
    #[must_use]
    pub fn encode(&self, key: &SignKey) -> Vec<u8> {
        let mut out = Vec::with_capacity(VOID_REQUEST_BYTES);
        put_head(&mut out, REQUEST_MAGIC);
        self.put(&mut out);
        let signature = key.sign(context::VOID, &out);
        out.put(&signature);
        out
    }

    /// Reads a request and checks its signature by the campaign's key.
    ///
    /// # Errors
    /// A wrong form, a wrong signature, a range that is empty, too long or beyond the indexes, a
    /// child that is no later generation.
    pub fn decode(bytes: &[u8], key: &PublicKey) -> Result<Self, WireError> {
        let (signed, signature) = split(REQUEST, bytes, VOID_REQUEST_BYTES)?;
        let mut r = Reader::new(REQUEST, signed);
        read_head(REQUEST, REQUEST_MAGIC, &mut r)?;
        let request = Self::read(&mut r)?;
        r.finish()?;
        if !key.verifies(context::VOID, signed, signature) {
            return Err(WireError::Forged { what: REQUEST });
        }
        request.check()?;
        Ok(request)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.campaign.0);
        out.put_u32(self.shard.0);
        out.put(&[self.generation, self.child, 0, 0]);
        out.put_u32(self.first);
        out.put_u32(self.count);
        out.put_u64(0);
        out.put(&self.plan_digest);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (campaign, shard) = (CampaignId(r.u64()?), r.shard()?);
        let (generation, child) = (r.u8()?, r.u8()?);
        r.reserved::<2>()?;
        let (first, count) = (r.u32()?, r.u32()?);
        r.reserved::<8>()?;
        Ok(Self { campaign, shard, generation, child, first, count, plan_digest: r.array()? })
    }

    fn check(&self) -> Result<(), WireError> {
        let value = |field, value: u32| Err(WireError::Value { field, value: u64::from(value) });
        if self.child <= self.generation {
            return value("child generation", u32::from(self.child));
        }
        if !(1..=VOID_PACKETS_MAX).contains(&self.count) {
            return value("void count", self.count);
        }
        if self.first.checked_add(self.count).is_none() {
            return value("first packet", self.first);
        }
        Ok(())
    }
}

/// Which packets of a request are void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoidAnswer {
    /// The request.
    pub request: VoidRequest,
    /// When settlement decided.
    pub voided_at: WallTime,
    /// Which settlement key signs.
    pub key_id: KeyId,
    /// One for each packet of the request, in order.
    pub void: Vec<bool>,
}

impl VoidAnswer {
    /// The packets that are void, rising.
    pub fn packets(&self) -> impl Iterator<Item = PacketId> {
        (0..).zip(&self.void).filter(|(_, void)| **void).map(|(at, _)| self.request.packet(at))
    }

    /// The signed bytes.
    ///
    /// # Panics
    /// When there is not one bit for each packet.
    #[must_use]
    pub fn encode(&self, key: &SignKey) -> Vec<u8> {
        assert_eq!(self.void.len(), self.request.count as usize, "one bit for each packet");
        let mut out = Vec::with_capacity(VOID_ANSWER_BYTES_MAX);
        put_head(&mut out, ANSWER_MAGIC);
        self.request.put(&mut out);
        out.put_u64(self.voided_at.0);
        out.put_u32(self.key_id.0);
        let count = self.void.iter().filter(|void| **void).count();
        out.put_u32(u32::try_from(count).expect("at most the request's count"));
        for eight in self.void.chunks(8) {
            let bits = (0..).zip(eight).filter(|(_, void)| **void);
            out.put_u8(bits.fold(0, |byte, (bit, _)| byte | 1 << bit));
        }
        let signature = key.sign(context::VOIDED, &out);
        out.put(&signature);
        out
    }

    /// Reads an answer and checks its signature.
    ///
    /// # Errors
    /// A wrong form, an unknown settlement key, a wrong signature, bits that are not counted.
    pub fn decode(bytes: &[u8], keys: &KeySet) -> Result<Self, WireError> {
        let (signed, signature) = split(ANSWER, bytes, ANSWER_HEADER_BYTES + SIGNATURE_BYTES)?;
        let mut r = Reader::new(ANSWER, signed);
        read_head(ANSWER, ANSWER_MAGIC, &mut r)?;
        let request = VoidRequest::read(&mut r)?;
        let (voided_at, key_id) = (WallTime(r.u64()?), KeyId(r.u32()?));
        let told = r.u32()?;
        request.check()?;
        let bitmap = r.bytes(request.count.div_ceil(8) as usize)?;
        r.finish()?;
        let authentic = keys
            .settlement(key_id)
            .is_some_and(|key| key.verifies(context::VOIDED, signed, signature));
        if !authentic {
            return Err(WireError::Forged { what: ANSWER });
        }
        let bits = bitmap.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        let mut void: Vec<bool> = bits.collect();
        let unused = void.split_off(request.count as usize);
        let count = void.iter().filter(|void| **void).count() as u64;
        if count != u64::from(told) || unused.contains(&true) {
            return Err(WireError::Value { field: "void packets", value: u64::from(told) });
        }
        Ok(Self { request, voided_at, key_id, void })
    }
}

fn put_head(out: &mut Vec<u8>, magic: [u8; 4]) {
    out.put(&magic);
    out.put_u16(VERSION);
    out.put_u16(0);
}

fn read_head(what: &'static str, magic: [u8; 4], r: &mut Reader<'_>) -> Result<(), WireError> {
    if r.array::<4>()? != magic {
        return Err(WireError::Magic { what });
    }
    match r.u16()? {
        VERSION => r.reserved::<2>(),
        version => Err(WireError::Version { what, version, known: VERSION }),
    }
}

fn split<'a>(
    what: &'static str,
    bytes: &'a [u8],
    need: usize,
) -> Result<(&'a [u8], &'a [u8; SIGNATURE_BYTES]), WireError> {
    let short = WireError::Short { what, have: bytes.len(), need };
    bytes.split_last_chunk::<SIGNATURE_BYTES>().ok_or(short)
}
