//! Opens whose tickets are good, on a node whose spool takes no more.

use super::*;
use crate::inbox;
use std::{fs, sync::mpsc::sync_channel};
use yao_protocol::{
    Epoch, Fen, PacketId, PacketIndex, ShakeId, ShardId, SponsorId, WallTime, WaveIndex,
    keys::{KeyOwner, KeySet, PublicKeyFile, SignKey},
    ticket::TicketBody,
};

/// The public key of RFC 8037, appendix A: a JWKS must have one.
const JWKS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const SHARD: ShardId = ShardId(17);
const EPOCH: Epoch = Epoch(1);

fn question(context: &CryptoContext, key: &SignKey, number: u32) -> ToCrypto {
    let user = UserId(u64::from(number));
    let body = TicketBody {
        campaign: context.node.campaign,
        packet: PacketId::new(0, SHARD, PacketIndex(number)),
        user,
        amount: Fen(100),
        shake: ShakeId(1),
        issued_at: WallTime(1),
        expires_at: WallTime(u64::MAX),
        shard: SHARD,
        epoch: EPOCH,
        sponsor: SponsorId::new(0).expect("below 64"),
        wave: WaveIndex(0),
    };
    let ticket = Box::new(body.sign(key).encode());
    let connection = ConnectionId { thread: 0, slot: number, number };
    ToCrypto::Ticket {
        connection,
        request_id: 10 + number,
        user,
        bearer: Bearer::default(),
        ticket,
    }
}

/// wire.md 6: BUSY, not closing, 500 + 1,000 ms. Those that found room are not answered here.
#[test]
fn a_full_spool_queue_is_busy_and_nothing_is_lost() {
    let key = SignKey::from_seed(&[2; 32]);
    let mut keys = KeySet::default();
    let campaign = yao_protocol::CampaignId(2015);
    let owner = KeyOwner::Ticket { campaign, shard: SHARD, epoch: EPOCH };
    keys.add(&PublicKeyFile { owner, key: key.public().to_bytes() }).expect("one key");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("jwks"), JWKS).expect("written");
    let tokens = TokenKeys::load(&folder.path().join("jwks"), "yao").expect("one key");
    let poll = mio::Poll::new().expect("a poller");
    let waker = mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
    let (outlet, replies) = inbox::inbox(100, waker);
    let (spool, spooled) = sync_channel(2);
    let context = CryptoContext {
        node: Node::for_tests(1, keys),
        tokens: Arc::new(ArcSwap::from_pointee(tokens)),
        shards: Shards::new(vec![outlet]),
        spool,
        counters: Arc::default(),
    };
    let (sender, queue) = sync_channel(10);
    for number in 0..3 {
        sender.send(question(&context, &key, number)).expect("room");
    }
    drop(sender);
    run(&context, &queue);

    let busy = Refusal {
        code: ErrorCode::Busy,
        class: RetryClass::After,
        closes: false,
        delay_ms: 500,
        jitter_ms: 1_000,
    };
    let Some(ToShard::OpenDecided { connection, request_id, reply }) = replies.next() else {
        panic!("the third is answered")
    };
    assert_eq!((connection.slot, request_id), (2, 12));
    assert!(matches!(reply, OpenReply::Refused(refusal) if refusal == busy), "{reply:?}");
    assert!(replies.next().is_none(), "the others are the spool's to answer");
    let waiting = spooled.try_iter().filter(|message| matches!(message, ToSpool::Open { .. }));
    assert_eq!(waiting.count(), 2);
}
