//! Wrong cases that no accident makes: bytes of a valid case with a field changed and the proof
//! made again, so that only the check of that field can refuse them.

use super::{
    cases,
    codecs::{mac_key, sign_key},
};
use yao_protocol::keys::{MAC_BYTES, SIGNATURE_BYTES, context};

/// Format, name of the valid case, what is wrong, and the bytes put at each offset.
pub(crate) type Wrong =
    (&'static str, &'static str, &'static str, &'static [(usize, &'static [u8])]);

/// Every crafted case: format, name, bytes.
pub(crate) fn invalid() -> Vec<(&'static str, String, Vec<u8>)> {
    let valid = cases::valid();
    let made = |(format, of, what, changes): &Wrong| {
        let found = valid.iter().find(|case| case.0 == *format && case.1 == *of);
        let (_, _, bytes) = found.unwrap_or_else(|| panic!("{format} has no case {of}"));
        let mut bytes = bytes.clone();
        for (at, new) in *changes {
            bytes[*at..*at + new.len()].copy_from_slice(new);
        }
        prove(format, &mut bytes);
        (*format, format!("{of}: {what}"), bytes)
    };
    let all = [CLIENT, SERVER, AGENT, SIGNED, SEED, DISK, RECLAIM, super::grants::WRONG];
    all.iter().copied().flatten().map(made).collect()
}

/// Makes signature, MAC or checksum right again, where there is room for one.
pub(crate) fn prove(format: &str, bytes: &mut [u8]) {
    let sign = |context, bytes: &mut [u8]| {
        if let Some((signed, signature)) = bytes.split_last_chunk_mut::<SIGNATURE_BYTES>() {
            *signature = sign_key().sign(context, signed);
        }
    };
    let mac = |context, bytes: &mut [u8]| {
        if let Some((proved, mac)) = bytes.split_last_chunk_mut::<MAC_BYTES>() {
            *mac = mac_key().mac(context, proved);
        }
    };
    match format {
        "ticket" => sign(context::TICKET, bytes),
        "seed-header" => sign(context::SEED, bytes),
        "settlement-batch" => sign(context::BATCH, bytes),
        "settlement-answer" => sign(context::ANSWER, bytes),
        "seal" => sign(context::SEAL, bytes),
        "void-request" => sign(context::VOID, bytes),
        "void-answer" => sign(context::VOIDED, bytes),
        "grant-request" => sign(context::GRANT_REQUEST, bytes),
        "grant-answer" => sign(context::GRANT, bytes),
        "tally" => mac(context::TALLY, bytes),
        "receipt" => mac(context::RECEIPT, bytes),
        "reconnect-ticket" => mac(context::RECONNECT, bytes),
        "segment-header" | "log-record" => {
            if let Some((covered, checksum)) = bytes.split_last_chunk_mut() {
                *checksum = crc32c::crc32c(covered).to_le_bytes();
            }
        }
        "slot" => {
            if let Some((covered, checksum)) = bytes.split_last_chunk_mut() {
                *checksum = *blake3::hash(covered).as_bytes();
            }
        }
        _ => {}
    }
}

const MOST: &[u8] = &[0xff; 8];

const CLIENT: &[Wrong] = &[
    ("frame", "no payload", "claims 16,385 bytes", &[(0, &[0x01, 0x40])]),
    ("frame", "no payload", "claims 65,535 bytes", &[(0, &[0xff, 0xff])]),
    ("client-message", "PING", "kind 0", &[(2, &[0])]),
    ("client-message", "PING", "kind of the server", &[(2, &[0x82])]),
    ("client-message", "PING", "optional kind of the server", &[(2, &[0xc2])]),
    ("client-message", "PING", "a flag", &[(3, &[1])]),
    ("client-message", "HELLO without tally", "a flag", &[(3, &[1])]),
    ("client-message", "HELLO without tally", "two tallies", &[(10, &[2])]),
    ("client-message", "HELLO without tally", "tally that is not there", &[(10, &[1])]),
    ("client-message", "HELLO without tally", "versions 2 to 1", &[(8, &[2])]),
    ("client-message", "HELLO without tally", "token of 769 bytes", &[(24, &[0x01, 0x03])]),
    ("client-message", "HELLO without tally", "token of 65,535 bytes", &[(24, &[0xff, 0xff])]),
    ("client-message", "SHAKE", "unknown flag", &[(3, &[2])]),
    ("client-message", "SHAKE", "no shake merged", &[(24, &[0, 0])]),
    ("client-message", "SHAKE", "last reserved byte", &[(31, &[1])]),
    ("client-message", "OPEN", "a flag", &[(3, &[1])]),
    ("client-message", "BYE", "a flag", &[(3, &[0x80])]),
];

const SERVER: &[Wrong] = &[
    ("server-message", "WELCOME", "version 2", &[(8, &[2])]),
    ("server-message", "WELCOME", "last reserved byte", &[(47, &[1])]),
    ("server-message", "WELCOME", "nine endpoints", &[(48, &[9])]),
    ("server-message", "WELCOME", "three endpoints, two there", &[(48, &[3])]),
    ("server-message", "WELCOME", "endpoint longer than the rest", &[(49, &[0xff])]),
    ("server-message", "WELCOME", "endpoint that is no text", &[(50, &[0xff])]),
    ("server-message", "NO_WIN none due", "unknown reason", &[(30, &[6])]),
    ("server-message", "NO_WIN none due", "a flag", &[(3, &[1])]),
    ("server-message", "PONG", "kind of the client", &[(2, &[0x02])]),
    ("server-message", "GOAWAY", "reason 0", &[(8, &[0])]),
    ("server-message", "GOAWAY", "unknown class", &[(9, &[4])]),
    ("server-message", "ERROR that stays", "code 0", &[(8, &[0, 0])]),
    ("server-message", "ERROR that stays", "unknown code", &[(8, &[11, 0])]),
    ("server-message", "ERROR that stays", "unknown class", &[(10, &[4])]),
    ("server-message", "ERROR that stays", "closes is 2", &[(11, &[2])]),
];

const AGENT: &[Wrong] = &[
    ("agent-message", "GREET", "role 0", &[(10, &[0])]),
    ("agent-message", "GREET", "software version that is no text", &[(33, &[0xff])]),
    ("agent-message", "GREET", "a flag", &[(3, &[1])]),
    ("agent-message", "VERDICT yes", "neither yes nor no", &[(16, &[0])]),
    ("agent-message", "DELIVERED", "a flag", &[(3, &[1])]),
    ("agent-message", "POLICY", "a flag", &[(3, &[1])]),
    ("agent-message", "BYE", "kind of the access process", &[(2, &[0x81])]),
    ("access-message", "VET", "unknown vet kind", &[(16, &[4])]),
    ("access-message", "VET", "sponsor 64", &[(17, &[64])]),
    ("access-message", "DELIVER", "a flag", &[(3, &[1])]),
    ("agent-message", "GRANT_ANSWER", "a flag", &[(3, &[1])]),
    ("agent-message", "GRANT_UNANSWERED", "a flag", &[(3, &[1])]),
    ("access-message", "GRANT_ASK", "a flag", &[(3, &[1])]),
    ("access-message", "DRAIN", "kind of the agent", &[(2, &[0x06])]),
];

/// 1424269800000000, the time of all vectors.
const NOW_BYTES: &[u8] = &[0x00, 0x4a, 0x7e, 0xa7, 0x5d, 0x0f, 0x05, 0x00];

const SIGNED: &[Wrong] = &[
    ("ticket", "a win", "version 2", &[(0, &[2])]),
    ("ticket", "a win", "unknown prize kind", &[(1, &[1])]),
    ("ticket", "a win", "a flag", &[(2, &[1])]),
    ("ticket", "a win", "sponsor 64", &[(3, &[64])]),
    ("ticket", "a win", "reserved byte", &[(7, &[1])]),
    ("ticket", "a win", "packet of another shard", &[(20, &[18])]),
    ("ticket", "a win", "shard of 25 bits", &[(67, &[1])]),
    ("ticket", "a win", "epoch without a key", &[(68, &[2])]),
    ("tally", "two wins", "version 2", &[(0, &[2])]),
    ("tally", "two wins", "65 wins", &[(1, &[65])]),
    ("tally", "two wins", "fewer wins than sponsors", &[(1, &[1])]),
    ("tally", "two wins", "reserved byte", &[(3, &[1])]),
    ("tally", "two wins", "another key id", &[(4, &[4])]),
    ("receipt", "an open", "version 2", &[(0, &[2])]),
    ("receipt", "an open", "reserved byte", &[(3, &[1])]),
    ("receipt", "an open", "another key id", &[(4, &[4])]),
    ("reconnect-ticket", "twenty minutes", "version 2", &[(0, &[2])]),
    ("reconnect-ticket", "twenty minutes", "first byte of a JWT", &[(0, b"e")]),
    ("reconnect-ticket", "twenty minutes", "reserved byte", &[(3, &[1])]),
    ("reconnect-ticket", "twenty minutes", "another key id", &[(4, &[4])]),
    ("reconnect-ticket", "twenty minutes", "no life", &[(32, NOW_BYTES)]),
    ("reconnect-ticket", "twenty minutes", "an hour of life", &[(28, &[0x5c])]),
    ("reconnect-ticket", "twenty minutes", "outlives the token", &[(40, NOW_BYTES)]),
    ("settlement-batch", "two opens of one packet", "no record", &[(6, &[0, 0])]),
    ("settlement-batch", "two opens of one packet", "257 records", &[(6, &[1, 1])]),
    ("settlement-batch", "two opens of one packet", "three records, two there", &[(6, &[3])]),
    ("settlement-batch", "two opens of one packet", "epoch without a key", &[(20, &[2])]),
    ("settlement-batch", "two opens of one packet", "sequence 0", &[(48, &[0])]),
    ("settlement-batch", "two opens of one packet", "the same sequence twice", &[(200, &[5])]),
    ("settlement-batch", "two opens of one packet", "ticket of version 2", &[(64, &[2])]),
    ("settlement-answer", "applied and same", "no result", &[(6, &[0, 0])]),
    ("settlement-answer", "applied and same", "257 results", &[(6, &[1, 1])]),
    ("settlement-answer", "applied and same", "result 0", &[(104, &[0])]),
    ("settlement-answer", "applied and same", "unknown result", &[(105, &[7])]),
    ("settlement-answer", "applied and same", "key id without a key", &[(96, &[2])]),
    ("settlement-answer", "applied and same", "reserved byte", &[(100, &[1])]),
];

const SEED: &[Wrong] = &[
    ("seed-record", "a packet", "sponsor 64", &[(12, &[64])]),
    ("seed-record", "a packet", "unknown prize kind", &[(13, &[1])]),
    ("seed-header", "shard 17", "version 2", &[(8, &[2])]),
    ("seed-header", "shard 17", "no section", &[(10, &[0, 0])]),
    ("seed-header", "shard 17", "65 sections", &[(10, &[65, 0])]),
    ("seed-header", "shard 17", "two sections, one there", &[(10, &[2, 0])]),
    ("seed-header", "shard 17", "longer than its limit", &[(12, &[0x01, 0x00, 0x02, 0x00])]),
    ("seed-header", "shard 17", "shorter than its fixed fields", &[(12, &[239, 0, 0, 0])]),
    ("seed-header", "shard 17", "shard of 25 bits", &[(27, &[1])]),
    ("seed-header", "shard 17", "no sponsor", &[(29, &[0])]),
    ("seed-header", "shard 17", "65 sponsors", &[(29, &[65])]),
    ("seed-header", "shard 17", "no record per chunk", &[(30, &[0, 0])]),
    ("seed-header", "shard 17", "4,096 records per chunk", &[(30, &[0, 0x10])]),
    ("seed-header", "shard 17", "a record more than its section", &[(32, &[0xb9])]),
    ("seed-header", "shard 17", "a chunk too many", &[(36, &[49])]),
    ("seed-header", "shard 17", "another sum than its section", &[(40, &[1])]),
    ("seed-header", "shard 17", "wave 64", &[(176, &[64])]),
    ("seed-header", "shard 17", "no segment", &[(178, &[0])]),
    ("seed-header", "shard 17", "65 segments", &[(178, &[65])]),
    ("seed-header", "shard 17", "section that does not begin at 0", &[(180, &[1])]),
    ("seed-header", "shard 17", "section beyond 2^32", &[(180, &[0xff; 4])]),
    ("seed-header", "shard 17", "section of another duration", &[(200, &[1])]),
    ("seed-header", "shard 17", "segment without duration", &[(200, &[0; 8]), (208, &[0; 8])]),
    ("seed-header", "shard 17", "segment of 2^48 us", &[(208, &[0, 0, 0, 0, 0, 0, 1, 0])]),
    ("seed-header", "shard 17", "segment with fewer packets", &[(216, &[0])]),
];

const DISK: &[Wrong] = &[
    ("slot", "a cursor", "magic of another file", &[(3, b"MARK")]),
    ("slot", "a cursor", "version 2", &[(8, &[2])]),
    ("slot", "a cursor", "payload of 4,041 bytes", &[(10, &[0xc9, 0x0f])]),
    ("slot", "a cursor", "reserved byte", &[(15, &[1])]),
    ("slot", "a cursor", "last of all sequences", &[(16, MOST)]),
    ("slot", "a cursor", "a byte behind its payload", &[(4_063, &[1])]),
    ("cursor", "in the middle of a wave", "shard of 25 bits", &[(11, &[1])]),
    ("cursor", "in the middle of a wave", "next H below H", &[(24, &[0, 0, 0, 0])]),
    ("watermark", "settled", "shard of 25 bits", &[(11, &[1])]),
    ("watermark", "settled", "last of all sequences", &[(16, MOST)]),
    ("segment-header", "a journal", "magic of the spool", &[(3, b"SPOL")]),
    ("segment-header", "a journal", "version 2", &[(8, &[2])]),
    ("segment-header", "a journal", "reserved byte", &[(59, &[1])]),
    ("segment-header", "a journal", "shard of 25 bits", &[(15, &[1])]),
    ("segment-header", "a journal", "begins at 0", &[(24, &[0])]),
    ("segment-header", "a journal", "begins at the last of all sequences", &[(24, MOST)]),
    ("log-record", "sequence 5", "kind 0", &[(4, &[0])]),
    ("log-record", "sequence 5", "payload of 4,097 bytes", &[(0, &[0x01, 0x10])]),
    ("log-record", "sequence 5", "payload of 2^32 - 1 bytes", &[(0, &[0xff; 4])]),
    ("log-record", "sequence 5", "reserved byte", &[(7, &[1])]),
    ("log-record", "sequence 5", "sequence 6", &[(8, &[6])]),
    ("log-record", "sequence 5", "calls itself committed", &[(16, &[5])]),
    ("log-record", "sequence 5", "last of all sequences", &[(8, MOST)]),
    ("journal-event", "START", "kind 0", &[(0, &[0])]),
    ("journal-event", "START", "unknown kind", &[(0, &[7])]),
    ("journal-event", "ISSUE", "sponsor 64", &[(4, &[64])]),
    ("journal-event", "SKIP after waiting", "reason 0", &[(3, &[0])]),
    ("journal-event", "SKIP after waiting", "beyond 2^32", &[(5, &[0xff; 4])]),
    ("journal-event", "FENCE", "place 0", &[(1, &[0])]),
    ("journal-event", "FENCE", "unknown place", &[(1, &[3])]),
    ("spool-open", "an open", "ticket of version 2", &[(8, &[2])]),
];

const RECLAIM: &[Wrong] = &[
    ("seal", "two waves", "version 2", &[(8, &[2])]),
    ("seal", "two waves", "no wave", &[(10, &[0])]),
    ("seal", "two waves", "65 waves", &[(10, &[65])]),
    ("seal", "two waves", "three waves, two there", &[(10, &[3])]),
    ("seal", "two waves", "shard of 25 bits", &[(15, &[1])]),
    ("seal", "two waves", "epoch without a key", &[(24, &[2])]),
    ("seal", "two waves", "reserved byte", &[(39, &[1])]),
    ("seal", "two waves", "H above its count", &[(112, &[0xff; 4])]),
    ("seal", "two waves", "the same wave twice", &[(116, &[0])]),
    ("seal", "two waves", "wave 64", &[(116, &[64])]),
    ("seal", "two waves", "reserved byte of a wave", &[(118, &[1])]),
    ("seal", "two waves", "more than 2^32 packets", &[(108, &[0xff; 4]), (120, &[0xff; 4])]),
    ("void-request", "eleven packets", "version 2", &[(4, &[2])]),
    ("void-request", "eleven packets", "reserved byte", &[(6, &[1])]),
    ("void-request", "eleven packets", "shard of 25 bits", &[(19, &[1])]),
    ("void-request", "eleven packets", "child of its own generation", &[(21, &[0])]),
    ("void-request", "eleven packets", "last reserved byte", &[(39, &[1])]),
    ("void-request", "eleven packets", "no packet", &[(28, &[0])]),
    ("void-request", "eleven packets", "65,537 packets", &[(28, &[1, 0, 1, 0])]),
    ("void-request", "eleven packets", "beyond 2^32", &[(24, &[0xff; 4])]),
    ("void-answer", "every third of eleven", "version 2", &[(4, &[2])]),
    ("void-answer", "every third of eleven", "no packet", &[(28, &[0])]),
    ("void-answer", "every third of eleven", "19 packets, 16 bits", &[(28, &[19])]),
    ("void-answer", "every third of eleven", "key id without a key", &[(80, &[2])]),
    ("void-answer", "every third of eleven", "five void, four told", &[(88, &[0x4b])]),
    ("void-answer", "every third of eleven", "an unused bit", &[(89, &[0x82]), (84, &[5])]),
    ("parents", "two packets", "version 2", &[(8, &[2])]),
    ("parents", "two packets", "generation 0", &[(10, &[0])]),
    ("parents", "two packets", "reserved byte", &[(11, &[1])]),
    ("parents", "two packets", "shard of 25 bits", &[(15, &[1])]),
    ("parents", "two packets", "three packets, two there", &[(24, &[3])]),
    ("parents", "two packets", "2^32 - 1 packets", &[(24, &[0xff; 4])]),
    ("parents", "two packets", "parent of its own generation", &[(39, &[1])]),
];
