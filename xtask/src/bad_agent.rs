//! An agent that misbehaves. The node starts it in place of `yao-agent`; it starts that one itself,
//! stands between the two, and spoils what the real one says. So what it leaves alone is real:
//! questions are judged, batches are posted and paid.
//!
//! Owns the process and its sockets; what is spoiled, and how, is `spoil.rs`. Judges nothing.

mod spoil;

pub(crate) use self::spoil::Manner;
use self::spoil::Spoiler;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::{
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use yao_protocol::{
    frame::{Frame, split_frame},
    limits::AGENT_PAYLOAD_BYTES_MAX,
};

/// How late a late agent answers.
const LATE: Duration = Duration::from_millis(500);
/// Bytes read at once.
const READ_BYTES: usize = 1 << 16;
/// Words that wait until they are late enough: as many as questions can be under way, and more.
const WORDS_MAX: usize = 4_096;
/// Sockets of an agent: to be asked on, and to be given batches on.
const SOCKETS: usize = 2;

/// What the node starts it with, and how it shall behave.
#[derive(Args)]
pub(crate) struct Arguments {
    /// File with two lines: the manner, and the program of the real agent
    #[arg(long)]
    manner: PathBuf,
    /// Unix socket of the access process
    #[arg(long)]
    socket: PathBuf,
    /// Which generation this is
    #[arg(long)]
    generation: u32,
    /// Configuration file of the real agent
    #[arg(long)]
    config: PathBuf,
}

/// Writes what `--manner` names, whole: an agent that starts meanwhile reads the old or the new.
pub(crate) fn write_manner(path: &Path, manner: Manner, program: &Path) -> Result<()> {
    let draft = path.with_extension("draft");
    let word = manner.to_possible_value().context("no manner is hidden")?;
    fs::write(&draft, format!("{}\n{}\n", word.get_name(), program.display()))?;
    Ok(fs::rename(draft, path)?)
}

/// Lives the life of one agent.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let text = fs::read_to_string(&arguments.manner).context("the manner")?;
    let (manner, program) = text.trim_end().split_once('\n').context("the manner has two lines")?;
    let Ok(manner) = Manner::from_str(manner, false) else { bail!("no manner is {manner}") };
    let mut real = Command::new(program);
    real.arg("--generation").arg(arguments.generation.to_string());
    real.arg("--config").arg(&arguments.config).arg("--socket");
    if manner == Manner::Honest {
        // It becomes the real one, and this line is not reached.
        return Err(real.arg(&arguments.socket).exec()).context("the real agent");
    }
    let own = PathBuf::from(format!("{}.{}", arguments.socket.display(), arguments.generation));
    // What another life of the node left, whose agents had the same numbers.
    fs::remove_file(&own).ok();
    let listener = UnixListener::bind(&own).context("a socket for the real agent")?;
    let mut child = real.arg(&own).spawn().context("the real agent")?;
    let mut threads = Vec::with_capacity(2 * SOCKETS);
    for _ in 0..SOCKETS {
        let (agent, _) = listener.accept()?;
        let node = UnixStream::connect(&arguments.socket).context("the node")?;
        let (agent_reads, node_writes) = (agent.try_clone()?, node.try_clone()?);
        let seed = u64::from(arguments.generation);
        threads.push(thread::spawn(move || upwards(&agent_reads, &node_writes, manner, seed)));
        threads.push(thread::spawn(move || downwards(&node, &agent, manner)));
    }
    fs::remove_file(own)?;
    for thread in threads {
        // An error is a socket that somebody closed: the end of this agent.
        drop(thread.join().ok().context("a thread panicked")?);
    }
    child.wait()?;
    Ok(())
}

/// Carries what the real agent says to the node, spoiled, and it may be late.
fn upwards(agent: &UnixStream, node: &UnixStream, manner: Manner, seed: u64) -> Result<()> {
    let (queue, queued) = mpsc::sync_channel::<(Instant, Vec<u8>)>(WORDS_MAX);
    let mut to_node = node.try_clone()?;
    let writer = thread::spawn(move || {
        for (due, bytes) in queued {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to_node.write_all(&bytes).is_err() {
                break;
            }
        }
        to_node.shutdown(Shutdown::Write)
    });
    let mut spoiler = Spoiler::new(manner, seed);
    let delay = if manner == Manner::Late { LATE } else { Duration::ZERO };
    let carried = frames(agent, |frame| {
        let mut bytes = Vec::new();
        spoiler.upwards(frame, &mut bytes);
        queue.send((Instant::now() + delay, bytes)).context("the node is gone")
    });
    drop(queue);
    drop(writer.join());
    carried
}

/// Carries what the node says to the real agent.
fn downwards(node: &UnixStream, mut agent: &UnixStream, manner: Manner) -> Result<()> {
    let carried = frames(node, |frame| {
        let mut bytes = Vec::new();
        spoil::downwards(manner, frame, &mut bytes)?;
        Ok(agent.write_all(&bytes)?)
    });
    agent.shutdown(Shutdown::Write)?;
    carried
}

/// Hands each frame that comes to `each`, until the socket ends.
fn frames(mut socket: &UnixStream, mut each: impl FnMut(Frame<'_>) -> Result<()>) -> Result<()> {
    let (mut received, mut chunk) = (Vec::new(), vec![0; READ_BYTES]);
    loop {
        let mut rest = received.as_slice();
        while let Some((frame, behind)) = split_frame(rest, AGENT_PAYLOAD_BYTES_MAX)? {
            rest = behind;
            each(frame)?;
        }
        received = rest.to_vec();
        match socket.read(&mut chunk)? {
            0 => return Ok(()),
            count => received.extend_from_slice(&chunk[..count]),
        }
    }
}
