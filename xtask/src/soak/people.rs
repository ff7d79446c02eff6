//! A crowd of SDK clients in a rehearsal: its options, its report, and its journal of connections
//! that came and went. Judges nothing.

use crate::{event::Event, process::Process};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A crowd that plays, and the files of its own in the event's directory.
pub(super) struct People {
    process: Process,
    report: PathBuf,
    journal: PathBuf,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// Wall time, us.
    pub(super) at_us: u64,
    /// Number in the crowd.
    pub(super) client: u64,
    /// Or else the connection, or the attempt at one, ended.
    pub(super) connected: bool,
    /// "tcp", "tls" or "quic"; empty for an attempt that failed.
    pub(super) transport: String,
}

impl People {
    /// Starts a crowd: `target` says where to, `options` how it behaves. `name` is unique in the
    /// event; its tickets go to `name.tickets`.
    pub(super) fn start(
        event: &Event,
        name: &str,
        target: &[String],
        options: &[&str],
    ) -> Result<Self> {
        Self::start_as(event.program("netbench"), event, name, target, options)
    }

    /// The same behind everybody else on this machine: phones take no CPU from their node.
    pub(super) fn start_behind(
        event: &Event,
        name: &str,
        target: &[String],
        options: &[&str],
    ) -> Result<Self> {
        Self::start_as(event.program_at(19, "netbench"), event, name, target, options)
    }

    fn start_as(
        mut command: Command,
        event: &Event,
        name: &str,
        target: &[String],
        options: &[&str],
    ) -> Result<Self> {
        let path = |kind: &str| event.path(&format!("{name}.{kind}"));
        let (report, journal) = (path("json"), path("journal"));
        command.arg("crowd").args(target).args(options).arg("--json");
        command.arg("--tickets").arg(path("tickets")).arg("--journal").arg(&journal);
        command.stdout(File::create(&report)?);
        let process = Process::start("crowd", &mut command, &path("log"))?;
        Ok(Self { process, report, journal })
    }

    /// Whether it still plays.
    pub(super) fn is_running(&mut self) -> Result<bool> {
        self.process.is_running()
    }

    /// Waits for its end.
    pub(super) fn finish(self) -> Result<Played> {
        let Self { process, report, journal, .. } = self;
        process.finish()?;
        let text = fs::read_to_string(report)?;
        let report: Value = serde_json::from_str(&text).context("the crowd's report")?;
        println!("crowd: {report}");
        let text = fs::read_to_string(journal)?;
        let moments = text.lines().map(moment).collect::<Result<_>>()?;
        Ok(Played { report, moments })
    }
}

/// What became of a crowd.
pub(super) struct Played {
    pub(super) report: Value,
    /// In the order of the clock.
    pub(super) moments: Vec<Moment>,
}

impl Played {
    /// A number of the report: "errors", "sessions/tcp".
    pub(super) fn number(&self, path: &str) -> Result<u64> {
        let value = path.split('/').fold(&self.report, |value, key| &value[key]);
        value.as_u64().with_context(|| format!("the crowd's report has no {path}"))
    }

    /// Sessions opened over a transport.
    pub(super) fn sessions(&self, transport: &str) -> Result<u64> {
        self.number(&format!("sessions/{transport}"))
    }

    /// Sessions over a transport that ended before their client left.
    pub(super) fn interruptions(&self, transport: &str) -> Result<u64> {
        self.number(&format!("interruptions/{transport}"))
    }

    /// What each client that was connected by one of `ways` at `cut_us` did then: whether it lost
    /// that connection, and when it was welcomed again and by what, us after the cut.
    pub(super) fn returns(&self, ways: &[&str], cut_us: u64) -> Vec<Return> {
        let mut by_client: BTreeMap<u64, Vec<&Moment>> = BTreeMap::new();
        for moment in &self.moments {
            by_client.entry(moment.client).or_default().push(moment);
        }
        by_client.values().filter_map(|own| return_of(own, ways, cut_us)).collect()
    }
}

/// The same of one client, whose moments are its `own`.
fn return_of(own: &[&Moment], ways: &[&str], cut_us: u64) -> Option<Return> {
    let (before, after) = own.split_at(own.partition_point(|moment| moment.at_us < cut_us));
    let is_by = |moment: &Moment| ways.iter().any(|way| *way == moment.transport);
    before.last().filter(|last| last.connected && is_by(last))?;
    let back = after.iter().find(|moment| moment.connected);
    Some(Return {
        was_cut: !after.is_empty(),
        back: back.map(|back| (back.at_us - cut_us, back.transport.clone())),
    })
}

/// See [`Played::returns`].
#[derive(Debug)]
pub(super) struct Return {
    pub(super) was_cut: bool,
    /// Us after the cut, and the transport; nothing while it is still away.
    pub(super) back: Option<(u64, String)>,
}

/// How long the last of `returns` took, ms. An error unless all were cut and came back.
pub(super) fn last_ms(returns: &[Return]) -> Result<u64> {
    let cut = returns.iter().filter(|one| one.was_cut).count();
    let back: Vec<u64> = returns.iter().filter_map(|one| Some(one.back.as_ref()?.0)).collect();
    if returns.is_empty() || cut < returns.len() || back.len() < returns.len() {
        bail!("of {} clients {cut} were cut and {} came back", returns.len(), back.len());
    }
    Ok(back.into_iter().max().unwrap_or(0).div_ceil(1_000))
}

fn moment(line: &str) -> Result<Moment> {
    let value: Value = serde_json::from_str(line).context("a line of the journal is JSON")?;
    let number = |key: &str| value[key].as_u64().with_context(|| format!("{line} has no {key}"));
    Ok(Moment {
        at_us: number("at_us")?,
        client: number("client")?,
        connected: value["what"] == "connected",
        transport: value["transport"].as_str().unwrap_or_default().to_owned(),
    })
}

/// Waits until `count` users are connected to the node.
pub(super) fn await_users(event: &Event, count: u64, time_max: Duration) -> Result<()> {
    let start = Instant::now();
    loop {
        let users = event.status()?["users"].as_u64().unwrap_or(0);
        if users >= count {
            return Ok(());
        }
        if start.elapsed() > time_max {
            bail!("only {users} of {count} clients are connected after {time_max:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The wall clock, as the journal has it.
pub(super) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).expect("half a million years")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_return_is_told_from_a_client_that_stayed_or_is_away() {
        let moment = |client, at_us, connected, transport: &str| Moment {
            at_us,
            client,
            connected,
            transport: transport.to_owned(),
        };
        let played = Played {
            report: json!({}),
            moments: vec![
                moment(0, 1, true, "quic"),
                moment(1, 1, true, "quic"),
                moment(2, 2, true, "tls"),
                moment(3, 3, true, "quic"),
                moment(0, 11, false, "quic"),
                moment(0, 12, false, ""),
                moment(0, 2_500, true, "tls"),
                moment(3, 2_600, false, "quic"),
            ],
        };
        let returns = played.returns(&["quic"], 10);
        let told: Vec<_> = returns.iter().map(|one| (one.was_cut, one.back.is_some())).collect();
        assert_eq!(told, [(true, true), (false, false), (true, false)]);
        last_ms(&returns).expect_err("one stayed, one is away");
        assert_eq!(last_ms(&returns[..1]).expect("the first is back"), 3);
        last_ms(&[]).expect_err("nobody proves nothing");
    }
}
