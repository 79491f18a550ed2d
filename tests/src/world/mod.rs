//! A small world around two real engines, for exhaustive exploration.
//!
//! Everything outside the engines is here and is as hostile as the protocol allows: beats that are late, lost or
//! overtaken, arbiter requests that arrive after their sender's death, crashes at any instant, a cut between the
//! nodes, writes in flight. There is no clock: "the promise lasts longer than the belief in it" is an order
//! between events (see [`World::may_fire`]), which is all the protocol assumes of time; it can be switched off.
//!
//! A plain write and an fsync are separate: a write reaches the memory of a node, a crash leaves what was flushed.
//! A resynchronisation copies everything in one step, and its target holds nothing until then.
//!
//! | file | holds |
//! | --- | --- |
//! | `mod` | what there is and what may happen |
//! | `data` | the data processes: who holds what, what may be acknowledged |
//! | `node` | engines, their timers and orders, crash and restart, the arbiter |
//! | `check` | invariants, goals, what was seen |
//! | `same` | equal situations as equal values |
//! | `explore` | breadth-first search |

mod check;
mod data;
mod explore;
mod node;
mod same;

pub use check::{Broken, Row};
pub use explore::{Seen, Situations, dead_ends, explore};

use data::{Data, Right};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use tsugi_core::command::{Command, Verb};
use tsugi_core::engine::{Input, Kept, Mirror, MirrorConfig, Mutant, Outcome, Saved, Ticket, Timer};
use tsugi_core::event::Event;
use tsugi_core::ids::{Epoch, JobId, LifeId, NodeName, Session};
use tsugi_core::module::{Async, Authority, DefaultPrim, Profile, Timing};
use tsugi_core::replica::{ReplicaNote, ReplicaOrder};
use tsugi_core::state::State;
use tsugi_core::wire::arbiter::{ArbiterRequest, Record};
use tsugi_core::wire::peer::Status;

/// What an exploration may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// Crashes of either node.
    pub crashes: u8,
    /// Cuts of the link between the nodes.
    pub cuts: u8,
    /// Writes by the application, at most 8.
    pub writes: u8,
    /// Arbiter answers that do not arrive in time although the request may still take effect later.
    pub late: u8,
    /// Requests to the arbiter that are carried out twice: once now and once more whenever the explorer likes.
    pub twice: u8,
    /// Orders `stop` (each followed by a `start` whenever the explorer likes).
    pub stops: u8,
    /// Orders `swap`.
    pub swaps: u8,
    /// Scripts that fail and orders to the data process that are not carried out.
    pub fails: u8,
    /// Agents that die and go on with what was kept of their engine.
    pub bounces: u8,
    /// Losses of the arbiter's store: it comes back empty, as another life.
    pub losses: u8,
    /// Highest record version explored.
    pub version_max: u64,
    /// Highest session explored.
    pub session_max: u64,
}

/// Which arbiter there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ArbiterKind {
    /// The record, as it is.
    #[default]
    Record,
    /// Says yes to whoever reaches it, as an address that answers pings does. Wrong on purpose.
    Anyone,
    /// A lock that passes from one to the next and does not know who is in sync. Wrong on purpose.
    Lock,
}

/// What is fixed in a world.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setting {
    /// What may be used up.
    pub budget: Budget,
    /// A rule left out.
    pub mutant: Option<Mutant>,
    /// Arbiter.
    pub arbiter: ArbiterKind,
    /// When the secondary answers an fsync.
    pub ack: Async,
    /// Promises may end while they are believed in: nothing is assumed of clocks.
    pub is_clock_free: bool,
    /// Scripts and orders to the data process take time, and may fail.
    pub is_slow: bool,
    /// Beats between two nodes that run and are linked arrive in time: silence is a fault, and none of those.
    pub is_calm: bool,
}

/// A part of the world that says nothing about its future.
#[derive(Debug, Clone, Default)]
struct Aside<T>(T);

impl<T> PartialEq for Aside<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<T> Eq for Aside<T> {}
impl<T> Hash for Aside<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// Something under way on a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Job {
    Script,
    Kill,
    Order(ReplicaOrder),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    engine: Option<Mirror>,
    disk: Saved,
    lives: u8,
    /// What may be kept of the engine besides its present state: that before the last input, if it led to nothing that
    /// counts.
    before: Option<Arc<Kept>>,
    /// Running timers; for those that count from a beat, which one.
    timers: BTreeMap<Timer, u32>,
    data: Data,
    /// Notes of the data process on their way to the engine.
    notes: Vec<ReplicaNote>,
    /// Work under way, in the order in which it was begun (slow worlds only).
    jobs: Vec<(JobId, Job)>,
    /// Newest beat of the other node (of its present life) this engine has processed.
    heard: u32,
    /// Beats sent in this life.
    sent: u32,
    /// Beats up to this one are so old that a promise answering them is over.
    expired: u32,
    /// The other node's newest beat when this life began.
    boundary: u32,
    /// Acknowledged writes without an fsync that this node had, and lost with a crash of its own.
    lost: u8,
}

/// A beat on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flying {
    status: Arc<Status>,
    ticket: u32,
    answers: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Asked {
    from: usize,
    /// The engine still waits for this one.
    is_current: bool,
    request: ArbiterRequest,
}

/// The two nodes, what lies between them, and the arbiter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    nodes: [Arc<Node>; 2],
    net: [Option<Flying>; 2],
    asked: Vec<Asked>,
    record: Record,
    is_cut: bool,
    /// The replication connection of the present session is there.
    is_connected: bool,
    /// Writes the application was told of, as far as a promise to it still covers them.
    acked: u8,
    /// Writes it was told to be on disk.
    durable: u8,
    written: u8,
    left: Budget,
    setting: Aside<Arc<Setting>>,
    /// What was reported in the last step.
    said: Aside<Vec<Event>>,
    /// A rule of the system under test was broken in the last step, as seen while it was carried out.
    caught: Option<Broken>,
}

/// Something that may happen next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Action {
    Deliver { to: usize },
    Fire { node: usize, timer: Timer },
    Arbiter { index: usize },
    ArbiterTwice { index: usize },
    ArbiterLate { node: usize },
    Note { node: usize },
    Finish { node: usize },
    Fail { node: usize },
    Sync { source: usize },
    Level { node: usize },
    Write { node: usize },
    Apply { source: usize },
    Acknowledge { node: usize },
    Fsync { node: usize },
    AcknowledgeFsync { node: usize },
    Rejoin { source: usize },
    GiveUp { node: usize },
    Crash { node: usize },
    Restart { node: usize },
    GoOn { node: usize, is_older: bool },
    Cut,
    Heal,
    LoseStore,
    Order { node: usize, verb: Verb },
}

impl Action {
    /// Neither a fault nor an order of a person (but for starting what was stopped).
    pub fn is_benign(&self) -> bool {
        match self {
            Action::ArbiterTwice { .. } | Action::LoseStore | Action::GoOn { .. } => false,
            Action::ArbiterLate { .. } | Action::Fail { .. } | Action::Crash { .. } | Action::Cut | Action::Write { .. } => false,
            Action::Order { verb, .. } => *verb == Verb::Start,
            _ => true,
        }
    }
}

fn names() -> [NodeName; 2] {
    [NodeName::new("a").expect("a name"), NodeName::new("b").expect("a name")]
}

impl World {
    /// Both nodes installed and running, the operator's first decision (`prim` on the first node) given.
    pub fn new(setting: Setting) -> World {
        let setting = Arc::new(setting);
        let node = |i: usize| Node {
            engine: Some(Mirror::new(config(i, &setting), Saved::default(), entropy(i, 1))),
            disk: Saved::default(),
            before: None,
            lives: 1,
            timers: BTreeMap::new(),
            data: Data::default(),
            notes: Vec::new(),
            jobs: Vec::new(),
            heard: 0,
            sent: 0,
            expired: 0,
            boundary: 0,
            lost: 0,
        };
        let mut world = World {
            nodes: [Arc::new(node(0)), Arc::new(node(1))],
            net: [None, None],
            asked: Vec::new(),
            record: Record::empty(LifeId(7)),
            is_cut: false,
            is_connected: false,
            acked: 0,
            durable: 0,
            written: 0,
            left: setting.budget,
            setting: Aside(setting),
            said: Aside::default(),
            caught: None,
        };
        for i in 0..2 {
            world.feed(i, Input::Boot);
        }
        world.feed(0, order(Verb::Prim { accept_loss: false }));
        world.feed(1, order(Verb::Start));
        world.normalise();
        world
    }

    /// Worlds share the nodes that have not changed.
    fn node_mut(&mut self, node: usize) -> &mut Node {
        Arc::make_mut(&mut self.nodes[node])
    }

    fn setting(&self) -> &Setting {
        &self.setting.0
    }

    /// What happens when nothing goes wrong: messages arrive, the arbiter answers, data is copied; timers that
    /// mean loss run out only when nothing else can happen. `None` when the world rests.
    pub fn friendly(&self) -> Option<Action> {
        let is_gone = |node: &usize| self.nodes[1 - node].engine.is_none();
        let rank = |action: &Action| match action {
            Action::Note { .. } | Action::Finish { .. } => 0,
            Action::Sync { .. } | Action::Level { .. } => 1,
            Action::Rejoin { .. } => 1,
            Action::Apply { .. } | Action::Acknowledge { .. } | Action::AcknowledgeFsync { .. } => 2,
            Action::Arbiter { .. } => 3,
            Action::Deliver { .. } => 4,
            Action::Fire { timer: Timer::Beat, .. } => 5,
            Action::Fire { timer: Timer::Quarantine | Timer::Backoff | Timer::ArbiterRetry, .. } => 6,
            Action::Fire { timer: Timer::PeerSilent, node } | Action::GiveUp { node } if is_gone(node) => 7,
            Action::Fire { timer: Timer::PromiseHeld, node } if is_gone(node) => 8,
            Action::Fire { timer: Timer::PromiseGiven, node } if is_gone(node) => 9,
            _ => u8::MAX,
        };
        self.actions().into_iter().min_by_key(rank).filter(|a| rank(a) < u8::MAX)
    }

    /// Follow the friendly course until `is_reached`, at most `steps_max` events.
    pub fn run_friendly(&mut self, steps_max: usize, is_reached: fn(&World) -> bool) -> bool {
        for _ in 0..steps_max {
            if is_reached(self) {
                return true;
            }
            // Beats go on for ever, so quiet timers get their turn after a few rounds of them.
            let Some(action) = self.friendly() else { return false };
            let action = self.patience(action);
            match self.after(&action) {
                Some(next) => *self = next,
                None => return false,
            }
        }
        is_reached(self)
    }

    /// Instead of yet another beat that changes nothing: the oldest waiting timer, if one may run out.
    fn patience(&self, action: Action) -> Action {
        let is_beat = |a: &Action| matches!(a, Action::Deliver { .. } | Action::Fire { timer: Timer::Beat, .. });
        if !is_beat(&action) {
            return action;
        }
        let waits = |a: &Action| match a {
            Action::Fire { timer: Timer::Quarantine | Timer::Backoff | Timer::ArbiterRetry, .. } => true,
            Action::Fire { timer: Timer::PeerSilent | Timer::PromiseGiven | Timer::PromiseHeld, node } | Action::GiveUp { node } => {
                self.nodes[1 - node].engine.is_none()
            }
            _ => false,
        };
        self.actions().into_iter().find(waits).unwrap_or(action)
    }

    /// Everything that may happen now.
    pub fn actions(&self) -> Vec<Action> {
        let mut all = Vec::new();
        for node in 0..2 {
            self.actions_of(node, &mut all);
        }
        all.extend((0..self.asked.len()).map(|index| Action::Arbiter { index }));
        if self.left.twice > 0 {
            // A read that comes twice changes nothing.
            let changes = |index: &usize| self.asked[*index].request != ArbiterRequest::Read;
            all.extend((0..self.asked.len()).filter(changes).map(|index| Action::ArbiterTwice { index }));
        }
        if self.left.losses > 0 && self.record.version > Epoch(0) {
            all.push(Action::LoseStore);
        }
        match self.is_cut {
            false if self.left.cuts > 0 => all.push(Action::Cut),
            true => all.push(Action::Heal),
            false => {}
        }
        all
    }

    fn actions_of(&self, i: usize, all: &mut Vec<Action>) {
        let node = &self.nodes[i];
        if self.net[1 - i].is_some() && node.engine.is_some() && !self.is_cut {
            all.push(Action::Deliver { to: i });
        }
        let Some(engine) = &node.engine else {
            all.push(Action::Restart { node: i });
            return;
        };
        all.extend(node.timers.keys().filter(|t| self.may_fire(i, **t)).map(|t| Action::Fire { node: i, timer: *t }));
        if !node.notes.is_empty() {
            all.push(Action::Note { node: i });
        }
        if let Some((_, job)) = node.jobs.first() {
            all.push(Action::Finish { node: i });
            if self.left.fails > 0 && *job != Job::Kill {
                all.push(Action::Fail { node: i });
            }
        }
        self.data_actions(i, all);
        if self.left.crashes > 0 {
            all.push(Action::Crash { node: i });
        }
        if self.left.bounces > 0 && node.jobs.is_empty() {
            if engine.kept().is_some() {
                all.push(Action::GoOn { node: i, is_older: false });
            }
            if node.before.is_some() {
                all.push(Action::GoOn { node: i, is_older: true });
            }
        }
        if self.left.late > 0 && self.asked.iter().any(|a| a.from == i && a.is_current) {
            all.push(Action::ArbiterLate { node: i });
        }
        if self.left.stops > 0
            && matches!(engine.state(), State::Second | State::Prim | State::Alone)
            && engine.refusal(&Verb::Stop).is_none()
        {
            all.push(Action::Order { node: i, verb: Verb::Stop });
        }
        if engine.state() == State::Stop && engine.refusal(&Verb::Start).is_none() {
            all.push(Action::Order { node: i, verb: Verb::Start });
        }
        if self.left.swaps > 0 && engine.refusal(&Verb::Swap).is_none() {
            all.push(Action::Order { node: i, verb: Verb::Swap });
        }
    }

    /// The state after `action`, or `None` beyond the bounds of the exploration.
    pub fn after(&self, action: &Action) -> Option<World> {
        let mut next = self.clone();
        next.said.0.clear();
        next.act(action);
        let is_inside =
            next.record.version.0 <= next.left.version_max && next.nodes.iter().all(|n| n.disk.session.0 <= next.left.session_max);
        next.normalise();
        is_inside.then_some(next)
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Deliver { to } => {
                let Some(flying) = self.net[1 - to].take() else { return };
                let is_of_this_life = flying.answers > 0;
                self.node_mut(to).heard = flying.ticket;
                self.feed(
                    to,
                    Input::Heard {
                        status: Box::new((*flying.status).clone()),
                        answers: is_of_this_life.then_some(Ticket(flying.answers.into())),
                    },
                );
            }
            Action::Fire { node, timer } => self.fire(node, timer),
            Action::Arbiter { index } => self.arbitrate(index),
            Action::ArbiterTwice { index } => {
                self.left.twice -= 1;
                let again = Asked { is_current: false, ..self.asked[index].clone() };
                self.asked.push(again);
                self.arbitrate(index);
            }
            Action::ArbiterLate { node } => {
                self.left.late -= 1;
                if let Some(asked) = self.asked.iter_mut().find(|a| a.from == node && a.is_current) {
                    asked.is_current = false;
                }
                self.feed(node, Input::Done(JobId(1), Outcome::Arbiter(None)));
            }
            Action::Note { node } => {
                let note = self.node_mut(node).notes.remove(0);
                self.feed(node, Input::Replica(note));
            }
            Action::Finish { node } => self.finish(node, true),
            Action::Fail { node } => {
                self.left.fails -= 1;
                self.finish(node, false);
            }
            Action::Crash { node } => self.crash(node),
            Action::Restart { node } => self.restart(node),
            Action::GoOn { node, is_older } => self.go_on(node, is_older),
            Action::Cut => {
                self.left.cuts -= 1;
                self.is_cut = true;
                self.net = [None, None];
                self.is_connected = false;
            }
            Action::Heal => self.is_cut = false,
            Action::LoseStore => {
                self.left.losses -= 1;
                self.record = Record::empty(LifeId(self.record.instance.0 + 1));
            }
            Action::Order { node, ref verb } => {
                match verb {
                    Verb::Stop => self.left.stops -= 1,
                    Verb::Swap => self.left.swaps -= 1,
                    _ => {}
                }
                self.feed(node, order(verb.clone()));
            }
            Action::Sync { .. }
            | Action::Level { .. }
            | Action::Write { .. }
            | Action::Apply { .. }
            | Action::Acknowledge { .. }
            | Action::Fsync { .. }
            | Action::AcknowledgeFsync { .. }
            | Action::Rejoin { .. }
            | Action::GiveUp { .. } => self.act_on_data(action),
        }
    }

    /// Every session number in use is written to a disk, so this is the newest.
    fn session_of(&self, node: usize) -> Option<Session> {
        let data = &self.nodes[node].data;
        data.armed.map(|(s, _)| s).or(data.offer)
    }
}

fn config(node: usize, setting: &Setting) -> MirrorConfig {
    let [a, b] = names();
    let (me, peer) = if node == 0 { (a, b) } else { (b, a) };
    MirrorConfig {
        me,
        peer,
        timing: Timing::of(Profile::Normal),
        is_failover_on: true,
        authority: Authority::Arbiter,
        rules: Default::default(),
        default_prim: DefaultPrim::Alone,
        maxloop: 3,
        loop_interval: std::time::Duration::ZERO,
        ack: setting.ack,
        mutant: setting.mutant,
    }
}

fn entropy(node: usize, life: u8) -> u128 {
    (node as u128 + 1) << 100 | u128::from(life)
}

fn order(verb: Verb) -> Input {
    Input::Command(Command { id: String::new(), verb, by: "root".into(), reason: None, is_automatic: false })
}

/// What a node's data process may acknowledge, for texts.
fn right_word(right: Right) -> String {
    match right {
        Right::No => "-".into(),
        Right::Alone => "alone".into(),
        Right::Until(beat) => format!("until {beat}"),
    }
}
