//! The heartbeat link of a module on a host, with the rules of the agent's: numbered, in order, a new life of the
//! other side only after it has proved to be alive now, and beats that answer only what the engine has processed.

use std::collections::VecDeque;
use std::rc::Rc;
use tsugi_core::wire::peer::Status;

/// Beats whose sending time is remembered.
const SENT_KEPT: usize = 4096;
/// Questions and proofs leave at most this often per network.
const ASK_EVERY: u64 = 20_000_000;

/// A heartbeat, the same on all networks.
#[derive(Debug)]
pub struct Beat {
    /// Number in its life.
    pub seq: u64,
    /// Newest beat of the receiver the sender's engine had processed: (life, number).
    pub answers: Option<(u64, u64)>,
    /// How the sender stands.
    pub status: Rc<Status>,
}

/// What a datagram is for.
#[derive(Debug, Clone)]
pub enum Body {
    /// A heartbeat.
    Beat(Rc<Beat>),
    /// "Prove that you live."
    Ask,
    /// The proof.
    Proof,
}

/// A datagram.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Life of the sending agent.
    pub life: u64,
    /// Number among the datagrams of that life.
    pub counter: u64,
    /// Newest datagram of the receiver that counted: (life, number).
    pub echo: Option<(u64, u64)>,
    /// Contents.
    pub body: Body,
}

#[derive(Debug)]
struct Current {
    life: u64,
    since_counter: u64,
    handed_on: u64,
    newest: Vec<u64>,
}

/// What the link makes of a datagram.
#[derive(Debug, Default)]
pub struct Taken {
    /// Beats for the engine: (life, beat).
    pub heard: Vec<(u64, Rc<Beat>)>,
    /// To be sent back at once on the same network.
    pub reply: Option<(Body, (u64, u64))>,
}

/// See the module.
#[derive(Debug)]
pub struct Link {
    life: u64,
    begin: u64,
    counter: u64,
    seq: u64,
    sent: VecDeque<u64>,
    processed: Option<(u64, u64)>,
    current: Option<Current>,
    retired: Vec<u64>,
    pending: Option<(u64, Rc<Beat>)>,
    newest: Vec<Option<(u64, u64)>>,
    asked: Vec<u64>,
}

impl Link {
    /// A link of the agent's life `life`, opened at `now` by the host's clock.
    pub fn new(life: u64, now: u64, lans: usize) -> Link {
        Link {
            life,
            begin: now,
            counter: now,
            seq: now,
            sent: VecDeque::new(),
            processed: None,
            current: None,
            retired: Vec::new(),
            pending: None,
            newest: vec![None; lans],
            asked: vec![0; lans],
        }
    }

    /// The agent's life, as the other node knows it.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Makes the next beat; its copies are numbered by [`Link::packet`].
    pub fn beat(&mut self, status: Rc<Status>, now: u64) -> Rc<Beat> {
        self.seq += 1;
        self.sent.push_back(now);
        if self.sent.len() > SENT_KEPT {
            self.sent.pop_front();
        }
        Rc::new(Beat { seq: self.seq, answers: self.processed, status })
    }

    /// The copy of a beat for one network.
    pub fn packet(&mut self, lan: usize, body: Body) -> Packet {
        let life = self.current.as_ref().map(|c| c.life);
        let echo = self.newest[lan].filter(|(of, _)| Some(*of) == life);
        self.numbered(body, echo)
    }

    /// A reply that names the datagram it answers.
    pub fn numbered(&mut self, body: Body, echo: Option<(u64, u64)>) -> Packet {
        self.counter += 1;
        Packet { life: self.life, counter: self.counter, echo, body }
    }

    /// The host's clock just before beat `seq` left.
    pub fn sent_at(&self, seq: u64) -> Option<u64> {
        let first = self.seq + 1 - self.sent.len() as u64;
        self.sent.get(usize::try_from(seq.checked_sub(first)?).ok()?).copied()
    }

    /// The engine has taken this beat into account.
    pub fn processed(&mut self, life: u64, seq: u64) {
        let is_current = self.current.as_ref().is_some_and(|c| c.life == life);
        if is_current && self.processed.is_none_or(|(of, newest)| of != life || seq > newest) {
            self.processed = Some((life, seq));
        }
    }

    /// Number of the engine's own beat that `beat` answers, if it is of this life.
    pub fn answered(&self, beat: &Beat) -> Option<u64> {
        beat.answers.filter(|(life, seq)| *life == self.life && *seq > self.begin && *seq <= self.seq).map(|(_, seq)| seq)
    }

    /// Takes one datagram.
    pub fn take(&mut self, lan: usize, packet: &Packet, now: u64) -> Taken {
        let mut taken = Taken::default();
        if self.retired.contains(&packet.life) {
            return taken;
        }
        let this = (packet.life, packet.counter);
        if let Some(current) = self.current.as_mut().filter(|c| c.life == packet.life) {
            if packet.counter <= current.newest[lan] {
                return taken;
            }
            current.newest[lan] = packet.counter;
        } else {
            let since = self.current.as_ref().map_or(self.begin, |c| c.since_counter);
            let is_proven = packet.echo.is_some_and(|(life, counter)| life == self.life && counter > since && counter <= self.counter);
            if !is_proven {
                match &packet.body {
                    Body::Beat(beat) => {
                        if self.pending.as_ref().is_none_or(|(life, other)| *life != packet.life || other.seq < beat.seq) {
                            self.pending = Some((packet.life, beat.clone()));
                        }
                        self.speak(lan, this, Body::Ask, now, &mut taken);
                    }
                    Body::Ask => self.speak(lan, this, Body::Proof, now, &mut taken),
                    Body::Proof => {}
                }
                return taken;
            }
            if let Some(old) = self.current.take() {
                self.retired.push(old.life);
            }
            let mut newest = vec![0; self.newest.len()];
            newest[lan] = packet.counter;
            self.current = Some(Current { life: packet.life, since_counter: self.counter, handed_on: 0, newest });
            self.newest.fill(None);
            if let Some((life, beat)) = self.pending.take().filter(|(life, _)| *life == packet.life) {
                self.hand_on(life, beat, &mut taken);
            }
        }
        self.newest[lan] = Some(this);
        match &packet.body {
            Body::Beat(beat) => self.hand_on(packet.life, beat.clone(), &mut taken),
            Body::Ask => self.speak(lan, this, Body::Proof, now, &mut taken),
            Body::Proof => {}
        }
        taken
    }

    fn hand_on(&mut self, life: u64, beat: Rc<Beat>, taken: &mut Taken) {
        if let Some(current) = self.current.as_mut().filter(|c| c.life == life && beat.seq > c.handed_on) {
            current.handed_on = beat.seq;
            taken.heard.push((life, beat));
        }
    }

    fn speak(&mut self, lan: usize, this: (u64, u64), body: Body, now: u64, taken: &mut Taken) {
        if now.saturating_sub(self.asked[lan]) >= ASK_EVERY {
            self.asked[lan] = now;
            taken.reply = Some((body, this));
        }
    }
}
