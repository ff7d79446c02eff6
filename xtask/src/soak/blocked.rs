//! Networks that swallow UDP, from the start and in the middle of a session: SDK clients are on TLS
//! within five seconds, and remember it.
//!
//! Runs in a network namespace of its own, where the kernel drops every datagram it receives while
//! a policy (`ip xfrm`) says so: no error comes back, as from a firewall that says nothing. Needs
//! `unshare` and `ip`, and leave to make namespaces.

use super::{
    arm, end, namespace,
    people::{self, People, Played, now_us},
    rehearsal::{DEMO, Rehearsal, STREAM_THREAD},
    started,
};
use crate::{event::Event, shell};
use anyhow::{Context, Result};
use std::{process::Command, time::Duration};

/// Everybody is on TLS within this time, ms.
const SWITCHED_MS_MAX: f64 = 5_000.0;
/// One number for TLS and QUIC; everything is free in the namespace.
const ADDRESS: &str = "127.0.0.1:7443";
/// A crowd's life: it comes, is cut, and returns with time to spare.
const SECONDS: &str = "14";
/// After a crowd has come, and after it has switched: longer than that may take.
const REST: Duration = Duration::from_secs(6);

pub(super) fn run(clients: u64) -> Result<()> {
    if !namespace::is_inside() {
        return namespace::enter(&["--map-root-user", "--net"]);
    }
    shell::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    // Loopback is exempt from policies unless told otherwise.
    for interface in ["all", "lo"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/disable_policy"), "0")
            .context("the namespace's own settings")?;
    }
    let mut event = Event::prepare("blocked", DEMO)?;
    event.listen_at(ADDRESS);
    started(&mut event)?;
    arm(&event)?;
    let mut rehearsal = Rehearsal::new("blocked");
    rehearsal.tell("clients", clients);
    from_the_start(&event, clients, &mut rehearsal)?;
    in_the_middle(&event, clients, &mut rehearsal)?;
    event.await_settled()?;
    let audit = end(&mut event, &["start.tickets", "middle.tickets"])?;
    rehearsal.audited(&audit);
    rehearsal.judge()?;
    event.remove()
}

/// UDP never works: all come by TLS. Then it works again, and all lose their connection: those who
/// remember do not wait for QUIC.
fn from_the_start(event: &Event, clients: u64, rehearsal: &mut Rehearsal) -> Result<()> {
    block(true)?;
    let start_us = now_us();
    let crowd = crowd(event, "start", clients, 1)?;
    people::await_users(event, clients, REST)?;
    block(false)?;
    let cut_us = now_us();
    event.panic_thread(STREAM_THREAD)?;
    let played = crowd.finish()?;
    let first = |moment: &&people::Moment| moment.connected && moment.at_us < cut_us;
    let came: Vec<_> = played.moments.iter().filter(first).collect();
    rehearsal.exactly("start_came", came.len() as u64, clients);
    let last_us = came.iter().map(|moment| moment.at_us - start_us).max().unwrap_or(u64::MAX);
    rehearsal.at_most("start_on_tls_ms", last_us as f64 / 1_000.0, SWITCHED_MS_MAX);
    rehearsal.exactly("start_by_quic", played.sessions("quic")?, 0);
    remembered(&played, cut_us, clients, "start", rehearsal)
}

/// QUIC works, and then every packet is swallowed. Then it works again, and all lose their
/// connection: those who remember come by TLS.
fn in_the_middle(event: &Event, clients: u64, rehearsal: &mut Rehearsal) -> Result<()> {
    let crowd = crowd(event, "middle", clients, 1_000_000)?;
    people::await_users(event, clients, REST)?;
    // Everybody has shaken a few times.
    std::thread::sleep(Duration::from_secs(1));
    let block_us = now_us();
    block(true)?;
    std::thread::sleep(REST);
    block(false)?;
    let cut_us = now_us();
    event.panic_thread(STREAM_THREAD)?;
    let played = crowd.finish()?;
    rehearsal.exactly("middle_by_quic", played.sessions("quic")?, clients);
    let returns = played.returns(&["quic"], block_us);
    rehearsal.exactly("middle_there", returns.len() as u64, clients);
    rehearsal.at_most("middle_on_tls_ms", people::last_ms(&returns)? as f64, SWITCHED_MS_MAX);
    remembered(&played, cut_us, clients, "middle", rehearsal)
}

/// All were on TLS at the cut, and came back by TLS although QUIC works again.
fn remembered(
    played: &Played,
    cut_us: u64,
    clients: u64,
    name: &str,
    rehearsal: &mut Rehearsal,
) -> Result<()> {
    let returns = played.returns(&["tls"], cut_us);
    let by_tls = returns.iter().filter_map(|one| one.back.as_ref()).filter(|back| back.1 == "tls");
    rehearsal.exactly(&format!("{name}_back_by_tls"), by_tls.count() as u64, clients);
    rehearsal.exactly(&format!("{name}_errors"), played.number("errors")?, 0);
    rehearsal.exactly(&format!("{name}_unanswered"), played.number("unanswered")?, 0);
    Ok(())
}

fn crowd(event: &Event, name: &str, clients: u64, first_user: u64) -> Result<People> {
    let target = event.crowd_options_to(&[format!("tls+quic://{ADDRESS}")], first_user);
    let clients = clients.to_string();
    let options = ["--clients", &clients, "--seconds", SECONDS, "--shake-every-ms", "100"];
    People::start(event, name, &target, &options)
}

/// From now on datagrams are swallowed, or not any more.
fn block(swallow: bool) -> Result<()> {
    let mut policy = Command::new("ip");
    policy.args(["xfrm", "policy", if swallow { "add" } else { "delete" }]);
    policy.args(["src", "0.0.0.0/0", "dst", "0.0.0.0/0", "proto", "udp", "dir", "in"]);
    if swallow {
        policy.args(["action", "block"]);
    }
    shell::run(&mut policy)
}
