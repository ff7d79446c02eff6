//! The people: when they come, shake, open, and what becomes of it.

use super::{Checked, Event, Fault, MS, SECOND, World};
use crate::{
    check::must,
    phone::{Act, Cheat, Phone},
    plan::{USERS_MAX, identity},
};
use yao_protocol::{PacketId, UserId, client::ErrorCode};

/// People shake until then, ns.
const SHAKES_END: u64 = 56 * SECOND;
/// A phone that cannot connect knows after this long, ns.
const CONNECT_MAX: u64 = 10 * SECOND;

impl World<'_> {
    pub(super) fn people_come(&mut self) {
        for user in 0..self.plot.users {
            assert!(user < USERS_MAX, "tokens for that many");
            let cheat = self.draw_cheat();
            let user = UserId(user);
            self.add_phone(user, cheat);
            if cheat == Some(Cheat::Fork) {
                self.add_phone(user, cheat);
            }
        }
    }

    fn draw_cheat(&mut self) -> Option<Cheat> {
        let kinds = [
            (Fault::DropTally, Cheat::NoTally),
            (Fault::DropTally, Cheat::OldTally),
            (Fault::Fork, Cheat::Fork),
            (Fault::Hop, Cheat::Hop),
            (Fault::OpenTwice, Cheat::OpenTwice),
            (Fault::OpenOthers, Cheat::OpenOthers),
        ];
        let (fault, cheat) = kinds[self.people_random.index(kinds.len())];
        (self.people_random.chance(350) && self.faults.has(fault)).then_some(cheat)
    }

    fn add_phone(&mut self, user: UserId, cheat: Option<Cheat>) {
        let phone = self.phones.len();
        let seed = self.people_random.next();
        let token = identity().token(user);
        let nodes = self.plot.nodes;
        let mut made = Phone::new((user, token), self.show.campaign, nodes, cheat, seed);
        let spread = if self.faults.has(Fault::Storm) { 50 * MS } else { 3 * SECOND };
        let comes = 500 * MS + self.people_random.below(spread);
        made.begin(comes / MS);
        self.phones.push(made);
        self.wishes.push(0);
        let first = comes + self.people_random.below(2 * SECOND);
        self.at(first, Event::Shake(phone));
        self.act_for(phone).expect("it has won nothing yet");
    }

    pub(super) fn shake(&mut self, phone: usize) -> Checked {
        let random = &mut self.people_random;
        let (rest, count) = (random.between(1_500 * MS, 4 * SECOND), random.between(1, 3));
        if self.now + rest < SHAKES_END {
            self.after(rest, Event::Shake(phone));
        }
        let now_ms = self.now_ms();
        self.phones[phone].shake(now_ms, u32::try_from(count).expect("small"));
        self.after_phone(phone)?;
        if self.phones[phone].cheat.is_some() && self.people_random.chance(300) {
            self.mischief(phone)?;
        }
        Ok(())
    }

    pub(super) fn dial(&mut self, phone: usize, wish: u64) -> Checked {
        if self.wishes[phone] != wish || self.phones[phone].stopped {
            return Ok(());
        }
        let address = self.phones[phone].node();
        let node = self.answers_for(address);
        self.open_link(phone, node);
        let link = self.links.len() - 1;
        let user = self.phones[phone].user.0;
        let about = [("user", user), ("node", node as u64), ("link", link as u64)];
        self.trace.say(self.now, "dial", &about);
        self.after(CONNECT_MAX, Event::Connected { link, made: false });
        Ok(())
    }

    pub(super) fn connected(&mut self, link: usize, made: bool) -> Checked {
        let super::network::Link { phone, at_phone, made: known, .. } = self.links[link];
        if !at_phone || known || self.phones[phone].link != Some(link) {
            return Ok(());
        }
        let now_ms = self.now_ms();
        self.trace.say(self.now, "connected", &[("link", link as u64), ("made", u64::from(made))]);
        if made {
            self.links[link].made = true;
            self.phones[phone].handle_connected(now_ms);
        } else {
            self.links[link].at_phone = false;
            self.phones[phone].link = None;
            self.phones[phone].handle_broken(now_ms, false);
        }
        self.after_phone(phone)
    }

    pub(super) fn wake(&mut self, phone: usize, at: u64) -> Checked {
        if self.phones[phone].woken_at != Some(at) {
            return Ok(());
        }
        self.phones[phone].woken_at = None;
        let now_ms = self.now_ms();
        if self.phones[phone].wake_at.is_some_and(|wake_at| wake_at <= now_ms) {
            self.phones[phone].wake(now_ms);
        }
        self.after_phone(phone)
    }

    /// The app is killed and opened again.
    pub(super) fn kill_app(&mut self, phone: usize) -> Checked {
        if let Some(link) = self.phones[phone].link.take() {
            self.links[link].at_phone = false;
            self.transmit(link, true, &[]);
        }
        let unflushed = self.phones[phone].unflushed();
        let survivors = self.nemesis_random.index(unflushed + 1);
        self.trace.say(self.now, "app killed", &[("user", self.phones[phone].user.0)]);
        let now_ms = self.now_ms();
        self.wishes[phone] += 1;
        self.phones[phone].kill(now_ms, survivors);
        self.after_phone(phone)
    }

    /// Does what a phone wants, and sees to it that it is woken.
    pub(super) fn after_phone(&mut self, phone: usize) -> Checked {
        let done = self.act_for(phone);
        if let Some(wake_at) = self.phones[phone].wake_at {
            let at = (wake_at * MS).max(self.now);
            if self.phones[phone].woken_at.is_none_or(|woken| at < woken) {
                self.phones[phone].woken_at = Some(at);
                self.at(at, Event::Wake(phone, at));
            }
        }
        done
    }

    /// Whether a refusal that is final may be true. Honest people open their own tickets: only time
    /// and policy, or an agent that lies, can have anything against it.
    fn judge_refusal(&self, phone: usize, packet: PacketId, code: ErrorCode) -> Checked {
        let Phone { user, cheat, .. } = self.phones[phone];
        let policy = self.faults.has(Fault::Policy) || self.faults.has(Fault::AgentHostile);
        let may_be = cheat.is_some()
            || match code {
                ErrorCode::TicketExpired => self.faults.has(Fault::ShortTickets),
                ErrorCode::OpenRefused => policy,
                _ => false,
            };
        must("opens", may_be, || format!("the honest user {user} was refused {packet}: {code:?}"))
    }

    fn act_for(&mut self, phone: usize) -> Checked {
        let mut done = Ok(());
        let user = self.phones[phone].user.0;
        for act in self.phones[phone].take_acts() {
            match act {
                Act::Transmit(bytes) => {
                    if let Some(link) = self.phones[phone].link {
                        self.transmit(link, true, &bytes);
                    }
                }
                Act::Close => {
                    if let Some(link) = self.phones[phone].link.take() {
                        self.links[link].at_phone = false;
                        self.transmit(link, true, &[]);
                    }
                }
                Act::Dial(at_ms) => {
                    self.wishes[phone] += 1;
                    let wish = self.wishes[phone];
                    let about = [("user", user), ("at", at_ms), ("wish", wish)];
                    self.trace.say(self.now, "will dial", &about);
                    self.at(at_ms * MS, Event::Dial { phone, wish });
                }
                Act::Won(ticket) => {
                    let packet = ticket.body.packet.0;
                    self.trace.say(self.now, "won", &[("user", user), ("packet", packet)]);
                }
                Act::Opened(packet) => {
                    self.trace.say(self.now, "opened", &[("user", user), ("packet", packet.0)]);
                }
                Act::Refused(packet, code) => {
                    let about = [("user", user), ("packet", packet.0), ("code", code as u64)];
                    self.trace.say(self.now, "refused", &about);
                    done = done.and(self.judge_refusal(phone, packet, code));
                }
                Act::ToldToLeave(reason) => {
                    let about = [("user", user), ("reason", reason as u64)];
                    self.trace.say(self.now, "told to leave", &about);
                }
                Act::Stopped => self.trace.say(self.now, "stopped", &[("user", user)]),
            }
        }
        done
    }
}
