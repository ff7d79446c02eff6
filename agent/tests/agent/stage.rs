//! Plays the access process and settlement against the real `yao-agent` binary.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use yao_protocol::{
    agent::{FromAccess, FromAgent, Greet, PROOF_VARIABLE, Role, VERSION},
    frame::split_frame,
    hex,
    limits::{AGENT_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES},
};

/// Nothing here takes longer, unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const GENERATION: u32 = 7;
pub(crate) const PROOF: [u8; 16] = *b"0123456789abcdef";
pub(crate) const POLICY: &str = "version = 3\ncue = 4\nshake_interval_ms = 500\n\
                                 banned = [9, 7]\nvet_amount_min = 1000\n";

/// A request that settlement received, and the way to answer it.
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    respond: mpsc::SyncSender<Vec<u8>>,
}

impl Request {
    /// Answers with `status` ("200 OK"), more header lines, and a body.
    pub(crate) fn respond(self, status: &str, headers: &str, body: &[u8]) {
        let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len());
        self.respond.send([head.as_bytes(), body].concat()).expect("the connection waits");
    }
}

/// A settlement whose every answer the test gives.
pub(crate) struct Settlement {
    pub(crate) url: String,
    pub(crate) requests: mpsc::Receiver<Request>,
}

impl Settlement {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (sender, requests) = mpsc::sync_channel(64);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, sender) = (stream.expect("accepted"), sender.clone());
                thread::spawn(move || serve_http(stream, &sender));
            }
        });
        Self { url, requests }
    }

    pub(crate) fn next(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request comes")
    }
}

/// Serves one connection, request by request, until either side has enough.
fn serve_http(mut stream: TcpStream, sender: &mpsc::SyncSender<Request>) {
    let mut received = Vec::new();
    let mut chunk = [0; 65_536];
    loop {
        let end = received.windows(4).position(|window| window == b"\r\n\r\n");
        let whole = end.and_then(|end| {
            let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
            let length = head.split("content-length: ").nth(1).expect("a length");
            let length: usize = length.lines().next()?.parse().expect("a number");
            let body = received.get(end + 4..end + 4 + length)?.to_vec();
            Some((head, body))
        });
        let Some((head, body)) = whole else {
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(count) => received.extend_from_slice(&chunk[..count]),
            }
            continue;
        };
        received.drain(..end.expect("found") + 4 + body.len());
        let (respond, response) = mpsc::sync_channel(64);
        if sender.send(Request { head, body, respond }).is_err() {
            return;
        }
        let Ok(response) = response.recv() else { return };
        if stream.write_all(&response).is_err() {
            return;
        }
    }
}

/// One socket of the agent, seen from the access process.
pub(crate) struct Socket {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Socket {
    /// The next whole frame, header included.
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        loop {
            let whole = split_frame(&self.received, AGENT_PAYLOAD_BYTES_MAX).expect("bounded");
            if let Some((frame, _)) = whole {
                let bytes = FRAME_HEADER_BYTES + frame.payload.len();
                return self.received.drain(..bytes).collect();
            }
            let mut chunk = [0; 65_536];
            let count = self.stream.read(&mut chunk).expect("the agent speaks in time");
            assert!(count > 0, "the agent closed the socket");
            self.received.extend_from_slice(&chunk[..count]);
        }
    }

    /// The next message, decoded by `read`, with its request id.
    pub(crate) fn message<T>(&mut self, read: impl FnOnce(u32, FromAgent<'_>) -> T) -> T {
        let bytes = self.frame();
        let (frame, _) =
            split_frame(&bytes, AGENT_PAYLOAD_BYTES_MAX).expect("bounded").expect("whole");
        read(frame.header.request_id, FromAgent::decode(frame).expect("a message"))
    }

    pub(crate) fn send(&mut self, message: &FromAccess<'_>, request_id: u32) {
        let mut bytes = Vec::new();
        message.put(&mut bytes, request_id);
        self.send_bytes(&bytes);
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the agent reads");
    }
}

/// A running agent.
pub(crate) struct Agent {
    pub(crate) child: Child,
    pub(crate) directory: TempDir,
    listener: UnixListener,
}

impl Agent {
    /// Starts the binary against the settlement at `url`.
    pub(crate) fn start(url: &str) -> Self {
        Self::start_with(url, POLICY)
    }

    /// The same with this policy.
    pub(crate) fn start_with(url: &str, policy: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = format!("[settlement]\nurl = \"{url}\"\n[policy]\nfile = \"policy.toml\"\n");
        write(directory.path(), "agent.toml", &config);
        write(directory.path(), "policy.toml", policy);
        let listener = UnixListener::bind(directory.path().join("s")).expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        let child = command(directory.path()).spawn().expect("built by cargo");
        Self { child, directory, listener }
    }

    /// Accepts the next socket and reads its greeting's raw frame.
    pub(crate) fn accept(&self) -> (Socket, Vec<u8>) {
        let begun = Instant::now();
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(begun.elapsed() < PATIENCE, "the agent does not connect");
                    thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("cannot accept: {error}"),
            }
        };
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut socket = Socket { stream, received: Vec::new() };
        let greeting = socket.frame();
        (socket, greeting)
    }

    /// Accepts and greets both sockets, and takes the first policy: (vet, deliver).
    pub(crate) fn greeted(&self) -> (Socket, Socket) {
        let (mut vet, greeting) = self.accept();
        assert_eq!(greet(&greeting).role, Role::Vet);
        vet.send(&FromAccess::Greeted { version: VERSION }, 0);
        let (mut deliver, greeting) = self.accept();
        assert_eq!(greet(&greeting).role, Role::Deliver);
        deliver.send(&FromAccess::Greeted { version: VERSION }, 0);
        vet.message(|_, message| assert!(matches!(message, FromAgent::Policy(_)), "{message:?}"));
        (vet, deliver)
    }

    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the agent does not end");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It has usually ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The agent's command line, with its files in `directory`.
pub(crate) fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yao-agent"));
    command.arg("--socket").arg(directory.join("s"));
    command.arg("--generation").arg(GENERATION.to_string());
    command.arg("--config").arg(directory.join("agent.toml"));
    command.env(PROOF_VARIABLE, hex::encode(&PROOF)).stdin(Stdio::null());
    command
}

pub(crate) fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).expect("writable");
}

/// The GREET in a raw frame.
pub(crate) fn greet(bytes: &[u8]) -> Greet {
    let (frame, _) = split_frame(bytes, AGENT_PAYLOAD_BYTES_MAX).expect("bounded").expect("whole");
    match FromAgent::decode(frame) {
        Ok(FromAgent::Greet(greet)) => greet,
        other => panic!("expected GREET, got {other:?}"),
    }
}
