//! Agents and settlement: their processes, their sockets, and the network between them.

use super::{Checked, Event, Fault, MS, Outcome, SECOND, Said, Who, World};
use crate::{
    agent::{Act as AgentAct, Agent, Character, Errand},
    link::Act as LinkAct,
    settlement::Reply,
};
use std::sync::Arc;
use yao_protocol::{UserId, agent::Role, grant::GrantAnswer};

/// A message on a unix socket takes so long, ns.
const SOCKET: u64 = 40_000;
/// The agent gives up on settlement after so long, ns.
const POST_MAX: u64 = 5 * SECOND;

impl World<'_> {
    /// Does what a node's link wants.
    pub(super) fn link_acts(&mut self, node: usize, act: LinkAct) {
        let host = &mut self.hosts[node];
        let life = host.life;
        match act {
            LinkAct::Start(generation, proof) => {
                let character = std::mem::replace(&mut host.next_character, Character::Honest);
                let random = self.node_random.fork(u64::from(generation) << 8 | u64::from(life));
                let policy = self.policy.clone();
                let agent = Agent::start((generation, proof), character, policy, random);
                self.hosts[node].agents.insert(generation, agent);
                let who = Who { node, life, generation };
                let about = [("node", node as u64), ("generation", u64::from(generation))];
                self.trace.say(self.now, "agent starts", &about);
                let wait = self.node_random.between(20 * MS, 200 * MS);
                self.after(wait, Event::AgentUp(who));
            }
            LinkAct::Send(generation, role, bytes) => {
                let who = Who { node, life, generation };
                self.after(SOCKET, Event::ToAgent(who, role, bytes));
            }
            LinkAct::Kill(generation) => {
                host.agents.remove(&generation);
            }
        }
    }

    fn agent(&mut self, who: Who) -> Option<&mut Agent> {
        let host = &mut self.hosts[who.node];
        if host.life != who.life || host.process.is_none() {
            return None;
        }
        host.agents.get_mut(&who.generation)
    }

    /// Whether the agent hangs: the event comes again when it does not.
    fn waits(&mut self, who: Who) -> Option<u64> {
        let now = self.now;
        self.agent(who).map(|agent| agent.hangs_until).filter(|until| *until > now)
    }

    pub(super) fn agent_up(&mut self, who: Who) -> Checked {
        if let Some(agent) = self.agent(who) {
            agent.handle_connected();
        }
        self.agent_acts(who)
    }

    pub(super) fn tell_agent(&mut self, who: Who, role: Role, bytes: Vec<u8>) -> Checked {
        if let Some(until) = self.waits(who) {
            self.at(until, Event::ToAgent(who, role, bytes));
            return Ok(());
        }
        if let Some(agent) = self.agent(who) {
            agent.handle_bytes(role, &bytes);
        }
        self.agent_acts(who)
    }

    pub(super) fn agent_acts(&mut self, who: Who) -> Checked {
        let acts = self.agent(who).map(Agent::take_acts).unwrap_or_default();
        for act in acts {
            match act {
                AgentAct::Greet(greet) => {
                    let role = greet.role;
                    self.after(SOCKET, Event::FromAgent(who, role, Said::Greet(greet)));
                }
                AgentAct::Send(role, bytes) => {
                    self.after(SOCKET, Event::FromAgent(who, role, Said::Bytes(bytes)));
                }
                AgentAct::Post(errand, request_id, body) => {
                    self.send_upstream(who, (errand, request_id), body);
                }
                AgentAct::Leave => self.after(MS, Event::AgentGone(who)),
            }
        }
        Ok(())
    }

    /// An agent speaks to its node; what a paused node is told, it reads later.
    pub(super) fn hear_agent(&mut self, who: Who, role: Role, said: Said) -> Checked {
        let paused = self.hosts[who.node].paused_until;
        if paused > self.now {
            self.at(paused, Event::FromAgent(who, role, said));
            return Ok(());
        }
        let Some(agent) = self.agent(who) else { return Ok(()) };
        let mut unread = std::mem::take(&mut agent.unread[Agent::place(role)]);
        let unread = self.within(who.node, |process| {
            let now = process.now();
            match said {
                Said::Greet(greet) => process.link.handle_greet(now, &greet),
                Said::Bytes(bytes) => {
                    unread.extend_from_slice(&bytes);
                    process.link.handle_bytes(now, who.generation, role, &mut unread);
                }
            }
            unread
        })?;
        if let (Some(unread), Some(agent)) = (unread, self.agent(who)) {
            agent.unread[Agent::place(role)] = unread;
        }
        self.after_node(who.node)
    }

    pub(super) fn agent_gone(&mut self, who: Who) -> Checked {
        if self.agent(who).is_none() {
            return Ok(());
        }
        self.hosts[who.node].agents.remove(&who.generation);
        self.within(who.node, |process| {
            process.link.handle_gone(process.now(), who.generation);
        })?;
        self.after_node(who.node)
    }

    /// A POST leaves for settlement; it may get lost, or arrive twice.
    fn send_upstream(&mut self, who: Who, errand: (Errand, u32), body: Vec<u8>) {
        let body: Arc<[u8]> = body.into();
        let lossy = self.faults.has(Fault::LedgerLossy) && !self.healed;
        let random = &mut self.network_random;
        let reach = if lossy { 2 * SECOND } else { 40 * MS };
        let mut lost = false;
        if lossy && random.chance(150) {
            self.after(POST_MAX, Event::Outcome(who, errand, unreachable()));
            return;
        }
        if lossy && random.chance(150) {
            self.after(POST_MAX, Event::Outcome(who, errand, unreachable()));
            lost = true;
        }
        if lossy && self.network_random.chance(300) {
            let again = self.network_random.between(MS, reach);
            let body = Arc::clone(&body);
            self.after(again, Event::Post { who, errand, body, lost: true });
        }
        let wait = self.network_random.between(2 * MS, reach);
        self.after(wait, Event::Post { who, errand, body, lost });
    }

    pub(super) fn post(
        &mut self,
        who: Who,
        (errand, request_id): (Errand, u32),
        body: &[u8],
        lost: bool,
    ) -> Checked {
        let (now, wall) = (self.now, self.wall());
        let outcome = match errand {
            _ if now < self.settlement.down_until => unreachable(),
            Errand::Batch => outcome(self.settlement.post(now, wall, body)),
            Errand::Grant => {
                let reply = self.settlement.ask(now, wall, body);
                if let Reply::Answer((answer, _)) = &reply {
                    self.checks.granted(who.node, body, answer);
                    self.tell_grant(who, answer);
                }
                outcome(reply.map(|(_, bytes)| bytes))
            }
        };
        let about = [
            ("node", who.node as u64),
            ("request", u64::from(request_id)),
            ("answered", u64::from(matches!(outcome, Outcome::Answered(_)))),
            ("lost", u64::from(lost)),
        ];
        let what = if errand == Errand::Batch { "post" } else { "ask" };
        self.trace.say(self.now, what, &about);
        if !lost {
            let wait = self.network_random.between(2 * MS, 40 * MS);
            self.after(wait, Event::Outcome(who, (errand, request_id), outcome));
        }
        Ok(())
    }

    fn tell_grant(&mut self, who: Who, answer: &GrantAnswer) {
        let about = [
            ("node", who.node as u64),
            ("wave", u64::from(answer.wave.0)),
            ("verdict", answer.verdict as u64),
            ("grant", answer.id),
            ("lo", u64::from(answer.lo)),
            ("hi", u64::from(answer.hi)),
        ];
        self.trace.say(self.now, "ruled", &about);
    }

    pub(super) fn outcome(
        &mut self,
        who: Who,
        (errand, request_id): (Errand, u32),
        outcome: Outcome,
    ) -> Checked {
        if let Some(until) = self.waits(who) {
            self.at(until, Event::Outcome(who, (errand, request_id), outcome));
            return Ok(());
        }
        if let Some(agent) = self.agent(who) {
            agent.handle_outcome(errand, request_id, outcome);
        }
        self.agent_acts(who)
    }

    /// Another policy: some are banned, and wins from some amount on are vetted.
    pub(super) fn draw_policy(&mut self) {
        let random = &mut self.people_random;
        let banned = (0..self.plot.users).filter(|_| random.chance(30)).map(UserId).collect();
        self.policy.version += 1;
        self.policy.banned = banned;
        self.policy.vet_amount_min = random.between(0, 300);
        self.policy.shake_interval_ms = random.chance(300).then_some(700);
        let policy = self.policy.clone();
        for node in 0..self.hosts.len() {
            let life = self.hosts[node].life;
            let generations: Vec<u32> = self.hosts[node].agents.keys().copied().collect();
            for generation in generations {
                let who = Who { node, life, generation };
                if let Some(agent) = self.agent(who) {
                    agent.handle_policy(&policy);
                }
                // Its acts are its own: nothing can be violated by them.
                self.agent_acts(who).ok();
            }
        }
    }
}

fn outcome(reply: Reply) -> Outcome {
    match reply {
        Reply::Answer(answer) => Outcome::Answered(answer),
        Reply::Busy => Outcome::Busy { retry_after_ms: Some(1_000) },
        Reply::Refused => Outcome::Refused { status: 403, text: String::new() },
    }
}

fn unreachable() -> Outcome {
    Outcome::Unreachable { reason: String::new() }
}
