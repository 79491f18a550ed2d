//! The beginning, the operator who clicks anything at any time, and the end: faults cease, everything must be green.

use super::net::{MS, Net, S};
use super::{Event, Profile, World};
use tsugi_core::command::{Command, Verb};
use tsugi_core::engine::Input;
use tsugi_core::ids::Epoch;
use tsugi_core::state::{Readiness, Reason, State};

/// After faults have ceased every module is green within this.
const GREEN_MAX: u64 = 300 * S;
/// So long after that the night watch starts what is stopped.
const WATCH_MAX: u64 = 120 * S;
/// How often it looks.
const WATCH: u64 = 2 * S;

impl World {
    pub(super) fn begin(&mut self) {
        for h in 0..self.hosts.len() {
            let soon = self.rng.range(0, 2 * S);
            let power = self.hosts[h].power;
            self.after(soon, Event::AgentUp { h, power });
        }
        for m in 0..self.modules.len() {
            let first = self.rng.below(2);
            self.after(3 * S, Event::Heal(super::faults::Remedy::Order { m, s: first, verb: Verb::Prim { accept_loss: false } }));
            let later = self.rng.range(2 * S, 8 * S);
            self.after(later, Event::Heal(super::faults::Remedy::Order { m, s: 1 - first, verb: Verb::Start }));
            self.after(5 * S, Event::App { m });
            let wait = self.rng.range(20 * S, 60 * S);
            self.after(wait, Event::Operate { m });
        }
        self.after(15 * S, Event::Fault);
        let end = self.plan.minutes * 60 * S;
        self.after(end, Event::HealAll);
    }

    /// An order reaches the agent, if one runs.
    pub(super) fn order(&mut self, m: usize, s: usize, verb: Verb) {
        let life = self.hosts[self.modules[m].units[s].host].life;
        if life == 0 {
            return;
        }
        self.figures.orders += 1;
        self.note(m, 60, |w| format!("operator: {} on n{}", verb.word(), w.modules[m].units[s].host + 1));
        let command = Command { id: String::new(), verb, by: "operator".into(), reason: None, is_automatic: false };
        let soon = self.rng.range(MS, 20 * MS);
        self.after(soon, Event::Inbox { m, s, life, input: Box::new(Input::Command(command)) });
    }

    pub(super) fn operate(&mut self, m: usize) {
        if self.is_healed {
            return;
        }
        let s = self.rng.below(2);
        let chance = self.rng.below(100);
        let verb = match chance {
            0..=24 => Verb::Swap,
            25..=34 => Verb::Restart,
            35..=49 => Verb::Stop,
            50..=59 => Verb::StopStart,
            60..=79 => Verb::Start,
            80..=84 => Verb::Second { full_sync: false },
            85..=87 => Verb::Prim { accept_loss: false },
            88 => Verb::Maintenance { minutes: self.rng.range(1, 3) as u32 },
            89 => Verb::Resolve { keep: self.hosts[self.modules[m].units[self.rng.below(2)].host].name.clone() },
            _ if self.plan.profile == Profile::Consent => match self.rng.below(4) {
                0 => Verb::Prim { accept_loss: true },
                1 => Verb::PrimForce,
                _ => Verb::Second { full_sync: true },
            },
            _ => Verb::Start,
        };
        if matches!(verb, Verb::Stop) {
            let later = self.rng.spread(S, 120 * S);
            self.after(later, Event::Heal(super::faults::Remedy::Order { m, s, verb: Verb::Start }));
        }
        // Swap and restart go to the node that serves, as the console sends them.
        let serving = (0..2).find(|s| self.modules[m].units[*s].engine.as_ref().is_some_and(|e| e.state().is_serving()));
        let s = if matches!(verb, Verb::Swap | Verb::Restart) { serving.unwrap_or(s) } else { s };
        self.order(m, s, verb);
        let mean = self.weather.clicks;
        let wait = self.rng.around(mean).max(S);
        self.after(wait, Event::Operate { m });
    }

    /// Faults cease.
    pub(super) fn heal_all(&mut self) {
        self.is_healed = true;
        self.healed_at = self.now;
        self.net = Net::new();
        self.arbiter.downs = 0;
        self.arbiter.time = (MS, 5 * MS);
        self.note(usize::MAX, 61, |_| "all faults cease".into());
        for h in 0..self.hosts.len() {
            self.mend_host(h);
            self.resume_all(h);
            let power = self.hosts[h].power;
            if !self.hosts[h].is_on {
                self.power_on(h, power);
            } else if self.hosts[h].life == 0 {
                self.after(S, Event::AgentUp { h, power });
            }
            self.restart_failed(h);
        }
        for m in 0..self.modules.len() {
            for s in 0..2 {
                self.modules[m].is_ill[s] = false;
                self.tell_health(m, s);
                self.order(m, s, Verb::Maintenance { minutes: 0 });
            }
        }
        self.after(WATCH, Event::Watch);
    }

    fn is_green(&self, m: usize) -> bool {
        let module = &self.modules[m];
        let is = |s: usize, state: State| {
            module.units[s].engine.as_ref().is_some_and(|e| e.state() == state && e.readiness() == Readiness::Ready)
        };
        // A pair in step goes on without a record that was lost.
        let is_recorded = self.arbiter.records[m].in_sync.len() == 2
            || self.modules[m].floor.is_store_lost && self.arbiter.records[m].version == Epoch(0);
        is_recorded
            && (is(0, State::Prim) && is(1, State::Second) && module.units[0].is_app_up
                || is(1, State::Prim) && is(0, State::Second) && module.units[1].is_app_up)
    }

    /// The state asks for a decision only a person can make, and says so.
    fn asks_for_a_person(&self, m: usize) -> bool {
        self.may_need_a_person(m)
            && self.modules[m].units.iter().any(|u| {
                let reason = u.engine.as_ref().and_then(|e| e.reason());
                matches!(
                    reason,
                    Some(
                        Reason::SplitBrain { .. }
                            | Reason::FirstStart
                            | Reason::HalfSynced
                            | Reason::DataOlder { .. }
                            | Reason::RecordLost { .. }
                            | Reason::ArbiterReplaced
                    )
                )
            })
    }

    /// The end of a run: the night watch starts what is stopped, and looks whether all is green.
    pub(super) fn watch(&mut self) {
        let since = self.now - self.healed_at;
        let mut is_all_green = true;
        for m in 0..self.modules.len() {
            if self.is_green(m) {
                continue;
            }
            is_all_green = false;
            for s in 0..2 {
                let h = self.modules[m].units[s].host;
                self.restart_failed(h);
                let is_startable = self.modules[m].units[s].engine.as_ref().is_some_and(|e| e.refusal(&Verb::Start).is_none());
                if is_startable && since < WATCH_MAX {
                    self.order(m, s, Verb::Start);
                }
            }
            if since > GREEN_MAX {
                if self.asks_for_a_person(m) {
                    self.figures.persons += 1;
                    continue;
                }
                let (a, b) = (self.describe_unit(m, 0), self.describe_unit(m, 1));
                let hosts = self.modules[m].units.each_ref().map(|u| u.host + 1);
                return self.violate(
                    m,
                    "L",
                    format!("not green {} s after faults ceased: n{}: {a} | n{}: {b}", since / S, hosts[0], hosts[1]),
                );
            }
        }
        if is_all_green || since > GREEN_MAX {
            self.figures.heal_worst = since;
            for m in 0..self.modules.len() {
                if self.is_green(m) {
                    self.check_end(m);
                }
            }
            self.is_over = true;
        }
        self.after(WATCH, Event::Watch);
    }
}
