//! The ticket log: every ticket and receipt that a client saw, one line of text each, for
//! `netbench audit`. Lines are `W <ticket>` and `R <receipt>` in lower-case hexadecimal.

use super::totals::Totals;
use std::{
    fs::File,
    io::{self, Write},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use yao_protocol::{hex, receipt::RECEIPT_BYTES, ticket::TICKET_BYTES};

/// One line of the ticket log.
pub(super) enum Line {
    Ticket([u8; TICKET_BYTES]),
    Receipt([u8; RECEIPT_BYTES]),
}

/// Writes lines until every client has ended; each second they reach the file.
pub(super) async fn write(
    log: File,
    mut lines: mpsc::Receiver<Line>,
    progress: Option<&Totals>,
) -> io::Result<()> {
    let mut log = io::BufWriter::with_capacity(1 << 16, log);
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut seconds_past = 0_u64;
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                None => return log.flush(),
                Some(Line::Ticket(bytes)) => writeln!(log, "W {}", hex::encode(&bytes))?,
                Some(Line::Receipt(bytes)) => writeln!(log, "R {}", hex::encode(&bytes))?,
            },
            _ = second.tick() => {
                log.flush()?;
                if let Some(totals) = progress {
                    writeln!(io::stderr(), "{}", totals.line(seconds_past))?;
                }
                seconds_past += 1;
            }
        }
    }
}
