//! The network between phones and nodes: streams whose bytes arrive in order, late, in pieces, or
//! not at all.

use super::{Checked, Event, Fault, MS, SECOND, World};
use crate::phone::Cheat;

/// One connection, from the first attempt to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) phone: usize,
    pub(super) node: usize,
    /// The process at the other end.
    pub(super) life: u32,
    /// Its slot there.
    pub(super) slot: Option<u32>,
    /// Whether the phone still has it.
    pub(super) at_phone: bool,
    /// Whether the node still has it.
    pub(super) at_node: bool,
    /// Nothing arrives any more, and nobody is told.
    pub(super) silent: bool,
    /// The connection was made.
    pub(super) made: bool,
    /// When the last bytes arrive, ns: later ones come after them. To the node, to the phone.
    last: [u64; 2],
}

/// Phones are spread over so many regions, which are cut off together.
const REGIONS: usize = 4;

impl World<'_> {
    pub(super) const fn region(phone: usize) -> usize {
        phone % REGIONS
    }

    /// The time that something takes between this phone and this node.
    fn travel(&mut self, phone: usize, node: usize) -> u64 {
        let random = &mut self.network_random;
        let usual = random.between(5 * MS, 25 * MS);
        let jitter = if self.faults.has(Fault::Jitter) && !self.healed && random.chance(100) {
            random.between(0, 1_500 * MS)
        } else {
            0
        };
        let cut = self.partitions.get(&(Self::region(phone), node)).copied().unwrap_or(0);
        // What is cut off is repeated and arrives some time after the cut has ended.
        let waits = if cut > self.now { cut - self.now + random.below(2 * SECOND) } else { 0 };
        usual + jitter + waits
    }

    pub(super) fn open_link(&mut self, phone: usize, node: usize) {
        let link = self.links.len();
        self.links.push(Link {
            phone,
            node,
            life: 0,
            slot: None,
            at_phone: true,
            at_node: false,
            silent: false,
            made: false,
            last: [0; 2],
        });
        self.phones[phone].link = Some(link);
        let wait = self.travel(phone, node);
        self.after(wait, Event::Arrive(link));
    }

    /// A connection reaches its node.
    pub(super) fn arrive(&mut self, link: usize) -> Checked {
        let Link { phone, node, at_phone, .. } = self.links[link];
        if !at_phone {
            return Ok(());
        }
        let back = self.travel(phone, node);
        let host = &mut self.hosts[node];
        if host.paused_until > self.now {
            // The kernel takes it; the process is told when it runs again.
            let later = host.paused_until;
            self.at(later, Event::Arrive(link));
            return Ok(());
        }
        host.tell_time(self.now);
        let taken = host.process.as_mut().and_then(|process| process.accept(link));
        let made = taken.is_some();
        if let Some(slot) = taken {
            let life = host.life;
            let known = &mut self.links[link];
            (known.life, known.slot, known.at_node) = (life, Some(slot), true);
            self.trace.say(self.now, "accept", &[("node", node as u64), ("link", link as u64)]);
        }
        // A machine without power does not even refuse.
        let wait = if self.hosts[node].dark { 3 * SECOND } else { back };
        self.after(wait, Event::Connected { link, made });
        self.after_node(node)
    }

    /// Sends bytes along a link, as many pieces as the network likes; none: its end.
    pub(super) fn transmit(&mut self, link: usize, to_node: bool, bytes: &[u8]) {
        let Link { phone, node, silent, .. } = self.links[link];
        if silent {
            return;
        }
        let mut pieces: Vec<&[u8]> = vec![bytes];
        if self.faults.has(Fault::Fragments) && bytes.len() > 1 && self.network_random.chance(200) {
            let (head, tail) = bytes.split_at(1 + self.network_random.index(bytes.len() - 1));
            pieces = vec![head, tail];
        }
        for piece in pieces {
            let direction = usize::from(!to_node);
            let arrives = self.now + self.travel(phone, node);
            let at = arrives.max(self.links[link].last[direction] + 1);
            self.links[link].last[direction] = at;
            self.at(at, Event::Deliver { link, to_node, bytes: piece.to_vec() });
        }
    }

    pub(super) fn deliver(&mut self, link: usize, to_node: bool, bytes: &[u8]) -> Checked {
        if self.links[link].silent {
            return Ok(());
        }
        if to_node { self.deliver_to_node(link, bytes) } else { self.deliver_to_phone(link, bytes) }
    }

    fn deliver_to_node(&mut self, link: usize, bytes: &[u8]) -> Checked {
        let Link { node, life, .. } = self.links[link];
        let host = &self.hosts[node];
        if host.paused_until > self.now && host.life == life {
            // Its socket buffer keeps them.
            let until = host.paused_until;
            self.held.entry(link).or_default().push(bytes.to_vec());
            self.at(until, Event::Resume(link));
            return Ok(());
        }
        self.resume(link)?;
        self.read_at_node(link, bytes)
    }

    /// The node reads what came while it stood still: before anything that comes later.
    pub(super) fn resume(&mut self, link: usize) -> Checked {
        let paused_until = self.hosts[self.links[link].node].paused_until;
        if paused_until > self.now {
            self.at(paused_until, Event::Resume(link));
            return Ok(());
        }
        for bytes in self.held.remove(&link).unwrap_or_default() {
            self.read_at_node(link, &bytes)?;
        }
        Ok(())
    }

    fn read_at_node(&mut self, link: usize, bytes: &[u8]) -> Checked {
        let Link { node, life, slot, at_node, .. } = self.links[link];
        let host = &mut self.hosts[node];
        let (true, Some(slot), true) = (at_node, slot, host.life == life) else { return Ok(()) };
        host.tell_time(self.now);
        let Some(process) = host.process.as_mut() else { return Ok(()) };
        if bytes.is_empty() {
            process.sessions.drop_connection(slot);
        } else {
            process.receive(slot, bytes);
        }
        self.after_node(node)
    }

    fn deliver_to_phone(&mut self, link: usize, bytes: &[u8]) -> Checked {
        let Link { phone, at_phone, .. } = self.links[link];
        if !at_phone || self.phones[phone].link != Some(link) {
            return Ok(());
        }
        let now_ms = self.now_ms();
        if bytes.is_empty() {
            self.links[link].at_phone = false;
            self.phones[phone].link = None;
            self.trace.say(self.now, "cut off", &[("link", link as u64)]);
            let made = self.links[link].made;
            self.phones[phone].handle_broken(now_ms, made);
        } else {
            self.phones[phone].receive(now_ms, bytes);
        }
        self.after_phone(phone)
    }

    /// The node closed the link, or its process ended: the phone hears of it, unless the machine
    /// has no power to say so.
    pub(super) fn node_closed(&mut self, link: usize, tell: bool) {
        self.links[link].at_node = false;
        if tell {
            self.transmit(link, false, &[]);
        }
    }

    /// A random connection breaks, or falls silent.
    pub(super) fn break_link(&mut self, silently: bool) -> Checked {
        let live: Vec<usize> = self.phones.iter().filter_map(|phone| phone.link).collect();
        if live.is_empty() {
            return Ok(());
        }
        let link = live[self.nemesis_random.index(live.len())];
        if !self.links[link].made {
            return Ok(());
        }
        self.trace.say(
            self.now,
            "break",
            &[("link", link as u64), ("silent", u64::from(silently))],
        );
        if silently {
            self.links[link].silent = true;
            return Ok(());
        }
        self.transmit(link, true, &[]);
        let phone = self.links[link].phone;
        self.links[link].at_phone = false;
        self.phones[phone].link = None;
        let now_ms = self.now_ms();
        self.phones[phone].handle_broken(now_ms, true);
        self.after_phone(phone)
    }

    /// What a cheater does besides, now and then.
    pub(super) fn mischief(&mut self, phone: usize) -> Checked {
        let now_ms = self.now_ms();
        match self.phones[phone].cheat {
            Some(Cheat::OpenOthers) => {
                let choice = self.people_random.next();
                if let Some(ticket) = self.checks.any_ticket(choice) {
                    self.phones[phone].open(now_ms, ticket);
                }
                self.after_phone(phone)
            }
            Some(Cheat::Hop | Cheat::NoTally | Cheat::OldTally | Cheat::OpenTwice)
                if self.people_random.chance(150) =>
            {
                self.hang_up(phone)
            }
            _ => Ok(()),
        }
    }

    /// A user leaves and comes back.
    fn hang_up(&mut self, phone: usize) -> Checked {
        let Some(link) = self.phones[phone].link.filter(|link| self.links[*link].made) else {
            return Ok(());
        };
        self.transmit(link, true, &[]);
        self.links[link].at_phone = false;
        self.phones[phone].link = None;
        let now_ms = self.now_ms();
        self.phones[phone].handle_broken(now_ms, true);
        self.after_phone(phone)
    }
}
