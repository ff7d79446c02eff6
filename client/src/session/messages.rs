//! What each message of the server means for the session. A message that has no place in the
//! current state ends the connection: the server is at fault.

use super::{Departure, Heartbeat, Output, Session, State, shaker::Answer};
use crate::{
    error::{Error, ProtocolError},
    event::{Event, Opened},
    limits::{RETRY_NOW_MS, TICKETS_MAX},
    reconnect::Retry,
    time::Timestamp,
    wallet::Record,
};
use yao_protocol::{
    CampaignId, PacketId,
    client::{ErrorCode, GoAway, NoWin, Refusal, RetryClass, ServerMessage, Welcome},
    frame::Frame,
    receipt::{RECEIPT_BYTES, Receipt},
    tally::{TALLY_BYTES, Tally},
    ticket::{TICKET_BYTES, Ticket},
};

impl Session {
    /// A whole frame came in. Frames that come after the session departed are ignored.
    pub fn handle_frame(&mut self, now: Timestamp, frame: Frame<'_>) {
        if matches!(self.state, State::Offline) {
            return;
        }
        match self.handle_message(now, frame) {
            Ok(()) => self.pump(now),
            Err(error) => self.fail(error),
        }
    }

    fn handle_message(&mut self, now: Timestamp, frame: Frame<'_>) -> Result<(), ProtocolError> {
        let message = ServerMessage::decode(frame)?;
        let request_id = frame.header.request_id;
        match (&mut self.state, message) {
            (_, ServerMessage::Unknown) => {}
            (_, ServerMessage::GoAway(goaway)) => self.handle_goaway(now, goaway),
            (State::Greeting { hello_id, .. }, ServerMessage::Error(refusal)) => {
                let closes = refusal.closes || request_id == *hello_id;
                self.handle_refusal(now, request_id, Refusal { closes, ..refusal });
            }
            (_, ServerMessage::Error(refusal)) => self.handle_refusal(now, request_id, refusal),
            (State::Greeting { .. }, ServerMessage::Welcome(welcome)) => {
                self.handle_welcome(now, welcome)?;
            }
            (State::Greeting { .. }, _) => {
                return Err(ProtocolError::Unexpected {
                    message: "an answer",
                    when: "before WELCOME",
                });
            }
            (_, ServerMessage::Welcome(_)) => {
                return Err(ProtocolError::Unexpected {
                    message: "WELCOME",
                    when: "a second time",
                });
            }
            (_, ServerMessage::Pong(_)) => {}
            (_, ServerMessage::NoWin(no_win)) => self.handle_no_win(now, no_win),
            (_, ServerMessage::Win { ticket, tally }) => self.handle_win(now, ticket, tally)?,
            (_, ServerMessage::Receipt(proof)) => self.handle_receipt(proof)?,
            (_, ServerMessage::Reconnect(ticket)) => self.handle_reconnect(now, ticket),
        }
        if let State::Open(heartbeat) = &mut self.state {
            self.rhythm = heartbeat.handle_received();
        }
        Ok(())
    }

    fn handle_welcome(&mut self, now: Timestamp, welcome: Welcome) -> Result<(), ProtocolError> {
        self.check_campaign("WELCOME", welcome.campaign)?;
        let (rhythm, foreground) = (self.rhythm, self.foreground);
        let heartbeat = Heartbeat::new(now, &welcome, rhythm, foreground, &mut self.random);
        self.state = State::Open(heartbeat);
        self.shaker.handle_welcome(now, welcome.shake_interval_ms);
        self.claims.handle_welcome(now);
        self.auth_failed_count = 0;
        self.outputs.push_back(Output::Welcome(welcome.endpoints));
        let (transport, endpoint) = self.route.clone();
        self.tell(Event::Connected {
            transport,
            endpoint,
            shake_interval_ms: welcome.shake_interval_ms,
            wins_per_user: welcome.wins_per_user,
        });
        self.handle_cue(welcome.cue);
        Ok(())
    }

    fn handle_cue(&mut self, cue: u16) {
        if self.cue.replace(cue) != Some(cue) {
            self.tell(Event::Cue(cue));
        }
    }

    fn handle_no_win(&mut self, now: Timestamp, answer: NoWin) {
        self.handle_cue(answer.cue);
        let NoWin { shake, cue, reason, interval_ms, .. } = answer;
        match self.shaker.handle_no_win(now, &answer) {
            // The late answer to a shake that a resend already decided.
            Answer::Foreign => {}
            Answer::Decided => {
                self.persist(Record::Pending(None));
                self.tell(Event::NoWin { shake, cue, reason });
            }
            Answer::Merged => {
                self.persist(Record::Pending(None));
                self.tell(Event::Throttled { interval_ms, reason });
            }
            Answer::Undecided => self.tell(Event::Throttled { interval_ms, reason }),
        }
    }

    /// A win is taken whether it was asked for or not: after WELCOME the server sends again what
    /// it thinks we may have missed.
    fn handle_win(
        &mut self,
        now: Timestamp,
        ticket: &[u8; TICKET_BYTES],
        tally: &[u8; TALLY_BYTES],
    ) -> Result<(), ProtocolError> {
        let ticket = Ticket::decode(ticket)?;
        let tally_campaign = Tally::peek(tally)?.campaign;
        self.check_campaign("a ticket", ticket.body.campaign)?;
        self.check_campaign("a tally", tally_campaign)?;
        let packet = ticket.body.packet;
        if self.wallet.holding(packet).is_none() && self.wallet.holdings().len() >= TICKETS_MAX {
            return Err(ProtocolError::TooManyTickets);
        }
        self.persist(Record::Tally(*tally));
        if self.persist(Record::Ticket(ticket)) {
            self.tell(Event::Won(Box::new(ticket)));
            if self.config.open_automatically {
                self.claims.add(now, packet);
            }
        }
        // Only now: while the ticket is not stored, the shake still stands for it.
        if self.shaker.handle_win(now, ticket.body.shake) {
            self.persist(Record::Pending(None));
        }
        Ok(())
    }

    fn handle_receipt(&mut self, proof: &[u8; RECEIPT_BYTES]) -> Result<(), ProtocolError> {
        let receipt = Receipt::peek(proof)?;
        self.check_campaign("a receipt", receipt.campaign)?;
        let Some(held) = self.wallet.holding(receipt.packet) else {
            return Err(ProtocolError::Unexpected {
                message: "a receipt",
                when: "for a packet that this client never opened",
            });
        };
        if held.ticket.body.user != receipt.user {
            return Err(ProtocolError::OtherUser);
        }
        let stored = self.persist(Record::Receipt(*proof));
        let awaited = self.claims.finish(receipt.packet);
        if stored || awaited {
            self.tell(Event::Opened(Box::new(Opened { receipt, proof: *proof })));
        }
        Ok(())
    }

    fn handle_goaway(&mut self, now: Timestamp, goaway: GoAway) {
        if matches!(self.state, State::Greeting { .. }) {
            self.handle_not_used(now);
        }
        self.tell(Event::GoAway(goaway.reason));
        let departure = Departure {
            error: Error::GoAway(goaway.reason),
            retry: Retry::from_goaway(&goaway),
            endpoints: goaway.endpoints,
        };
        match self.state {
            // The first word counts: a second GOAWAY must not prolong the stay.
            State::Leaving { .. } | State::Offline => {}
            State::Greeting { .. } => self.farewell(departure),
            State::Open(_) => self.leave(now, departure),
        }
    }

    /// An ERROR: for the session, for an open, or for the shake in flight.
    fn handle_refusal(&mut self, now: Timestamp, request_id: u32, refusal: Refusal) {
        let Refusal { code, class, delay_ms, jitter_ms, .. } = refusal;
        let greeting = matches!(self.state, State::Greeting { .. });
        let again = if code == ErrorCode::AuthFailed && greeting {
            self.handle_not_believed()
        } else {
            None
        };
        let departure = Departure {
            error: Error::Refused(code),
            retry: again.unwrap_or(Retry::from_class(class, delay_ms, jitter_ms)),
            endpoints: Vec::new(),
        };
        if let Some(packet) = self.claims.packet(request_id) {
            self.handle_open_refusal(now, packet, refusal);
            if refusal.closes && class == RetryClass::Never {
                // "Never" was about the ticket, not about the user.
                self.depart(Departure { retry: Retry::BackOff, ..departure });
            } else if refusal.closes {
                self.depart(departure);
            }
            return;
        }
        if refusal.closes || class == RetryClass::Reauthenticate {
            return self.depart(departure);
        }
        let wait_ms = self.wait_ms(&refusal);
        match class {
            // Every shake has the same content but for its id: none would be accepted.
            RetryClass::Never if self.shaker.is_waiting_for(request_id) => self.depart(departure),
            _ => match self.shaker.handle_refusal(now, request_id, wait_ms) {
                Answer::Merged => {
                    self.persist(Record::Pending(None));
                }
                Answer::Foreign | Answer::Decided | Answer::Undecided => {}
            },
        }
    }

    fn handle_open_refusal(&mut self, now: Timestamp, packet: PacketId, refusal: Refusal) {
        match refusal.class {
            RetryClass::Never => self.refuse_for_good(packet, refusal.code),
            RetryClass::Now | RetryClass::After | RetryClass::Reauthenticate => {
                let due_at = now.plus_ms(self.wait_ms(&refusal));
                let unavailable = refusal.code == ErrorCode::OpenUnavailable;
                let in_vain = self.claims.postpone(packet, due_at, unavailable);
                // Another node would draw a pending shake anew whose win is recorded here (M6). Put
                // off, the open waits for its time on this node, and so for the next refusal.
                let may_leave = self.elsewhere_known && self.wallet.pending().is_none();
                if refusal.class == RetryClass::Reauthenticate {
                    let error = Error::Refused(refusal.code);
                    let retry = Retry::Reauthenticate;
                    self.farewell(Departure { error, retry, endpoints: Vec::new() });
                } else if in_vain && may_leave {
                    // The delay is this node's: at another one the user may shake meanwhile.
                    let retry = Retry::After { delay_ms: 0, jitter_ms: 0 };
                    let error = Error::OpenUnavailable;
                    self.farewell(Departure { error, retry, endpoints: Vec::new() });
                }
            }
        }
    }

    /// How long a refusal asks to wait, with its jitter drawn, ms.
    fn wait_ms(&mut self, refusal: &Refusal) -> u64 {
        let jitter_ms = self.random.up_to(u64::from(refusal.jitter_ms));
        match refusal.class {
            RetryClass::After => (u64::from(refusal.delay_ms) + jitter_ms)
                .clamp(RETRY_NOW_MS, crate::limits::DELAY_MS_MAX),
            RetryClass::Now | RetryClass::Reauthenticate | RetryClass::Never => RETRY_NOW_MS,
        }
    }

    fn check_campaign(
        &self,
        message: &'static str,
        campaign: CampaignId,
    ) -> Result<(), ProtocolError> {
        if campaign == self.config.campaign {
            Ok(())
        } else {
            Err(ProtocolError::OtherCampaign { message, campaign })
        }
    }
}
