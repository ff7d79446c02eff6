//! Each link against a real server of its kind: frames, trust, resumption, ends.

use crate::support::{Door, Identity, PATIENCE, Peer, Seen};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::timeout};
use tokio_rustls::TlsAcceptor;
use yao_client::{
    Transport, Trust,
    error::LinkError,
    link::{Link, tls::TlsLink},
};
use yao_protocol::{
    ShakeId, WallTime,
    client::{NoWin, NoWinReason, kind, put_empty},
    endpoint::{ALPN, Endpoint},
    limits::CLIENT_PAYLOAD_BYTES_MAX,
};

const EACH: [Transport; 3] = [Transport::Tcp, Transport::Tls, Transport::Quic];

/// A link and the server's end of it; the first PING is read.
async fn pair(door: &Door, transport: Transport, trust: &Trust) -> (Link, Peer) {
    let endpoint = door.endpoint();
    let client = async {
        let connecting = Link::connect(transport, &endpoint, None, Some(trust));
        let mut link = connecting.await.expect("connects");
        ping(&mut link).await;
        link
    };
    let server = async {
        let mut peer = Peer::accept(door).await;
        assert_eq!(peer.next().await, Seen::Ping);
        peer
    };
    timeout(PATIENCE, async { tokio::join!(client, server) }).await.expect("in time")
}

async fn ping(link: &mut Link) {
    let mut bytes = Vec::new();
    put_empty(&mut bytes, kind::PING, 1);
    link.queue(&bytes).expect("room");
    link.flush().expect("sent");
}

/// The request ids of `count` frames.
async fn receive(link: &mut Link, count: usize) -> Result<Vec<u32>, LinkError> {
    let mut ids = Vec::new();
    loop {
        while let Some(frame) = link.next_frame().expect("frames") {
            ids.push(frame.header.request_id);
        }
        if ids.len() >= count {
            return Ok(ids);
        }
        timeout(PATIENCE, link.progress()).await.expect("in time")?;
    }
}

fn put_answer(out: &mut Vec<u8>, id: u32) {
    let reason = NoWinReason::NoneDue;
    let (server_time, interval_ms, cue, tier) = (WallTime(1), 1, 1, 0);
    let shake = ShakeId(u64::from(id));
    NoWin { shake, server_time, interval_ms, cue, reason, tier }.put(out, id);
}

#[tokio::test]
async fn frames_arrive_whole_in_order_and_however_many() {
    for transport in EACH {
        let identity = Identity::new();
        let door = Door::open(transport, "127.0.0.1:0", &identity).await;
        let (mut link, mut peer) = pair(&door, transport, &identity.trust()).await;
        assert_eq!(link.transport(), transport);
        peer.trickle(|out| put_answer(out, 1)).await;
        assert_eq!(receive(&mut link, 1).await, Ok(vec![1]));
        // More than the link holds, a frame of the largest size in the middle.
        let sending = peer.send(|out| {
            (2..3_000).for_each(|id| put_answer(out, id));
            yao_protocol::frame::put_frame(out, 0xC1, 0, 3_000, |out| {
                out.resize(out.len() + CLIENT_PAYLOAD_BYTES_MAX, 7);
            });
            (3_001..6_000).for_each(|id| put_answer(out, id));
        });
        let (received, ()) = tokio::join!(receive(&mut link, 5_998), sending);
        assert_eq!(received, Ok((2..6_000).collect::<Vec<u32>>()), "{transport}");
        for _ in 0..50 {
            ping(&mut link).await;
        }
        let reading = async {
            for _ in 0..50 {
                assert_eq!(peer.next().await, Seen::Ping);
            }
        };
        tokio::select! {
            () = reading => {}
            error = receive(&mut link, 1) => panic!("{transport}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn what_found_no_room_is_taken_without_waiting_for_more() {
    for transport in EACH {
        let identity = Identity::new();
        let door = Door::open(transport, "127.0.0.1:0", &identity).await;
        let (mut link, mut peer) = pair(&door, transport, &identity.trust()).await;
        // Most of a frame of the largest size fills the buffer; its end and what follows do not
        // fit with it, and after them nothing comes.
        let mut bytes = Vec::new();
        yao_protocol::frame::put_frame(&mut bytes, 0xC1, 0, 1, |out| {
            out.resize(out.len() + CLIENT_PAYLOAD_BYTES_MAX, 7);
        });
        (2..300).for_each(|id| put_answer(&mut bytes, id));
        let (begin, end) = bytes.split_at(10_000);
        peer.send(|out| out.extend_from_slice(begin)).await;
        while link.next_frame().expect("frames").is_none() {
            let progress = timeout(Duration::from_millis(50), link.progress()).await;
            if progress.is_err() {
                break;
            }
        }
        peer.send(|out| out.extend_from_slice(end)).await;
        // Lets all of it arrive, so that one read meets it together.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let received = receive(&mut link, 299).await;
        assert_eq!(received, Ok((1..300).collect::<Vec<u32>>()), "{transport}");
    }
}

#[tokio::test]
async fn an_idle_link_sleeps() {
    for transport in EACH {
        let identity = Identity::new();
        let door = Door::open(transport, "127.0.0.1:0", &identity).await;
        let (mut link, _peer) = pair(&door, transport, &identity.trust()).await;
        let mut wake_count = 0;
        let idling = async {
            loop {
                link.progress().await.expect("lives");
                wake_count += 1;
            }
        };
        assert!(timeout(Duration::from_millis(500), idling).await.is_err());
        // The ends of the handshake, acknowledgements and their timers; a spinning link has
        // thousands.
        assert!(wake_count <= 20, "{transport}: {wake_count}");
    }
}

#[tokio::test]
async fn both_ends_hear_the_other_one_leave() {
    for transport in EACH {
        let identity = Identity::new();
        let door = Door::open(transport, "127.0.0.1:0", &identity).await;
        let (mut link, mut peer) = pair(&door, transport, &identity.trust()).await;
        let mut bytes = Vec::new();
        put_empty(&mut bytes, kind::BYE, 0);
        link.queue(&bytes).expect("room");
        let leaving = async { timeout(PATIENCE, link.finish()).await.expect("in time") };
        let seeing = async {
            assert_eq!(peer.next().await, Seen::Bye, "{transport}");
            assert_eq!(peer.next().await, Seen::End, "{transport}");
        };
        let (left, ()) = tokio::join!(leaving, seeing);
        assert_eq!(left, Ok(()), "{transport}");

        // Dropped in the middle of everything: the server need not wait for a timeout.
        let (link, mut peer) = pair(&door, transport, &identity.trust()).await;
        drop(link);
        assert_eq!(peer.next().await, Seen::End, "{transport}");

        let (mut link, mut peer) = pair(&door, transport, &identity.trust()).await;
        peer.send(|out| put_answer(out, 7)).await;
        assert_eq!(receive(&mut link, 1).await, Ok(vec![7]));
        drop(peer);
        let end = receive(&mut link, 1).await;
        assert!(
            matches!(end, Err(LinkError::Closed | LinkError::Io { .. })),
            "{transport}: {end:?}"
        );
    }
}

#[tokio::test]
async fn only_the_right_certificate_for_the_right_name_is_trusted() {
    let localhost = |door: &Door| -> Endpoint {
        let port = door.address().port();
        format!("tls://localhost:{port}").parse().expect("an endpoint")
    };
    for transport in [Transport::Tls, Transport::Quic] {
        let identity = Identity::new();
        let door = Door::open(transport, "127.0.0.1:0", &identity).await;
        let accepting = async {
            loop {
                drop(Peer::accept(&door).await);
            }
        };
        let checking = async {
            let check = async |endpoint: Endpoint, trust: Option<Trust>, good: bool| {
                let connecting = Link::connect(transport, &endpoint, None, trust.as_ref());
                let connected = timeout(PATIENCE, connecting).await.expect("in time");
                assert_eq!(connected.is_ok(), good, "{transport}: {:?}", connected.err());
            };
            let named = |trust: Trust, name| Some(trust.with_server_name(name).expect("a name"));
            check(door.endpoint(), Some(identity.trust()), true).await;
            check(localhost(&door), Some(identity.trust()), true).await;
            check(door.endpoint(), named(identity.trust(), "localhost"), true).await;
            check(door.endpoint(), named(identity.trust(), "other.example"), false).await;
            check(door.endpoint(), Some(Identity::new().trust()), false).await;
            check(door.endpoint(), None, false).await;
        };
        tokio::select! {
            () = checking => {}
            () = accepting => {}
        }
    }
}

#[tokio::test]
async fn tls_resumes_sessions_and_refuses_what_does_not_speak_yao() {
    let identity = Identity::new();
    let door = Door::open(Transport::Tls, "127.0.0.1:0", &identity).await;
    let trust = identity.trust();
    let mut resumed = Vec::new();
    for _ in 0..3 {
        let (link, mut peer) = pair(&door, Transport::Tls, &trust).await;
        let Link::Tls(mut link) = link else { panic!("it is TLS") };
        resumed.push(link.is_resumed());
        // The server's tickets come with its first records.
        peer.send(|out| put_answer(out, 1)).await;
        while link.next_frame().expect("frames").is_none() {
            link.progress().await.expect("lives");
        }
    }
    assert_eq!(resumed, [false, true, true]);

    let refusal = async |config: ServerConfig| {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let endpoint = format!("tls://{address}").parse().expect("an endpoint");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let serving = async {
            let (stream, _) = listener.accept().await.expect("accepts");
            acceptor.accept(stream).await.is_ok()
        };
        let connecting = TlsLink::connect(&endpoint, None, &trust);
        let (connected, _) = tokio::join!(connecting, serving);
        matches!(connected, Err(LinkError::Tls(_)))
    };
    assert!(refusal(identity.server(b"http/1.1")).await, "another protocol");
    let mut silent = identity.server(ALPN);
    silent.alpn_protocols.clear();
    assert!(refusal(silent).await, "no protocol");
    let no_suite = rustls::crypto::CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    };
    assert!(refusal(identity.server_with(no_suite, ALPN)).await, "no common key exchange");
}

#[tokio::test]
async fn quic_goes_on_from_another_port() {
    let identity = Identity::new();
    let door = Door::open(Transport::Quic, "127.0.0.1:0", &identity).await;
    let (mut link, mut peer) = pair(&door, Transport::Quic, &identity.trust()).await;
    let mut seen = vec![peer.quic_address()];
    for id in 0..20 {
        link.rebind(None);
        ping(&mut link).await;
        let serving = async {
            assert_eq!(peer.next().await, Seen::Ping);
            peer.send(|out| put_answer(out, id)).await;
        };
        let (received, ()) = tokio::join!(receive(&mut link, 1), serving);
        assert_eq!(received, Ok(vec![id]));
        seen.push(peer.quic_address());
    }
    seen.dedup();
    assert_eq!(seen.len(), 21, "a port of its own each time: {seen:?}");
}
