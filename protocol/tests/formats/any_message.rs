//! Every message of the two links, with any content, is read as it was written.

use super::any_proof::{sponsor, wall_time};
use proptest::{array::uniform16, collection::vec, option, prelude::*, sample::select};
use yao_protocol::{
    CampaignId, Fen, PacketId, ShakeId, UserId,
    agent::{FromAccess, FromAgent, Greet, Role, Standing, Vet, VetKind},
    client::{
        ClientMessage, ErrorCode, GoAway, GoAwayReason, Hello, NoWin, NoWinReason, Refusal,
        RetryClass, ServerMessage, Shake, VERSION, Welcome, kind, put_empty, put_open, put_pong,
        put_receipt, put_reconnect, put_win,
    },
    frame::{Frame, put_frame, split_frame},
    limits::{AGENT_PAYLOAD_BYTES_MAX, CLIENT_PAYLOAD_BYTES_MAX, GREETING_PAYLOAD_BYTES_MAX},
    receipt::RECEIPT_BYTES,
    reconnect::RECONNECT_BYTES,
    tally::TALLY_BYTES,
    ticket::TICKET_BYTES,
    token::Bearer,
};

/// The one frame that `bytes` are, within `limit`, asked with `request_id`.
fn only_frame(bytes: &[u8], limit: usize, request_id: u32) -> Frame<'_> {
    let (frame, rest) = split_frame(bytes, limit).expect("within the limit").expect("whole");
    assert!(rest.is_empty());
    assert_eq!(frame.header.request_id, request_id);
    frame
}

fn from_client(expected: &ClientMessage<'_>, limit: usize, write: impl FnOnce(&mut Vec<u8>, u32)) {
    let mut bytes = Vec::new();
    write(&mut bytes, 0xdead_beef);
    let frame = only_frame(&bytes, limit, 0xdead_beef);
    assert_eq!(ClientMessage::decode(frame).as_ref(), Ok(expected));
    assert!(ServerMessage::decode(frame).is_err(), "a client's kinds are no server's");
}

fn from_server(expected: &ServerMessage<'_>, request_id: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = Vec::new();
    write(&mut bytes);
    let frame = only_frame(&bytes, CLIENT_PAYLOAD_BYTES_MAX, request_id);
    assert_eq!(ServerMessage::decode(frame).as_ref(), Ok(expected));
    assert!(ClientMessage::decode(frame).is_err(), "a server's kinds are no client's");
}

fn class() -> impl Strategy<Value = RetryClass> {
    use RetryClass::{After, Never, Now, Reauthenticate};
    select(vec![Now, After, Reauthenticate, Never])
}

fn code() -> impl Strategy<Value = ErrorCode> {
    select(vec![
        ErrorCode::Protocol,
        ErrorCode::Version,
        ErrorCode::AuthFailed,
        ErrorCode::Busy,
        ErrorCode::Timeout,
        ErrorCode::WrongCampaign,
        ErrorCode::TicketInvalid,
        ErrorCode::TicketExpired,
        ErrorCode::OpenRefused,
        ErrorCode::OpenUnavailable,
    ])
}

fn endpoints() -> impl Strategy<Value = Vec<String>> {
    vec("[a-z0-9.:-]{0,255}", 0..=8)
}

fn vet() -> impl Strategy<Value = Vet> {
    let kind = select(vec![VetKind::Win, VetKind::Open, VetKind::Probe]);
    (kind, sponsor(), any::<[u64; 5]>()).prop_map(
        |(kind, sponsor, [call, user, amount, packet, shake])| Vet {
            call,
            kind,
            user: UserId(user),
            sponsor,
            amount: Fen(amount),
            packet: PacketId(packet),
            shake: ShakeId(shake),
        },
    )
}

fn standing() -> impl Strategy<Value = Standing> {
    any::<(u64, u8, u8, u8)>().prop_map(|(device, risk, user_wins, device_wins)| Standing {
        bearer: Bearer { device, risk },
        user_wins,
        device_wins,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_frame(kind: u8, flags: u8, request_id: u32, payload in vec(any::<u8>(), 0..3_000)) {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, kind, flags, request_id, |out| out.extend_from_slice(&payload));
        let frame = only_frame(&bytes, payload.len(), request_id);
        prop_assert_eq!((frame.header.kind, frame.header.flags), (kind, flags));
        prop_assert_eq!(frame.payload, &payload[..]);
        let one_less = payload.len().wrapping_sub(1);
        prop_assert!(payload.is_empty() || split_frame(&bytes, one_less).is_err());
    }

    #[test]
    fn any_hello(
        versions: [u8; 2], software: u32, campaign: u64, tally in option::of(any::<[u8; 32]>()),
        token in vec(any::<u8>(), 0..=768),
    ) {
        let tally = tally.map(|half| {
            let mut tally = [0x77; TALLY_BYTES];
            tally[..32].copy_from_slice(&half);
            tally
        });
        let hello = Hello {
            version_min: versions[0].min(versions[1]),
            version_max: versions[0].max(versions[1]),
            software,
            campaign: CampaignId(campaign),
            tally: tally.as_ref(),
            token: &token,
        };
        // However long its token, a HELLO is never too long for a greeting.
        from_client(&ClientMessage::Hello(hello), GREETING_PAYLOAD_BYTES_MAX, |out, id| {
            hello.put(out, id);
        });
    }

    #[test]
    fn any_other_word_of_a_client(
        shake: u64, campaign: u64, merged_count in 1..=u16::MAX, resend: bool, filling: u8,
    ) {
        let (shake, campaign) = (ShakeId(shake), CampaignId(campaign));
        let shake = Shake { shake, campaign, merged_count, resend };
        let ticket = [filling; TICKET_BYTES];
        let limit = GREETING_PAYLOAD_BYTES_MAX;
        from_client(&ClientMessage::Shake(shake), limit, |out, id| shake.put(out, id));
        from_client(&ClientMessage::Open(&ticket), limit, |out, id| put_open(out, id, &ticket));
        from_client(&ClientMessage::Ping, limit, |out, id| put_empty(out, kind::PING, id));
        from_client(&ClientMessage::Bye, limit, |out, id| put_empty(out, kind::BYE, id));
    }

    #[test]
    fn any_welcome(
        tier: u8, cue: u16, intervals: [u32; 3], server_time in wall_time(), campaign: u64,
        wins_per_user: u8, endpoints in endpoints(), id: u32,
    ) {
        let welcome = Welcome {
            version: VERSION,
            tier,
            cue,
            shake_interval_ms: intervals[0],
            heartbeat_ms_min: intervals[1],
            heartbeat_ms_max: intervals[2],
            server_time,
            campaign: CampaignId(campaign),
            wins_per_user,
            endpoints,
        };
        from_server(&ServerMessage::Welcome(welcome.clone()), id, |out| welcome.put(out, id));
    }

    #[test]
    fn any_answer_to_a_shake(
        shake: u64, server_time in wall_time(), interval_ms: u32, cue: u16, tier: u8,
        reason in 0_u8..6, id: u32, filling: u8,
    ) {
        let reason = NoWinReason::from_number(reason).expect("below 6");
        let no_win =
            NoWin { shake: ShakeId(shake), server_time, interval_ms, cue, reason, tier };
        from_server(&ServerMessage::NoWin(no_win), id, |out| no_win.put(out, id));
        let (ticket, tally) = ([filling; TICKET_BYTES], [!filling; TALLY_BYTES]);
        let win = ServerMessage::Win { ticket: &ticket, tally: &tally };
        from_server(&win, id, |out| put_win(out, id, &ticket, &tally));
        let receipt = [filling; RECEIPT_BYTES];
        from_server(&ServerMessage::Receipt(&receipt), id, |out| put_receipt(out, id, &receipt));
        let back = [filling; RECONNECT_BYTES];
        from_server(&ServerMessage::Reconnect(&back), 0, |out| put_reconnect(out, &back));
        from_server(&ServerMessage::Pong(server_time), id, |out| put_pong(out, id, server_time));
    }

    #[test]
    fn any_refusal(
        code in code(), class in class(), closes: bool, delay_ms: u32, jitter_ms: u32, id: u32,
        reason in select(vec![GoAwayReason::Drain, GoAwayReason::Replaced, GoAwayReason::Overload]),
        endpoints in endpoints(),
    ) {
        let refusal = Refusal { code, class, closes, delay_ms, jitter_ms };
        from_server(&ServerMessage::Error(refusal), id, |out| refusal.put(out, id));
        let go_away = GoAway { reason, class, delay_ms, jitter_ms, endpoints };
        from_server(&ServerMessage::GoAway(go_away.clone()), 0, |out| go_away.put(out));
    }

    #[test]
    fn any_word_of_an_agent(
        version: u16, role in select(vec![Role::Vet, Role::Deliver]), generation: u32,
        proof in uniform16(any::<u8>()), software in "\\PC{0,60}", call: u64, allowed: bool,
        retry_after_ms: u32, bytes in vec(any::<u8>(), 0..2_000), vet in vet(),
        standing in standing(), id: u32,
    ) {
        let greet = FromAgent::Greet(Greet { version, role, generation, proof, software });
        let verdict = FromAgent::Verdict { call, allowed };
        let undelivered = FromAgent::Undelivered { retry_after_ms };
        let (delivered, policy) = (FromAgent::Delivered(&bytes), FromAgent::Policy(&bytes));
        for message in [greet, verdict, delivered, undelivered, policy, FromAgent::Bye] {
            let mut bytes = Vec::new();
            message.put(&mut bytes, id);
            let frame = only_frame(&bytes, AGENT_PAYLOAD_BYTES_MAX, id);
            prop_assert_eq!(FromAgent::decode(frame), Ok(message));
            prop_assert!(FromAccess::decode(frame).is_err());
        }
        let (greeted, deliver) = (FromAccess::Greeted { version }, FromAccess::Deliver(&bytes));
        let standing = FromAccess::Standing { call, standing };
        for message in [greeted, FromAccess::Vet(vet), standing, deliver, FromAccess::Drain] {
            let mut bytes = Vec::new();
            message.put(&mut bytes, id);
            let frame = only_frame(&bytes, AGENT_PAYLOAD_BYTES_MAX, id);
            prop_assert_eq!(FromAccess::decode(frame), Ok(message));
            prop_assert!(FromAgent::decode(frame).is_err());
        }
    }
}
