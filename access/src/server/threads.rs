//! The threads of sessions: what each is started with, and how it comes back after a panic.

use crate::{
    quic::{QuicPorts, QuicThread},
    sessions::SessionContext,
    shard::{Ports, Shard},
};
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
    thread,
    time::Duration,
};
use yao_engine::shard::Settings;

/// A thread that fails at once is not started again in a tight loop.
const RESTART_REST: Duration = Duration::from_millis(100);

/// How the clients of a thread come in.
pub(super) enum Way {
    /// TCP, with TLS or without.
    Streams(Box<Ports>),
    /// QUIC.
    Quic(Box<QuicPorts>),
}

impl Way {
    pub(super) const fn is_quic(&self) -> bool {
        matches!(self, Self::Quic(_))
    }

    fn run(&mut self, context: &SessionContext, settings: Settings) -> io::Result<()> {
        match self {
            Self::Streams(ports) => Shard::new(context, settings, ports)?.run(),
            Self::Quic(ports) => QuicThread::new(context, settings, ports)?.run(),
        }
    }
}

/// Runs a thread of sessions; a panic closes its connections and starts it again. Other threads
/// notice nothing.
pub(super) fn run(context: &SessionContext, settings: Settings, mut way: Way) {
    loop {
        match catch_unwind(AssertUnwindSafe(|| way.run(context, settings.clone()))) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(event = "session_thread_failed", %error, thread = settings.thread);
                thread::sleep(RESTART_REST);
            }
            Err(_) => tracing::error!(event = "session_thread_restarted", thread = settings.thread),
        }
        context.counters.begin_again();
        if context.orders.stopping.load(Ordering::Relaxed) {
            return;
        }
        let lost = context.registry.forget_thread(settings.thread);
        context.orders.cut_off(lost);
    }
}
