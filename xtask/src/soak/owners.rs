//! Exclusive right (M4): everybody who might issue from a shard that another one has, played with
//! the real programs, in both modes. Counted is every packet that a wrong owner issued.
//!
//! Runs in namespaces of its own where it may make them. Elsewhere the cases that need one are
//! skipped, and said so.

mod cases;
mod directories;
mod elsewhere;
mod judge;
mod player;
mod stage;

use crate::{event, shell, table};
use anyhow::{Result, bail};
use cases::{Play, Score};
use clap::ValueEnum;
use elsewhere::Elsewhere;
use serde_json::json;
use stage::Backstage;
pub(crate) use stage::Mode;
use std::{
    fs,
    process::{Command, Stdio},
    time::Instant,
};

/// Set in our own namespaces.
const INSIDE: &str = "YAO_SOAK_INSIDE";

/// Who else wants to issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// A second process on the same directory.
    SameDirectory,
    /// One on a copy of it.
    CopiedDirectory,
    /// One on hard links to its files.
    HardLink,
    /// One on the same directory by another mount.
    BindMount,
    /// One in another network namespace.
    OtherNamespace,
    /// The owner itself, stopped and woken when its right has ended.
    StoppedOwner,
    /// One on an older backup of the directory.
    RestoredBackup,
}

impl Case {
    const ALL: [Self; 7] = [
        Self::SameDirectory,
        Self::CopiedDirectory,
        Self::HardLink,
        Self::BindMount,
        Self::OtherNamespace,
        Self::StoppedOwner,
        Self::RestoredBackup,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::SameDirectory => "same-directory",
            Self::CopiedDirectory => "copied-directory",
            Self::HardLink => "hard-link",
            Self::BindMount => "bind-mount",
            Self::OtherNamespace => "other-namespace",
            Self::StoppedOwner => "stopped-owner",
            Self::RestoredBackup => "restored-backup",
        }
    }

    /// Whether it needs a namespace that this user may not be able to make.
    const fn needs_namespaces(self, mode: Mode) -> bool {
        match self {
            Self::BindMount | Self::OtherNamespace => true,
            // The standby runs beside the owner, where the host's names do not keep it off.
            Self::StoppedOwner => matches!(mode, Mode::Fleet),
            _ => false,
        }
    }
}

/// What is played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Programme {
    /// Trials of each case.
    pub(crate) trials: u32,
    /// Only this case.
    pub(crate) case: Option<Case>,
    /// Only in this mode.
    pub(crate) mode: Option<Mode>,
    /// Whether optimised programs are used.
    pub(crate) release: bool,
}

/// Plays all that was asked for; an error unless no packet was issued by a wrong owner.
pub(crate) fn run(programme: Programme) -> Result<()> {
    let binaries = event::build(programme.release)?;
    let inside = std::env::var_os(INSIDE).is_some();
    if !inside && namespaces_can_be_made() {
        return enter(programme);
    }
    let directory = shell::target().join(format!("owners-{}", std::process::id()));
    let backstage = Backstage::prepare(&directory, &binaries)?;
    let elsewhere = inside.then(Elsewhere::make).transpose()?;
    let (mut rows, mut wrong, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    for mode in [Mode::Local, Mode::Fleet] {
        for case in Case::ALL {
            let asked = programme.case.is_none_or(|only| only == case)
                && programme.mode.is_none_or(|only| only == mode);
            let name = format!("{} {}", mode_name(mode), case.name());
            if asked && case.needs_namespaces(mode) && elsewhere.is_none() {
                println!("skipped: {name}: no namespaces can be made here");
                skipped.push(name);
            } else if asked {
                let start = Instant::now();
                let Score { tickets, issued, wrong: found } =
                    play(&backstage, case, mode, elsewhere.as_ref(), programme.trials)?;
                let each_ms = start.elapsed().as_millis() / u128::from(programme.trials.max(1));
                let line = format!(
                    "{} trials, {tickets} tickets, {issued} packets issued, {} by a wrong owner, \
                     {each_ms} ms each",
                    programme.trials,
                    found.len(),
                );
                println!("{name}: {line}");
                rows.push((name, line));
                wrong.extend(found);
            }
        }
    }
    table::print("owners", &rows);
    let verdict = if wrong.is_empty() { "held" } else { "MISSED" };
    println!(
        "{}",
        json!({
            "soak": "owners", "verdict": verdict, "trials": programme.trials,
            "cases": rows.len(), "skipped": skipped, "wrong": wrong.len(),
        })
    );
    match wrong.first() {
        Some(first) => bail!(
            "{} packets were issued by a wrong owner; the first: {first}; files are kept in {}",
            wrong.len(),
            directory.display()
        ),
        None => Ok(fs::remove_dir_all(&directory)?),
    }
}

const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Local => "local",
        Mode::Fleet => "fleet",
    }
}

/// All trials of one case: how many packets left, and which of them wrongly.
fn play(
    backstage: &Backstage,
    case: Case,
    mode: Mode,
    elsewhere: Option<&Elsewhere>,
    trials: u32,
) -> Result<Score> {
    let name = format!("{}-{}", mode_name(mode), case.name());
    let mut play = Play::begin(backstage, &name, mode, elsewhere.map(Elsewhere::id), case)?;
    for trial in 0..trials {
        play.trial(case, trial).map_err(|error| error.context(format!("{name}, trial {trial}")))?;
    }
    play.end()
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "--mount"]);
    command
}

/// Whether this user may make namespaces, and join them by interfaces.
fn namespaces_can_be_made() -> bool {
    let words = "ip link set lo up && ip link add here type veth peer name there && \
                 mount --bind /tmp /mnt";
    let mut probe = unshare();
    probe.args(["sh", "-c", words]).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// Runs the programme in namespaces.
fn enter(programme: Programme) -> Result<()> {
    let mut command = unshare();
    command.arg(std::env::current_exe()?).args(["soak", "owners"]).env(INSIDE, "1");
    command.args(["--trials", &programme.trials.to_string()]);
    if let Some(case) = programme.case {
        command.args(["--case", case.name()]);
    }
    if let Some(mode) = programme.mode {
        command.args(["--mode", mode_name(mode)]);
    }
    if !programme.release {
        command.arg("--debug");
    }
    shell::run(&mut command)
}
