//! The journal: when each client's connection came and went, one line of JSON each, for whoever
//! judges a rehearsal. Knows clients by their place in the crowd, and no session token or ticket.

use anyhow::{Context, Result};
use serde::Serialize;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

/// One line.
#[derive(Debug, Serialize)]
pub(super) struct Moment<'a> {
    /// Wall time, microseconds: every process of this machine reads the same clock.
    at_us: u64,
    client: u64,
    /// "connected" or "disconnected".
    what: &'static str,
    /// What carries, or carried, the session; nothing when an attempt failed.
    transport: Option<String>,
    /// Why it ended.
    error: Option<&'a str>,
}

/// The file.
#[derive(Debug)]
pub(super) struct Journal(Mutex<BufWriter<File>>);

impl Journal {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("cannot write the journal {}", path.display()))?;
        Ok(Self(Mutex::new(BufWriter::new(file))))
    }

    /// `client` is connected by `transport`.
    pub(super) fn connected(&self, client: u64, transport: String) -> Result<()> {
        let transport = Some(transport);
        self.write(&Moment { at_us: now_us(), client, what: "connected", transport, error: None })
    }

    /// The connection of `client`, or its attempt at one, has ended.
    pub(super) fn disconnected(
        &self,
        client: u64,
        transport: Option<String>,
        error: &str,
    ) -> Result<()> {
        let (at_us, error) = (now_us(), Some(error));
        self.write(&Moment { at_us, client, what: "disconnected", transport, error })
    }

    fn write(&self, moment: &Moment<'_>) -> Result<()> {
        let mut line = serde_json::to_vec(moment)?;
        line.push(b'\n');
        let mut file = self.0.lock().expect("no holder of this lock can panic");
        file.write_all(&line).context("the journal")
    }

    /// Everything reaches the file.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.0.lock().expect("no holder of this lock can panic").flush()
    }
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).expect("half a million years")
}
