//! What the console knows right now: who is connected, what each node last said, and a feed of changes.
//!
//! One mutex, never held over an await. Every change gets a number (`seq`), goes into a ring of
//! [`RING_MAX`] and raises a watch; readers hold a cursor of their own, take what came since, and start again
//! from the whole when their cursor fell out of the ring. So a slow reader costs nothing. Values are absolute:
//! a reader may skip any number of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tsugi_core::command::Refusal;
use tsugi_core::health::NodeReport;
use tsugi_core::ids::{ClusterName, ModuleName, NodeName};
use tsugi_core::rehearsal::Rehearsal;
use tsugi_core::state::Snapshot;
use tsugi_core::wire::console::{ConsoleMsg, Deployment};

/// Changes kept for readers that are behind: minutes at a hundred changes a second, a few MB.
pub const RING_MAX: usize = 10_000;
/// Messages waiting for one agent; an agent that takes none for so long is cut off and begins anew.
pub const OUTBOX_MAX: usize = 256;
/// A node that said nothing for this long is out of contact: three of its signs of life.
pub const SILENCE_MAX: Duration = Duration::from_secs(3 * tsugi_core::wire::console::ALIVE_SECONDS);

/// What changed. The value is read from the fleet or the store by whoever wants it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// A cluster, its nodes or its list of modules: something was added, removed, approved or configured.
    Inventory { cluster: ClusterName },
    /// A node came, went, or was approved.
    Node { cluster: ClusterName, node: NodeName },
    /// A node said something new of a module.
    Module { cluster: ClusterName, module: ModuleName, node: NodeName },
    /// Versions, deployment answers, or the running operation of a module.
    Work { cluster: ClusterName, module: ModuleName },
    /// An operation went on.
    Operation { id: String },
    /// New events of a module.
    Events { cluster: ClusterName, module: ModuleName },
}

/// A change with its number.
#[derive(Debug, Clone)]
pub struct Change {
    /// Counts up from 1 within one life of the console.
    pub seq: u64,
    /// Wall clock.
    pub at_ms: i64,
    /// What.
    pub topic: Topic,
}

/// A node's last word on a module.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it said.
    pub snapshot: Arc<Snapshot>,
    /// When, for ages.
    pub at_ms: i64,
    /// Since when its resynchronisation has not moved.
    pub resync_still_since: Option<Instant>,
    /// When it first claimed to serve in its present epoch, in this life of the console.
    pub claimed: Option<Instant>,
}

/// A connection's handle, as the rest of the console sees it.
#[derive(Debug)]
struct Link {
    id: u64,
    outbox: mpsc::Sender<ConsoleMsg>,
    /// Raised to make the connection compare what the node has with what it should have.
    sync: watch::Sender<u64>,
    heard: Instant,
    /// The console takes it for connected: approved, and heard within [`SILENCE_MAX`].
    is_up: bool,
}

/// A node as the fleet sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contact {
    /// Heard now.
    pub is_connected: bool,
    /// Last heard, wall clock; absent = not in this life of the console.
    pub heard_ms: Option<i64>,
}

type NodeKey = (ClusterName, NodeName);
type ModuleKey = (ClusterName, ModuleName);

#[derive(Debug, Default)]
struct State {
    seq: u64,
    ring: VecDeque<Arc<Change>>,
    links: BTreeMap<NodeKey, Link>,
    heard_ms: BTreeMap<NodeKey, i64>,
    seen: BTreeMap<ModuleKey, BTreeMap<NodeName, Seen>>,
    /// Orders sent and not answered.
    asked: BTreeMap<String, (NodeKey, oneshot::Sender<Option<Refusal>>)>,
    /// Configurations on trial and not judged.
    tried: BTreeMap<String, (NodeKey, oneshot::Sender<Vec<String>>)>,
    /// Dry runs of orders, by id.
    rehearsing: BTreeMap<String, (NodeKey, oneshot::Sender<Rehearsal>)>,
    /// Generation and problems of the last answer to a deployment, in this life of the console.
    deployed: BTreeMap<(ModuleKey, NodeName), (u64, Vec<String>)>,
    /// Snapshots not yet written to the store.
    unsaved: BTreeMap<(ModuleKey, NodeName), ()>,
    next_link: u64,
}

/// The state of everything, shared by all.
#[derive(Debug)]
pub struct Fleet {
    /// Life of this console's state; a reader with another one starts again.
    pub epoch: String,
    state: Mutex<State>,
    seq: watch::Sender<u64>,
}

/// What a connection gets from the fleet.
#[derive(Debug)]
pub struct Attached {
    /// Number of the connection.
    pub id: u64,
    /// What to send.
    pub outbox: mpsc::Receiver<ConsoleMsg>,
    /// Compare again.
    pub sync: watch::Receiver<u64>,
}

/// An answer to "what came since".
#[derive(Debug)]
pub enum Since {
    /// These, oldest first.
    Changes(Vec<Arc<Change>>),
    /// The cursor is too old (or of another life): read everything again.
    Gap,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Fleet {
    /// Nobody connected, nothing known.
    pub fn new() -> Fleet {
        let epoch = format!("{:016x}", rand::random::<u64>());
        Fleet { epoch, state: Mutex::default(), seq: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the fleet's lock")
    }

    /// Tells readers that something changed.
    pub fn changed(&self, topic: Topic) {
        self.record(&mut self.state(), topic);
    }

    fn record(&self, state: &mut State, topic: Topic) {
        state.seq += 1;
        let seq = state.seq;
        if state.ring.len() >= RING_MAX {
            state.ring.pop_front();
        }
        state.ring.push_back(Arc::new(Change { seq, at_ms: crate::store::now_ms(), topic }));
        self.seq.send_replace(seq);
    }

    /// Number of the newest change, to be awaited.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.seq.subscribe()
    }

    /// Number of the newest change.
    pub fn seq(&self) -> u64 {
        self.state().seq
    }

    /// Changes after `cursor`.
    pub fn since(&self, cursor: u64) -> Since {
        let state = self.state();
        let oldest = state.ring.front().map_or(state.seq + 1, |c| c.seq);
        if cursor > state.seq || cursor + 1 < oldest {
            return Since::Gap;
        }
        Since::Changes(state.ring.iter().skip((cursor + 1 - oldest) as usize).cloned().collect())
    }

    // --- agents -----------------------------------------------------------------------------------------------

    /// A node's agent connected. An older connection of the same node loses its place: its outbox closes.
    pub fn attach(&self, cluster: &ClusterName, node: &NodeName, is_approved: bool) -> Attached {
        let (outbox_in, outbox) = mpsc::channel(OUTBOX_MAX);
        let (sync_in, sync) = watch::channel(0);
        let mut state = self.state();
        state.next_link += 1;
        let id = state.next_link;
        let key = (cluster.clone(), node.clone());
        let link = Link { id, outbox: outbox_in, sync: sync_in, heard: Instant::now(), is_up: is_approved };
        state.links.insert(key.clone(), link);
        state.heard_ms.insert(key, crate::store::now_ms());
        self.record(&mut state, Topic::Node { cluster: cluster.clone(), node: node.clone() });
        Attached { id, outbox, sync }
    }

    /// The connection ended.
    pub fn detach(&self, cluster: &ClusterName, node: &NodeName, id: u64) {
        let mut state = self.state();
        let key = (cluster.clone(), node.clone());
        if state.links.get(&key).is_some_and(|l| l.id == id) {
            state.links.remove(&key);
            state.asked.retain(|_, (to, _)| *to != key);
            state.tried.retain(|_, (by, _)| *by != key);
            self.record(&mut state, Topic::Node { cluster: cluster.clone(), node: node.clone() });
        }
    }

    /// A sign of life. False if this connection has lost its place to a newer one.
    pub fn heard(&self, cluster: &ClusterName, node: &NodeName, id: u64, is_approved: bool) -> bool {
        let mut state = self.state();
        let key = (cluster.clone(), node.clone());
        state.heard_ms.insert(key.clone(), crate::store::now_ms());
        let Some(link) = state.links.get_mut(&key).filter(|l| l.id == id) else { return false };
        link.heard = Instant::now();
        if link.is_up != is_approved {
            link.is_up = is_approved;
            self.record(&mut state, Topic::Node { cluster: cluster.clone(), node: node.clone() });
        }
        true
    }

    /// Marks nodes that have been silent too long; their connections stay, for they may only be slow.
    pub fn mark_silent(&self) {
        let mut state = self.state();
        let mut lost = Vec::new();
        for ((cluster, node), link) in &mut state.links {
            if link.is_up && link.heard.elapsed() > SILENCE_MAX {
                link.is_up = false;
                lost.push(Topic::Node { cluster: cluster.clone(), node: node.clone() });
            }
        }
        for topic in lost {
            self.record(&mut state, topic);
        }
    }

    /// Cuts a node off (it was removed).
    pub fn drop_node(&self, cluster: &ClusterName, node: &NodeName) {
        let mut state = self.state();
        let key = (cluster.clone(), node.clone());
        state.links.remove(&key);
        state.asked.retain(|_, (to, _)| *to != key);
        state.tried.retain(|_, (by, _)| *by != key);
        state.heard_ms.remove(&key);
        for ((of, _), nodes) in &mut state.seen {
            if of == cluster {
                nodes.remove(node);
            }
        }
        self.record(&mut state, Topic::Node { cluster: cluster.clone(), node: node.clone() });
    }

    /// Makes every connection of a cluster compare what its node has with what it should have.
    pub fn sync(&self, cluster: &ClusterName) {
        for ((of, _), link) in &self.state().links {
            if of == cluster {
                link.sync.send_modify(|n| *n += 1);
            }
        }
    }

    /// Whether a node is heard.
    pub fn contact(&self, cluster: &ClusterName, node: &NodeName) -> Contact {
        let state = self.state();
        let key = (cluster.clone(), node.clone());
        Contact { is_connected: state.links.get(&key).is_some_and(|l| l.is_up), heard_ms: state.heard_ms.get(&key).copied() }
    }

    /// Gives an order to a node; the answer comes through the receiver, which closes when the node is lost first.
    pub fn order(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
        module: &ModuleName,
        command: tsugi_core::command::Command,
    ) -> Option<oneshot::Receiver<Option<Refusal>>> {
        let mut state = self.state();
        let key = (cluster.clone(), node.clone());
        let link = state.links.get(&key).filter(|l| l.is_up)?;
        let id = command.id.clone();
        link.outbox.try_send(ConsoleMsg::Command { module: module.clone(), command }).ok()?;
        let (answer, answered) = oneshot::channel();
        state.asked.insert(id, (key, answer));
        Some(answered)
    }

    /// A node answered an order. An answer nobody waits for is dropped.
    pub fn answered(&self, node: &NodeKey, id: &str, refusal: Option<Refusal>) {
        let mut state = self.state();
        if state.asked.get(id).is_some_and(|(to, _)| to == node)
            && let Some((_, answer)) = state.asked.remove(id)
        {
            let _ = answer.send(refusal);
        }
    }

    /// Has a node judge a configuration; its problems come through the receiver, which closes when the node is lost
    /// first. `None`: the node is not in contact.
    pub fn try_on(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
        id: String,
        deployment: Deployment,
    ) -> Option<oneshot::Receiver<Vec<String>>> {
        let mut state = self.state();
        let key = (cluster.clone(), node.clone());
        let link = state.links.get(&key).filter(|l| l.is_up)?;
        let (answer, judged) = oneshot::channel();
        if link.outbox.try_send(ConsoleMsg::Try { id: id.clone(), deployment }).is_ok() {
            // What nobody waits for any more is forgotten here, so that silent nodes fill nothing.
            state.tried.retain(|_, (_, waiting)| !waiting.is_closed());
            state.tried.insert(id, (key, answer));
        }
        Some(judged)
    }

    /// A node judged a configuration. A judgement nobody waits for is dropped.
    pub fn judged(&self, node: &NodeKey, id: &str, problems: Vec<String>) {
        let mut state = self.state();
        if state.tried.get(id).is_some_and(|(by, _)| by == node)
            && let Some((_, answer)) = state.tried.remove(id)
        {
            let _ = answer.send(problems);
        }
    }

    /// Asks a node what an order would do; the answer comes through the receiver, which closes when the node is lost first.
    /// `None`: the node is not in contact.
    pub fn rehearse(
        &self,
        cluster: &ClusterName,
        node: &NodeName,
        module: &ModuleName,
        command: tsugi_core::command::Command,
    ) -> Option<oneshot::Receiver<Rehearsal>> {
        let mut state = self.state();
        let key = (cluster.clone(), node.clone());
        let link = state.links.get(&key).filter(|l| l.is_up)?;
        let id = command.id.clone();
        link.outbox.try_send(ConsoleMsg::Rehearse { module: module.clone(), command }).ok()?;
        let (answer, rehearsed) = oneshot::channel();
        // As in `try_on`: an agent that does not know the question leaves nothing behind.
        state.rehearsing.retain(|_, (_, waiting)| !waiting.is_closed());
        state.rehearsing.insert(id, (key, answer));
        Some(rehearsed)
    }

    /// A node said what an order would do. An answer nobody waits for is dropped.
    pub fn rehearsed(&self, node: &NodeKey, id: &str, rehearsal: Rehearsal) {
        let mut state = self.state();
        if state.rehearsing.get(id).is_some_and(|(by, _)| by == node)
            && let Some((_, answer)) = state.rehearsing.remove(id)
        {
            let _ = answer.send(rehearsal);
        }
    }

    /// A node answered a deployment.
    pub fn deployed(&self, cluster: &ClusterName, module: &ModuleName, node: &NodeName, generation: u64, problems: Vec<String>) {
        let mut state = self.state();
        let key = (cluster.clone(), module.clone());
        state.deployed.insert((key, node.clone()), (generation, problems));
        self.record(&mut state, Topic::Work { cluster: cluster.clone(), module: module.clone() });
    }

    /// The last answer of a node to a deployment in this life of the console.
    pub fn deploy_answer(&self, cluster: &ClusterName, module: &ModuleName, node: &NodeName) -> Option<(u64, Vec<String>)> {
        self.state().deployed.get(&((cluster.clone(), module.clone()), node.clone())).cloned()
    }

    // --- snapshots --------------------------------------------------------------------------------------------

    /// A node's word on a module. Recorded as a change only if it says something new.
    pub fn saw(&self, cluster: &ClusterName, snapshot: Snapshot) {
        let mut state = self.state();
        let (module, node) = (snapshot.module.clone(), snapshot.node.clone());
        let nodes = state.seen.entry((cluster.clone(), module.clone())).or_default();
        let before = nodes.get(&node);
        let is_new = before.is_none_or(|b| *b.snapshot != snapshot);
        let bytes = |s: &Snapshot| s.resync.as_ref().map(|r| (r.bytes_done, r.files_done));
        let resync_still_since = match (bytes(&snapshot), before) {
            (Some(now), Some(before)) if bytes(&before.snapshot) == Some(now) => before.resync_still_since.or_else(|| Some(Instant::now())),
            _ => None,
        };
        let claim = |s: &Snapshot| s.state.is_serving().then_some(s.epoch);
        let claimed = match (claim(&snapshot), before) {
            (None, _) => None,
            (now, Some(before)) if claim(&before.snapshot) == now => before.claimed.or_else(|| Some(Instant::now())),
            _ => Some(Instant::now()),
        };
        nodes.insert(node.clone(), Seen { snapshot: Arc::new(snapshot), at_ms: crate::store::now_ms(), resync_still_since, claimed });
        if is_new {
            state.unsaved.insert(((cluster.clone(), module.clone()), node.clone()), ());
            self.record(&mut state, Topic::Module { cluster: cluster.clone(), module, node });
        }
    }

    /// A last word kept from an earlier life of the console.
    pub fn remember(&self, cluster: ClusterName, snapshot: Snapshot, at_ms: i64) {
        let mut state = self.state();
        let heard = state.heard_ms.entry((cluster.clone(), snapshot.node.clone())).or_insert(at_ms);
        *heard = (*heard).max(at_ms);
        let nodes = state.seen.entry((cluster, snapshot.module.clone())).or_default();
        nodes.insert(snapshot.node.clone(), Seen { snapshot: Arc::new(snapshot), at_ms, resync_still_since: None, claimed: None });
    }

    /// Forgets a removed module.
    pub fn forget_module(&self, cluster: &ClusterName, module: &ModuleName) {
        let mut state = self.state();
        let key = (cluster.clone(), module.clone());
        state.seen.remove(&key);
        state.deployed.retain(|(of, _), _| *of != key);
        state.unsaved.retain(|(of, _), _| *of != key);
    }

    /// A node no longer has a module.
    pub fn forget_module_on(&self, cluster: &ClusterName, module: &ModuleName, node: &NodeName) {
        if let Some(nodes) = self.state().seen.get_mut(&(cluster.clone(), module.clone())) {
            nodes.remove(node);
        }
    }

    /// What a node last said of a module.
    pub fn seen(&self, cluster: &ClusterName, module: &ModuleName, node: &NodeName) -> Option<Seen> {
        self.state().seen.get(&(cluster.clone(), module.clone())).and_then(|nodes| nodes.get(node)).cloned()
    }

    /// What is known of `nodes` of a module, in that order.
    ///
    /// A node that served, and was not heard since another began to serve in a newer epoch, counts as out of contact
    /// at once: it is far more likely dead than serving beside its successor. One sign of life shows the contrary.
    pub fn reports(&self, cluster: &ClusterName, module: &ModuleName, nodes: &[NodeName]) -> Vec<Report> {
        let state = self.state();
        let seen = state.seen.get(&(cluster.clone(), module.clone()));
        nodes
            .iter()
            .map(|node| {
                let key = (cluster.clone(), node.clone());
                Report {
                    node: node.clone(),
                    contact: Contact {
                        is_connected: state
                            .links
                            .get(&key)
                            .is_some_and(|l| l.is_up && !seen.is_some_and(|s| is_succeeded(s, node, l.heard))),
                        heard_ms: state.heard_ms.get(&key).copied(),
                    },
                    seen: seen.and_then(|s| s.get(node)).cloned(),
                }
            })
            .collect()
    }

    /// Snapshots that changed since the last call, to be written to the store.
    pub fn take_unsaved(&self) -> Vec<(ClusterName, Arc<Snapshot>, i64)> {
        let mut state = self.state();
        let keys = std::mem::take(&mut state.unsaved);
        keys.into_keys()
            .filter_map(|((cluster, module), node)| {
                let seen = state.seen.get(&(cluster.clone(), module))?.get(&node)?;
                Some((cluster, seen.snapshot.clone(), seen.at_ms))
            })
            .collect()
    }

    /// Waits until `look` finds what it wants, looking again after every change; `None` at the end of `within`.
    pub async fn wait<T>(&self, within: Duration, mut look: impl FnMut(&Fleet) -> Option<T>) -> Option<T> {
        let mut changes = self.watch();
        let end = tokio::time::Instant::now() + within;
        loop {
            changes.mark_unchanged();
            if let Some(found) = look(self) {
                return Some(found);
            }
            match tokio::time::timeout_at(end, changes.changed()).await {
                Ok(Ok(())) => {}
                _ => return look(self),
            }
        }
    }
}

/// What is known of one node of a module.
#[derive(Debug, Clone)]
pub struct Report {
    /// The node.
    pub node: NodeName,
    /// Whether it is heard.
    pub contact: Contact,
    /// What it last said.
    pub seen: Option<Seen>,
}

impl Report {
    /// For [`tsugi_core::health::module_health`].
    pub fn for_health(&self) -> NodeReport<'_> {
        NodeReport { node: &self.node, is_connected: self.contact.is_connected, snapshot: self.snapshot() }
    }
    /// What it last said, whatever its age.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.seen.as_ref().map(|s| s.snapshot.as_ref())
    }
    /// What it says now.
    pub fn now(&self) -> Option<&Snapshot> {
        self.snapshot().filter(|_| self.contact.is_connected)
    }
    /// Age of its last word.
    pub fn age_ms(&self) -> Option<u64> {
        self.seen.as_ref().map(|s| (crate::store::now_ms() - s.at_ms).max(0) as u64)
    }
}

/// Another node took over from `node`, which was last heard before that.
fn is_succeeded(seen: &BTreeMap<NodeName, Seen>, node: &NodeName, heard: Instant) -> bool {
    let Some(own) = seen.get(node).map(|s| &s.snapshot).filter(|s| s.state.is_serving()) else { return false };
    seen.values().any(|other| {
        let is_newer = other.snapshot.epoch > own.epoch && other.snapshot.state.is_serving();
        is_newer && other.claimed.is_some_and(|claimed| claimed > heard)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsugi_core::ids::{Epoch, Gen, Session};
    use tsugi_core::state::{ArbiterView, Flag, PeerView, Readiness, Replication, State as Role};

    fn snapshot(node: &NodeName, state: Role, epoch: u64) -> Snapshot {
        Snapshot {
            module: ModuleName::new("m").unwrap(),
            node: node.clone(),
            config_generation: 1,
            state,
            readiness: Readiness::Ready,
            reason: None,
            since_unix_ms: 0,
            maintenance_until_unix_ms: None,
            traffic: None,
            verification: Default::default(),
            flag: Flag::UpToDate,
            is_up_to_date: true,
            epoch: Epoch(epoch),
            gen_id: Gen(1),
            session: Session(0),
            in_sync: std::collections::BTreeSet::new(),
            vips_held: Vec::new(),
            replication: Replication::Synchronous,
            resync: None,
            peer: PeerView { node: None, in_contact: false, state: None, networks: Vec::new() },
            arbiter: ArbiterView::Reachable,
            authority: Default::default(),
            resources: Vec::new(),
            allowed: Vec::new(),
        }
    }

    #[test]
    fn a_dead_primary_does_not_serve_beside_its_successor() {
        let fleet = Fleet::new();
        let (c, m) = (ClusterName::new("c1").unwrap(), ModuleName::new("m").unwrap());
        let nodes = [NodeName::new("n1").unwrap(), NodeName::new("n2").unwrap()];
        let links: Vec<Attached> = nodes.iter().map(|n| fleet.attach(&c, n, true)).collect();
        let say = |at: usize, state, epoch| {
            fleet.heard(&c, &nodes[at], links[at].id, true);
            fleet.saw(&c, snapshot(&nodes[at], state, epoch));
        };
        let connected = || fleet.reports(&c, &m, &nodes).iter().map(|r| r.contact.is_connected).collect::<Vec<_>>();
        say(0, Role::Prim, 5);
        say(1, Role::Second, 5);
        assert_eq!(connected(), [true, true]);
        say(1, Role::Alone, 6);
        assert_eq!(connected(), [false, true], "nothing was heard of the first since the second took over");
        say(1, Role::Alone, 6);
        fleet.heard(&c, &nodes[0], links[0].id, true);
        assert_eq!(connected(), [true, true], "it lives, and may serve: that must be seen");
    }

    fn inventory(n: usize) -> Topic {
        Topic::Inventory { cluster: ClusterName::new(format!("c{n}")).unwrap() }
    }

    #[test]
    fn a_reader_gets_what_came_since_its_cursor_and_a_gap_when_it_is_too_far_behind() {
        let fleet = Fleet::new();
        for n in 1..=5 {
            fleet.changed(inventory(n));
        }
        let Since::Changes(changes) = fleet.since(3) else { panic!("the ring holds them all") };
        assert_eq!(changes.iter().map(|c| c.seq).collect::<Vec<_>>(), [4, 5]);
        assert!(matches!(fleet.since(5), Since::Changes(c) if c.is_empty()));
        assert!(matches!(fleet.since(6), Since::Gap), "a cursor of another life");
        for n in 0..RING_MAX {
            fleet.changed(inventory(n));
        }
        assert!(matches!(fleet.since(4), Since::Gap));
        assert!(matches!(fleet.since(5), Since::Changes(c) if c.len() == RING_MAX));
    }

    #[test]
    fn a_second_connection_of_a_node_takes_the_place_of_the_first() {
        let fleet = Fleet::new();
        let (c, n) = (ClusterName::new("c1").unwrap(), NodeName::new("n1").unwrap());
        let mut first = fleet.attach(&c, &n, true);
        let second = fleet.attach(&c, &n, true);
        assert!(first.outbox.try_recv().is_err() && first.outbox.is_closed(), "the first is told by its closed outbox");
        assert!(!fleet.heard(&c, &n, first.id, true));
        fleet.detach(&c, &n, first.id);
        assert!(fleet.contact(&c, &n).is_connected, "the end of the first does not end the second");
        fleet.detach(&c, &n, second.id);
        assert!(!fleet.contact(&c, &n).is_connected);
    }

    #[tokio::test]
    async fn an_order_to_a_lost_node_is_answered_by_silence_at_once() {
        let fleet = Fleet::new();
        let (c, n, m) = (ClusterName::new("c1").unwrap(), NodeName::new("n1").unwrap(), ModuleName::new("m").unwrap());
        let attached = fleet.attach(&c, &n, true);
        let command = tsugi_core::command::Command {
            id: "1".into(),
            verb: tsugi_core::command::Verb::Start,
            by: "root".into(),
            reason: None,
            is_automatic: false,
        };
        let answer = fleet.order(&c, &n, &m, command.clone()).unwrap();
        fleet.detach(&c, &n, attached.id);
        assert!(answer.await.is_err());
        assert!(fleet.order(&c, &n, &m, command).is_none());
    }
}
