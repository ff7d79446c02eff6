//! The ticket: signed proof that a user won a packet (wire.md 5.1).
//!
//! ```text
//!  0  u8   version = 1          24  u64  user
//!  1  u8   prize kind = 0       32  u64  amount, minor units
//!  2  u8   flags = 0            40  u64  shake id
//!  3  u8   sponsor, 0..64       48  u64  issued at, Unix us
//!  4  u16  wave                 56  u64  expires at, Unix us
//!  6  u16  reserved = 0         64  u32  shard
//!  8  u64  campaign             68  u32  epoch
//! 16  u64  packet               72  64 B Ed25519 signature over context ++ bytes 0..72
//! ```

use crate::{
    CampaignId, Epoch, Fen, PacketId, ShakeId, ShardId, SponsorId, UserId, WallTime, WaveIndex,
    WireError,
    codec::{Put, Reader},
    keys::{KeySet, SIGNATURE_BYTES, SignKey, context},
    limits::SHARDS_MAX,
};

/// Bytes of a ticket without its signature.
pub const TICKET_BODY_BYTES: usize = 72;
/// Bytes of a signed ticket.
pub const TICKET_BYTES: usize = TICKET_BODY_BYTES + SIGNATURE_BYTES;

const VERSION: u8 = 1;

/// What a ticket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketBody {
    /// The campaign.
    pub campaign: CampaignId,
    /// The packet won.
    pub packet: PacketId,
    /// Who won it.
    pub user: UserId,
    /// How much it holds, minor units.
    pub amount: Fen,
    /// The draw that won it.
    pub shake: ShakeId,
    /// When it was issued, by the node's clock.
    pub issued_at: WallTime,
    /// From when on it cannot be opened.
    pub expires_at: WallTime,
    /// The shard that issued it; equals `packet.shard()`.
    pub shard: ShardId,
    /// The epoch of the key that signed it.
    pub epoch: Epoch,
    /// Whose packet.
    pub sponsor: SponsorId,
    /// In which wave.
    pub wave: WaveIndex,
}

impl TicketBody {
    /// The 72 bytes that are signed.
    #[must_use]
    pub fn encode(&self) -> [u8; TICKET_BODY_BYTES] {
        let mut out = Vec::with_capacity(TICKET_BODY_BYTES);
        out.put(&[VERSION, 0, 0, self.sponsor.number()]);
        out.put_u16(self.wave.0);
        out.put_u16(0);
        out.put_u64(self.campaign.0);
        out.put_u64(self.packet.0);
        out.put_u64(self.user.0);
        out.put_u64(self.amount.0);
        out.put_u64(self.shake.0);
        out.put_u64(self.issued_at.0);
        out.put_u64(self.expires_at.0);
        out.put_u32(self.shard.0);
        out.put_u32(self.epoch.0);
        out.try_into().expect("the fields above are 72 bytes")
    }

    /// Reads the 72 bytes of a body.
    ///
    /// # Errors
    /// An unknown version, and every field that is out of range or contradicts another.
    pub fn decode(bytes: &[u8; TICKET_BODY_BYTES]) -> Result<Self, WireError> {
        let mut r = Reader::new("a ticket", bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "a ticket",
                version: u16::from(version),
                known: u16::from(VERSION),
            });
        }
        r.reserved::<2>()?;
        let sponsor = r.u8()?;
        let sponsor = SponsorId::new(sponsor)
            .ok_or(WireError::Value { field: "sponsor", value: u64::from(sponsor) })?;
        let wave = WaveIndex(r.u16()?);
        r.reserved::<2>()?;
        let body = Self {
            campaign: CampaignId(r.u64()?),
            packet: PacketId(r.u64()?),
            user: UserId(r.u64()?),
            amount: Fen(r.u64()?),
            shake: ShakeId(r.u64()?),
            issued_at: WallTime(r.u64()?),
            expires_at: WallTime(r.u64()?),
            shard: ShardId(r.u32()?),
            epoch: Epoch(r.u32()?),
            sponsor,
            wave,
        };
        r.finish()?;
        if body.shard.0 >= SHARDS_MAX || body.shard != body.packet.shard() {
            return Err(WireError::Value { field: "shard", value: u64::from(body.shard.0) });
        }
        Ok(body)
    }

    /// The ticket with this body, signed by the key of its shard and epoch.
    #[must_use]
    pub fn sign(&self, key: &SignKey) -> Ticket {
        Ticket { body: *self, signature: key.sign(context::TICKET, &self.encode()) }
    }
}

/// A body with its signature. Holding one says nothing: see [`Ticket::verifies`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// What it says.
    pub body: TicketBody,
    /// The signature over the context and the body's bytes.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl Ticket {
    /// The 136 bytes that travel.
    #[must_use]
    pub fn encode(&self) -> [u8; TICKET_BYTES] {
        let mut bytes = [0; TICKET_BYTES];
        bytes[..TICKET_BODY_BYTES].copy_from_slice(&self.body.encode());
        bytes[TICKET_BODY_BYTES..].copy_from_slice(&self.signature);
        bytes
    }

    /// Reads a ticket; its signature is not checked here.
    ///
    /// # Errors
    /// Those of [`TicketBody::decode`], and a length other than 136.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("a ticket", bytes);
        let ticket = Self { body: TicketBody::decode(&r.array()?)?, signature: r.array()? };
        r.finish()?;
        Ok(ticket)
    }

    /// Whether the key set's key for its campaign, shard and epoch signed it.
    #[must_use]
    pub fn verifies(&self, keys: &KeySet) -> bool {
        keys.ticket(self.body.campaign, self.body.shard, self.body.epoch)
            .is_some_and(|key| key.verifies(context::TICKET, &self.body.encode(), &self.signature))
    }
}

/// Which of `tickets` carry a good signature, checked together.
#[must_use]
pub fn verify_tickets(tickets: &[Ticket], keys: &KeySet) -> Vec<bool> {
    let found: Vec<(usize, crate::keys::PublicKey)> = tickets
        .iter()
        .enumerate()
        .filter_map(|(index, ticket)| {
            let body = &ticket.body;
            keys.ticket(body.campaign, body.shard, body.epoch).map(|key| (index, key))
        })
        .collect();
    let bodies: Vec<[u8; TICKET_BODY_BYTES]> =
        found.iter().map(|(index, _)| tickets[*index].body.encode()).collect();
    let messages: Vec<&[u8]> = bodies.iter().map(<[u8; TICKET_BODY_BYTES]>::as_slice).collect();
    let signatures: Vec<_> = found.iter().map(|(index, _)| tickets[*index].signature).collect();
    let keys_found: Vec<_> = found.iter().map(|(_, key)| *key).collect();
    let good = crate::keys::verify_batch(context::TICKET, &messages, &signatures, &keys_found);
    let mut verdicts = vec![false; tickets.len()];
    for ((index, _), good) in found.iter().zip(good) {
        verdicts[*index] = good;
    }
    verdicts
}
