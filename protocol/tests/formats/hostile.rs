//! Hostile bytes: no decoder panics, none allocates from a length that a peer sent, and a stream
//! gives the same frames wherever it is split.

use super::{
    cases,
    codecs::{CODECS, Codec},
};
use proptest::{collection::vec, prelude::*};
use yao_protocol::{frame::split_frame, manifest::Manifest, schedule::Schedule};

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

/// Whatever is read is written in the one canonical way, up to the proof of who wrote it.
fn read_is_canonical(codec: Codec, bytes: &[u8]) {
    if let Ok((_, again)) = codec(bytes) {
        let (_, third) = codec(&again).expect("what was written is read");
        assert_eq!(again, third);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..6_000)) {
        for (_, codec) in CODECS {
            read_is_canonical(*codec, &bytes);
        }
        let key = super::codecs::sign_key().public();
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(Manifest::decode(&text, &key).is_err());
        prop_assert!(Schedule::decode(&text).is_err() || text.trim().is_empty());
    }

    #[test]
    fn valid_bytes_mutated_never_panic(
        which in 0_usize..1_000, steps in vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..6),
    ) {
        let cases = cases::valid();
        let (format, _, mut bytes) = cases[which % cases.len()].clone();
        for (at, how, value) in steps {
            if !bytes.is_empty() {
                mutate(&mut bytes, at, how, value);
            }
        }
        let (_, codec) = CODECS.iter().find(|(name, _)| *name == format).expect("known");
        read_is_canonical(*codec, &bytes);
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
        "segment-header",
        "log-record",
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
