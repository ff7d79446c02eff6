//! By whose code the node's CPU goes where it is compared with an echo: what no work of ours can
//! take away, and what is ours. `perf` samples one short comparison each, and every sample of the
//! node's network threads is counted for the library that its function is of.

use super::echo;
use crate::{
    event::{self, Way},
    shell, table,
};
use anyhow::{Context, Result, bail};
use std::{path::Path, process::Command};

/// Samples a second of each core.
const FREQUENCY: &str = "1997";
/// Fewer samples than this say nothing: some seconds of a busy thread.
const SAMPLES_MIN: usize = 2_000;
/// What is sampled: netbench's command, what one unit of it is, and options that leave little
/// beside those units (compare's sparse clients make their handshakes in the same process).
const UNITS: [(&str, &str, &[&str]); 2] = [
    ("handshake", "a client that comes and goes, half of them resumed", &["--pairs", "7"]),
    ("compare", "a shake", &["--pairs", "7", "--sparse", "3000"]),
];
/// The node's threads that carry connections.
const THREADS: [&str; 2] = ["yao-shard-", "yao-quic-"];

/// A part of the time, and what the names of its functions contain. The first that fits counts.
const PARTS: [(&str, &[&str]); 9] = [
    ("X25519", &["x25519"]),
    ("Ed25519", &["ed25519", "edwards25519", "sha512"]),
    ("HKDF and SHA-256", &["sha256", "hkdf", "hmac"]),
    // Before libraries whose traits it implements.
    ("Yao", &["yao_"]),
    ("quinn-udp", &["quinn_udp"]),
    ("quinn-proto", &["quinn_proto"]),
    ("AES-GCM", &["aes", "gcm", "ghash", "aead"]),
    ("rest of aws-lc", &["aws_lc", "evp_", "rand_bytes", "ctr_drbg"]),
    ("rustls", &["rustls"]),
];

/// Prints where the time of each unit goes, over TLS and QUIC.
pub(super) fn run(only: Option<Way>) -> Result<()> {
    if Command::new("perf").arg("--version").output().is_err() {
        bail!("perf is not installed, and it takes the samples; on Debian: apt install linux-perf");
    }
    let binaries = event::build(true)?;
    for way in [Way::Tls, Way::Quic].into_iter().filter(|way| only.is_none_or(|only| only == *way))
    {
        let echo = echo::build(way)?;
        for (command, unit, options) in UNITS {
            let samples = shell::target().join(format!("perf-{command}-{}.data", way.scheme()));
            record(&binaries, &samples, (command, way), &echo, options)?;
            let title = format!("{} (netbench {command}): {unit}", way.scheme());
            let rows = report(&samples).with_context(|| title.clone())?;
            let percent = |(part, share): (String, f64)| (part, format!("{share:.1} %"));
            table::print(&title, &rows.into_iter().map(percent).collect::<Vec<_>>());
        }
    }
    Ok(())
}

fn record(
    binaries: &Path,
    samples: &Path,
    (command, way): (&str, Way),
    echo: &Path,
    options: &[&str],
) -> Result<()> {
    let mut perf = Command::new("perf");
    perf.args(["record", "--quiet", "--freq", FREQUENCY, "--output"]).arg(samples);
    perf.arg("--").arg(binaries.join("netbench"));
    perf.args([command, "--json", "--over", way.scheme(), "--echo"]).arg(echo).args(options);
    shell::output(&mut perf).map(drop)
}

/// The parts of the network threads' time in percent, the largest first.
fn report(samples: &Path) -> Result<Vec<(String, f64)>> {
    let mut perf = Command::new("perf");
    perf.args(["report", "--stdio", "--quiet", "--no-children", "--percent-limit", "0"]);
    perf.args(["--fields", "sample,comm,dso,symbol", "--field-separator", "|", "--input"]);
    sums(&shell::output(perf.arg(samples))?)
}

/// From lines of samples, thread, object and `[.] function`.
fn sums(text: &str) -> Result<Vec<(String, f64)>> {
    let mut parts: Vec<(String, usize)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.splitn(4, '|').map(str::trim).collect();
        let [samples, thread, object, function] = fields[..] else { continue };
        if !THREADS.iter().any(|name| thread.starts_with(name)) {
            continue;
        }
        let samples: usize = samples.parse().with_context(|| format!("perf printed {line:?}"))?;
        let part = part(object, function);
        match parts.iter_mut().find(|(name, _)| name == part) {
            Some((_, sum)) => *sum += samples,
            None => parts.push((part.to_owned(), samples)),
        }
    }
    let all: usize = parts.iter().map(|(_, sum)| sum).sum();
    if all < SAMPLES_MIN {
        bail!("perf took {all} samples of the node's network threads; {SAMPLES_MIN} are wanted");
    }
    parts.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
    let share = |sum: usize| 100.0 * sum as f64 / all as f64;
    Ok(parts.into_iter().map(|(name, sum)| (name, share(sum))).collect())
}

fn part(object: &str, function: &str) -> &'static str {
    if function.starts_with("[k]") {
        return "kernel";
    }
    if object.starts_with("libc") {
        return "libc: memory and copies";
    }
    let function = function.to_ascii_lowercase();
    let of = |names: &[&str]| names.iter().any(|name| function.contains(name));
    let found = PARTS.iter().find(|(_, names)| of(names));
    found.map_or("std and what is generic", |(part, _)| part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_counted_for_the_library_that_they_are_of() {
        let lines = [
            "# some words",
            "1000|yao-shard-0   |[kernel.kallsyms]|[k] tcp_sendmsg",
            "500|yao-quic-1    |yao-access|[.] quinn_proto::crypto::rustls::aead",
            "300|yao-shard-0|yao-access|[.] Lcurve25519_x25519_scalarloop",
            "150|yao-shard-0|yao-access|[.] <yao_access::tls::Key as rustls::quic::PacketKey>::aes",
            "50|yao-shard-0|libc.so.6|[.] malloc",
            "9999|yao-issuer|yao-access|[.] yao_engine::issuer",
            "9999|netbench|netbench|[.] yao_client::session",
        ];
        let found = sums(&lines.join("\n")).expect("enough samples");
        let found: Vec<_> = found.iter().map(|(part, share)| (part.as_str(), *share)).collect();
        let wanted = [
            ("kernel", 50.0),
            ("quinn-proto", 25.0),
            ("X25519", 15.0),
            ("Yao", 7.5),
            ("libc: memory and copies", 2.5),
        ];
        assert_eq!(found, wanted);
        assert!(sums(lines[1]).is_err(), "too few to say anything");
    }
}
