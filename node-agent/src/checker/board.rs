//! How the modules of this node stand, and the checkers that watch one for another.

use super::report::Reporter;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::module::Standing;
use tsugi_core::state::{Health, Readiness, Snapshot, State};

/// The newest snapshot of each module of this node. Clones are the same board.
#[derive(Debug, Clone)]
pub struct Board {
    all: Arc<watch::Sender<BTreeMap<ModuleName, Row>>>,
}

#[derive(Debug)]
struct Row {
    snapshot: Snapshot,
    /// How often it ceased to be green: who looks too late still sees that it happened.
    breaks: u64,
}

impl Default for Board {
    fn default() -> Board {
        Board { all: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }
}

impl Board {
    /// Writes a module's snapshot.
    pub fn put(&self, snapshot: &Snapshot) {
        self.all.send_modify(|all| {
            let before = all.get(&snapshot.module);
            let is_break = before.is_some_and(|b| b.snapshot.readiness == Readiness::Ready) && snapshot.readiness != Readiness::Ready;
            let breaks = before.map_or(0, |b| b.breaks) + u64::from(is_break);
            all.insert(snapshot.module.clone(), Row { snapshot: snapshot.clone(), breaks });
        });
    }
    /// The module is not on this node any more.
    pub fn remove(&self, module: &ModuleName) {
        self.all.send_if_modified(|all| all.remove(module).is_some());
    }
}

fn is_standing(wanted: Standing, state: State) -> bool {
    match wanted {
        Standing::Up => state.is_serving() || state == State::Second,
        Standing::Prim => state.is_serving(),
        Standing::Second => state == State::Second,
    }
}

/// How it stands now, without waiting for a change.
pub fn look(board: &Board, module: &ModuleName, node: Option<&NodeName>, wanted: Standing) -> (Health, String) {
    let (health, detail, _) = judge(board.all.borrow().get(module), module, node, wanted);
    (health, detail)
}

/// Watches for ever. A restart of the other module is seen as down and up again, however short it was.
pub async fn watch(mut reporter: Reporter, board: Board, module: ModuleName, node: Option<NodeName>, wanted: Standing) {
    let mut changes = board.all.subscribe();
    let (mut breaks, mut said) = (0, String::new());
    loop {
        let (health, detail, now) = judge(changes.borrow_and_update().get(&module), &module, node.as_ref(), wanted);
        if health == Health::Up && reporter.shown() == Some(Health::Up) && now != breaks {
            let detail = format!("module {module} was restarted");
            if reporter.report(Health::Down, detail).await.is_err() {
                return;
            }
        }
        breaks = now;
        // Who waits for it is to say what it is waiting for now, not what it was when the wait began.
        let is_other_word = health == Health::Down && reporter.shown() == Some(Health::Down) && detail != said;
        if is_other_word && reporter.tell(reporter.name.clone(), health, detail.clone()).await.is_err() {
            return;
        }
        said.clone_from(&detail);
        if reporter.report(health, detail).await.is_err() || changes.changed().await.is_err() {
            return;
        }
    }
}

fn judge(row: Option<&Row>, module: &ModuleName, node: Option<&NodeName>, wanted: Standing) -> (Health, String, u64) {
    let Some(Row { snapshot, breaks }) = row else {
        return (Health::Down, format!("module {module} is not on this node"), 0);
    };
    let verdict = |is_good: bool| if is_good { Health::Up } else { Health::Down };
    match node.filter(|n| **n != snapshot.node) {
        None => {
            let (state, readiness) = (snapshot.state, snapshot.readiness);
            let colour = match readiness {
                Readiness::Ready => "",
                Readiness::Transient => ", under way",
                Readiness::NotReady => ", not ready",
            };
            let detail = format!("module {module} is {}{colour}", state.word());
            (verdict(is_standing(wanted, state) && readiness == Readiness::Ready), detail, *breaks)
        }
        Some(node) if snapshot.peer.node.as_ref() != Some(node) => {
            (Health::Down, format!("module {module} is not on {node}, as far as this node knows"), 0)
        }
        Some(node) if !snapshot.peer.in_contact => (Health::Down, format!("{node} is not in contact for module {module}"), 0),
        Some(node) => {
            let state = snapshot.peer.state;
            let word = state.map_or("not known", State::word);
            (verdict(state.is_some_and(|s| is_standing(wanted, s))), format!("module {module} is {word} on {node}"), 0)
        }
    }
}
