//! The way of events from the client's task to the app: bounded, and never in the task's way. An
//! app that does not read loses passing states first; what is about money waits for it.

use crate::{event::Event, limits::EVENTS_KEPT_MAX};
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// The app's end: what happened, in order.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Event>);

impl Events {
    /// The next event; `None` after [`Event::Stopped`]. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

/// The task's end.
#[derive(Debug)]
pub(crate) struct Mailbox {
    sender: mpsc::Sender<Event>,
    /// Events that must arrive and found the queue full, oldest first.
    kept: VecDeque<Event>,
}

/// A mailbox for at least one and about `count_max` events.
pub(crate) fn mailbox(count_max: usize) -> (Mailbox, Events) {
    let (sender, receiver) = mpsc::channel(count_max.max(1));
    (Mailbox { sender, kept: VecDeque::new() }, Events(receiver))
}

impl Mailbox {
    /// Tells the app now, or later, or, for a passing state and a full queue, not at all.
    pub(crate) fn push(&mut self, event: Event) {
        let full = if self.kept.is_empty() {
            match self.sender.try_send(event) {
                // An app that dropped its end does not want to know.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return,
                Err(mpsc::error::TrySendError::Full(event)) => event,
            }
        } else {
            event
        };
        // More than every ticket's events cannot wait: they are in the store all the same.
        if full.must_arrive() && self.kept.len() < EVENTS_KEPT_MAX {
            self.kept.push_back(full);
        }
    }

    /// Delivers one kept event as soon as there is room; waits for ever when none is kept.
    /// Cancelling the wait loses nothing.
    pub(crate) async fn deliver(&mut self) {
        if self.kept.is_empty() {
            return std::future::pending().await;
        }
        match self.sender.reserve().await {
            Ok(permit) => {
                let event = self.kept.pop_front().expect("checked above");
                permit.send(event);
            }
            Err(mpsc::error::SendError(())) => self.kept.clear(),
        }
    }

    /// Delivers everything and then `last`, however long the app takes, unless it left.
    pub(crate) async fn finish(mut self, last: Event) {
        while !self.kept.is_empty() {
            self.deliver().await;
        }
        // A closed queue means that nobody is left to tell.
        drop(self.sender.send(last).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Error, session::testing::ticket};

    #[tokio::test]
    async fn a_slow_app_loses_passing_states_and_no_win() {
        let (mut mailbox, mut events) = mailbox(2);
        let won = |packet| Event::Won(Box::new(ticket(packet, packet)));
        for packet in 0..20 {
            mailbox.push(won(packet));
            mailbox.push(Event::Cue(7));
        }
        let finish = tokio::spawn(mailbox.finish(Event::Stopped(Error::Closed)));
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            seen.push(event);
        }
        finish.await.expect("no panic");
        assert_eq!(seen.pop(), Some(Event::Stopped(Error::Closed)));
        assert_eq!(seen.len(), 21, "twenty wins, and the one cue that found room");
        seen.retain(|event| *event != Event::Cue(7));
        assert_eq!(seen, (0..20).map(won).collect::<Vec<_>>(), "in order");
    }
}
