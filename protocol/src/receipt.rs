//! The receipt: proof that an open was accepted and is on disk; not yet that it is settled
//! (wire.md 5.3).
//!
//! ```text
//!  0  u8   version = 1            16  u64  packet
//!  1  3 B  reserved = 0           24  u64  user
//!  4  u32  key id                 32  u64  accepted at, Unix us
//!  8  u64  campaign               40  32 B keyed BLAKE3 over context ++ bytes 0..40
//! ```

use crate::{
    CampaignId, KeyId, PacketId, UserId, WallTime, WireError,
    codec::{Put, Reader},
    keys::{MAC_BYTES, MacKey, context},
};

/// Bytes of a receipt.
pub const RECEIPT_BYTES: usize = 40 + MAC_BYTES;

const VERSION: u8 = 1;

/// An accepted open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The campaign.
    pub campaign: CampaignId,
    /// The packet opened.
    pub packet: PacketId,
    /// By whom.
    pub user: UserId,
    /// When the node accepted it; settlement judges expiry by this time.
    pub accepted_at: WallTime,
}

impl Receipt {
    /// The 72 bytes that travel, proved under `key`.
    #[must_use]
    pub fn encode(&self, key: &MacKey) -> [u8; RECEIPT_BYTES] {
        let mut out = Vec::with_capacity(RECEIPT_BYTES);
        out.put(&[VERSION, 0, 0, 0]);
        out.put_u32(key.id().0);
        out.put_u64(self.campaign.0);
        out.put_u64(self.packet.0);
        out.put_u64(self.user.0);
        out.put_u64(self.accepted_at.0);
        let mac = key.mac(context::RECEIPT, &out);
        out.put(&mac);
        out.try_into().expect("the fields above are 72 bytes")
    }

    /// Reads a receipt and checks its MAC.
    ///
    /// # Errors
    /// [`WireError::Forged`] for a foreign key id or a wrong MAC; a wrong length or version.
    pub fn decode(bytes: &[u8], key: &MacKey) -> Result<Self, WireError> {
        let receipt = Self::peek(bytes)?;
        let mut r = Reader::new("a receipt", bytes);
        let signed = r.bytes(RECEIPT_BYTES - MAC_BYTES)?;
        let mac = r.array::<MAC_BYTES>()?;
        let mut key_id = Reader::new("a receipt", &signed[4..8]);
        if KeyId(key_id.u32()?) != key.id() || !key.verifies(context::RECEIPT, signed, &mac) {
            return Err(WireError::Forged { what: "a receipt" });
        }
        Ok(receipt)
    }

    /// Reads what a receipt claims, unproved: for the client, which has no key.
    ///
    /// # Errors
    /// A wrong length or version.
    pub fn peek(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("a receipt", bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "a receipt",
                version: u16::from(version),
                known: u16::from(VERSION),
            });
        }
        r.reserved::<3>()?;
        r.u32()?;
        let receipt = Self {
            campaign: CampaignId(r.u64()?),
            packet: PacketId(r.u64()?),
            user: UserId(r.u64()?),
            accepted_at: WallTime(r.u64()?),
        };
        r.array::<MAC_BYTES>()?;
        r.finish()?;
        Ok(receipt)
    }
}
