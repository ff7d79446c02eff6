//! One client of the crowd, seen through its events: counts them, and hands tickets and receipts
//! to the log.

use super::{journal::Journal, ticket_log::Line, totals::Totals};
use anyhow::{Context, Result};
use std::sync::Arc;
use tokio::sync::mpsc;
use yao_client::{Error, Event, Events, Transport};

/// One client's events, counted and logged.
pub(super) struct Player {
    totals: Arc<Totals>,
    lines: mpsc::Sender<Line>,
    /// Booked, but not yet taken by the log.
    line: Option<Line>,
    events: Events,
    /// Where comings and goings are written down, and under which number.
    journal: Option<(Arc<Journal>, u64)>,
    /// What carries the session now.
    connected_by: Option<Transport>,
    was_connected: bool,
}

impl Player {
    pub(super) const fn new(
        totals: Arc<Totals>,
        lines: mpsc::Sender<Line>,
        events: Events,
        journal: Option<(Arc<Journal>, u64)>,
    ) -> Self {
        let (line, connected_by, was_connected) = (None, None, false);
        Self { totals, lines, line, events, journal, connected_by, was_connected }
    }

    /// Waits for an event and books it; says whether more can come. Cancelling the wait loses
    /// nothing: a line that the log has not taken is kept for the next call.
    pub(super) async fn next(&mut self) -> Result<bool> {
        self.log().await?;
        let Some(event) = self.events.next().await else { return Ok(false) };
        self.line = self.book(event)?;
        self.log().await?;
        Ok(true)
    }

    async fn log(&mut self) -> Result<()> {
        if self.line.is_some() {
            let permit = self.lines.reserve().await.context("the ticket log is closed")?;
            permit.send(self.line.take().expect("checked above"));
        }
        Ok(())
    }

    fn book(&mut self, event: Event) -> Result<Option<Line>> {
        let totals = Arc::clone(&self.totals);
        match event {
            Event::Connected { transport, .. } => {
                totals.sessions(transport).add();
                totals.connected.add();
                totals.connections.add();
                if std::mem::replace(&mut self.was_connected, true) {
                    totals.reconnects.add();
                }
                self.connected_by = Some(transport);
                if let Some((journal, client)) = &self.journal {
                    journal.connected(*client, transport.to_string())?;
                }
            }
            Event::NoWin { .. } | Event::Throttled { .. } => {
                totals.shakes.add();
            }
            Event::Won(ticket) => {
                totals.shakes.add();
                totals.wins.add();
                return Ok(Some(Line::Ticket(ticket.encode())));
            }
            Event::Opened(opened) => {
                totals.receipts.add();
                return Ok(Some(Line::Receipt(opened.proof)));
            }
            Event::OpenRefused { code, .. } => totals.count_error(format!("open: {code:?}")),
            Event::Disconnected { error, .. } => {
                self.handle_disconnected(&error)?;
                if matches!(error, Error::Protocol(_)) {
                    totals.count_error(error.to_string());
                } else {
                    totals.count_trouble(error.to_string());
                }
            }
            Event::Stopped(error) => {
                self.handle_disconnected(&error)?;
                if error != Error::Closed {
                    totals.count_error(format!("stopped: {error}"));
                }
            }
            _ => {}
        }
        Ok(None)
    }

    fn handle_disconnected(&mut self, error: &Error) -> Result<()> {
        let carried_by = self.connected_by.take();
        if let Some(transport) = carried_by {
            self.totals.connected.take_back();
            if *error != Error::Closed {
                self.totals.interruptions(transport).add();
            }
        }
        match &self.journal {
            Some((journal, client)) if *error != Error::Closed => {
                let transport = carried_by.map(|transport| transport.to_string());
                journal.disconnected(*client, transport, &error.to_string())
            }
            _ => Ok(()),
        }
    }
}
