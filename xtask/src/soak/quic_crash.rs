//! A crash of the QUIC thread in the middle of a wave, under load: nobody on TCP or TLS notices,
//! and everybody on QUIC is back within two seconds.

use super::{
    LEAD_SECONDS, arm, end,
    people::{self, People, now_us},
    ready,
    rehearsal::{DEMO, QUIC_THREAD, Rehearsal},
};
use anyhow::Result;
use std::time::Duration;

/// QUIC clients must be back within this time of the panic, ms.
const BACK_MS_MAX: f64 = 2_000.0;
/// From T0 to the panic.
const REST: Duration = Duration::from_secs(3);
/// The crowd plays until the wave of campaigns/demo.toml is over.
const SECONDS: &str = "15";

pub(super) fn run(clients: u64) -> Result<()> {
    let mut event = ready("quic-crash", DEMO)?;
    let each = clients.div_ceil(3);
    let count = (each * 3).to_string();
    let options = ["--clients", &count, "--seconds", SECONDS, "--shake-every-ms", "100"];
    let crowd = People::start(&event, "crowd", &event.crowd_options(), &options)?;
    people::await_users(&event, each * 3, Duration::from_secs(10))?;
    arm(&event)?;
    std::thread::sleep(Duration::from_secs(LEAD_SECONDS) + REST);
    let panic_us = now_us();
    event.panic_thread(QUIC_THREAD)?;
    let played = crowd.finish()?;
    event.await_settled()?;
    let audit = end(&mut event, &["crowd.tickets"])?;
    let mut rehearsal = Rehearsal::new("quic-crash");
    rehearsal.tell("clients", each * 3);
    rehearsal.tell("shakes", played.number("shakes")?);
    let returns = played.returns(&["quic"], panic_us);
    rehearsal.exactly("quic_there", returns.len() as u64, each);
    rehearsal.at_most("quic_all_back_ms", people::last_ms(&returns)? as f64, BACK_MS_MAX);
    rehearsal.exactly("sessions_quic", played.sessions("quic")?, 2 * each);
    for way in ["tcp", "tls"] {
        rehearsal.exactly(&format!("sessions_{way}"), played.sessions(way)?, each);
        rehearsal.exactly(&format!("interruptions_{way}"), played.interruptions(way)?, 0);
    }
    rehearsal.exactly("errors", played.number("errors")?, 0);
    rehearsal.exactly("unanswered", played.number("unanswered")?, 0);
    rehearsal.audited(&audit);
    rehearsal.judge()?;
    event.remove()
}
