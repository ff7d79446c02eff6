//! Two alternating 4 KiB slots: how a small state is replaced so that a torn write can only hurt
//! the copy being written (journal-file.md 2).
//!
//! ```text
//!   0  8 B  magic of the file kind       16  u64  sequence; slot = sequence mod 2
//!   8  u16  version = 1                  24  ...  payload
//!  10  u16  payload length, bytes        ...      zeros
//!  12  u32  reserved = 0                 4064  32 B BLAKE3 of bytes 0..4064
//! ```

use crate::{
    WireError,
    codec::{Put, Reader},
    limits::SLOT_BYTES,
};

const VERSION: u16 = 1;
const HEADER_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 32;
/// Bytes a slot can carry.
pub const SLOT_PAYLOAD_BYTES_MAX: usize = SLOT_BYTES - HEADER_BYTES - CHECKSUM_BYTES;

/// One slot's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Grows by one with each write.
    pub sequence: u64,
    /// What the file keeps.
    pub payload: Vec<u8>,
}

impl Slot {
    /// Byte offset in the file at which this slot belongs.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.sequence % 2 * SLOT_BYTES as u64
    }

    /// The 4,096 bytes on disk.
    ///
    /// # Panics
    /// When the payload exceeds [`SLOT_PAYLOAD_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self, magic: [u8; 8]) -> Vec<u8> {
        assert!(self.payload.len() <= SLOT_PAYLOAD_BYTES_MAX, "a slot's payload is bounded");
        let mut out = Vec::with_capacity(SLOT_BYTES);
        out.put(&magic);
        out.put_u16(VERSION);
        out.put_u16(u16::try_from(self.payload.len()).expect("asserted above"));
        out.put_u32(0);
        out.put_u64(self.sequence);
        out.put(&self.payload);
        out.resize(SLOT_BYTES - CHECKSUM_BYTES, 0);
        let checksum = blake3::hash(&out);
        out.put(checksum.as_bytes());
        out
    }

    /// Reads the slot in `bytes`, 4,096 of them.
    ///
    /// # Errors
    /// The checksum is checked first; then magic, version, sequence, length, and that zeros follow.
    pub fn decode(magic: [u8; 8], bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new("a slot", bytes);
        let covered = r.bytes(SLOT_BYTES - CHECKSUM_BYTES)?;
        if r.array::<CHECKSUM_BYTES>()? != *blake3::hash(covered).as_bytes() {
            return Err(WireError::Checksum { what: "a slot" });
        }
        r.finish()?;
        let mut r = Reader::new("a slot", covered);
        if r.array::<8>()? != magic {
            return Err(WireError::Magic { what: "a slot" });
        }
        let version = r.u16()?;
        if version != VERSION {
            return Err(WireError::Version { what: "a slot", version, known: VERSION });
        }
        let length = usize::from(r.u16()?);
        r.reserved::<4>()?;
        let sequence = r.u64()?;
        if sequence == u64::MAX {
            // No slot could ever follow it.
            return Err(WireError::Value { field: "slot sequence", value: sequence });
        }
        let payload = r.bytes(length)?.to_vec();
        if r.rest().iter().any(|byte| *byte != 0) {
            return Err(WireError::Trailing { what: "a slot", extra: r.rest().len() });
        }
        Ok(Self { sequence, payload })
    }
}

/// Both slots of a file, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotPair {
    /// The valid slot with the higher sequence.
    pub newest: Slot,
    /// Whether the other slot is valid too, and its direct predecessor.
    pub both_valid: bool,
}

impl SlotPair {
    /// The newest valid slot of a file's 8,192 bytes.
    ///
    /// A slot that stands where its sequence does not belong counts as invalid, and so does one
    /// that is not the direct predecessor of the other.
    ///
    /// # Errors
    /// The error of the first slot, when neither is valid.
    pub fn decode(magic: [u8; 8], bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() != 2 * SLOT_BYTES {
            return Err(WireError::Short {
                what: "a file of two slots",
                have: bytes.len(),
                need: 2 * SLOT_BYTES,
            });
        }
        let (first, second) = bytes.split_at(SLOT_BYTES);
        let read = |bytes: &[u8], parity: u64| {
            let slot = Slot::decode(magic, bytes)?;
            if slot.sequence % 2 == parity {
                Ok(slot)
            } else {
                Err(WireError::Value { field: "slot sequence", value: slot.sequence })
            }
        };
        match (read(first, 0), read(second, 1)) {
            (Ok(a), Ok(b)) => {
                let (old, new) = if a.sequence < b.sequence { (a, b) } else { (b, a) };
                Ok(Self { both_valid: old.sequence + 1 == new.sequence, newest: new })
            }
            (Ok(only), Err(_)) | (Err(_), Ok(only)) => Ok(Self { newest: only, both_valid: false }),
            (Err(error), Err(_)) => Err(error),
        }
    }
}
