//! Which modules must be there before which: in what order they start and stop, and whether that is possible at all.
//!
//! A dependency is watched by a checker `module.NAME` with action `wait`, so a module that waits for another shows
//! why like any other that waits for a checker.

use super::Standing;
use crate::ids::ModuleName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// `<depends><on>`: another module of this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Depend {
    /// Which.
    pub module: ModuleName,
    /// How it must stand.
    pub wanted: Standing,
}

/// Module → modules it depends on.
pub type Dependencies = BTreeMap<ModuleName, BTreeSet<ModuleName>>;

/// A chain of modules that ends where it begins (`a`, `b`, `a`): none of them could ever start. The first such chain in
/// the order of names; `None` = there is none.
pub fn cycle(depends: &Dependencies) -> Option<Vec<ModuleName>> {
    let mut done: BTreeSet<&ModuleName> = BTreeSet::new();
    for start in depends.keys() {
        // The way down from `start`: each module with those of its dependencies that are still to be looked at.
        let mut way: Vec<(&ModuleName, Vec<&ModuleName>)> = vec![(start, below(depends, start))];
        while let Some((_, left)) = way.last_mut() {
            let Some(next) = left.pop() else {
                if let Some((module, _)) = way.pop() {
                    done.insert(module);
                }
                continue;
            };
            if let Some(at) = way.iter().position(|(module, _)| *module == next) {
                let chain = way[at..].iter().map(|(module, _)| (*module).clone());
                return Some(chain.chain([next.clone()]).collect());
            }
            if !done.contains(next) {
                way.push((next, below(depends, next)));
            }
        }
    }
    None
}

/// Dependencies in the order in which `pop` gives the first one first.
fn below<'d>(depends: &'d Dependencies, module: &ModuleName) -> Vec<&'d ModuleName> {
    depends.get(module).into_iter().flatten().rev().collect()
}

/// Modules in the order of an orderly stop: each group may stop together, once those before it have stopped. A module
/// stands after all that depend on it. What depends on itself comes last, together.
pub fn stop_order(depends: &Dependencies) -> Vec<BTreeSet<ModuleName>> {
    let mut left: BTreeSet<&ModuleName> = depends.keys().collect();
    let mut groups = Vec::new();
    while !left.is_empty() {
        let is_needed = |module: &ModuleName| left.iter().any(|other| *other != module && depends[*other].contains(module));
        let free: BTreeSet<&ModuleName> = left.iter().copied().filter(|m| !is_needed(m)).collect();
        let group = if free.is_empty() { left.clone() } else { free };
        left.retain(|m| !group.contains(*m));
        groups.push(group.into_iter().cloned().collect());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> ModuleName {
        ModuleName::new(text).unwrap()
    }
    /// `a: b c` → a depends on b and c.
    fn depends(rows: &[&str]) -> Dependencies {
        let row = |row: &&str| {
            let (module, on) = row.split_once(':').unwrap();
            (name(module), on.split_whitespace().map(name).collect())
        };
        rows.iter().map(row).collect()
    }
    fn chain(rows: &[&str]) -> Option<String> {
        cycle(&depends(rows)).map(|c| c.iter().map(ToString::to_string).collect::<Vec<_>>().join(" → "))
    }
    fn stops(rows: &[&str]) -> String {
        let groups = stop_order(&depends(rows));
        groups.iter().map(|g| g.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_chain_that_closes_is_named_and_others_are_none() {
        assert_eq!(chain(&[]), None);
        assert_eq!(chain(&["a:b c", "b:d", "c:d", "d:"]), None, "two ways to the same module are no cycle");
        assert_eq!(chain(&["a:nowhere"]), None);
        assert_eq!(chain(&["a:a"]).as_deref(), Some("a → a"));
        assert_eq!(chain(&["a:b", "b:c", "c:b"]).as_deref(), Some("b → c → b"));
        assert_eq!(chain(&["web:app", "app:db cache", "db:", "cache:web"]).as_deref(), Some("app → cache → web → app"));
    }

    #[test]
    fn dependents_stop_first() {
        assert_eq!(stops(&["web:app", "app:db cache", "db:", "cache:", "alone:"]), "alone web, app, cache db");
        assert_eq!(stops(&["a:b", "b:a", "c:a"]), "c, a b", "a cycle does not keep the rest from stopping");
        assert_eq!(stops(&["a:gone"]), "a");
    }

    proptest! {
        #[test]
        fn any_graph_has_an_order_or_a_cycle(edges in prop::collection::vec((0..8_u8, 0..8_u8), 0..20)) {
            let module = |n: u8| name(&format!("m{n}"));
            let mut depends: Dependencies = (0..8).map(|n| (module(n), BTreeSet::new())).collect();
            for (a, b) in edges {
                depends.entry(module(a)).or_default().insert(module(b));
            }
            let order = stop_order(&depends);
            prop_assert_eq!(order.iter().map(BTreeSet::len).sum::<usize>(), 8);
            let at = |m: &ModuleName| order.iter().position(|g| g.contains(m)).unwrap();
            match cycle(&depends) {
                None => for (module, on) in &depends {
                    prop_assert!(on.iter().all(|o| at(module) < at(o)));
                },
                Some(chain) => {
                    prop_assert!(chain.windows(2).all(|w| depends[&w[0]].contains(&w[1])));
                    prop_assert_eq!(chain.first(), chain.last());
                }
            }
        }
    }
}
