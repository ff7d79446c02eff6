//! The 8-byte frame header, and finding whole frames in a byte stream (wire.md 2).
//!
//! ```text
//! 0  u16  payload length, bytes
//! 2  u8   kind
//! 3  u8   flags
//! 4  u32  request id: chosen by the asker, repeated in the answer, 0 when nobody asked
//! ```

use crate::{WireError, codec::Put, limits::FRAME_HEADER_BYTES};

/// Set in the kind of a frame that a receiver may ignore when it does not know it.
pub const KIND_OPTIONAL: u8 = 0x40;
/// Set in the kind of every frame that the serving side sends.
pub const KIND_FROM_SERVER: u8 = 0x80;

/// The header of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes that follow the header.
    pub payload_bytes: u16,
    /// What the payload is.
    pub kind: u8,
    /// Bits whose meaning depends on the kind.
    pub flags: u8,
    /// Repeated in the answer.
    pub request_id: u32,
}

impl FrameHeader {
    /// Reads a header; every 8 bytes are one.
    #[must_use]
    pub const fn decode(bytes: [u8; FRAME_HEADER_BYTES]) -> Self {
        Self {
            payload_bytes: u16::from_le_bytes([bytes[0], bytes[1]]),
            kind: bytes[2],
            flags: bytes[3],
            request_id: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        }
    }

    /// The 8 bytes of this header.
    #[must_use]
    pub const fn encode(self) -> [u8; FRAME_HEADER_BYTES] {
        let length = self.payload_bytes.to_le_bytes();
        let id = self.request_id.to_le_bytes();
        [length[0], length[1], self.kind, self.flags, id[0], id[1], id[2], id[3]]
    }
}

/// One whole frame, borrowed from the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its header.
    pub header: FrameHeader,
    /// Exactly `header.payload_bytes` bytes.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The payload of a kind that knows no flags.
    ///
    /// # Errors
    /// [`WireError::Value`] when a flag is set: what it might mean would be lost unseen.
    #[inline]
    pub fn unflagged(&self) -> Result<&'a [u8], WireError> {
        match self.header.flags {
            0 => Ok(self.payload),
            set => Err(WireError::Value { field: "flags of the frame", value: u64::from(set) }),
        }
    }
}

/// The first frame of `bytes` and what follows it; `None` when it is not whole yet.
///
/// # Errors
/// [`WireError::TooLarge`] as soon as the header states more than `payload_bytes_max`, so that
/// nothing is buffered on behalf of a length that will be refused.
#[inline]
pub fn split_frame(
    bytes: &[u8],
    payload_bytes_max: usize,
) -> Result<Option<(Frame<'_>, &[u8])>, WireError> {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return Ok(None);
    };
    let header = FrameHeader::decode(*head);
    let length = usize::from(header.payload_bytes);
    if length > payload_bytes_max {
        return Err(WireError::TooLarge {
            what: "a frame's payload",
            length,
            limit: payload_bytes_max,
        });
    }
    Ok(rest.split_at_checked(length).map(|(payload, rest)| (Frame { header, payload }, rest)))
}

/// Appends a frame whose payload `write` appends.
///
/// # Panics
/// When the payload exceeds 65,535 bytes: our own messages are bounded well below.
pub fn put_frame(
    out: &mut Vec<u8>,
    kind: u8,
    flags: u8,
    request_id: u32,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.put(&[0; FRAME_HEADER_BYTES]);
    write(out);
    let payload_bytes = u16::try_from(out.len() - start - FRAME_HEADER_BYTES)
        .expect("limits.rs keeps every message below 64 KiB");
    let header = FrameHeader { payload_bytes, kind, flags, request_id };
    out[start..start + FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_only_when_whole() {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, 3, 1, 77, |out| out.put(b"hello"));
        put_frame(&mut bytes, 2, 0, 78, |_| {});
        for cut in 0..13 {
            assert_eq!(split_frame(&bytes[..cut], 16), Ok(None), "cut at {cut}");
        }
        let (frame, rest) = split_frame(&bytes, 16).expect("valid").expect("whole");
        assert_eq!(
            (frame.header.kind, frame.header.request_id, frame.payload),
            (3, 77, &b"hello"[..])
        );
        let (frame, rest) = split_frame(rest, 16).expect("valid").expect("whole");
        assert_eq!((frame.header.kind, frame.payload.len(), rest.len()), (2, 0, 0));
    }

    #[test]
    fn a_giant_length_is_refused_from_the_header_alone() {
        let header = FrameHeader { payload_bytes: 1025, kind: 1, flags: 0, request_id: 0 };
        let error = split_frame(&header.encode(), 1024).expect_err("over the limit");
        assert!(matches!(error, WireError::TooLarge { length: 1025, limit: 1024, .. }));
    }
}
