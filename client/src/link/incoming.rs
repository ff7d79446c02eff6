//! Whole frames out of a stream of bytes. Owns the receive buffer, which is bounded and, while no
//! frame is half-way, as good as empty.

use crate::limits::{IDLE_BYTES_MAX, INCOMING_BYTES_MAX};
use yao_protocol::{
    WireError,
    frame::{Frame, split_frame},
    limits::CLIENT_PAYLOAD_BYTES_MAX,
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    /// Bytes at the front that were handed out.
    used: usize,
}

impl Incoming {
    /// How many more bytes there is room for. Never 0 after every whole frame was taken.
    pub(super) const fn room(&self) -> usize {
        INCOMING_BYTES_MAX - (self.bytes.len() - self.used)
    }

    /// Bytes came from the network.
    ///
    /// # Panics
    /// When there are more than [`Incoming::room`] said.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "the reader asks for as much as there is room for");
        if self.used > 0 {
            self.bytes.drain(..self.used);
            self.used = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// A header that states more than the protocol allows: nothing after it can be understood.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        let waiting_bytes = self.bytes.len() - self.used;
        if waiting_bytes == 0 {
            self.bytes.clear();
            self.used = 0;
            self.bytes.shrink_to(IDLE_BYTES_MAX);
            return Ok(None);
        }
        match split_frame(&self.bytes[self.used..], CLIENT_PAYLOAD_BYTES_MAX)? {
            None => Ok(None),
            Some((frame, rest)) => {
                self.used += waiting_bytes - rest.len();
                Ok(Some(frame))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::{receipt, tally, ticket, welcome};
    use proptest::prelude::*;
    use yao_protocol::client::{put_receipt, put_win};

    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        welcome(5).put(&mut bytes, 1);
        put_win(&mut bytes, 2, &ticket(1, 1).encode(), &tally(1, 1));
        put_receipt(&mut bytes, 3, &receipt(1));
        yao_protocol::frame::put_frame(&mut bytes, 0xC1, 0, 4, |out| {
            out.resize(out.len() + CLIENT_PAYLOAD_BYTES_MAX, 7);
        });
        bytes
    }

    fn ids(incoming: &mut Incoming) -> Vec<u32> {
        let mut ids = Vec::new();
        while let Some(frame) = incoming.next_frame().expect("valid frames") {
            ids.push(frame.header.request_id);
        }
        ids
    }

    #[test]
    fn two_pieces_split_anywhere_are_the_same_frames() {
        let bytes = stream();
        for cut in (0..=600).chain(bytes.len() - 600..=bytes.len()) {
            let mut incoming = Incoming::default();
            incoming.push(&bytes[..cut]);
            let mut found = ids(&mut incoming);
            incoming.push(&bytes[cut..]);
            found.extend(ids(&mut incoming));
            assert_eq!(found, [1, 2, 3, 4], "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_pieces_are_the_same_frames_in_bounded_memory(
            sizes in prop::collection::vec(1_usize..3_000, 1..200),
        ) {
            let bytes = [stream(), stream()].concat();
            let (mut incoming, mut rest, mut found) = (Incoming::default(), &bytes[..], Vec::new());
            for size in sizes.into_iter().chain(std::iter::repeat(2_048)) {
                let (piece, after) = rest.split_at(size.min(rest.len()).min(incoming.room()));
                incoming.push(piece);
                prop_assert!(incoming.bytes.capacity() <= 2 * INCOMING_BYTES_MAX);
                found.extend(ids(&mut incoming));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, [1, 2, 3, 4, 1, 2, 3, 4]);
            prop_assert!(incoming.bytes.capacity() <= IDLE_BYTES_MAX, "an idle buffer is small");
        }
    }

    #[test]
    fn a_giant_length_is_an_error_before_its_bytes_come() {
        let mut incoming = Incoming::default();
        incoming.push(&[0xff, 0xff, 0x83, 0, 0, 0, 0, 0]);
        assert!(matches!(incoming.next_frame(), Err(WireError::TooLarge { .. })));
    }
}
