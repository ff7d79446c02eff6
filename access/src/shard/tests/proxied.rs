//! Connections that a balancer brings.

use super::*;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header that names 192.0.2.`host`.
fn header(host: u8) -> Vec<u8> {
    let addresses = [192, 0, 2, host, 10, 0, 0, 1, 0x30, 0x39, 0x1f, 0x90];
    [&SIGNATURE[..], &[0x21, 0x11, 0, 12], &addresses].concat()
}

/// Balancers are at 127.0.0.1; from ::1 come clients themselves.
fn rig(more: &str) -> Rig {
    let both = "['127.0.0.1:0', '[::1]:0']";
    let from = "proxy_from = ['127.0.0.0/8']";
    Rig::start(&format!("tcp = {both}\ntls = {both}\nthreads = 1\n{from}\n{more}"))
}

#[test]
fn a_header_and_what_follows_may_be_cut_anywhere() {
    let rig = rig("");
    let whole = [header(1), hello(7)].concat();
    for cut in 0..whole.len() {
        let mut stream = connect(rig.addresses.tcp[0]);
        stream.write_all(&whole[..cut]).expect("taken");
        stream.write_all(&whole[cut..]).expect("taken");
        assert_eq!(first_word(&mut stream), Ok(true), "cut at {cut}");
    }
    for cut in 0..=header(1).len() {
        let mut stream = connect(rig.addresses.tls[0]);
        stream.write_all(&header(1)[..cut]).expect("taken");
        stream.write_all(&header(1)[cut..]).expect("taken");
        assert_eq!(greet(&mut over_tls(&rig, stream), 8), Ok(true), "TLS, cut at {cut}");
    }
    // The header and the ClientHello in one piece.
    let mut both = header(2);
    let mut client = over_tls(&rig, connect(rig.addresses.tls[0]));
    client.conn.write_tls(&mut both).expect("a vector takes all");
    client.sock.write_all(&both).expect("taken");
    assert_eq!(greet(&mut client, 9), Ok(true));
}

#[test]
fn balancers_must_say_it_and_others_must_not() {
    let rig = rig("");
    let ([balanced, direct], [balanced_tls, direct_tls]) = (
        [rig.addresses.tcp[0], rig.addresses.tcp[1]],
        [rig.addresses.tls[0], rig.addresses.tls[1]],
    );
    assert!(direct.is_ipv6() && direct_tls.is_ipv6());
    assert_eq!(greet(&mut connect(balanced), 1), Ok(false), "a header is missing");
    assert_eq!(greet(&mut over_tls(&rig, connect(balanced_tls)), 1), Ok(false), "there, too");
    assert_eq!(greet(&mut connect(direct), 1), Ok(true));
    assert_eq!(greet(&mut over_tls(&rig, connect(direct_tls)), 1), Ok(true));
    let mut stream = connect(direct);
    stream.write_all(&header(1)).expect("taken");
    assert_eq!(
        greet(&mut stream, 1),
        Err(Farewell::Refused(ErrorCode::Protocol)),
        "nobody else may say it"
    );
    let mut stream = connect(direct_tls);
    stream.write_all(&header(1)).expect("taken");
    let refused = over_tls(&rig, stream).write_all(&hello(1)).expect_err("nor over TLS");
    assert!(refused.to_string().contains("alert") || is_end(&refused), "{refused}");
    let mut local = [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat();
    local.extend(hello(5));
    let mut stream = connect(balanced);
    stream.write_all(&local).expect("taken");
    assert_eq!(first_word(&mut stream), Ok(true), "a balancer's own health check");
}

/// A header that never ends has the handshake's deadline.
#[test]
fn a_header_must_come_in_time() {
    let rig = rig("[session]\nhandshake_ms_max = 300");
    for address in [rig.addresses.tcp[0], rig.addresses.tls[0]] {
        let mut stream = connect(address);
        stream.write_all(&header(1)[..20]).expect("taken");
        let started = Instant::now();
        assert_eq!(first_word(&mut stream), Ok(false));
        assert!((200..15_000).contains(&started.elapsed().as_millis()));
    }
}

/// Budgets see the address that the header names, not the balancer's.
#[test]
fn the_named_address_has_the_share() {
    let rig = rig("[admission]\nconnections_max = 8\nper_address = 2");
    let open = |host: u8| {
        let mut stream = connect(rig.addresses.tcp[0]);
        stream.write_all(&header(host)).expect("taken");
        stream
    };
    let mut silent: Vec<TcpStream> = (1..=6).map(open).collect();
    silent.push(open(1));
    // From three quarters of the budget on.
    assert_eq!(first_word(&mut open(1)), Ok(false), "his third");
    assert_eq!(greet(&mut open(9), 9), Ok(true), "somebody else's first");
    assert_eq!(greet(&mut silent[0], 1), Ok(true), "who is in stays in");
}
