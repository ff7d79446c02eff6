//! Grants, with any content, are read as they were written; and by nobody who holds another key.

use super::{
    any_proof::wall_time,
    cases,
    codecs::{key_set, sign_key},
    grants::{a_request, an_answer},
};
use proptest::prelude::*;
use yao_protocol::{
    Incarnation, WallTime, WaveIndex, WireError,
    cursor::{Cursor, GrantRecord},
    grant::{Claim, GRANT_BYTES, GrantAnswer, GrantRequest, NodeName, Verdict},
    keys::KeySet,
};

fn forged<T: std::fmt::Debug + PartialEq>(read: Result<T, WireError>) {
    assert!(matches!(read, Err(WireError::Forged { .. })), "{read:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_grant_request(
        claim in 1_u8..=4, generation: u8, wave: u16, numbers: [u32; 3], known: u64, nonce: u64,
        incarnation in 1_u128.., previous: u128, root: u8, name in ".{0,80}",
    ) {
        let [first, count, high] = numbers;
        let count = count.min(u32::MAX - first);
        let request = GrantRequest {
            claim: Claim::from_number(claim).expect("1 to 4"),
            generation,
            wave: WaveIndex(wave),
            first,
            count,
            high: high.min(count),
            known,
            nonce,
            incarnation: Incarnation(incarnation.to_le_bytes()),
            previous: Incarnation(previous.to_le_bytes()),
            merkle_root: [root; 32],
            node: NodeName::new(&name),
            ..a_request()
        };
        let bytes = request.encode(&sign_key());
        prop_assert_eq!(bytes.len(), GRANT_BYTES);
        prop_assert_eq!(GrantRequest::decode(&bytes, &key_set()), Ok(request));
        forged(GrantRequest::decode(&bytes, &KeySet::default()));
        prop_assert!(GrantAnswer::decode(&bytes, &key_set()).is_err(), "a request is no answer");
    }

    #[test]
    fn any_grant_answer(
        verdict in 1_u8..=5, wave: u16, id in 1_u64.., range: [u32; 2], seen: u32, margin_ms: u32,
        decided_at in wall_time(), lifetime in 1_u64.., holder: u128, root: u8, name in ".{0,80}",
    ) {
        let decided_at = WallTime(decided_at.0.min(u64::MAX - lifetime));
        let answer = GrantAnswer {
            verdict: Verdict::from_number(verdict).expect("1 to 5"),
            wave: WaveIndex(wave),
            id,
            lo: range[0].min(range[1]),
            hi: range[0].max(range[1]),
            seen,
            margin_ms,
            decided_at,
            not_after: WallTime(decided_at.0 + lifetime),
            holder: Incarnation(holder.to_le_bytes()),
            node: NodeName::new(&name),
            request_digest: [root; 32],
            ..an_answer()
        };
        let bytes = answer.encode(&sign_key());
        prop_assert_eq!((bytes.len(), answer.lifetime_us()), (GRANT_BYTES, lifetime));
        prop_assert_eq!(GrantAnswer::decode(&bytes, &key_set()), Ok(answer));
        forged(GrantAnswer::decode(&bytes, &KeySet::default()));
        prop_assert_eq!(GrantAnswer::peek_request_digest(&bytes), Some([root; 32]));
        prop_assert_eq!(GrantAnswer::peek_request_digest(&bytes[1..]), None);
        prop_assert!(GrantRequest::decode(&bytes, &key_set()).is_err(), "an answer asks nothing");
    }

    #[test]
    fn any_grant_in_a_cursor(
        id in 1_u64.., range: [u32; 2], holder: u128, times: [u64; 3], high: u32,
    ) {
        let grant = GrantRecord {
            id,
            lo: range[0].min(range[1]),
            hi: range[0].max(range[1]),
            holder: Incarnation(holder.to_le_bytes()),
            not_after: WallTime(times[0]),
            until_ns: times[1],
            lifetime_us: times[2],
        };
        let cursor = Cursor { grant: Some(grant), high, next_high_max: high, ..cases::cursor() };
        let bytes = cursor.encode();
        prop_assert_eq!(Cursor::decode(&bytes), Ok(cursor));
        let without = Cursor { grant: None, ..cursor };
        prop_assert_eq!(Cursor::decode(&bytes[..bytes.len() - 64]), Ok(without), "the old form");
    }
}
