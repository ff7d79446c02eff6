//! A seed file that is cut, replaced, removed or changed under a running node: within a second the
//! shard is fenced and says why, the process goes on, and whoever shakes is answered.

use super::{
    crash::{
        faults::Faults,
        kit::Kit,
        play::{End, Play},
        stage::Stage,
    },
    rehearsal::Rehearsal,
};
use crate::event;
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::{self, File, FileTimes, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// From the damage to `/readyz`, ms.
const FENCED_MS_MAX: f64 = 1_000.0;
/// A change that no look at the file can show is found when its chunk is read, at the next
/// reservation: this one comes after 33 packets.
const READ_MS_MAX: f64 = 5_000.0;
/// A node that does not fence by then never will.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often the node is asked.
const LOOK: Duration = Duration::from_millis(5);
/// Messages that phones have after the fence.
const ANSWERS: u64 = 5;

/// What is done to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// Half of it is cut off.
    Cut,
    /// It is emptied, and as many zeros are written.
    Zeroed,
    /// Another file with the same bytes takes its name.
    Replaced,
    /// It is gone.
    Removed,
    /// One byte is another one.
    Flipped,
    /// One byte is another one, and the time of the change was put back.
    FlippedUnseen,
}

impl Damage {
    const ALL: [Self; 6] = [
        Self::Cut,
        Self::Zeroed,
        Self::Replaced,
        Self::Removed,
        Self::Flipped,
        Self::FlippedUnseen,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Zeroed => "zeroed",
            Self::Replaced => "replaced",
            Self::Removed => "removed",
            Self::Flipped => "flipped",
            Self::FlippedUnseen => "flipped_unseen",
        }
    }

    fn inflict(self, path: &Path) -> Result<()> {
        let bytes = fs::read(path)?;
        match self {
            Self::Cut => open(path)?.set_len(bytes.len() as u64 / 2)?,
            Self::Zeroed => fs::write(path, vec![0; bytes.len()])?,
            Self::Replaced => {
                let other = path.with_extension("other");
                fs::write(&other, &bytes)?;
                fs::rename(&other, path)?;
            }
            Self::Removed => fs::remove_file(path)?,
            Self::Flipped => flip(path, &bytes)?,
            Self::FlippedUnseen => {
                let changed_at = fs::metadata(path)?.modified()?;
                flip(path, &bytes)?;
                open(path)?.set_times(FileTimes::new().set_modified(changed_at))?;
            }
        }
        Ok(())
    }
}

/// Changes the last byte, which lies in the last chunk: of a shard this small, the only one.
fn flip(path: &Path, bytes: &[u8]) -> Result<()> {
    let (last, before) = bytes.split_last().context("a seed file is not empty")?;
    Ok(open(path)?.write_all_at(&[last ^ 1], before.len() as u64)?)
}

fn open(path: &Path) -> Result<File> {
    Ok(OpenOptions::new().write(true).open(path)?)
}

pub(super) fn run(release: bool) -> Result<()> {
    let binaries = event::build(release)?;
    let kit = Kit { binaries, library: Faults::build(release)?, loses_power: false };
    let mut stage = Stage::new(&kit, "sick-seed", 0)?;
    let mut rehearsal = Rehearsal::new("sick-seed");
    for damage in Damage::ALL {
        one(&mut stage, damage, &mut rehearsal).with_context(|| damage.word())?;
    }
    rehearsal.judge()?;
    stage.remove()
}

fn one(stage: &mut Stage, damage: Damage, rehearsal: &mut Rehearsal) -> Result<()> {
    let path = stage.event.path("seeds/shard-00000.yaoseed");
    let whole = fs::read(&path)?;
    let mut play = Play::begin(stage, 1)?;
    if let Err(said) = play.init(None)? {
        bail!("init: {said}");
    }
    let end = play.live(None, |play| Ok(play.receipts() >= 2))?;
    ensure!(end == End::Reached, "the node came to {end:?}");
    let start = Instant::now();
    damage.inflict(&path)?;
    let told = loop {
        let (_, told) = play.stage.event.readiness().context("the node ended")?;
        if told.contains("fenced: ") || start.elapsed() > PATIENCE {
            break told;
        }
        thread::sleep(LOOK);
    };
    let most = if damage == Damage::FlippedUnseen { READ_MS_MAX } else { FENCED_MS_MAX };
    let key = format!("{}_fenced_ms", damage.word());
    rehearsal.at_most(&key, start.elapsed().as_secs_f64() * 1_000.0, most);
    let status = play.stage.event.status()?;
    let reason = status["fenced"].as_str().unwrap_or_default();
    if !told.contains(reason) || !reason.contains("shard-00000.yaoseed") {
        play.problem(format!("/readyz says {told:?}, /status {reason:?}"));
    }
    // Fenced, the node gives every shake its answer, and no packet: receipts come of what was won.
    let answers = play.answers() + ANSWERS;
    let end = play.live_on(|play| Ok(play.answers() >= answers))?;
    if end != End::Reached {
        play.problem(format!("shakes did not go on: {end:?}"));
    }
    play.kill()?;
    play.crashes += 1;
    restore(&path, &whole)?;
    play.go_on(2)?;
    let counted = play.finish()?;
    for problem in &counted.problems {
        println!("! {}: {problem}", damage.word());
    }
    rehearsal.exactly(&format!("{}_problems", damage.word()), counted.problems.len() as u64, 0);
    Ok(())
}

/// Puts a whole file in the place of whatever is there.
fn restore(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = path.with_extension("whole");
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    Ok(fs::rename(&draft, path)?)
}
