//! Peers that break TLS, stop in the middle, or ask for too much.

use super::*;
use ::aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{AlertDescription, ConnectionTrafficSecrets};

/// A client whose records are made by hand, so that they may say what rustls would not.
struct Forger {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Forger {
    /// Takes over the client of an open pair.
    fn of(client: ClientConnection) -> Self {
        let secrets = client.dangerous_extract_secrets().expect("allowed by its settings");
        let (sequence, ConnectionTrafficSecrets::Aes128Gcm { key, iv }) = secrets.tx else {
            panic!("AES-128 is our first choice where the CPU has AES")
        };
        let key = UnboundKey::new(&aead::AES_128_GCM, key.as_ref()).expect("16 bytes");
        let iv = iv.as_ref().try_into().expect("12 bytes");
        Self { key: LessSafeKey::new(key), iv, sequence }
    }

    /// A record of the inner type `kind`.
    fn record(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut inner = payload.to_vec();
        inner.push(kind);
        let length = u16::try_from(inner.len() + 16).expect("a record").to_be_bytes();
        let header = [23, 3, 3, length[0], length[1]];
        let mut nonce = self.iv;
        for (byte, counted) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= counted;
        }
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).expect("sealed");
        [&header[..], &inner].concat()
    }
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// KeyUpdate that asks for an answer (RFC 8446 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 1];

fn forged() -> (TlsSession, Forger) {
    let pair = Pair::open(&settings());
    (pair.server, Forger::of(pair.client))
}

fn feed(server: &mut TlsSession, bytes: &[u8]) -> (Result<Fed, TlsError>, Vec<u8>, Vec<u8>) {
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    let fed = server.feed(&mut bytes.to_vec(), &mut plain, &mut out, true);
    (fed, plain, out)
}

/// rustls counts on seeing the start of a handshake message again that spans records; a server that
/// speaks in between must not forget to show it.
#[test]
fn a_server_may_speak_while_a_handshake_message_is_cut() {
    for split in 1..KEY_UPDATE.len() {
        let (mut server, mut forger) = forged();
        let bytes = [forger.record(DATA, b"ping"), forger.record(HANDSHAKE, &KEY_UPDATE[..split])];
        let (fed, plain, _) = feed(&mut server, &bytes.concat());
        assert!(fed.expect("a fragment is no error").cut);
        assert_eq!(plain, b"ping");
        let mut out = Vec::new();
        server.seal(b"pong", &mut out).expect("sealed");
        assert!(!out.is_empty());
        let (fed, _, _) = feed(&mut server, &forger.record(HANDSHAKE, &KEY_UPDATE[split..]));
        assert!(!fed.expect("the message is whole").cut, "nothing is kept");
        server.seal(b"with new keys", &mut out).expect("sealed");
        server.close(&mut out).expect("closed");
    }
}

#[test]
fn an_error_while_a_handshake_message_is_cut_gives_an_alert() {
    for garbage in [vec![0xff; 40], vec![23, 3, 3, 0, 40], vec![22, 3, 3, 0, 0]] {
        let (mut server, mut forger) = forged();
        feed(&mut server, &forger.record(HANDSHAKE, &KEY_UPDATE[..2])).0.expect("a fragment");
        let mut bytes = garbage;
        bytes.resize(60, 1);
        let (fed, _, out) = feed(&mut server, &bytes);
        fed.expect_err("garbage");
        assert!(!out.is_empty(), "the peer is told");
        server.close(&mut Vec::new()).expect_err("it is over");
    }
}

/// The start of a handshake message of 24,575 bytes: rustls waits for its end.
fn fragment() -> Vec<u8> {
    let mut bytes = vec![0; 5_000];
    bytes[..4].copy_from_slice(&[24, 0, 0x5f, 0xff]);
    bytes
}

#[test]
fn a_handshake_message_that_never_ends_is_refused_at_the_limit() {
    let check = |open: bool, records: usize| {
        let (mut server, mut forger) = forged();
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let mut bytes = forger.record(HANDSHAKE, &fragment());
        for _ in 1..records {
            bytes.extend(forger.record(HANDSHAKE, &[0; 6_000]));
        }
        let fed = server.feed(&mut bytes, &mut plain, &mut out, open);
        assert!(matches!(fed, Err(TlsError::TooLarge(_))), "{fed:?}");
        assert!(!out.is_empty(), "the peer is told that it is over");
        server.close(&mut out).expect_err("it is over");
    };
    check(false, 1);
    // Longer than any message: what a session may leave is a record.
    check(true, 4);
}

#[test]
fn a_stranger_who_leaves_a_message_cut_is_refused_as_any_other() {
    let mut pair = Pair::new(&settings(), &Arc::new(client_config(ALL, &[])));
    let hello = pair.client_bytes();
    pair.feed(&hello, usize::MAX).expect("only the end tells what is spoken");
    pair.client_reads().expect("the server is no liar");
    let mut bytes = pair.client_bytes();
    let mut forger = Forger::of(pair.client);
    bytes.extend(forger.record(HANDSHAKE, &fragment()[..100]));
    let fed = pair.server.feed(&mut bytes, &mut pair.plain, &mut pair.out, false);
    assert!(matches!(fed, Err(TlsError::Alpn)), "{fed:?}");
    assert!(!pair.out.is_empty());
}

/// Records of every inner type, whole messages, fragments and garbage, cut anywhere, while the
/// server speaks or closes in between: an end at most, never a panic.
#[test]
fn whatever_a_peer_with_keys_sends_nothing_panics() {
    let (settings, config) = (settings(), Arc::new(client_config(ALL, &[ALPN])));
    let (mut refused, mut survived) = (0, 0);
    for seed in 0..1_500_u64 {
        let mut state = seed;
        // SplitMix64: 0 to `below - 1`.
        let mut roll = |below: usize| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed >> 33) as usize % below
        };
        let mut pair = Pair::new(&settings, &config);
        pair.exchange(usize::MAX).expect("a good handshake");
        let (mut server, mut forger) = (pair.server, Forger::of(pair.client));
        let mut result = Ok(());
        for _ in 0..=roll(7) {
            let payload = match roll(6) {
                0 => KEY_UPDATE[..roll(6)].to_vec(),
                1 => fragment()[..roll(5_001)].to_vec(),
                2 => vec![1, 0],
                3 => vec![0; roll(16_384)],
                _ => (0..roll(6)).map(|_| roll(256) as u8).collect(),
            };
            let kind = [ALERT, HANDSHAKE, HANDSHAKE, DATA, DATA, 20, 0][roll(7)];
            let bytes = forger.record(kind, &payload);
            let cut = if roll(2) == 0 { bytes.len() } else { 1 + roll(bytes.len()) };
            for piece in bytes.chunks(cut) {
                let (mut plain, mut out) = (Vec::new(), Vec::new());
                let open = roll(2) == 0;
                let fed = server.feed(&mut piece.to_vec(), &mut plain, &mut out, open);
                result = result.and(fed.map(|_| ()));
            }
            match roll(4) {
                0 => drop(server.seal(b"pong", &mut Vec::new())),
                1 => drop(server.close(&mut Vec::new())),
                _ => {}
            }
        }
        match result {
            Ok(()) => survived += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 100 && survived > 100, "{refused} refused, {survived} survived");
}

/// A peer that asks for new keys again and again, or sends empty records, is sent away before it
/// costs more than its packets do.
#[test]
fn floods_without_data_end() {
    let (mut server, mut forger) = forged();
    let bytes: Vec<u8> = (0..40).flat_map(|_| forger.record(ALERT, &[1, 90])).collect();
    feed(&mut server, &bytes).0.expect_err("too many warnings");

    let mut pair = Pair::open(&settings());
    let flood = (0..40).try_for_each(|_| {
        pair.client.refresh_traffic_keys().expect("asked");
        let bytes = pair.client_bytes();
        pair.feed(&bytes, usize::MAX)
    });
    flood.expect_err("32 in a row are allowed");
    assert!(pair.out.len() < 200, "they are not answered one by one");
}

#[test]
fn a_record_longer_than_tls_allows_is_refused_at_its_header() {
    let (mut server, _) = forged();
    let (fed, _, out) = feed(&mut server, &[23, 3, 3, 0x48, 0x01]);
    fed.expect_err("more than any version of TLS allows");
    assert!(!out.is_empty(), "record_overflow");
    let (mut server, mut forger) = forged();
    let (fed, plain, _) = feed(&mut server, &forger.record(DATA, &[9; 16_384]));
    assert!(fed.is_ok() && plain.len() == 16_384, "the longest record");
    let (fed, _, out) = feed(&mut server, &forger.record(DATA, &[9; 16_385]));
    fed.expect_err("one byte too many inside");
    assert!(!out.is_empty());
}

#[test]
fn a_peer_may_leave_2048_bytes_before_its_session_is_open_and_a_record_after() {
    let settings = settings();
    let config = Arc::new(client_config(ALL, &[ALPN]));
    let check = |open: bool, count: usize, good: bool| {
        let mut pair = Pair::new(&settings, &config);
        pair.exchange(usize::MAX).expect("a good handshake");
        let mut bytes = vec![0; count];
        bytes[..5].copy_from_slice(&[23, 3, 3, 0x41, 0]);
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        for piece in bytes.chunks_mut(1_000) {
            if let Err(error) = pair.server.feed(piece, &mut plain, &mut out, open) {
                assert!(!good && matches!(error, TlsError::TooLarge(_)), "{error}");
                return;
            }
        }
        assert!(good, "{count} bytes are kept");
    };
    check(false, 2_048, true);
    check(false, 2_049, false);
    check(true, 16_640, true);
    let mut pair = Pair::new(&settings, &config);
    // A ClientHello that never ends has the handshake's budget.
    let mut bytes = vec![0; 4_097];
    bytes[..9].copy_from_slice(&[22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc]);
    pair.feed(&bytes[..4_096], usize::MAX).expect("as long as a good one may be");
    let fed = pair.feed(&bytes[4_096..], usize::MAX);
    assert!(matches!(fed, Err(TlsError::TooLarge(4_097))), "{fed:?}");
}

/// What each kind of stranger is told: the alert's description (RFC 8446 6), and an end.
#[test]
fn strangers_are_refused_with_an_alert() {
    let settings = settings();
    let check = |name: &str, config: ClientConfig, change: &[(&[u8], &[u8])], alert: u8| {
        let mut pair = Pair::new(&settings, &Arc::new(config));
        let mut hello = pair.client_bytes();
        for (from, to) in change {
            let at = hello.windows(from.len()).position(|window| window == *from);
            let at = at.unwrap_or_else(|| panic!("{name}: the hello holds {from:x?}"));
            hello[at..at + to.len()].copy_from_slice(to);
        }
        pair.feed(&hello, usize::MAX).expect_err(name);
        assert_eq!(pair.out, [21, 3, 3, 0, 2, 2, alert], "{name}");
        assert!(!pair.server.is_secured());
        assert!(pair.feed(&hello, usize::MAX).is_err(), "{name}: it stays over");
    };
    let only = |suite| {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![suite];
        let verifier = Understands(ALL.to_vec(), provider.clone());
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config
    };
    let ours = || client_config(ALL, &[ALPN]);
    check("TLS 1.2 only", ours(), &[(&[0, 43, 0, 3, 2, 3, 4], &[0, 43, 0, 3, 2, 3, 3])], 70);
    check("no versions", ours(), &[(&[0, 43, 0, 3, 2, 3, 4], &[0x5a, 0x5a])], 70);
    let suite = aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384;
    // Without a suite there is no signature either, which is what rustls looks for first.
    check("no common suite", only(suite), &[(&[0x13, 0x02], &[0x13, 0x05])], 49);
}

#[test]
fn a_client_that_does_not_name_our_protocol_is_refused() {
    let mut pair = Pair::new(&settings(), &Arc::new(client_config(ALL, &[])));
    let result = pair.exchange(usize::MAX);
    assert!(matches!(result, Err(TlsError::Alpn)), "{result:?}");

    let mut pair = Pair::new(&settings(), &Arc::new(client_config(ALL, &[b"h2", b"yao/2"])));
    pair.exchange(usize::MAX).expect_err("not our protocol");
    let told = pair.client_reads().expect_err("an alert");
    assert_eq!(told, rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol));
}

/// Every byte of a handshake changed, at every phase: an end or a good session, never a panic. What
/// ends says so, unless it ended by being cut.
#[test]
fn garbage_at_every_phase_ends_without_a_panic() {
    let settings = settings();
    let config = Arc::new(client_config(ALL, &[ALPN]));
    let length = client(&config).write_tls(&mut Vec::new()).expect("a hello");
    let (mut refused, mut told) = (0, 0);
    for place in 0..length + 80 {
        for change in [0x01, 0x80, 0xff] {
            let mut pair = Pair::new(&settings, &config);
            let mut hello = pair.client_bytes();
            if let Some(byte) = hello.get_mut(place) {
                *byte ^= change;
            }
            let mut result = pair.feed(&hello, 1_000);
            if result.is_ok() && pair.client_reads().is_ok() {
                let mut finished = pair.client_bytes();
                if let Some(byte) = finished.get_mut(place.wrapping_sub(length)) {
                    *byte ^= change;
                }
                result = pair.feed(&finished, 1_000);
            }
            if let Err(error) = result {
                refused += 1;
                // The one error of which rustls tells nobody.
                let silent = error.to_string().ends_with("HandshakePayloadTooLarge");
                told += usize::from(!pair.out.is_empty() || silent);
                pair.feed(&[0x17; 100], 1_000).expect_err("it stays over");
            }
        }
    }
    assert!(refused > 200, "{refused}");
    assert_eq!(told, refused);
}

/// After the handshake a changed byte is a forgery, whichever it is.
#[test]
fn a_changed_byte_after_the_handshake_is_a_forgery() {
    let settings = settings();
    // Type and version of the record are no part of it: they are not read, or refused.
    for place in 3..5 + 5 + 1 + 16 {
        let mut pair = Pair::open(&settings);
        pair.client.writer().write_all(b"shake").expect("taken");
        let mut bytes = pair.client_bytes();
        bytes[place] ^= 1;
        let result = pair.feed(&bytes, usize::MAX);
        assert!(pair.plain.is_empty(), "byte {place}");
        // A longer record is merely not whole yet.
        assert!(result.is_err() || pair.last.cut, "byte {place}");
        assert_eq!(result.is_err(), !pair.out.is_empty(), "the alert for byte {place}");
    }
}
