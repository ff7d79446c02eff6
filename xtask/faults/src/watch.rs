//! The folder that is watched: each call in it is counted, struck if an order says so, and logged.

use crate::{
    name,
    order::{Counts, Operation, Order, Strike},
    system,
};
use std::{
    env,
    ffi::{CString, OsString},
    os::unix::ffi::OsStringExt,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What the environment says.
struct Watch {
    root: String,
    root_path: CString,
    log: CString,
    order: CString,
}

static COUNTS: Mutex<Counts> = Mutex::new(Counts::new());

impl Watch {
    fn of_this_process() -> Option<&'static Self> {
        static WATCH: OnceLock<Option<Watch>> = OnceLock::new();
        let read = |variable| env::var_os(variable).map(OsString::into_vec);
        let watch = WATCH.get_or_init(|| {
            let root = read("YAO_FAULTS_ROOT")?;
            Some(Self {
                root: String::from_utf8(root.clone()).ok()?,
                root_path: CString::new(root).ok()?,
                log: CString::new(read("YAO_FAULTS_LOG")?).ok()?,
                order: CString::new(read("YAO_FAULTS_ORDER")?).ok()?,
            })
        });
        watch.as_ref()
    }

    /// The order in force. One that cannot be read ends the process: a test that waits for it in
    /// vain would prove nothing.
    fn order(&self) -> Option<(Order, String)> {
        let text = system::read(&self.order)?;
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        match text.parse() {
            Ok(order) => Some((order, text.to_owned())),
            Err(()) => {
                system::append(&self.log, &format!("not understood: {text}\n"));
                std::process::abort()
            }
        }
    }

    fn log_strike(&self, text: &str) {
        system::append(&self.log, &format!("strike {} {text}\n", now_us()));
    }

    fn lose_power(&self) -> ! {
        if !system::cut_power(&self.root_path) {
            system::append(&self.log, &format!("no cut: error {}\n", system::errno()));
        }
        system::die()
    }
}

/// The name of the open file `descriptor`, if it is watched.
pub(crate) fn name_of(descriptor: i32) -> Option<String> {
    let watch = Watch::of_this_process()?;
    let errno = system::errno();
    let path = system::read_link(&format!("/proc/self/fd/{descriptor}"));
    system::set_errno(errno);
    name::of(&path?, &watch.root)
}

/// The name of the file at `path`, if it is watched.
pub(crate) fn name_at(path: Option<&str>) -> Option<String> {
    let watch = Watch::of_this_process()?;
    let path = path?;
    if path.starts_with('/') {
        return name::of(path, &watch.root);
    }
    let here = system::read_link("/proc/self/cwd")?;
    name::of(&format!("{here}/{path}"), &watch.root)
}

/// Makes the call `act`, which persists up to `bytes` bytes in the file called `name`, or lets
/// happen to it what the order says. `act` is given the number of bytes to write, and answers as
/// the system does; `flush` brings what was written to disk.
pub(crate) fn call(
    operation: Operation,
    name: Option<String>,
    bytes: usize,
    act: impl Fn(usize) -> isize,
    flush: impl Fn(),
) -> isize {
    let (Some(watch), Some(name)) = (Watch::of_this_process(), name) else { return act(bytes) };
    let begin_us = now_us();
    let order = watch.order();
    let (number, met) = {
        let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = counts.book(operation, &name);
        (number, order.filter(|(order, _)| counts.meets(order, operation, &name)))
    };
    let result = match met {
        None => act(bytes),
        Some((order, text)) => {
            watch.log_strike(&text);
            thread::sleep(Duration::from_millis(order.wait_ms));
            struck(watch, order.strike, bytes, act, flush)
        }
    };
    let errno = system::errno();
    let line =
        format!("call {begin_us} {} {} {name} {number} {result}\n", now_us(), operation.word());
    system::append(&watch.log, &line);
    system::set_errno(errno);
    result
}

fn struck(
    watch: &Watch,
    strike: Strike,
    bytes: usize,
    act: impl Fn(usize) -> isize,
    flush: impl Fn(),
) -> isize {
    match strike {
        Strike::Kill => system::die(),
        Strike::Cut => watch.lose_power(),
        Strike::TornKill => {
            act(bytes / 2);
            system::die()
        }
        Strike::TornSyncedKill => {
            act(bytes / 2);
            flush();
            system::die()
        }
        Strike::Fail(code) => {
            system::set_errno(code);
            -1
        }
        // Half of one byte is none, which would say that the disk is full.
        Strike::Short => act(bytes.div_ceil(2)),
        Strike::Stall => act(bytes),
    }
}

fn now_us() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros())
}
