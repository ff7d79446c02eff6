//! A running node: its ready line, its admin port, signals, and how it ended.

use super::{Event, PATIENCE, Signal, Transport};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, kill_process, pidfd_open},
};
use serde_json::Value;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Stdio},
    sync::mpsc::sync_channel,
    thread,
    time::Duration,
};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

/// What has no event to wait for is looked at this often.
const LOOK: Duration = Duration::from_millis(5);

/// One life of an event's node. Dropped, it is killed.
pub(crate) struct Node<'a> {
    pub(crate) event: &'a Event,
    child: Child,
    ready: Value,
}

impl<'a> Node<'a> {
    pub(super) fn start(event: &'a Event) -> Self {
        let log = File::options().create(true).append(true).open(event.path("node.log"));
        let mut command = event.program(&[]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.expect("a folder of ours"));
        let mut child = command.spawn().expect("it starts");
        let stdout = child.stdout.take().expect("piped");
        let (sender, line) = sync_channel(1);
        thread::spawn(move || {
            let (mut stdout, mut line) = (BufReader::new(stdout), String::new());
            // Without a line the receiver hears that nobody sends any more.
            if matches!(stdout.read_line(&mut line), Ok(1..)) {
                sender.send(line).ok();
            }
            // Read on, for the node must not break on a closed pipe.
            io::copy(&mut stdout, &mut io::sink()).ok();
        });
        let mut node = Self { event, child, ready: Value::Null };
        let line = line.recv_timeout(PATIENCE).expect("the node says that it is ready");
        let ready = line.strip_prefix("ready ").expect("its first line is the ready line");
        node.ready = serde_json::from_str(ready).expect("JSON");
        node
    }

    /// Where clients come in over `way`.
    pub(crate) fn address(&self, way: Transport) -> SocketAddr {
        address(&self.ready[way.to_string()][0])
    }

    /// Status code and body of `GET path`.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path)
    }

    /// Status code and body of `POST path`.
    pub(crate) fn post(&self, path: &str) -> (u16, String) {
        self.ask("POST", path)
    }

    /// `GET /status`.
    pub(crate) fn status(&self) -> Value {
        let (code, body) = self.get("/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// Waits until the status says what `holds` wants of it.
    pub(crate) async fn status_where(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let look = async {
            while !holds(&self.status()) {
                sleep(LOOK).await;
            }
        };
        let found = timeout(PATIENCE, look).await;
        assert!(found.is_ok(), "waited in vain for {what}: {}", self.status());
    }

    /// Waits until so many users are connected.
    pub(crate) async fn users(&self, count: usize) {
        self.status_where(&format!("{count} users"), |status| status["users"] == count).await;
    }

    /// Runs a subcommand of `yao-access` that asks this node; it must succeed. Returns what it
    /// says.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let admin = address(&self.ready["admin"]).to_string();
        self.event.command(arguments, &[("YAO__ADMIN__LISTEN", &admin)])
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is ours and not yet reaped");
    }

    /// Waits until the process ends by itself; its exit code.
    pub(crate) async fn exit_code(&mut self) -> i32 {
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty());
        let process = process.expect("it is ours and not yet reaped");
        let patience = PATIENCE.try_into().expect("a timespec");
        // On a thread of its own, for clients may be talking to the node meanwhile.
        let ended = spawn_blocking(move || {
            poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience))
        });
        assert_eq!(ended.await.expect("no panic").expect("a descriptor"), 1, "the node ends");
        let status = self.child.wait().expect("it has ended");
        status.code().unwrap_or_else(|| panic!("it ended with {status}"))
    }

    /// kill -9, and every file is as the kernel has it.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// The newest line of the log with this `event`, its fields as JSON.
    pub(crate) fn logged(&self, event: &str) -> Value {
        self.find_logged(event).unwrap_or_else(|| panic!("the log has no event {event}"))
    }

    /// Waits until a line with this `event` is in the log.
    pub(crate) async fn has_logged(&self, event: &str) {
        let look = async {
            while self.find_logged(event).is_none() {
                sleep(LOOK).await;
            }
        };
        assert!(timeout(PATIENCE, look).await.is_ok(), "waited in vain for event {event}");
    }

    fn find_logged(&self, event: &str) -> Option<Value> {
        let log = self.event.log();
        let mut fields = log.lines().rev().filter_map(|line| {
            let mut line: Value = serde_json::from_str(line).ok()?;
            Some(line["fields"].take())
        });
        fields.find(|fields| fields["event"] == event)
    }

    fn end(&mut self) {
        // It may have ended before, and then has nothing more to say.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let admin = address(&self.ready["admin"]);
        let mut stream = TcpStream::connect(admin).expect("the admin port listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        // HTTP/1.0: the answer ends with the connection and is never chunked.
        let request =
            format!("{method} {path} HTTP/1.0\r\nHost: {admin}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
        let code = head.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        (code.expect("a status code"), body.to_owned())
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn address(value: &Value) -> SocketAddr {
    value.as_str().and_then(|text| text.parse().ok()).expect("the ready line has addresses")
}
