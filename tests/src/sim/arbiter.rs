//! The arbiter: `Record::apply` behind lines that are slow, cut, or lose answers. Requests outlive their senders.

use super::net::{MS, S};
use super::unit::ASK_MAX;
use super::{Event, World};
use tsugi_core::ids::{JobId, LifeId};
use tsugi_core::wire::arbiter::{ArbiterAnswer, ArbiterRequest, Record};

/// See the module. The records are durable: a restart changes nothing.
#[derive(Debug)]
pub struct Arbiter {
    /// One per module.
    pub records: Vec<Record>,
    /// Not running while above zero.
    pub downs: u32,
    /// Time from request to answer.
    pub time: (u64, u64),
}

impl Arbiter {
    /// A store without records.
    pub fn new(modules: usize) -> Arbiter {
        Arbiter { records: vec![Record::empty(LifeId(7)); modules], downs: 0, time: (MS, 5 * MS) }
    }
}

impl World {
    pub(super) fn ask_arbiter(&mut self, m: usize, s: usize, job: JobId, request: ArbiterRequest) {
        let h = self.modules[m].units[s].host;
        if let ArbiterRequest::Force { gen_id, .. } = &request
            && self.modules[m].floor.accepts_loss[s]
        {
            self.modules[m].floor.consents.insert(*gen_id);
        }
        let life = self.hosts[h].life;
        let end = self.true_at(h, self.local(h) + ASK_MAX);
        self.at(end, Event::Answer { m, s, life, job, answer: None });
        let line = self.net.to_arbiter[h];
        let time = match line.is_open() {
            // Some requests lie in a buffer on the way for long.
            true if self.rng.chance(self.weather.late) => self.rng.spread(2 * S, 30 * S),
            true => line.stream(&mut self.rng),
            false if self.rng.chance(300) => self.rng.spread(S, 60 * S),
            false => return,
        };
        // The agent sends again what is not answered soon, and a line may repeat it: the arbiter then gets it twice.
        if self.rng.chance(self.weather.twice) {
            let again = time + self.rng.spread(MS, 30 * S);
            self.after(again, Event::Request { m, s, life, job, request: Box::new(request.clone()) });
            self.figures.asked_twice += 1;
        }
        self.after(time, Event::Request { m, s, life, job, request: Box::new(request) });
    }

    pub(super) fn arbiter_receives(&mut self, m: usize, s: usize, life: u64, job: JobId, request: Box<ArbiterRequest>) {
        let h = self.modules[m].units[s].host;
        if !self.net.to_arbiter[h].is_open() {
            if self.rng.chance(700) {
                let again = self.rng.spread(500 * MS, 10 * S);
                self.after(again, Event::Request { m, s, life, job, request });
            }
            return;
        }
        if self.arbiter.downs > 0 {
            // Refused at once.
            return self.after(2 * MS, Event::Answer { m, s, life, job, answer: None });
        }
        let sender = self.hosts[h].name.clone();
        let changed = self.arbiter.records[m].apply(&sender, &request);
        let is_accepted = changed.is_some() || *request == ArbiterRequest::Read;
        if let Some(record) = changed {
            self.arbiter.records[m] = record;
            self.figures.record_changes += 1;
            if matches!(*request, ArbiterRequest::Force { .. }) {
                self.forced(m, s);
            }
            self.check_copies(m, "the record changes");
        }
        self.note(m, 30 + u64::from(is_accepted), |w| {
            let r = &w.arbiter.records[m];
            let names: Vec<&str> = r.in_sync.iter().map(|n| n.as_str()).collect();
            let word = if is_accepted { "yes" } else { "no" };
            format!("arbiter: n{} {request:?}: {word}; version {} owner {:?} {{{}}}", h + 1, r.version, r.owner, names.join(","))
        });
        let answer = ArbiterAnswer { is_accepted, record: self.arbiter.records[m].clone() };
        let (low, high) = self.arbiter.time;
        let time = self.rng.range(low, high) + self.net.from_arbiter[h].stream(&mut self.rng);
        if self.net.from_arbiter[h].is_open() {
            self.after(time, Event::Answer { m, s, life, job, answer: Some(Box::new(answer)) });
        }
    }
}
