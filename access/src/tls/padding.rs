//! The padding of a handshake's packets, left out before quinn-proto sees it. A client fills its
//! first datagrams up to 1,200 bytes (RFC 9000 14.1), mostly with PADDING, which is a frame for
//! each byte: taking some 900 of those one by one, twice, was an eighth of a QUIC handshake's CPU
//! (docs/costs.md).
//!
//! An Initial packet that brings CRYPTO keeps its padding. It may be a connection's first, and from
//! the length of that one quinn-proto reckons how much may be sent to an address that has proved
//! nothing: three times as much (RFC 9000 8.1), which a stripped one would make too little for
//! our flight.

use quinn_proto::{VarInt, coding::Codec};

/// Types of the frames that a handshake is made of (RFC 9000 19, table 3).
mod frame {
    pub(super) const PADDING: u64 = 0x00;
    pub(super) const PING: u64 = 0x01;
    pub(super) const ACK: u64 = 0x02;
    pub(super) const ACK_ECN: u64 = 0x03;
    pub(super) const CRYPTO: u64 = 0x06;
}
/// What the first byte of a header says: its form and, if that is long, the type (RFC 9000 17.2).
const FORM_AND_TYPE: u8 = 0b1011_0000;
const INITIAL: u8 = 0b1000_0000;
const HANDSHAKE: u8 = 0b1010_0000;

/// `plain`, the payload of the packet with this header, without the PADDING at its end; never
/// empty, since a packet without a frame is a violation. Whatever is not plainly a handshake's is
/// left as it is: quinn-proto judges it.
pub(super) fn stripped<'a>(header: &[u8], plain: &'a [u8]) -> &'a [u8] {
    let may_bring_crypto = match header.first().map(|first| first & FORM_AND_TYPE) {
        Some(INITIAL) => false,
        Some(HANDSHAKE) => true,
        _ => return plain,
    };
    match end_of_frames(plain, may_bring_crypto) {
        Some(end) => &plain[..end.max(1).min(plain.len())],
        None => plain,
    }
}

/// Where the last frame ends; `None` unless all that follows is PADDING.
fn end_of_frames(plain: &[u8], may_bring_crypto: bool) -> Option<usize> {
    let mut rest = plain;
    while let Some(first) = rest.first() {
        if u64::from(*first) == frame::PADDING {
            let end = plain.len() - rest.len();
            return rest.iter().all(|byte| *byte == 0).then_some(end);
        }
        skip(&mut rest, may_bring_crypto)?;
    }
    Some(plain.len())
}

/// Goes past one frame.
fn skip(rest: &mut &[u8], may_bring_crypto: bool) -> Option<()> {
    match integer(rest)? {
        frame::PING => Some(()),
        kind @ (frame::ACK | frame::ACK_ECN) => {
            let (_largest, _delay) = (integer(rest)?, integer(rest)?);
            let more_ranges = integer(rest)?;
            integer(rest)?;
            for _ in 0..more_ranges {
                let (_gap, _length) = (integer(rest)?, integer(rest)?);
            }
            let counts = if kind == frame::ACK_ECN { 3 } else { 0 };
            (0..counts).try_for_each(|_| integer(rest).map(drop))
        }
        // Only what is read at once. quinn-proto charges bytes that come too early with the whole
        // payload that keeps them in memory, and must go on seeing how long it is.
        frame::CRYPTO if may_bring_crypto && integer(rest)? == 0 => {
            let length = usize::try_from(integer(rest)?).ok()?;
            *rest = rest.get(length..)?;
            Some(())
        }
        _ => None,
    }
}

fn integer(rest: &mut &[u8]) -> Option<u64> {
    VarInt::decode(rest).ok().map(VarInt::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: [u8; 1] = [0xc3];
    const HANDSHAKE: [u8; 1] = [0xe3];
    const ZERO_RTT: [u8; 1] = [0xd3];
    const SHORT: [u8; 1] = [0x40];

    fn frames(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    const PING: &[u8] = &[1];
    /// Two ranges, the last number 0: it looks like padding.
    const ACK: &[u8] = &[2, 9, 4, 1, 3, 1, 0];
    /// Of five numbers, the last three of them ECN's.
    const ACK_ECN: &[u8] = &[3, 9, 4, 0, 3, 7, 8, 0];
    /// Three bytes from the beginning; the last two of them 0.
    const CRYPTO: &[u8] = &[6, 0, 3, 22, 0, 0];

    #[test]
    fn padding_at_the_end_is_left_out_and_nothing_else() {
        let filled = |frames: &[u8]| [frames, &[0; 900]].concat();
        for wanted in [
            frames(&[PING]),
            frames(&[ACK]),
            frames(&[ACK_ECN]),
            frames(&[CRYPTO]),
            frames(&[ACK, CRYPTO]),
            frames(&[CRYPTO, ACK_ECN, PING, ACK]),
        ] {
            let padded = filled(&wanted);
            assert_eq!(stripped(&HANDSHAKE, &padded), wanted, "padded");
            assert_eq!(stripped(&HANDSHAKE, &wanted), wanted, "not padded");
            let whole = wanted.windows(3).any(|window| window == &CRYPTO[..3]);
            let expected = if whole { &padded } else { &wanted };
            assert_eq!(stripped(&INITIAL, &padded), expected, "its length counts");
            // Cut anywhere, it is no whole frame any more or fewer frames: never more than it was.
            for end in 1..wanted.len() {
                let cut = &wanted[..end];
                assert!(wanted.starts_with(stripped(&HANDSHAKE, cut)), "{cut:?}");
            }
        }
    }

    #[test]
    fn a_packet_of_padding_alone_keeps_one_frame_and_an_empty_one_stays_empty() {
        assert_eq!(stripped(&INITIAL, &[0; 1_200]), [0]);
        assert!(stripped(&INITIAL, &[]).is_empty());
    }

    #[test]
    fn what_is_not_plainly_a_handshakes_is_left_as_it_is() {
        for untouched in [
            // Padding with a frame behind it.
            frames(&[PING, &[0, 0], PING]),
            // CRYPTO that does not begin at 0: quinn-proto keeps it, and counts what it keeps.
            frames(&[&[6, 5, 3, 22, 0, 0], &[0; 9]]),
            // Longer than the packet.
            frames(&[&[6, 0, 60, 22], &[0; 9]]),
            // More ranges than there can be.
            frames(&[&[2, 9, 4, 0xff, 255, 255, 255, 255, 255, 255, 255], &[0; 9]]),
            // STREAM to the packet's end, of which all bytes are 0; CONNECTION_CLOSE.
            frames(&[&[0x08, 0], &[0; 9]]),
            frames(&[&[0x1c, 0, 0, 0], &[0; 9]]),
        ] {
            assert_eq!(stripped(&HANDSHAKE, &untouched), untouched, "{untouched:?}");
        }
        let data = frames(&[PING, &[0; 9]]);
        assert_eq!(stripped(&SHORT, &data), data, "1-RTT");
        assert_eq!(stripped(&ZERO_RTT, &data), data, "0-RTT");
        assert_eq!(stripped(&[], &data), data);
    }
}
