//! The crowd against a node of a few lines: what it counts is what the node gave.

use super::*;
use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};
use yao_protocol::{
    Epoch, Fen, KeyId, PacketId, ShakeId, ShardId, SponsorId, SponsorSet, WallTime, WaveIndex,
    client::{ClientMessage, NoWin, NoWinReason, VERSION, Welcome, put_pong, put_receipt, put_win},
    frame::{Frame, split_frame},
    hex,
    keys::{MacKey, SignKey},
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    receipt::Receipt,
    tally::Tally,
    ticket::{Ticket, TicketBody},
    token::TokenClaims,
};

const CAMPAIGN: CampaignId = CampaignId(2015);

#[test]
fn the_file_limit_is_found() {
    let text = "Limit  Soft Limit  Hard Limit  Units\n\
                Max open files            20000                20000                files\n";
    assert_eq!(open_files_max(text), Some(20_000));
    assert_eq!(open_files_max("Max open files            unlimited   "), None);
    assert_eq!(open_files_max(""), None);
}

/// A node that lets each user's third shake win and drops each connection once after that.
#[derive(Default)]
struct Node {
    packets: AtomicU64,
    receipts: AtomicU64,
    broken: std::sync::Mutex<BTreeSet<u64>>,
}

impl Node {
    /// Serves one connection on a thread of its own, until it ends.
    fn serve(&self, mut stream: std::net::TcpStream) {
        use std::io::Read;
        let (mut received, mut piece) = (Vec::new(), [0; 1_024]);
        let (mut user, mut shakes) = (UserId(0), 0);
        loop {
            let mut out = Vec::new();
            let mut rest = &received[..];
            while let Some((frame, after)) =
                split_frame(rest, CLIENT_PAYLOAD_BYTES_MAX).expect("frames")
            {
                rest = after;
                if !self.answer(frame, &mut user, &mut shakes, &mut out) {
                    return;
                }
            }
            received = rest.to_vec();
            if stream.write_all(&out).is_err() {
                return;
            }
            match stream.read(&mut piece) {
                Ok(count) if count > 0 => received.extend_from_slice(&piece[..count]),
                _ => return,
            }
        }
    }

    /// Answers one frame; `false` breaks the connection.
    fn answer(
        &self,
        frame: Frame<'_>,
        user: &mut UserId,
        shakes: &mut u64,
        out: &mut Vec<u8>,
    ) -> bool {
        let id = frame.header.request_id;
        let mac_key = MacKey::new(KeyId(1), [9; 32]);
        match ClientMessage::decode(frame).expect("messages") {
            ClientMessage::Hello(hello) => {
                *user = claimed_user(hello.token);
                welcome().put(out, id);
            }
            ClientMessage::Ping => put_pong(out, id, WallTime(1)),
            ClientMessage::Shake(shake) => {
                *shakes += 1;
                let first_break = self.broken.lock().expect("unpoisoned").insert(user.0);
                if first_break {
                    return false;
                }
                if *shakes == 3 {
                    let packet = self.packets.fetch_add(1, Ordering::Relaxed);
                    let tally = Tally {
                        campaign: CAMPAIGN,
                        user: *user,
                        wins: 1,
                        sponsors: SponsorSet::EMPTY,
                        counted_at: WallTime(1),
                    };
                    let ticket = ticket(*user, PacketId(packet), shake.shake).encode();
                    put_win(out, id, &ticket, &tally.encode(&mac_key));
                } else {
                    NoWin {
                        shake: shake.shake,
                        server_time: WallTime(1),
                        interval_ms: 0,
                        cue: 1,
                        reason: NoWinReason::NoneDue,
                        tier: 0,
                    }
                    .put(out, id);
                }
            }
            ClientMessage::Open(bytes) => {
                let packet = Ticket::decode(bytes).expect("ours").body.packet;
                let accepted_at = WallTime(1);
                let receipt = Receipt { campaign: CAMPAIGN, packet, user: *user, accepted_at };
                put_receipt(out, id, &receipt.encode(&mac_key));
                self.receipts.fetch_add(1, Ordering::Relaxed);
            }
            ClientMessage::Bye => return false,
            ClientMessage::Unknown => panic!("the client sends no unknown kinds"),
        }
        true
    }
}

fn welcome() -> Welcome {
    Welcome {
        version: VERSION,
        tier: 0,
        cue: 1,
        shake_interval_ms: 0,
        heartbeat_ms_min: 1_000,
        heartbeat_ms_max: 60_000,
        server_time: WallTime(1),
        campaign: CAMPAIGN,
        wins_per_user: 3,
        endpoints: Vec::new(),
    }
}

fn ticket(user: UserId, packet: PacketId, shake: ShakeId) -> Ticket {
    let body = TicketBody {
        campaign: CAMPAIGN,
        packet,
        user,
        amount: Fen(1),
        shake,
        issued_at: WallTime(1),
        expires_at: WallTime(u64::MAX),
        shard: ShardId(0),
        epoch: Epoch(1),
        sponsor: SponsorId::new(0).expect("below 64"),
        wave: WaveIndex(0),
    };
    body.sign(&SignKey::from_seed(&[3; 32]))
}

/// The user in a token, unproved: `identity.rs` tests the signature.
fn claimed_user(token: &[u8]) -> UserId {
    let token = std::str::from_utf8(token).expect("text");
    let claims: TokenClaims =
        jsonwebtoken::dangerous::insecure_decode(token).expect("a token").claims;
    UserId(claims.sub.parse().expect("a user id"))
}

fn arguments(address: String, folder: &Path, clients: u64) -> CrowdArgs {
    CrowdArgs {
        addresses: vec![address],
        in_turn: false,
        ca: None,
        clients,
        seconds: 4,
        session_key: folder.join("session.key.pem"),
        kid: crate::identity::KEY_ID.to_owned(),
        audience: "yao".to_owned(),
        campaign: CAMPAIGN.0,
        first_user: 500,
        tickets: folder.join("tickets"),
        journal: Some(folder.join("journal")),
        shake_every_ms: 40,
        moves: 0,
        sdk_back_off: false,
        threads: 2,
        progress: false,
        json: true,
    }
}

#[test]
fn every_ticket_and_receipt_is_written_down() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    crate::identity::create_keys(folder.path()).expect("keys");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let node = Arc::<Node>::default();
    let serving = Arc::clone(&node);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (node, stream) = (Arc::clone(&serving), stream.expect("a connection"));
            thread::spawn(move || node.serve(stream));
        }
    });
    run(arguments(address, folder.path(), 40)).expect("the crowd ends well");

    let log = fs::read_to_string(folder.path().join("tickets")).expect("the log");
    let lines = |kind| -> Vec<Vec<u8>> {
        let text = log.lines().filter_map(|line| line.strip_prefix(kind));
        text.map(|text| hex::decode(text).expect("hexadecimal")).collect()
    };
    let won: Vec<Ticket> =
        lines("W ").iter().map(|bytes| Ticket::decode(bytes).expect("a ticket")).collect();
    let opened: BTreeSet<u64> =
        lines("R ").iter().map(|bytes| Receipt::peek(bytes).expect("a receipt").packet.0).collect();
    assert_eq!(log.lines().count(), won.len() + opened.len(), "nothing else is in the log");
    let packets: BTreeSet<u64> = won.iter().map(|ticket| ticket.body.packet.0).collect();
    let users: BTreeSet<u64> = won.iter().map(|ticket| ticket.body.user.0).collect();
    assert_eq!(won.len() as u64, node.packets.load(Ordering::Relaxed), "every win is there");
    assert_eq!((packets.len(), &opened), (won.len(), &packets), "each once, and each opened");
    assert_eq!(users, (500..540).collect(), "every client is a user of its own and won");

    let journal = fs::read_to_string(folder.path().join("journal")).expect("the journal");
    let of = |client: u64, what: &str| {
        let is = |line: &&str| {
            let moment: serde_json::Value = serde_json::from_str(line).expect("JSON");
            moment["client"] == client && moment["what"] == what && moment["transport"] == "tcp"
        };
        journal.lines().filter(is).count()
    };
    for client in 0..40 {
        assert_eq!((of(client, "connected"), of(client, "disconnected")), (2, 1), "{client}");
    }
}

#[test]
fn each_move_goes_to_another_address_that_is_nobody_elses() {
    let mut seen = BTreeSet::new();
    for client in [0, 1, 249, 250, 14_999] {
        assert_ne!(address(client, 0), address(client, 1), "client {client}");
        for number in 0..2 {
            assert!(address(client, number).is_loopback());
            assert!(seen.insert(address(client, number)), "client {client}, move {number}");
        }
    }
}

#[test]
fn a_crowd_that_cannot_play_says_why() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = nobody.local_addr().expect("bound").to_string();
    drop(nobody);
    let check = |args: CrowdArgs, expected: &str| {
        let error = run(args).expect_err("cannot work");
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    };
    check(arguments(address.clone(), folder.path(), 1), "netbench keys");
    crate::identity::create_keys(folder.path()).expect("keys");
    check(arguments(address.clone(), folder.path(), 0), "at least 1");
    check(arguments(address.clone(), folder.path(), 1 << 40), "ulimit -n");
    let args = CrowdArgs { seconds: 0, ..arguments(address, folder.path(), 1) };
    check(args, "not one client was welcomed");
}
