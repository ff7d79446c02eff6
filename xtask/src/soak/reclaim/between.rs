//! Stands between tool and ledger and stops one exchange in its middle, so that who is killed then
//! is killed while something is under way, on every machine. Changes no byte.

use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

/// Where an exchange is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The ledger has the request; the tool will never hear what comes of it.
    Asked,
    /// The ledger has granted it, and the tool has not heard.
    Granted,
}

/// One stop on the way of one run of the tool. Its thread ends with this program.
pub(super) struct Between {
    address: String,
    stopped: Receiver<()>,
    go_on: SyncSender<()>,
}

impl Between {
    /// Stops the exchange `number`, from 1 on, that gets so far.
    pub(super) fn start(ledger: &str, stop: Stop, number: u32) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let (tell, stopped) = sync_channel(1);
        let (go_on, wait) = sync_channel(1);
        let mut way = Way { ledger: ledger.to_owned(), stop, left: number, tell, wait };
        std::thread::spawn(move || {
            for tool in listener.incoming().map_while(Result::ok) {
                // Whoever breaks an exchange off hears of it himself.
                way.pass(tool).ok();
            }
        });
        Ok(Self { address, stopped, go_on })
    }

    /// Where the tool finds it.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether the exchange has been stopped, by then.
    pub(super) fn is_stopped_within(&self, time: Duration) -> bool {
        self.stopped.recv_timeout(time).is_ok()
    }

    /// Lets it go on.
    pub(super) fn go_on(&self) -> Result<()> {
        self.go_on.send(()).context("an exchange is stopped")
    }
}

/// The thread's part.
struct Way {
    ledger: String,
    stop: Stop,
    /// Exchanges until the one that is stopped.
    left: u32,
    tell: SyncSender<()>,
    wait: Receiver<()>,
}

impl Way {
    fn pass(&mut self, mut tool: TcpStream) -> Result<()> {
        let request = read_request(&mut tool)?;
        let is_void = request.starts_with(b"POST /v1/voids ");
        let mut ledger = TcpStream::connect(&self.ledger)?;
        ledger.write_all(&request)?;
        if is_void && self.stop == Stop::Asked && self.is_it() {
            // Answered or not: the tool hears nothing of it.
            return self.wait_there();
        }
        let mut answer = Vec::new();
        ledger.read_to_end(&mut answer)?;
        let granted = is_void && answer.starts_with(b"HTTP/1.1 200 ");
        if granted && self.stop == Stop::Granted && self.is_it() {
            self.wait_there()?;
        }
        Ok(tool.write_all(&answer)?)
    }

    /// Counts an exchange that got as far as the stop.
    const fn is_it(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    fn wait_there(&self) -> Result<()> {
        self.tell.send(())?;
        Ok(self.wait.recv()?)
    }
}

/// A whole request: its head, and as many bytes as that says.
fn read_request(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.context("a request says how long it is")?.parse()?;
            if request.len() >= end + 4 + length {
                return Ok(request);
            }
        }
        match stream.read(&mut buffer)? {
            0 => bail!("a request was cut short"),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
}
