//! Hostile bytes: no decoder panics, none allocates from a length that a peer sent, and a stream
//! gives the same frames wherever it is split.

use super::{
    cases,
    codecs::{CODECS, Codec, sign_key},
    crafted,
};
use proptest::{collection::vec, prelude::*};
use yao_protocol::{
    Fen, cursor,
    frame::split_frame,
    hex,
    keys::{PublicKey, SIGNATURE_BYTES, context},
    log::Scan,
    manifest::Manifest,
    receipt::{RECEIPT_BYTES, Receipt},
    schedule::{Schedule, parse_rfc3339},
    seed_file::SeedHeader,
    slots::SlotPair,
    tally::{TALLY_BYTES, Tally},
};

/// The whole frames of a stream that arrives in pieces of these sizes.
fn frames(stream: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, bool) {
    let (mut held, mut found, mut at) = (Vec::new(), Vec::new(), 0);
    let mut pieces = pieces.iter().cycle();
    while at < stream.len() {
        let piece = pieces.next().copied().unwrap_or(1).clamp(1, stream.len() - at);
        held.extend_from_slice(&stream[at..at + piece]);
        at += piece;
        loop {
            match split_frame(&held, 1_024) {
                Ok(Some((frame, rest))) => {
                    let length = 8 + frame.payload.len();
                    assert_eq!(rest.len(), held.len() - length);
                    found.push(held.drain(..length).collect());
                }
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}

fn mutate(bytes: &mut Vec<u8>, at: usize, how: u8, value: u8) {
    let at = at % bytes.len().max(1);
    match how % 5 {
        0 => bytes[at] ^= 1 << (value % 8),
        1 => bytes[at] = value,
        2 => bytes.truncate(at),
        3 => bytes.extend_from_slice(&[value; 9]),
        // A length that lies, wherever one may stand.
        _ => {
            for byte in bytes.iter_mut().skip(at).take(4) {
                *byte = 0xff;
            }
        }
    }
}

/// Formats that are JSON: order of keys and white space are free, so bytes may differ once.
const FREE: &[&str] = &["policy", "token-claims", "public-key"];

/// Whatever is read is written again byte for byte: one meaning has one spelling.
fn read_is_canonical(format: &str, codec: Codec, bytes: &[u8]) {
    if let Ok((_, again)) = codec(bytes) {
        if FREE.contains(&format) {
            let (_, third) = codec(&again).expect("what was written is read");
            assert_eq!(again, third, "{format}");
        } else {
            assert_eq!(hex::encode(&again), hex::encode(bytes), "{format}");
        }
    }
}

/// Every public reader that no codec of the vectors calls.
fn read_by_the_rest(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(Manifest::decode(&text, &sign_key().public()).is_err());
    assert!(Schedule::decode(&text).is_err());
    assert!(parse_rfc3339(&text).is_none());
    assert!(SeedHeader::peek_length(bytes).is_err());
    assert!(Tally::peek(bytes).is_err() || bytes.len() == TALLY_BYTES);
    assert!(Receipt::peek(bytes).is_err() || bytes.len() == RECEIPT_BYTES);
    if let Some(read) = hex::decode(&text) {
        assert_eq!(hex::encode(&read), text.to_lowercase());
    }
    let exponent = bytes.first().copied().unwrap_or(2);
    if Fen::from_decimal(&text, exponent).is_some() {
        assert!(text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
    }
    if let Some(key) = bytes.first_chunk().and_then(PublicKey::from_bytes) {
        assert!(!key.verifies(context::TICKET, bytes, &[0; SIGNATURE_BYTES]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..6_000)) {
        for (format, codec) in CODECS {
            read_is_canonical(format, *codec, &bytes);
        }
        read_by_the_rest(&bytes);
    }

    #[test]
    fn any_bytes_of_a_log_never_panic(
        bytes in vec(prop_oneof![4 => Just(0_u8), 1 => any::<u8>(), 1 => 0_u8..3], 0..2_000),
        first_sequence: u64, at in any::<prop::sample::Index>(),
    ) {
        // A whole record somewhere among them, as what a crash leaves of other writes.
        let mut bytes = bytes;
        let record = cases::valid().iter().find(|case| case.0 == "log-record").expect("a record");
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..at, record.2.iter().copied());
        for first in [first_sequence, first_sequence % 8, 5] {
            let mut scan = Scan::new(&bytes, first);
            let read = scan.by_ref().count() as u64;
            prop_assert_eq!(scan.next_sequence(), first + read);
            prop_assert!(scan.valid_bytes() <= bytes.len());
            let salvaged = scan.salvage();
            prop_assert!(salvaged.is_sorted_by(|one, next| one.sequence < next.sequence));
            prop_assert!(salvaged.iter().all(|record| record.sequence >= scan.next_sequence()));
        }
        prop_assert!(SlotPair::decode(cursor::MAGIC, &bytes).is_err());
        bytes.resize(8_192, 0);
        prop_assert!(SlotPair::decode(cursor::MAGIC, &bytes).is_err());
    }

    #[test]
    fn valid_bytes_mutated_never_panic(
        which in 0_usize..1_000, steps in vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..6),
    ) {
        let cases = cases::valid();
        let (format, _, bytes) = &cases[which % cases.len()];
        let mut bytes = bytes.clone();
        for (at, how, value) in steps {
            if !bytes.is_empty() {
                mutate(&mut bytes, at, how, value);
            }
        }
        let (_, codec) = CODECS.iter().find(|(name, _)| name == format).expect("known");
        read_is_canonical(format, *codec, &bytes);
        // And as whoever holds the keys might have meant it.
        crafted::prove(format, &mut bytes);
        read_is_canonical(format, *codec, &bytes);
    }

    #[test]
    fn a_stream_split_anywhere_gives_the_same_frames(
        which in vec(0_usize..1_000, 1..12), pieces in vec(1_usize..200, 1..20),
        junk in any::<bool>(),
    ) {
        let messages: Vec<_> = cases::valid()
            .iter()
            .filter(|case| case.0 == "client-message" || case.0 == "server-message")
            .collect();
        let mut stream: Vec<u8> = Vec::new();
        for index in which {
            stream.extend_from_slice(&messages[index % messages.len()].2);
        }
        if junk {
            stream.extend_from_slice(&[0xff; 8]);
        }
        let whole = frames(&stream, &[stream.len()]);
        prop_assert_eq!(whole.1, junk, "a giant length is refused");
        prop_assert_eq!(frames(&stream, &pieces), whole);
    }
}

#[test]
fn a_flipped_bit_anywhere_never_passes_a_proof() {
    let proved = [
        "ticket",
        "tally",
        "receipt",
        "seed-header",
        "seed-chunk",
        "manifest",
        "settlement-batch",
        "slot",
        "settlement-answer",
        "grant-request",
        "grant-answer",
        "segment-header",
        "log-record",
        "seal",
        "void-request",
        "void-answer",
    ];
    for (format, name, bytes) in cases::valid().iter().filter(|c| proved.contains(&c.0)) {
        let (_, codec) = CODECS.iter().find(|(known, _)| known == format).expect("known");
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(codec(&forged).is_err(), "{format}, {name}: bit {bit} may be flipped");
        }
    }
}
