//! What the tests of several modules are made of: a server's half of the contract, in memory.

use crate::{session::Session, time::Timestamp};
use yao_protocol::{
    CampaignId, Epoch, Fen, KeyId, PacketId, ShakeId, SponsorId, SponsorSet, UserId, WallTime,
    WaveIndex,
    client::{VERSION, Welcome},
    frame::split_frame,
    keys::{MacKey, SignKey},
    limits::CLIENT_PAYLOAD_BYTES_MAX,
    receipt::{RECEIPT_BYTES, Receipt},
    reconnect::{RECONNECT_BYTES, ReconnectKeys, ReconnectTicket},
    tally::{TALLY_BYTES, Tally},
    ticket::{Ticket, TicketBody},
    token::Identity,
};

pub(crate) const CAMPAIGN: CampaignId = CampaignId(2015);
pub(crate) const USER: UserId = UserId(77);

fn mac_key() -> MacKey {
    MacKey::new(KeyId(1), [9; 32])
}

/// The ticket of `packet` (of shard 0), won by `shake`.
pub(crate) fn ticket(packet: u64, shake: u64) -> Ticket {
    let body = TicketBody {
        campaign: CAMPAIGN,
        packet: PacketId(packet),
        user: USER,
        amount: Fen(100 + packet),
        shake: ShakeId(shake),
        issued_at: WallTime(1_000),
        expires_at: WallTime(u64::MAX),
        shard: PacketId(packet).shard(),
        epoch: Epoch(1),
        sponsor: SponsorId::new(u8::try_from(packet % 64).expect("below 64")).expect("below 64"),
        wave: WaveIndex(0),
    };
    body.sign(&SignKey::from_seed(&[3; 32]))
}

pub(crate) fn tally(wins: u8, counted_at: u64) -> [u8; TALLY_BYTES] {
    let counted_at = WallTime(counted_at);
    Tally { campaign: CAMPAIGN, user: USER, wins, sponsors: SponsorSet::EMPTY, counted_at }
        .encode(&mac_key())
}

pub(crate) fn receipt(packet: u64) -> [u8; RECEIPT_BYTES] {
    receipt_for(packet, USER)
}

pub(crate) fn receipt_for(packet: u64, user: UserId) -> [u8; RECEIPT_BYTES] {
    let accepted_at = WallTime(2_000);
    Receipt { campaign: CAMPAIGN, packet: PacketId(packet), user, accepted_at }.encode(&mac_key())
}

pub(crate) fn reconnect_keys() -> ReconnectKeys {
    ReconnectKeys::new(vec![mac_key()]).expect("one key")
}

/// A reconnect ticket that was made at `issued_at` and lives 600 s.
pub(crate) fn reconnect_ticket(issued_at: u64) -> [u8; RECONNECT_BYTES] {
    let expires_at = WallTime(u64::MAX);
    let identity = Identity { user: USER, device: 1, risk: 0, expires_at };
    let ticket = ReconnectTicket::issue(&identity, WallTime(issued_at), 600);
    reconnect_keys().sign(&ticket.expect("the token never ends"))
}

/// A WELCOME with this shake interval, pings every 20 to 40 s.
pub(crate) fn welcome(shake_interval_ms: u32) -> Welcome {
    Welcome {
        version: VERSION,
        tier: 0,
        cue: 1,
        shake_interval_ms,
        heartbeat_ms_min: 1_000,
        heartbeat_ms_max: 60_000,
        server_time: WallTime(1_000),
        campaign: CAMPAIGN,
        wins_per_user: 3,
        endpoints: Vec::new(),
    }
}

/// Gives the session the frames in `bytes`.
pub(crate) fn feed(session: &mut Session, now: Timestamp, mut bytes: &[u8]) {
    while let Some((frame, rest)) =
        split_frame(bytes, CLIENT_PAYLOAD_BYTES_MAX).expect("the test sends frames")
    {
        session.handle_frame(now, frame);
        bytes = rest;
    }
    assert!(bytes.is_empty(), "the test sends whole frames");
}
