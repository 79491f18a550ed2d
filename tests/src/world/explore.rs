//! Breadth first, so that a trace that is found is a shortest one.

use super::{Broken, Row, World};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// What a search saw.
#[derive(Debug)]
pub struct Seen {
    /// Distinct states.
    pub states: usize,
    /// Steps from one to another.
    pub steps: usize,
    /// Everything inside the bounds was visited.
    pub is_exhausted: bool,
    /// A pair formed.
    pub has_pair: bool,
    /// The role moved.
    pub has_takeover: bool,
    /// Changes of state.
    pub rows: BTreeSet<Row>,
    /// The first invariant that did not hold, and how it came to that.
    pub broken: Option<(Broken, Vec<String>)>,
}

/// Fingerprints are spread already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are kept")
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

/// How a state was reached: from which, by the how-manieth of its actions.
type Parents = HashMap<u128, (u128, u16), BuildHasherDefault<AsIs>>;

/// Worlds worked on at a time by each thread.
const CHUNK: usize = 2_000;

/// Visits what can follow from `start`, at most `states_max` states, with as many threads as the machine has cores.
pub fn explore(start: &World, states_max: usize) -> Seen {
    let mut parents = Parents::default();
    let mut seen =
        Seen { states: 0, steps: 0, is_exhausted: true, has_pair: false, has_takeover: false, rows: BTreeSet::new(), broken: None };
    let mut queue = VecDeque::from([start.clone()]);
    parents.insert(start.fingerprint(), (0, 0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    while !queue.is_empty() {
        let batch: Vec<World> = queue.drain(..queue.len().min(CHUNK * threads)).collect();
        for world in &batch {
            seen.states += 1;
            seen.has_pair |= world.is_pair();
            seen.has_takeover |= world.is_taken_over();
            seen.rows.extend(world.rows());
            if let Some(broken) = world.broken() {
                seen.broken = Some((broken, trace(&parents, start, world)));
                return seen;
            }
        }
        let known = &parents;
        let found: Vec<Vec<(u128, (u128, u16), World)>> = std::thread::scope(|scope| {
            let part = batch.len().div_ceil(threads).max(1);
            let workers: Vec<_> = batch.chunks(part).map(|worlds| scope.spawn(move || successors(worlds, known))).collect();
            workers.into_iter().map(|w| w.join().expect("an explorer's thread")).collect()
        });
        for (print, parent, world) in found.into_iter().flatten() {
            seen.steps += 1;
            if parents.contains_key(&print) {
                continue;
            }
            if parents.len() >= states_max {
                seen.is_exhausted = false;
                continue;
            }
            parents.insert(print, parent);
            queue.push_back(world);
        }
    }
    seen
}

fn successors(worlds: &[World], known: &Parents) -> Vec<(u128, (u128, u16), World)> {
    let mut found = Vec::new();
    for world in worlds {
        let from = world.fingerprint();
        for (index, action) in world.actions().iter().enumerate() {
            let Some(next) = world.after(action) else { continue };
            let print = next.fingerprint();
            if !known.contains_key(&print) {
                found.push((print, (from, index as u16), next));
            }
        }
    }
    found
}

fn trace(parents: &Parents, start: &World, end: &World) -> Vec<String> {
    trace_to(parents, start, end.fingerprint())
}

/// Recoverability: a state from which, with no further fault, no way leads to what `is_goal` says. States near the
/// bounds of the exploration do not count. The number of states looked at, and the way to a dead end if there is one.
pub fn dead_end(start: &World, states_max: usize, is_goal: fn(&World) -> bool) -> (usize, Option<Vec<String>>) {
    let mut parents = Parents::default();
    let mut index: HashMap<u128, u32, BuildHasherDefault<AsIs>> = HashMap::default();
    let (mut back, mut is_good, mut counts, mut prints) = (Vec::<Vec<u32>>::new(), Vec::new(), Vec::new(), Vec::new());
    let mut queue = VecDeque::from([start.clone()]);
    let mut is_cut_short = false;
    let mut add = |world: &World, print: u128| {
        back.push(Vec::new());
        is_good.push(is_goal(world));
        counts.push(!world.is_at_bounds());
        prints.push(print);
    };
    let first = start.fingerprint();
    parents.insert(first, (0, 0));
    index.insert(first, 0);
    add(start, first);
    let mut edges: Vec<(u32, u32)> = Vec::new();
    while let Some(world) = queue.pop_front() {
        let from = world.fingerprint();
        let here = index[&from];
        for (number, action) in world.actions().iter().enumerate() {
            let Some(next) = world.after(action) else { continue };
            let print = next.fingerprint();
            let there = match index.get(&print) {
                Some(there) => *there,
                None if index.len() >= states_max => {
                    is_cut_short = true;
                    continue;
                }
                None => {
                    let there = index.len() as u32;
                    index.insert(print, there);
                    parents.insert(print, (from, number as u16));
                    add(&next, print);
                    queue.push_back(next);
                    there
                }
            };
            if action.is_benign() {
                edges.push((here, there));
            }
        }
    }
    assert!(!is_cut_short, "not all inside the bounds was visited: {states_max} states are too few");
    for (from, to) in edges {
        back[to as usize].push(from);
    }
    let mut open: Vec<u32> = (0..is_good.len() as u32).filter(|i| is_good[*i as usize]).collect();
    while let Some(at) = open.pop() {
        for before in std::mem::take(&mut back[at as usize]) {
            if !std::mem::replace(&mut is_good[before as usize], true) {
                open.push(before);
            }
        }
    }
    let dead = (0..is_good.len()).find(|i| counts[*i] && !is_good[*i]);
    let way = dead.map(|i| trace_to(&parents, start, prints[i]));
    (is_good.len(), way)
}

fn trace_to(parents: &Parents, start: &World, end: u128) -> Vec<String> {
    let mut indices = Vec::new();
    let mut at = end;
    while let Some(&(before, index)) = parents.get(&at).filter(|(before, _)| *before != 0) {
        indices.push(usize::from(index));
        at = before;
    }
    indices.reverse();
    let mut world = start.clone();
    let mut lines = vec![format!("start: {}", world.describe())];
    for index in indices {
        let action = world.actions().swap_remove(index);
        world = world.after(&action).expect("the trace was inside the bounds");
        lines.push(format!("{action:?}: {}", world.describe()));
    }
    lines
}
