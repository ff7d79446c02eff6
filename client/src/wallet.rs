//! What a user holds in one campaign: the tally, the tickets, what became of each, and the shake
//! that waits for its answer, with the node that was asked. Pure data with one mutation,
//! [`Wallet::apply`]; stores replay it.

use crate::limits::HOME_BYTES_MAX;
use yao_protocol::{
    PacketId, ShakeId, WallTime, WireError,
    receipt::{RECEIPT_BYTES, Receipt},
    reconnect::RECONNECT_BYTES,
    tally::{TALLY_BYTES, Tally},
    ticket::Ticket,
};

/// One change of a wallet: what a store keeps, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The server's latest count of this user's wins.
    Tally([u8; TALLY_BYTES]),
    /// A packet was won.
    Ticket(Ticket),
    /// An open was accepted.
    Receipt([u8; RECEIPT_BYTES]),
    /// An open was refused for good.
    Refused {
        /// The packet.
        packet: PacketId,
        /// The server's error code as it travels (wire.md 6).
        code: u16,
    },
    /// The user opens a ticket; what became of it is not known yet.
    Opening(PacketId),
    /// A shake waits for its answer, or (`None`) no longer does.
    Pending(Option<ShakeId>),
    /// Shakes go to this node now, or (`None`) to one whose name is too long to be kept.
    Home(Option<Home>),
    /// A ticket to come back with came, or (`None`) was used.
    Reconnect(Option<ReconnectSecret>),
}

/// The endpoint of a node as text: 1 to [`HOME_BYTES_MAX`] bytes. Of a fixed size, because records
/// are copied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Home {
    length: u8,
    /// Invariant: the first `length` are text, the others 0.
    bytes: [u8; HOME_BYTES_MAX],
}

impl Home {
    /// `None` when the text is empty or too long.
    #[must_use]
    pub fn new(endpoint: &str) -> Option<Self> {
        let mut bytes = [0; HOME_BYTES_MAX];
        bytes.get_mut(..endpoint.len())?.copy_from_slice(endpoint.as_bytes());
        let length = u8::try_from(endpoint.len()).ok().filter(|length| *length > 0)?;
        Some(Self { length, bytes })
    }

    /// The text.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("made of text")
    }
}

impl std::fmt::Debug for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Home({:?})", self.endpoint())
    }
}

/// The bytes of a reconnect ticket: as good as the session token, so they are shown to nobody.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReconnectSecret(pub [u8; RECONNECT_BYTES]);

impl std::fmt::Debug for ReconnectSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReconnectSecret")
    }
}

impl Record {
    /// Whether the record must be on disk before the client goes on. A pending shake need not be:
    /// the server sends an unanswered win again after the next WELCOME in any case (M6). Nor a
    /// tally: the server has counted already, and it is followed by its ticket, whose flush covers
    /// both. Nor a reconnect ticket: a lost one, or a used one that comes back, costs one attempt.
    /// A home is as good as the pending shake behind it.
    #[must_use]
    pub const fn must_be_durable(&self) -> bool {
        !matches!(self, Self::Pending(_) | Self::Home(_) | Self::Tally(_) | Self::Reconnect(_))
    }
}

/// What became of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not opened yet, or the receipt has not come.
    Unopened,
    /// The open was accepted.
    Opened([u8; RECEIPT_BYTES]),
    /// The open was refused for good, with this error code.
    Refused(u16),
}

/// A ticket and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The ticket.
    pub ticket: Ticket,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether the user opened it and the answer has not come: the client repeats the open, over
    /// lives of the app, too. With [`Outcome::Refused`] it was opened again.
    pub opening: bool,
}

/// Everything one user holds in one campaign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wallet {
    tally: Option<([u8; TALLY_BYTES], WallTime)>,
    holdings: Vec<Holding>,
    pending: Option<ShakeId>,
    home: Option<Home>,
    reconnect: Option<ReconnectSecret>,
}

impl Wallet {
    /// Applies one record; applying it again changes nothing. Says whether anything changed.
    ///
    /// # Errors
    /// A tally or receipt whose bytes are none.
    pub fn apply(&mut self, record: &Record) -> Result<bool, WireError> {
        match record {
            Record::Tally(bytes) => {
                let counted_at = Tally::peek(bytes)?.counted_at;
                // Answers can overtake one another around a reconnect: only a later count wins.
                let newer = self.tally.is_none_or(|(_, held)| counted_at > held);
                if newer {
                    self.tally = Some((*bytes, counted_at));
                }
                Ok(newer)
            }
            Record::Ticket(ticket) => {
                let new = self.holding(ticket.body.packet).is_none();
                if new {
                    let (outcome, opening) = (Outcome::Unopened, false);
                    self.holdings.push(Holding { ticket: *ticket, outcome, opening });
                }
                Ok(new)
            }
            Record::Receipt(bytes) => {
                let packet = Receipt::peek(bytes)?.packet;
                Ok(self.decide(packet, Outcome::Opened(*bytes)))
            }
            Record::Refused { packet, code } => Ok(self.decide(*packet, Outcome::Refused(*code))),
            Record::Opening(packet) => Ok(self.open(*packet)),
            Record::Pending(pending) => {
                let changed = self.pending != *pending;
                self.pending = *pending;
                Ok(changed)
            }
            Record::Home(home) => {
                let changed = self.home != *home;
                self.home = *home;
                Ok(changed)
            }
            Record::Reconnect(secret) => {
                let changed = self.reconnect != *secret;
                self.reconnect = *secret;
                Ok(changed)
            }
        }
    }

    /// The records that make this wallet again, fewest possible.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        records.extend(self.tally.map(|(bytes, _)| Record::Tally(bytes)));
        for holding in &self.holdings {
            let packet = holding.ticket.body.packet;
            records.push(Record::Ticket(holding.ticket));
            match holding.outcome {
                Outcome::Unopened => {}
                Outcome::Opened(bytes) => records.push(Record::Receipt(bytes)),
                Outcome::Refused(code) => records.push(Record::Refused { packet, code }),
            }
            if holding.opening {
                records.push(Record::Opening(packet));
            }
        }
        records.extend(self.home.map(|home| Record::Home(Some(home))));
        records.extend(self.pending.map(|shake| Record::Pending(Some(shake))));
        records.extend(self.reconnect.map(|secret| Record::Reconnect(Some(secret))));
        records
    }

    /// The tally to show to the server, if there is one.
    #[must_use]
    pub const fn tally(&self) -> Option<&[u8; TALLY_BYTES]> {
        match &self.tally {
            Some((bytes, _)) => Some(bytes),
            None => None,
        }
    }

    /// The tickets, in the order in which they came.
    #[must_use]
    pub fn holdings(&self) -> &[Holding] {
        &self.holdings
    }

    /// The ticket of `packet`, if it is here.
    #[must_use]
    pub fn holding(&self, packet: PacketId) -> Option<&Holding> {
        self.holdings.iter().find(|holding| holding.ticket.body.packet == packet)
    }

    /// The shake that waits for its answer.
    #[must_use]
    pub const fn pending(&self) -> Option<ShakeId> {
        self.pending
    }

    /// The node that the last shake was sent to: it may have recorded a win.
    #[must_use]
    pub const fn home(&self) -> Option<Home> {
        self.home
    }

    /// The ticket to come back with.
    #[must_use]
    pub const fn reconnect(&self) -> Option<ReconnectSecret> {
        self.reconnect
    }

    /// What was accepted is decided for good; what was refused may be asked again.
    fn open(&mut self, packet: PacketId) -> bool {
        self.undecided(packet).is_some_and(|held| !std::mem::replace(&mut held.opening, true))
    }

    /// A receipt is final; a refusal yields to a receipt, because a receipt proves acceptance.
    fn decide(&mut self, packet: PacketId, outcome: Outcome) -> bool {
        self.undecided(packet).is_some_and(|held| {
            let decided = Holding { ticket: held.ticket, outcome, opening: false };
            std::mem::replace(held, decided) != decided
        })
    }

    /// The ticket of `packet`, if it is here without a receipt.
    fn undecided(&mut self, packet: PacketId) -> Option<&mut Holding> {
        let found = self.holdings.iter_mut().find(|held| held.ticket.body.packet == packet);
        found.filter(|held| !matches!(held.outcome, Outcome::Opened(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::{receipt, tally, ticket};

    #[test]
    fn a_wallet_is_rebuilt_from_its_records_and_applying_twice_changes_nothing() {
        let mut wallet = Wallet::default();
        let changes = [
            Record::Tally(tally(1, 10)),
            Record::Ticket(ticket(1, 100)),
            Record::Ticket(ticket(2, 101)),
            Record::Receipt(receipt(1)),
            Record::Refused { packet: PacketId(2), code: 8 },
            Record::Opening(PacketId(2)),
            Record::Ticket(ticket(3, 102)),
            Record::Opening(PacketId(3)),
            Record::Home(Home::new("tls+quic://node-1.example:443")),
            Record::Pending(Some(ShakeId(5))),
            Record::Reconnect(Some(ReconnectSecret([1; RECONNECT_BYTES]))),
        ];
        for change in &changes {
            assert_eq!(wallet.apply(change), Ok(true), "{change:?}");
            assert_eq!(wallet.apply(change), Ok(false), "again {change:?}");
        }
        let mut again = Wallet::default();
        for record in wallet.records() {
            again.apply(&record).expect("its own records");
        }
        assert_eq!(again, wallet);
    }

    #[test]
    fn the_latest_tally_and_the_strongest_outcome_stay() {
        let mut wallet = Wallet::default();
        let mut apply = |record| wallet.apply(&record).expect("valid");
        assert!(apply(Record::Tally(tally(2, 20))));
        assert!(!apply(Record::Tally(tally(1, 10))), "an older count came late");
        assert!(apply(Record::Ticket(ticket(1, 100))));
        assert!(apply(Record::Refused { packet: PacketId(1), code: 10 }));
        assert!(apply(Record::Receipt(receipt(1))), "a receipt proves acceptance");
        assert!(!apply(Record::Refused { packet: PacketId(1), code: 8 }));
        assert_eq!(wallet.tally(), Some(&tally(2, 20)));
        let held = wallet.holding(PacketId(1)).expect("held");
        assert_eq!(held.outcome, Outcome::Opened(receipt(1)));
    }

    #[test]
    fn a_home_is_a_text_that_fits_and_no_record_is_larger_for_it() {
        for length in [1, 2, HOME_BYTES_MAX] {
            let text = "x".repeat(length);
            assert_eq!(Home::new(&text).expect("it fits").endpoint(), text);
        }
        for length in [0, HOME_BYTES_MAX + 1, 255, 256] {
            assert_eq!(Home::new(&"x".repeat(length)), None, "{length}");
        }
        assert!(size_of::<Home>() < size_of::<Ticket>());
    }

    #[test]
    fn an_open_lasts_until_it_is_decided() {
        let mut wallet = Wallet::default();
        let mut check = |record: Record, changes: bool, opening: bool| {
            assert_eq!(wallet.apply(&record), Ok(changes), "{record:?}");
            assert_eq!(wallet.holdings().iter().any(|held| held.opening), opening, "{record:?}");
        };
        let open = Record::Opening(PacketId(1));
        let refused = Record::Refused { packet: PacketId(1), code: 10 };
        check(open, false, false);
        check(Record::Ticket(ticket(1, 100)), true, false);
        check(open, true, true);
        check(Record::Ticket(ticket(1, 100)), false, true);
        check(refused, true, false);
        check(open, true, true);
        check(refused, true, false);
        check(open, true, true);
        check(Record::Receipt(receipt(1)), true, false);
        check(open, false, false);
    }
}
