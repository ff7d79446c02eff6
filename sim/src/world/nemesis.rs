//! What goes wrong, and when: each fault that a seed drew happens some times before the world is
//! healed.

use super::{Checked, Event, Fault, HEALED, MS, SECOND, World};
use crate::{
    agent::Character,
    check::{Death, segments},
    node::{SEED, SPOOL, STATE, Thread},
    plan::WAVES,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yao_protocol::{WallTime, schedule::WaveSchedule};

/// The first fault happens after so long, ns.
const FIRST: u64 = 2 * SECOND;

/// Something that goes wrong at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    fault: Fault,
    /// For faults that begin and end.
    ends: bool,
    node: usize,
}

impl World<'_> {
    pub(super) fn plan_troubles(&mut self) {
        for (fault, _) in Fault::ALL {
            if !self.faults.has(fault) {
                continue;
            }
            for _ in 0..self.how_often(fault) {
                let at = self.nemesis_random.between(FIRST, HEALED - 4 * SECOND);
                let node = self.nemesis_random.index(self.plot.nodes);
                self.at(at, Event::Trouble(Trouble { fault, ends: false, node }));
            }
        }
        if self.faults.has(Fault::ClockSkew) {
            for host in &mut self.hosts {
                let off = self.nemesis_random.between(0, 4_000_000);
                host.skew_us = i64::try_from(off).expect("small") - 2_000_000;
            }
        }
    }

    /// How often a fault happens in one world; 0 for those that are a state of it.
    fn how_often(&mut self, fault: Fault) -> u64 {
        let (least, most) = match fault {
            Fault::Jitter
            | Fault::Fragments
            | Fault::LedgerLossy
            | Fault::Storm
            | Fault::DropTally
            | Fault::Fork
            | Fault::Hop
            | Fault::OpenTwice
            | Fault::OpenOthers
            | Fault::ShortTickets => (0, 0),
            Fault::Break => (20, 150),
            Fault::HalfOpen => (5, 30),
            Fault::AppKill => (5, 40),
            Fault::Drain | Fault::Panic | Fault::Correction | Fault::BitRot => (1, 2),
            Fault::DiskError | Fault::DiskFull | Fault::AgentHostile | Fault::AgentOld => (1, 2),
            _ => (1, 4),
        };
        self.nemesis_random.between(least, most)
    }

    /// Whom a fault befalls that was drawn for `node`: where a twin runs, often that one.
    fn victim(&mut self, fault: Fault, node: usize) -> usize {
        let befalls_twins = !matches!(fault, Fault::Twin | Fault::Restore);
        let twins = self.hosts.len() - self.plot.nodes;
        if befalls_twins && twins > 0 && self.nemesis_random.chance(500) {
            self.plot.nodes + self.nemesis_random.index(twins)
        } else {
            node
        }
    }

    pub(super) fn trouble(&mut self, mut trouble: Trouble) -> Checked {
        if self.healed {
            return Ok(());
        }
        if !trouble.ends {
            trouble.node = self.victim(trouble.fault, trouble.node);
        }
        let Trouble { fault, ends, node } = trouble;
        let about = [("fault", fault as u64), ("node", node as u64), ("ends", u64::from(ends))];
        self.trace.say(self.now, "trouble", &about);
        let until = self.lasts_until(fault);
        let host = &mut self.hosts[node];
        host.troubled = true;
        host.troubled_until = host.troubled_until.max(until);
        match fault {
            Fault::Crash => self.kill(node, false),
            Fault::PowerCut => self.kill(node, true),
            Fault::MidWrite => {
                self.hosts[node].dies_dark = self.nemesis_random.chance(500);
                let after = self.nemesis_random.below(12);
                self.hosts[node].disk.kill_after(after);
            }
            Fault::Pause | Fault::SlowThread | Fault::SlowDisk => self.trouble_machine(fault, node),
            Fault::DiskError | Fault::DiskFull => self.trouble_disk(trouble),
            Fault::SpoolDisk => self.trouble_spool_disk(trouble),
            Fault::BitRot => self.rot(node),
            Fault::Break => return self.break_link(false),
            Fault::HalfOpen => return self.break_link(true),
            Fault::Partition => {
                let region = self.nemesis_random.index(4);
                let long = self.nemesis_random.between(SECOND, 12 * SECOND);
                self.partitions.insert((region, node), self.now + long);
            }
            Fault::AppKill => {
                let phone = self.nemesis_random.index(self.phones.len());
                return self.kill_app(phone);
            }
            Fault::AgentKill
            | Fault::AgentHang
            | Fault::AgentSwap
            | Fault::AgentHostile
            | Fault::AgentOld => return self.trouble_agent(fault, node),
            Fault::Policy => self.draw_policy(),
            Fault::LedgerDown => {
                let long = self.nemesis_random.between(SECOND, 15 * SECOND);
                self.settlement.down_until = self.now + long;
            }
            Fault::LedgerBusy => {
                let long = self.nemesis_random.between(SECOND, 8 * SECOND);
                self.settlement.busy_until = self.now + long;
            }
            Fault::ClockSkew => {
                // A step: only the next process of this machine sees it.
                let step = self.nemesis_random.between(0, 6_000_000);
                self.hosts[node].skew_us = i64::try_from(step).expect("small") - 3_000_000;
            }
            Fault::Correction => self.correct(),
            Fault::Drain => self.drain(trouble)?,
            Fault::Panic => return self.panic_sessions(node),
            Fault::Twin => self.twin(node),
            Fault::Restore => self.trouble_backup(trouble),
            _ => {}
        }
        Ok(())
    }

    /// Until when a trouble may hold up wins at most, ns, apart from the start that it may bring
    /// and what a host knows of itself.
    fn lasts_until(&self, fault: Fault) -> u64 {
        match fault {
            Fault::SlowThread | Fault::SlowDisk => self.now + 6 * SECOND,
            Fault::AgentHang => self.now + 15 * SECOND,
            // Until people mend it.
            Fault::DiskError
            | Fault::DiskFull
            | Fault::SpoolDisk
            | Fault::BitRot
            | Fault::AgentHostile
            | Fault::AgentOld
            | Fault::Policy
            | Fault::ClockSkew
            | Fault::MidWrite
            | Fault::Twin
            | Fault::Restore => u64::MAX,
            _ => self.now,
        }
    }

    /// A process, one thread of it, or its disk gets nothing done for a while.
    fn trouble_machine(&mut self, fault: Fault, node: usize) {
        match fault {
            Fault::Pause => {
                let long = self.nemesis_random.between(10 * MS, 6 * SECOND);
                let until = &mut self.hosts[node].paused_until;
                *until = (*until).max(self.now + long);
            }
            Fault::SlowThread => {
                let thread = Thread::ALL[self.nemesis_random.index(Thread::ALL.len())];
                let until = self.now + self.nemesis_random.between(SECOND, 5 * SECOND);
                self.hosts[node].slow = Some((thread, until));
            }
            Fault::SlowDisk => {
                let until = self.now + self.nemesis_random.between(SECOND, 5 * SECOND);
                self.hosts[node].slow_disk_until = until;
            }
            _ => {}
        }
    }

    fn trouble_disk(&mut self, trouble: Trouble) {
        let Trouble { fault, ends, node } = trouble;
        let host = &mut self.hosts[node];
        host.ruined = true;
        if fault == Fault::DiskError {
            // Lost syncs leave holes where records were thought to be.
            self.checks.damaged(node);
            let permille = if ends { 0 } else { 100 };
            host.disk.set_troubles(|troubles| troubles.error_permille = permille);
        } else {
            host.disk.set_troubles(|troubles| troubles.full = !ends);
        }
        if !ends {
            let long = self.nemesis_random.between(100 * MS, 3 * SECOND);
            self.after(long, Event::Trouble(Trouble { ends: true, ..trouble }));
        } else if self.nemesis_random.chance(700) {
            // An operator restarts what has fenced itself.
            self.kill(node, false);
        }
    }

    /// The spool's own disk dies, and some time later it is mended and the node restarted. No open
    /// may be lost by it.
    fn trouble_spool_disk(&mut self, trouble: Trouble) {
        let Trouble { ends, node, .. } = trouble;
        let host = &mut self.hosts[node];
        // Until it is mended, no start can read it.
        host.ruined = true;
        let dead = (!ends).then_some(SPOOL);
        host.disk.set_troubles(|troubles| troubles.dead = dead);
        if ends {
            self.kill(node, false);
        } else {
            let long = self.nemesis_random.between(100 * MS, 12 * SECOND);
            self.after(long, Event::Trouble(Trouble { ends: true, ..trouble }));
        }
    }

    /// Cursors are saved, a moment later the journal, and some time later both are put back.
    fn trouble_backup(&mut self, trouble: Trouble) {
        self.save_or_restore(trouble.node);
        if trouble.ends {
            return;
        }
        let copied = self.nemesis_random.between(MS, 2 * SECOND);
        let put_back = copied + self.nemesis_random.between(100 * MS, 8 * SECOND);
        for wait in [copied, put_back] {
            self.after(wait, Event::Trouble(Trouble { ends: true, ..trouble }));
        }
    }

    /// A bit turns over in one of a node's files.
    fn rot(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let mut files: Vec<PathBuf> = vec![PathBuf::from(SEED)];
        files.push(Path::new(STATE).join("spool").join("watermark.yaomark"));
        let waves = 0..WAVES;
        files.extend(waves.map(crate::check::cursor_path));
        let logs = [("journal", ".yaojournal"), ("spool", ".yaospool")];
        for (log, suffix) in logs {
            files.extend(segments(&host.disk, log, suffix).into_iter().map(|(_, path)| path));
        }
        let path = &files[self.nemesis_random.index(files.len())];
        let length = host.disk.cached(path).map_or(0, |bytes| bytes.len());
        if length == 0 {
            return;
        }
        let offset = self.nemesis_random.index(length);
        let bit = self.nemesis_random.next().to_le_bytes()[0];
        (host.ruined, host.rotten) = (true, true);
        if path.starts_with(Path::new(STATE).join("journal")) {
            self.checks.damaged(node);
            host.death = Death::Unknown;
        }
        if path.starts_with(Path::new(STATE).join("cursor")) {
            self.checks.cursor_rots(node);
        }
        self.checks.spool_rots(node, &host.disk, path);
        host.disk.rot(path, offset, bit);
        self.trace.tell(self.now, "rot", node as u64, &path.display().to_string());
    }

    fn trouble_agent(&mut self, fault: Fault, node: usize) -> Checked {
        let bad = match fault {
            Fault::AgentHostile => Some(Character::Hostile),
            Fault::AgentOld if self.nemesis_random.chance(500) => Some(Character::Old),
            Fault::AgentOld => Some(Character::Mute),
            _ => None,
        };
        self.hosts[node].next_character = bad.unwrap_or(Character::Honest);
        let host = &mut self.hosts[node];
        let life = host.life;
        let serving = host.process.as_ref().and_then(|process| process.link.serving());
        match (fault, serving) {
            (Fault::AgentKill, Some(generation)) => {
                return self.agent_gone(super::Who { node, life, generation });
            }
            (Fault::AgentHang, Some(generation)) => {
                let until = self.now + self.nemesis_random.between(10 * MS, 15 * SECOND);
                if let Some(agent) = self.hosts[node].agents.get_mut(&generation) {
                    agent.hangs_until = agent.hangs_until.max(until);
                }
            }
            (Fault::AgentSwap | Fault::AgentHostile | Fault::AgentOld, _) => {
                self.within(node, |process| process.link.swap(process.now()))?;
                return self.after_node(node);
            }
            _ => {}
        }
        Ok(())
    }

    /// The next T0 is corrected while it lies more than a second ahead, for every node at once.
    fn correct(&mut self) {
        let soon = self.wall().plus_us(1_000_000);
        let moved_us = self.nemesis_random.below(5_000_000).cast_signed() - 500_000;
        let mut schedule = (*self.schedule).clone();
        let is_ahead = |entry: &&mut WaveSchedule| entry.t0.is_some_and(|t0| t0 > soon);
        let Some(entry) = schedule.waves.iter_mut().find(is_ahead) else { return };
        let t0 = entry.t0.map(|t0| WallTime(t0.0.saturating_add_signed(moved_us)));
        if t0.is_none_or(|t0| t0 <= soon) {
            return;
        }
        entry.t0 = t0;
        schedule.version += 1;
        let wave = u64::from(entry.index.0);
        self.trace.say(self.now, "corrected", &[("wave", wave), ("us", moved_us.unsigned_abs())]);
        self.schedule = Arc::new(schedule);
        for node in 0..self.hosts.len() {
            self.tell_checks(node);
            let schedule = Arc::clone(&self.schedule);
            if let Some(process) = self.hosts[node].process.as_mut() {
                process.schedule(&schedule);
            }
            self.give_turns(node);
        }
    }

    /// Clients are asked to leave; when they had time to, the node is restarted in order.
    fn drain(&mut self, trouble: Trouble) -> Checked {
        if trouble.ends {
            return self.restart_in_order(trouble.node);
        }
        let rate = u32::try_from(self.nemesis_random.between(10, 200)).expect("small");
        if let Some(process) = self.hosts[trouble.node].process.as_mut() {
            process.drain(rate);
            self.hosts[trouble.node].drains = true;
        }
        self.give_turns(trouble.node);
        let long = self.nemesis_random.between(SECOND, 5 * SECOND);
        self.after(long, Event::Trouble(Trouble { ends: true, ..trouble }));
        Ok(())
    }

    fn panic_sessions(&mut self, node: usize) -> Checked {
        let closed = self.within(node, crate::node::Process::restart_sessions)?;
        for link in closed.unwrap_or_default() {
            self.node_closed(link, true);
        }
        self.after_node(node)
    }

    /// Nothing goes wrong any more: what is down is started, what is fenced restarted.
    pub(super) fn heal(&mut self) -> Checked {
        self.healed = true;
        self.trace.say(self.now, "healed", &[]);
        self.partitions.clear();
        self.settlement.down_until = 0;
        self.settlement.busy_until = 0;
        for node in 0..self.hosts.len() {
            let host = &mut self.hosts[node];
            host.disk.set_troubles(|troubles| *troubles = crate::disk::Troubles::default());
            // Who stands still goes on by himself: what waits for him must not be overtaken.
            (host.slow, host.slow_disk_until) = (None, 0);
            host.next_character = Character::Honest;
            host.troubled_until = host.troubled_until.min(HEALED);
            // A disk that failed, or an agent that lies, is noticed by people; they restart the
            // node, and with it its agent.
            let hostile = |agent: &crate::agent::Agent| agent.character == Character::Hostile;
            let lies = host.agents.values().any(hostile);
            if host.ruined || lies {
                self.kill(node, false);
            } else if host.drains {
                self.restart_in_order(node)?;
            }
            if self.hosts[node].process.is_none() {
                self.after(SECOND, Event::Start(node));
            }
            // A disk that failed or was full is well again: nothing on it is gone.
            self.hosts[node].ruined = self.hosts[node].rotten;
        }
        Ok(())
    }
}
