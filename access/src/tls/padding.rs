//! The padding of a handshake's packets, made light before quinn-proto sees it. A client fills its
//! first datagrams up to 1,200 bytes (RFC 9000 14.1), mostly with PADDING, which is a frame for
//! each byte: taking some 900 of those one by one, twice, was an eighth of a QUIC handshake's CPU
//! (docs/costs.md). Where nothing depends on its length, it is left out.
//!
//! An Initial packet that brings CRYPTO keeps its length. It may be a connection's first, and from
//! the length of that one quinn-proto reckons how much may be sent to an address that has proved
//! nothing: three times as much (RFC 9000 8.1), which a shorter one would make too little for
//! our flight. There its own CRYPTO frame is written once more where the padding was, as often as
//! it fits: what a client may send itself at any time, and what quinn-proto knows at a glance
//! that it has.

use std::ops::Range;

use quinn_proto::{VarInt, coding::Codec};

/// Types of the frames that a handshake is made of (RFC 9000 19, table 3).
mod frame {
    pub(super) const PADDING: u8 = 0x00;
    pub(super) const PING: u8 = 0x01;
    pub(super) const ACK: u8 = 0x02;
    pub(super) const ACK_ECN: u8 = 0x03;
    pub(super) const CRYPTO: u8 = 0x06;
}
/// What the first byte of a header says: its form and, if that is long, the type (RFC 9000 17.2).
const FORM_AND_TYPE: u8 = 0b1011_0000;
const INITIAL: u8 = 0b1000_0000;
const HANDSHAKE: u8 = 0b1010_0000;

/// `plain`, the payload of the packet with this header, with the PADDING at its end left out or
/// written over with frames that say nothing new; never empty, since a packet without a frame is
/// a violation. Whatever is not plainly a handshake's is left as it is: quinn-proto judges it.
pub(super) fn lightened<'a>(header: &[u8], plain: &'a mut [u8]) -> &'a [u8] {
    let initial = match header.first().map(|first| first & FORM_AND_TYPE) {
        Some(INITIAL) => true,
        Some(HANDSHAKE) => false,
        _ => return plain,
    };
    match Frames::before_padding(plain) {
        Some(Frames { end, crypto: Some(data) }) if initial => {
            repeat(data, end, plain);
            plain
        }
        Some(Frames { end, .. }) => &plain[..end.max(1).min(plain.len())],
        None => plain,
    }
}

/// The frames of a payload after which nothing but PADDING follows.
struct Frames {
    /// Where the last of them ends.
    end: usize,
    /// Where the data of the longest CRYPTO frame is, if there is one; not empty.
    crypto: Option<Range<usize>>,
}

impl Frames {
    /// `None` if there is a frame behind PADDING, or one that is not plainly a handshake's.
    fn before_padding(plain: &[u8]) -> Option<Self> {
        let (mut rest, mut crypto) = (plain, 0..0);
        while let Some(first) = rest.first() {
            if *first == frame::PADDING {
                // All of it, without a way out on the way: that is done 32 bytes at a time.
                if rest.iter().fold(0, |seen, byte| seen | byte) != 0 {
                    return None;
                }
                break;
            }
            let data = skip(&mut rest)?;
            if data > crypto.len() {
                let end = plain.len() - rest.len();
                crypto = end - data..end;
            }
        }
        let end = plain.len() - rest.len();
        Some(Self { end, crypto: (!crypto.is_empty()).then_some(crypto) })
    }
}

/// Writes the CRYPTO frame with this data, which begins its stream, or its beginning again and
/// again behind `from`. What is left is too short for a frame.
fn repeat(data: Range<usize>, mut from: usize, plain: &mut [u8]) {
    /// Type, offset, and a length of two bytes, which a datagram's always fits.
    const HEAD: usize = 4;
    const LONGEST: usize = (1 << 14) - 1;
    while let Some(room @ 1..) = plain.len().checked_sub(from + HEAD) {
        let length = data.len().min(room).min(LONGEST);
        let [high, low] = (length as u16 | 1 << 14).to_be_bytes();
        plain[from..from + HEAD].copy_from_slice(&[frame::CRYPTO, 0, high, low]);
        plain.copy_within(data.start..data.start + length, from + HEAD);
        from += HEAD + length;
    }
}

/// Goes past one frame; how many bytes of CRYPTO it brings.
fn skip(rest: &mut &[u8]) -> Option<usize> {
    match u8::try_from(integer(rest)?).ok()? {
        frame::PING => Some(0),
        kind @ (frame::ACK | frame::ACK_ECN) => {
            let (_largest, _delay) = (integer(rest)?, integer(rest)?);
            let more_ranges = integer(rest)?;
            integer(rest)?;
            for _ in 0..more_ranges {
                let (_gap, _length) = (integer(rest)?, integer(rest)?);
            }
            for _ in 0..if kind == frame::ACK_ECN { 3 } else { 0 } {
                integer(rest)?;
            }
            Some(0)
        }
        // Only what is read at once. quinn-proto charges bytes that come too early with the whole
        // payload that keeps them in memory, and must go on seeing how long it is.
        frame::CRYPTO if integer(rest)? == 0 => {
            let length = usize::try_from(integer(rest)?).ok()?;
            *rest = rest.get(length..)?;
            Some(length)
        }
        _ => None,
    }
}

fn integer(rest: &mut &[u8]) -> Option<u64> {
    VarInt::decode(rest).ok().map(VarInt::into_inner)
}

#[cfg(test)]
mod tests {
    const INITIAL: [u8; 1] = [0xc3];
    const HANDSHAKE: [u8; 1] = [0xe3];
    const ZERO_RTT: [u8; 1] = [0xd3];
    const SHORT: [u8; 1] = [0x40];

    fn frames(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    fn padded(frames: &[u8], bytes: usize) -> Vec<u8> {
        [frames, &vec![0; bytes]].concat()
    }

    fn lightened(header: &[u8], payload: &[u8]) -> Vec<u8> {
        super::lightened(header, &mut payload.to_vec()).to_vec()
    }

    const PING: &[u8] = &[1];
    /// Two ranges, the last number 0: it looks like padding.
    const ACK: &[u8] = &[2, 9, 4, 1, 3, 1, 0];
    /// Of five numbers, the last three of them ECN's.
    const ACK_ECN: &[u8] = &[3, 9, 4, 0, 3, 7, 8, 0];
    /// Three bytes from the beginning; the last two of them 0.
    const CRYPTO: &[u8] = &[6, 0, 3, 22, 0, 0];
    /// The same, as we write it.
    const AGAIN: &[u8] = &[6, 0, 0x40, 3, 22, 0, 0];

    #[test]
    fn padding_at_the_end_is_left_out_and_nothing_else() {
        for wanted in [
            frames(&[PING]),
            frames(&[ACK]),
            frames(&[ACK_ECN]),
            frames(&[CRYPTO]),
            frames(&[ACK, CRYPTO]),
            frames(&[CRYPTO, ACK_ECN, PING, ACK]),
        ] {
            assert_eq!(lightened(&HANDSHAKE, &padded(&wanted, 900)), wanted, "padded");
            assert_eq!(lightened(&HANDSHAKE, &wanted), wanted, "not padded");
            assert_eq!(lightened(&INITIAL, &wanted), wanted, "not padded");
            if !wanted.windows(3).any(|window| window == &CRYPTO[..3]) {
                assert_eq!(lightened(&INITIAL, &padded(&wanted, 900)), wanted, "padded");
            }
            // Cut anywhere, it is no whole frame any more or fewer frames: never more than it was.
            for end in 1..wanted.len() {
                let cut = &wanted[..end];
                assert!(cut.starts_with(&lightened(&HANDSHAKE, cut)), "{cut:?}");
            }
        }
    }

    #[test]
    fn an_initial_packet_with_crypto_keeps_its_length_and_says_nothing_new() {
        // The frame again and again, then its beginning, then padding that is too short for one.
        let brings = frames(&[ACK, CRYPTO, PING]);
        for (padding, again) in [
            (0, &[][..]),
            (4, &[0, 0, 0, 0]),
            (5, &[6, 0, 0x40, 1, 22]),
            (6, &[6, 0, 0x40, 2, 22, 0]),
            (7, AGAIN),
            (9, &[6, 0, 0x40, 3, 22, 0, 0, 0, 0]),
            (14, &[AGAIN, AGAIN].concat()),
            (12, &[AGAIN, &[6, 0, 0x40, 1, 22]].concat()),
        ] {
            let wanted = frames(&[&brings, again]);
            assert_eq!(lightened(&INITIAL, &padded(&brings, padding)), wanted, "{padding}");
        }
        // Of a real one: four frames where 900 were.
        let hello: Vec<u8> = (0..=255).collect();
        let first = frames(&[&[6, 0, 0x41, 0], &hello]);
        let light = lightened(&INITIAL, &padded(&first, 900));
        assert_eq!(light.len(), first.len() + 900);
        let rest = &light[first.len()..];
        let lengths: Vec<usize> = rest
            .chunks(260)
            .map(|frame| {
                let length = usize::from(u16::from_be_bytes([frame[2] & 0x3f, frame[3]]));
                assert_eq!(frame[..2], [6, 0]);
                assert_eq!(frame[4..], hello[..length]);
                length
            })
            .collect();
        assert_eq!(lengths, [256, 256, 256, 116]);
    }

    #[test]
    fn crypto_without_data_is_not_repeated() {
        let empty = frames(&[PING, &[6, 0, 0]]);
        assert_eq!(lightened(&INITIAL, &padded(&empty, 900)), empty);
    }

    #[test]
    fn a_packet_of_padding_alone_keeps_one_frame_and_an_empty_one_stays_empty() {
        assert_eq!(lightened(&INITIAL, &[0; 1_200]), [0]);
        assert!(lightened(&INITIAL, &[]).is_empty());
    }

    #[test]
    fn what_is_not_plainly_a_handshakes_is_left_as_it_is() {
        for untouched in [
            // Padding with a frame behind it.
            frames(&[PING, &[0, 0], PING]),
            // CRYPTO that does not begin at 0: quinn-proto keeps it, and counts what it keeps.
            frames(&[&[6, 5, 3, 22, 0, 0], &[0; 9]]),
            frames(&[CRYPTO, &[6, 5, 3, 22, 0, 0], &[0; 9]]),
            // Longer than the packet.
            frames(&[&[6, 0, 60, 22], &[0; 9]]),
            // More ranges than there can be.
            frames(&[&[2, 9, 4, 0xff, 255, 255, 255, 255, 255, 255, 255], &[0; 9]]),
            // STREAM to the packet's end, of which all bytes are 0; CONNECTION_CLOSE.
            frames(&[&[0x08, 0], &[0; 9]]),
            frames(&[&[0x1c, 0, 0, 0], &[0; 9]]),
        ] {
            assert_eq!(lightened(&HANDSHAKE, &untouched), untouched, "{untouched:?}");
            assert_eq!(lightened(&INITIAL, &untouched), untouched, "{untouched:?}");
        }
        let data = frames(&[PING, &[0; 9]]);
        assert_eq!(lightened(&SHORT, &data), data, "1-RTT");
        assert_eq!(lightened(&ZERO_RTT, &data), data, "0-RTT");
        assert_eq!(lightened(&[], &data), data);
    }
}
