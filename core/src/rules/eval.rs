//! Which rules fire, given how the resources stand. Pure; same table, same answer.

use super::{Expr, Ident, Operand, ResourceRef, Rule, RuleAction, Ruleset, Side, Value};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How the resources stand, by name (`class.id`). A resource of this node that is not in it is `init`, one of the
/// other node `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ResourceTable {
    /// Of this node.
    pub local: BTreeMap<String, Value>,
    /// Of the other node, as last heard while in contact; emptied when contact is lost.
    pub remote: BTreeMap<String, Value>,
}

impl ResourceTable {
    fn side(&self, side: Side) -> (&BTreeMap<String, Value>, Value) {
        match side {
            Side::Local => (&self.local, Value::Init),
            Side::Remote => (&self.remote, Value::Unknown),
        }
    }

    /// State of one resource.
    pub fn value(&self, side: Side, name: &str) -> Value {
        let (all, absent) = self.side(side);
        all.get(name).copied().unwrap_or(absent)
    }

    /// Resources a reference stands for, with their states: one for a name, any number for `*` and `?`.
    pub fn look_up(&self, resource: &ResourceRef) -> Vec<(String, Value)> {
        if let Ident::Name(_) = resource.ident {
            let name = resource.name();
            let value = self.value(resource.side, &name);
            return vec![(name, value)];
        }
        let prefix = format!("{}.", resource.class);
        let (all, _) = self.side(resource.side);
        // Names of a class stand together: `tcp.` … up to the first that begins otherwise.
        let class = all.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        class.map(|(name, value)| (name.clone(), *value)).collect()
    }
}

/// A rule that fires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Firing {
    /// Which rule.
    pub label: String,
    /// What it asks for.
    pub action: RuleAction,
    /// It need not stay so for [`Ruleset::handle_time`].
    pub is_hard: bool,
    /// Resources it looks at that are not up, as written in a rule (`tcp.web`, `remote.tcp.web`); `down` ones first.
    pub because: Vec<String>,
}

impl Operand {
    /// Whether the states behind it, taken as `*` and `?` say, satisfy `test`.
    fn holds(&self, table: &ResourceTable, mut test: impl FnMut(Value) -> bool) -> bool {
        match self {
            Operand::Value(value) => test(*value),
            Operand::Resource(resource) => {
                let found = table.look_up(resource);
                match resource.ident {
                    Ident::All => !found.is_empty() && found.into_iter().all(|(_, v)| test(v)),
                    Ident::Name(_) | Ident::Any => found.into_iter().any(|(_, v)| test(v)),
                }
            }
        }
    }
}

impl Expr {
    /// Whether the condition is true now.
    pub fn holds(&self, table: &ResourceTable) -> bool {
        match self {
            Expr::IsUp(resource) => Operand::Resource(resource.clone()).holds(table, |v| v == Value::Up),
            Expr::Compare { is_equal, left, right } => left.holds(table, |l| right.holds(table, |r| (l == r) == *is_equal)),
            Expr::Match { is_equal, left, right } => (left.holds(table) == right.holds(table)) == *is_equal,
            Expr::Not(inner) => !inner.holds(table),
            Expr::And(parts) => parts.iter().all(|p| p.holds(table)),
            Expr::Or(parts) => parts.iter().any(|p| p.holds(table)),
        }
    }

    /// Every resource it looks at.
    pub fn resources(&self) -> Vec<&ResourceRef> {
        let mut found = Vec::new();
        self.collect(&mut found);
        found
    }

    fn collect<'e>(&'e self, found: &mut Vec<&'e ResourceRef>) {
        match self {
            Expr::IsUp(resource) => found.push(resource),
            Expr::Compare { left, right, .. } => {
                for operand in [left, right] {
                    if let Operand::Resource(resource) = operand {
                        found.push(resource);
                    }
                }
            }
            Expr::Match { left, right, .. } => {
                left.collect(found);
                right.collect(found);
            }
            Expr::Not(inner) => inner.collect(found),
            Expr::And(parts) | Expr::Or(parts) => parts.iter().for_each(|p| p.collect(found)),
        }
    }
}

impl Rule {
    /// Resources it looks at that are not up now: `down` ones first, each once.
    fn because(&self, table: &ResourceTable) -> Vec<String> {
        let mut found: Vec<(bool, String)> = Vec::new();
        for resource in self.condition.resources() {
            let prefix = if resource.side == Side::Remote { "remote." } else { "" };
            for (name, value) in table.look_up(resource) {
                let entry = (value != Value::Down, format!("{prefix}{name}"));
                if value != Value::Up && !found.contains(&entry) {
                    found.push(entry);
                }
            }
        }
        found.sort();
        found.into_iter().map(|(_, name)| name).collect()
    }
}

impl Ruleset {
    /// Rules that fire now: the one whose action counts first; among equals, hard ones first, then as written.
    pub fn firing(&self, table: &ResourceTable) -> Vec<Firing> {
        let firing =
            |rule: &Rule| Firing { label: rule.label.clone(), action: rule.action, is_hard: rule.is_hard, because: rule.because(table) };
        let mut found: Vec<Firing> = self.rules.iter().filter(|r| r.condition.holds(table)).map(firing).collect();
        // Stable: what is written first stays first.
        found.sort_by_key(|f| (std::cmp::Reverse(f.action), !f.is_hard));
        found
    }

    /// Resources of this node used by a rule with `wait()` that are not known yet: until they are, a module that
    /// starts stays in WAIT. `*` and `?` stand for what the table has.
    pub fn undecided(&self, table: &ResourceTable) -> BTreeSet<String> {
        let waits = self.rules.iter().filter(|r| r.action == RuleAction::Wait);
        let local = waits.flat_map(|r| r.condition.resources()).filter(|r| r.side == Side::Local);
        local.flat_map(|r| table.look_up(r)).filter(|(_, value)| *value == Value::Init).map(|(name, _)| name).collect()
    }

    /// Resources of the other node that a beat must carry: names (`tcp.web`) and whole classes (`tcp.*`).
    pub fn remote_names_wanted(&self) -> BTreeSet<String> {
        let all = self.rules.iter().flat_map(|r| r.condition.resources());
        let wanted = all.filter(|r| r.side == Side::Remote);
        wanted.map(|r| if let Ident::Name(_) = r.ident { r.name() } else { format!("{}.*", r.class) }).collect()
    }

    /// Whether a resource of the other node is among them.
    pub fn is_remote_wanted(&self, name: &str) -> bool {
        let wanted = self.remote_names_wanted();
        let class = name.split('.').next().unwrap_or_default();
        wanted.contains(name) || wanted.contains(&format!("{class}.*"))
    }
}
