//! Breadth first, so that a trace that is found is a shortest one.

use super::{Broken, Row, World};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Distinct states of engines, records and network alone, by their fingerprints.
pub type Situations = HashSet<u64, BuildHasherDefault<AsIs>>;

/// What a search saw.
#[derive(Debug)]
pub struct Seen {
    /// Distinct states, with what the search may still use up.
    pub states: usize,
    /// … of engines, records and network alone.
    pub situations: Situations,
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
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are kept")
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

/// How a state was reached: from which, by the how-manieth of its actions.
type Parents = HashMap<u128, (u128, u16), BuildHasherDefault<AsIs>>;

/// A state found: its fingerprint, how it was reached, and the world itself.
type Found = (u128, (u128, u16), World);

/// Worlds worked on at a time by each thread.
const CHUNK: usize = 2_000;

/// Visits what can follow from `start`, at most `states_max` states, with as many threads as the machine has cores.
pub fn explore(start: &World, states_max: usize) -> Seen {
    let mut parents = Parents::default();
    let mut seen = Seen {
        states: 0,
        situations: Situations::default(),
        steps: 0,
        is_exhausted: true,
        has_pair: false,
        has_takeover: false,
        rows: BTreeSet::new(),
        broken: None,
    };
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
        let found: Vec<(Vec<u64>, Vec<Found>)> = std::thread::scope(|scope| {
            let part = batch.len().div_ceil(threads).max(1);
            let prints = |worlds: &[World]| worlds.iter().map(World::fingerprint_of_protocol).collect();
            let workers: Vec<_> =
                batch.chunks(part).map(|worlds| scope.spawn(move || (prints(worlds), successors(worlds, known)))).collect();
            workers.into_iter().map(|w| w.join().expect("an explorer's thread")).collect()
        });
        seen.situations.extend(found.iter().flat_map(|(prints, _)| prints));
        for (print, parent, world) in found.into_iter().flat_map(|(_, found)| found) {
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

fn successors(worlds: &[World], known: &Parents) -> Vec<Found> {
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

/// Recoverability: states from which, with no further fault, no way leads to what `goals` say. States near the bounds
/// of the exploration do not count, nor do states from which a way leads beyond the first `states_max`. The number of
/// states looked at, whether these are all, and for each goal the way to a dead end if there is one.
pub fn dead_ends(start: &World, states_max: usize, goals: &[fn(&World) -> bool]) -> (usize, bool, Vec<Option<Vec<String>>>) {
    let mut parents = Parents::default();
    let mut numbers: HashMap<u128, u32, BuildHasherDefault<AsIs>> = HashMap::default();
    let (mut prints, mut counts, mut good) = (Vec::new(), Vec::new(), vec![Vec::new(); goals.len()]);
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let mut queue = VecDeque::new();
    let first = start.fingerprint();
    parents.insert(first, (0, 0));
    let mut fresh = vec![(first, start.clone())];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut is_exhausted = true;
    loop {
        for (print, world) in fresh.drain(..) {
            numbers.insert(print, prints.len() as u32);
            prints.push(print);
            counts.push(!world.is_at_bounds());
            for (goal, good) in goals.iter().zip(&mut good) {
                good.push(goal(&world));
            }
            queue.push_back(world);
        }
        let batch: Vec<World> = queue.drain(..queue.len().min(CHUNK * threads)).collect();
        if batch.is_empty() {
            break;
        }
        let known = &parents;
        let found: Vec<Vec<Edge>> = std::thread::scope(|scope| {
            let part = batch.len().div_ceil(threads).max(1);
            let workers: Vec<_> = batch.chunks(part).map(|worlds| scope.spawn(move || all_edges(worlds, known))).collect();
            workers.into_iter().map(|w| w.join().expect("an explorer's thread")).collect()
        });
        let mut late = Vec::new();
        for edge in found.into_iter().flatten() {
            if let Some(world) = edge.world
                && !parents.contains_key(&edge.to)
            {
                if parents.len() >= states_max {
                    // What lies there is not looked at: it may be good.
                    is_exhausted = false;
                    let from = numbers[&edge.from] as usize;
                    good.iter_mut().for_each(|good| good[from] |= edge.is_benign);
                    continue;
                }
                parents.insert(edge.to, (edge.from, edge.index));
                fresh.push((edge.to, world));
            }
            if edge.is_benign {
                late.push((edge.from, edge.to));
            }
        }
        // New states get their numbers when they are put into the queue, in this order.
        for (place, (print, _)) in fresh.iter().enumerate() {
            numbers.insert(*print, (prints.len() + place) as u32);
        }
        edges.extend(late.into_iter().map(|(from, to)| (numbers[&from], numbers[&to])));
    }
    edges.sort_unstable_by_key(|(_, to)| *to);
    let ways = good.iter_mut().map(|good| {
        let mut open: Vec<u32> = (0..good.len() as u32).filter(|i| good[*i as usize]).collect();
        while let Some(at) = open.pop() {
            let begin = edges.partition_point(|(_, to)| *to < at);
            for (before, _) in edges[begin..].iter().take_while(|(_, to)| *to == at) {
                if !std::mem::replace(&mut good[*before as usize], true) {
                    open.push(*before);
                }
            }
        }
        let dead = (0..good.len()).find(|i| counts[*i] && !good[*i]);
        dead.map(|i| trace_to(&parents, start, prints[i]))
    });
    let ways = ways.collect();
    (prints.len(), is_exhausted, ways)
}

/// A step from one state to another; the world itself only if it was not known.
struct Edge {
    from: u128,
    index: u16,
    to: u128,
    is_benign: bool,
    world: Option<World>,
}

fn all_edges(worlds: &[World], known: &Parents) -> Vec<Edge> {
    let mut found = Vec::new();
    for world in worlds {
        let from = world.fingerprint();
        for (index, action) in world.actions().iter().enumerate() {
            let Some(next) = world.after(action) else { continue };
            let to = next.fingerprint();
            let world = (!known.contains_key(&to)).then_some(next);
            found.push(Edge { from, index: index as u16, to, is_benign: action.is_benign(), world });
        }
    }
    found
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
