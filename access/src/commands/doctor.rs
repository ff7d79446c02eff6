//! `yao-access doctor`: what of this machine binds first, and how many connections that allows.
//! Reads limits and sysctls; changes nothing.

use crate::{clock::Clock, config::Config};
use std::{
    fs, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// Descriptors that are not connections: files, pollers, listeners, sockets of the agent.
const DESCRIPTORS_OWN: u64 = 64;
/// Kernel memory of an idle connection, this side only, bytes. Measured at 10,100 a pair on
/// loopback (a 2-core Linux 6.18 VM); a client elsewhere pays its own half.
const KERNEL_BYTES: u64 = 5_050;
/// User memory of an idle connection, bytes: the design's bounds for TCP, TLS and QUIC.
const USER_BYTES: [u64; 3] = [256, 3_840, 16_384];
/// What a QUIC socket asks the kernel to hold for it each way, bytes (`quic/socket.rs`).
const UDP_BYTES: u64 = 8 * 1024 * 1024;

/// One thing looked at.
struct Finding {
    what: String,
    /// Connections it allows, where it limits them.
    allows: Option<u64>,
    /// What to do, where something should be done.
    advice: Option<String>,
}

/// The report, ready to print; its last line names what binds first.
#[must_use]
pub fn examine(config: &Config) -> String {
    let listen = &config.listen;
    let mut findings = vec![descriptors(), file_max(), configured(config)];
    let ways = [("TCP", &listen.tcp), ("TLS", &listen.tls), ("QUIC", &listen.quic)];
    for ((name, addresses), bytes) in ways.into_iter().zip(USER_BYTES) {
        if !addresses.is_empty() {
            findings.push(memory(name, bytes));
        }
    }
    findings.extend([backlog(), ports(), clock()]);
    findings.push(disk("node.state", &config.node.state, config));
    findings.extend(config.spool.fallback.iter().flat_map(|path| fallback(path, config)));
    if !listen.quic.is_empty() {
        findings.extend(["rmem_max", "wmem_max"].map(udp_buffer));
    }
    let streams = listen.tcp.iter().chain(&listen.tls).chain([&config.admin.listen]);
    findings.extend(streams.map(|address| port(address, "TCP", TcpListener::bind(address).err())));
    let datagrams = listen.quic.iter();
    findings.extend(datagrams.map(|address| port(address, "UDP", UdpSocket::bind(address).err())));
    let mut lines: Vec<String> = findings.iter().map(line).collect();
    let limits = findings.iter().filter_map(|finding| Some((finding.allows?, finding)));
    if let Some((allows, finding)) = limits.min_by_key(|(allows, _)| *allows) {
        lines.push(format!("binds first: {} -> {allows} connections", finding.what));
    }
    lines.join("\n")
}

fn line(finding: &Finding) -> String {
    let mark = if finding.advice.is_some() { "!!" } else { "ok" };
    let allows = finding.allows.map_or_else(String::new, |n| format!(" -> {n} connections"));
    let advice = finding.advice.as_ref().map_or_else(String::new, |text| format!("; {text}"));
    format!("{mark}  {}{allows}{advice}", finding.what)
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

fn unknown(what: &str) -> Finding {
    Finding { what: format!("{what}: unknown on this system"), allows: None, advice: None }
}

fn descriptors() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let advice =
        (soft < hard).then(|| format!("raise it to the hard limit with `ulimit -n {hard}`"));
    Finding {
        what: format!("descriptors of a process: soft {soft}, hard {hard}"),
        allows: Some(soft.saturating_sub(DESCRIPTORS_OWN)),
        advice,
    }
}

fn file_max() -> Finding {
    let Some(limit) = number("/proc/sys/fs/file-max") else { return unknown("fs.file-max") };
    Finding { what: format!("fs.file-max {limit}"), allows: Some(limit), advice: None }
}

/// How many connections of one kind fit, were there no others.
fn memory(way: &str, user_bytes: u64) -> Finding {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let Some(kilobytes) = available else { return unknown("available memory") };
    // A tenth is left for everything else.
    let kernel_bytes = if way == "QUIC" { 0 } else { KERNEL_BYTES };
    let allows = kilobytes * 1_024 / 10 * 9 / (kernel_bytes + user_bytes);
    Finding {
        what: format!("available memory {} MiB, all over {way}", kilobytes / 1_024),
        allows: Some(allows),
        advice: None,
    }
}

fn configured(config: &Config) -> Finding {
    let allows = u64::from(config.listen.connections_max);
    Finding { what: "listen.connections_max".to_owned(), allows: Some(allows), advice: None }
}

fn backlog() -> Finding {
    let Some(limit) = number("/proc/sys/net/core/somaxconn") else {
        return unknown("net.core.somaxconn");
    };
    let low = limit < 4_096;
    let advice = "a reconnect storm overflows it; sysctl net.core.somaxconn=4096".to_owned();
    let what = format!("net.core.somaxconn {limit}");
    Finding { what, allows: None, advice: low.then_some(advice) }
}

fn ports() -> Finding {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let range: Vec<&str> = text.split_whitespace().collect();
    Finding {
        what: format!(
            "net.ipv4.ip_local_port_range {} (binds load generators, not servers)",
            range.join("-")
        ),
        allows: None,
        advice: None,
    }
}

fn clock() -> Finding {
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = fs::read_to_string(source).unwrap_or_default();
    let wall = yao_protocol::schedule::format_rfc3339(Clock::start().wall());
    let what = format!("clock {wall}, source {}", source.trim());
    Finding { what, allows: None, advice: None }
}

/// Room for the spool where `path` is, or will be.
fn disk(key: &str, path: &Path, config: &Config) -> Finding {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let Ok(space) = rustix::fs::statvfs(existing) else {
        return unknown(&format!("space for {key}"));
    };
    let free = space.f_bavail * space.f_frsize;
    let needed = config.spool.bytes_max;
    let advice = (free < needed)
        .then(|| format!("spool.bytes_max is {} MiB; free space or lower it", needed / 1_048_576));
    Finding {
        what: format!("{} MiB free for {key} in {}", free / 1_048_576, existing.display()),
        allows: None,
        advice,
    }
}

/// The spool's fallback: there, with room, and on another disk.
fn fallback(path: &Path, config: &Config) -> [Finding; 2] {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let state = config.node.state.ancestors().find_map(device);
    let advice = match device(path) {
        None => Some("create it: a start does not, in case its disk is not mounted"),
        own if own == state => Some("on the file system of node.state: what takes one takes both"),
        Some(_) => None,
    };
    let advice = advice.map(str::to_owned);
    let what = format!("spool.fallback {}", path.display());
    [disk("spool.fallback", path, config), Finding { what, allows: None, advice }]
}

/// A burst of datagrams that does not fit is lost, and comes again later.
fn udp_buffer(name: &str) -> Finding {
    let Some(limit) = number(&format!("/proc/sys/net/core/{name}")) else {
        return unknown(&format!("net.core.{name}"));
    };
    let advice = format!("QUIC asks for {UDP_BYTES}; sysctl net.core.{name}={UDP_BYTES}");
    let what = format!("net.core.{name} {limit}");
    Finding { what, allows: None, advice: (limit < UDP_BYTES).then_some(advice) }
}

fn port(address: &SocketAddr, kind: &str, error: Option<io::Error>) -> Finding {
    let advice = error.map(|error| format!("cannot be bound: {error}"));
    Finding { what: format!("{kind} address {address}"), allows: None, advice }
}
