//! Sessions under OpenSSL's client, over sockets: what rustls' client might do as rustls' server
//! expects it.

use super::limits;
use crate::{
    server::testing::{CAMPAIGN, Rig, token},
    tls::{Cpu, crypto_provider, quic_provider},
};
use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::Duration,
};
use yao_protocol::{
    client::{Hello, kind, put_empty},
    limits::FRAME_HEADER_BYTES,
};

/// More than any of this needs; reached only when something is lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// Set by `cargo xtask test` (`xtask/src/ci.rs`) when it found the program or fetched it: then a
/// test that does not find it fails.
const NO_SKIP: &str = "YAO_TEST_NO_SKIP";

/// `openssl s_client`, that reads its commands from us. `None`, and a line that says so, on a
/// machine without it.
fn s_client(rig: &Rig, arguments: &[&str]) -> Option<Command> {
    if Command::new("openssl").arg("version").output().is_err() {
        let missing = "there is no `openssl` here (Debian: apt-get install openssl)";
        assert!(std::env::var_os(NO_SKIP).is_none(), "{missing}, and {NO_SKIP} is set");
        eprintln!("skipped: {missing}");
        return None;
    }
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &rig.addresses.tls[0].to_string()]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

/// Bytes as they come out of a pipe.
struct Pipe {
    pieces: Receiver<Vec<u8>>,
    read: Vec<u8>,
}

impl Pipe {
    fn new(mut from: impl Read + Send + 'static) -> Self {
        let (sender, pieces) = sync_channel(64);
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { pieces, read: Vec::new() }
    }

    fn wait(&mut self, enough: impl Fn(&[u8]) -> bool) {
        while !enough(&self.read) {
            let piece = self.pieces.recv_timeout(PATIENCE).expect("it comes in time");
            self.read.extend(piece);
        }
    }

    fn drain(mut self) -> Vec<u8> {
        while let Ok(piece) = self.pieces.recv_timeout(PATIENCE) {
            self.read.extend(piece);
        }
        self.read
    }
}

/// A running client whose session is open.
struct Phone {
    child: Child,
    stdin: ChildStdin,
    stdout: Pipe,
    stderr: Pipe,
}

impl Phone {
    fn open(rig: &Rig, arguments: &[&str]) -> Option<Self> {
        // Quiet, so that only frames come out; but its commands work.
        let mut command = s_client(rig, &["-quiet", "-no_ign_eof", "-tls1_3", "-alpn", "yao/1"])?;
        let mut child = command.args(arguments).spawn().expect("openssl starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = Pipe::new(child.stdout.take().expect("piped"));
        let stderr = Pipe::new(child.stderr.take().expect("piped"));
        let mut phone = Self { child, stdin, stdout, stderr };
        let mut hello = Vec::new();
        let token = &token(7);
        let (tally, campaign) = (None, CAMPAIGN);
        let greeting =
            Hello { version_min: 1, version_max: 1, software: 0, campaign, tally, token };
        greeting.put(&mut hello, 1);
        phone.write(&hello);
        let welcome = |read: &[u8]| read.len() >= 2 && read.len() >= frame_bytes(read);
        phone.stdout.wait(welcome);
        assert_eq!(phone.stdout.read[2], kind::WELCOME);
        phone.stdout.read.clear();
        Some(phone)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stdin.write_all(bytes).expect("openssl reads");
    }

    /// So many PINGs, and their PONGs in order.
    fn ping(&mut self, count: u32) {
        let mut pings = Vec::new();
        for request_id in 1..=count {
            put_empty(&mut pings, kind::PING, request_id);
        }
        self.write(&pings);
        let pong_bytes = FRAME_HEADER_BYTES + 8;
        let all = count as usize * pong_bytes;
        self.stdout.wait(|read| read.len() >= all);
        assert_eq!(self.stdout.read.len(), all);
        for (pong, request_id) in self.stdout.read.chunks(pong_bytes).zip(1_u32..) {
            assert_eq!(pong[2], kind::PONG);
            assert_eq!(pong[4..8], request_id.to_le_bytes());
        }
        self.stdout.read.clear();
    }

    /// Has new keys made; with `answered` the server must make new ones, too.
    fn update_keys(&mut self, answered: bool) {
        self.stderr.read.clear();
        self.write(if answered { b"K\n" } else { b"k\n" });
        self.stderr.wait(|read| read.windows(9).any(|text| text == b"KEYUPDATE"));
    }

    fn end(mut self) -> (bool, String) {
        drop(self.stdin);
        let errors = String::from_utf8_lossy(&self.stderr.drain()).into_owned();
        (self.child.wait().expect("it ends").success(), errors)
    }
}

fn frame_bytes(header: &[u8]) -> usize {
    FRAME_HEADER_BYTES + usize::from(u16::from_le_bytes([header[0], header[1]]))
}

#[test]
fn openssl_updates_its_keys_and_asks_for_ours() {
    let rig = Rig::start("tls = ['127.0.0.1:0']\nthreads = 1");
    let Some(mut phone) = Phone::open(&rig, &[]) else { return };
    for answered in [false, true, true, false, true] {
        phone.ping(3);
        phone.update_keys(answered);
    }
    phone.ping(100);
    let (good, errors) = phone.end();
    assert!(good && !errors.contains("SSL routines"), "{errors}");
}

/// Our keys are used up after eight records: OpenSSL follows each new one.
#[test]
fn openssl_follows_keys_that_are_used_up() {
    let rig = Rig::start("tls = ['127.0.0.1:0']\nthreads = 1");
    let (provider, counted) = limits::short_lived();
    let prepared = rig.tls.prepare_with(&rig.tls_config, provider, quic_provider(Cpu::here()));
    rig.tls.put_in_force(prepared.expect("good certificates"));
    let Some(mut phone) = Phone::open(&rig, &[]) else { return };
    let before = counted.sealing();
    for _ in 0..100 {
        phone.ping(1);
    }
    assert!(counted.sealing() - before >= 10, "{} keys", counted.sealing() - before);
    // It asks for new ones in between, too.
    phone.update_keys(true);
    phone.ping(3_000);
    let (good, errors) = phone.end();
    assert!(good && !errors.contains("SSL routines"), "{errors}");
}

/// The order of a CPU without AES, over a socket.
#[test]
fn openssl_is_served_by_chacha20_where_the_cpu_has_no_aes() {
    let rig = Rig::start("tls = ['127.0.0.1:0']\nthreads = 1");
    for (has_aes, expected) in
        [(false, "TLS_CHACHA20_POLY1305_SHA256"), (true, "TLS_AES_128_GCM_SHA256")]
    {
        let cpu = Cpu { has_aes, ..Cpu::here() };
        let (stream, quic) = (crypto_provider(cpu), quic_provider(cpu));
        let prepared = rig.tls.prepare_with(&rig.tls_config, stream, quic);
        rig.tls.put_in_force(prepared.expect("good certificates"));
        let Some((_, text)) = run(&rig, &["-brief", "-alpn", "yao/1"]) else { return };
        assert!(text.contains(expected), "{text}");
        let Some(mut phone) = Phone::open(&rig, &[]) else { return };
        phone.ping(100);
        assert!(phone.end().0);
    }
}

#[test]
fn openssl_sends_records_of_any_size_and_many() {
    let rig = Rig::start("tls = ['[::1]:0']\nthreads = 1");
    for arguments in [
        &["-max_send_frag", "512", "-split_send_frag", "512"][..],
        &["-max_send_frag", "16384"],
        &["-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
        &["-ciphersuites", "TLS_AES_256_GCM_SHA384", "-groups", "P-256"],
    ] {
        let Some(mut phone) = Phone::open(&rig, arguments) else { return };
        phone.ping(20_000);
        phone.update_keys(true);
        phone.ping(2_000);
        let (good, errors) = phone.end();
        assert!(good && !errors.contains("SSL routines"), "{arguments:?}: {errors}");
    }
}

/// OpenSSL calls a stream that ends without close_notify an error: ours does not.
#[test]
fn openssl_hears_that_nothing_follows() {
    let rig = Rig::start("tls = ['127.0.0.1:0']\nthreads = 1");
    let Some(mut phone) = Phone::open(&rig, &[]) else { return };
    let mut bye = Vec::new();
    put_empty(&mut bye, kind::BYE, 0);
    phone.write(&bye);
    let (child, stdout) = (&mut phone.child, phone.stdout);
    assert!(stdout.drain().is_empty());
    assert!(child.wait().expect("it ends").success());
    let errors = String::from_utf8_lossy(&phone.stderr.drain()).into_owned();
    assert!(!errors.contains("unexpected eof"), "{errors}");
}

fn run(rig: &Rig, arguments: &[&str]) -> Option<(Output, String)> {
    let mut child = s_client(rig, arguments)?.spawn().expect("openssl starts");
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("it ends");
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    Some((output, String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn openssl_is_refused_or_served_by_what_it_offers() {
    let rig = Rig::start("tls = ['127.0.0.1:0']\nthreads = 1");
    let check = |arguments: &[&str], expected: &str| {
        let Some((_, text)) = run(&rig, arguments) else { return };
        assert!(text.contains(expected), "{arguments:?}: {text}");
    };
    check(&["-tls1_2", "-alpn", "yao/1"], "alert protocol version");
    check(&["-alpn", "h2"], "alert no application protocol");
    check(&["-brief", "-alpn", "yao/1"], "ed25519");
    check(&["-brief", "-alpn", "yao/1", "-sigalgs", "ECDSA+SHA256"], "ECDSA");
    check(&["-alpn", "yao/1", "-sigalgs", "RSA-PSS+SHA256"], "alert");
    check(&["-brief", "-alpn", "yao/1"], "TLS_AES_128_GCM_SHA256");
}
