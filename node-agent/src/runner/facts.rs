//! Resources that no checker tests and rules may look at all the same: heartbeat networks, the state of the copy, the
//! witness.

use super::{Inbox, Runner};
use crate::rfs::identity;
use std::collections::BTreeMap;
use tsugi_core::command::BY_AGENT;
use tsugi_core::engine::Input;
use tsugi_core::event::Event;
use tsugi_core::module::{Action, Authority};
use tsugi_core::replica::ReplicaNote;
use tsugi_core::rules::{Ident, Ruleset};
use tsugi_core::state::{ArbiterView, Flag, Health, NetworkView, State, USABLE};
use tsugi_core::wire::local::Reply;

/// What stands behind them now.
#[derive(Debug, Clone, Default)]
struct Facts {
    /// Heartbeat networks of the module.
    networks: Vec<NetworkView>,
    /// This copy is current; absent without replicated directories.
    is_up_to_date: Option<bool>,
    /// The witness (`authority="ping"`) answers; absent with any other authority and before the first answer.
    has_witness: Option<bool>,
}

impl Facts {
    /// Those that a rule looks at, by name.
    fn wanted(&self, rules: &Ruleset) -> BTreeMap<String, (Health, String)> {
        let up = |is_up: bool| if is_up { Health::Up } else { Health::Down };
        let mut all = BTreeMap::new();
        for network in &self.networks {
            let detail = if network.is_up { "" } else { "no heartbeat of the other node on this network" };
            all.insert(format!("heartbeat.{}", network.lan), (up(network.is_up), detail.to_owned()));
        }
        if let Some(is_current) = self.is_up_to_date {
            let detail = if is_current { "" } else { "this copy is not current" };
            all.insert("rfs.uptodate".to_owned(), (up(is_current), detail.to_owned()));
            // A module never goes on with its replication dead: it hands over, or leaves service.
            all.insert("rfs.degraded".to_owned(), (Health::Down, "as it should be: replication is not degraded".to_owned()));
        }
        if let Some(answers) = self.has_witness {
            let detail = if answers { "" } else { "no witness answers" };
            all.insert("splitbrain.uptodate".to_owned(), (up(answers), detail.to_owned()));
        }
        all.retain(|name, _| is_looked_at(rules, name));
        all
    }
}

/// By this node's rules or, as both nodes have the same, by the other's.
fn is_looked_at(rules: &Ruleset, name: &str) -> bool {
    rules.rules.iter().flat_map(|rule| rule.condition.resources()).any(|resource| match resource.ident {
        Ident::Name(_) => resource.name() == name,
        Ident::All | Ident::Any => name.split('.').next() == Some(resource.class.as_str()),
    })
}

/// Whether the module's directories can be used is being found out, by a thread of its own: a disk may hang.
#[derive(Debug, Default)]
pub(super) struct Usable {
    is_asked: bool,
}

impl Runner {
    /// Looks at the directories while nobody uses them.
    fn look_at_directories(&mut self) {
        let Some(data) = self.hands.setting().data.as_ref().filter(|_| !self.usable.is_asked) else { return };
        if !matches!(self.engine.state(), State::Stop | State::Wait) {
            return;
        }
        let (dirs, marks, inbox) = (data.dirs.clone(), data.marks.clone(), self.to_inbox.clone());
        self.usable.is_asked = true;
        tokio::task::spawn_blocking(move || {
            let found = identity::check(&dirs, &marks).map_err(|e| format!("{e:#}"));
            // The loop has ended: nobody wants to know.
            let _ = inbox.blocking_send(Inbox::Usable(found));
        });
    }

    /// … and what came of it.
    pub(super) async fn on_usable(&mut self, found: Result<(), String>) {
        self.usable.is_asked = false;
        let fact = match found {
            Ok(()) => (Health::Up, String::new()),
            // The role was taken meanwhile: then they were good.
            Err(_) if !matches!(self.engine.state(), State::Stop | State::Wait) => return,
            Err(detail) => (Health::Down, detail),
        };
        if self.facts.get(USABLE) != Some(&fact) {
            self.facts.insert(USABLE.to_owned(), fact.clone());
            self.tell_fact(USABLE.to_owned(), fact).await;
        }
    }

    async fn tell_fact(&mut self, name: String, (health, detail): (Health, String)) {
        self.step(Input::Health { name, health, detail, action: Action::NoAction, is_pre: false }).await;
    }

    /// The module takes no role before the directories have been looked at.
    pub(super) async fn expect_directories(&mut self) {
        if self.hands.setting().data.is_some() {
            self.tell_fact(USABLE.to_owned(), (Health::Init, String::new())).await;
            self.look_at_directories();
        }
    }

    /// The directories were replaced on purpose.
    pub(super) async fn adopt(&mut self, by: String) -> Reply {
        let error = |message: String| Reply::Error { message };
        let Some(data) = self.hands.setting().data.clone() else { return error("this module replicates nothing".to_owned()) };
        if self.engine.state() != State::Stop || self.engine.is_planning() {
            return error("the module is not stopped; stop it on this node first".to_owned());
        }
        if self.engine.saved().intent.is_some() {
            return error(
                "a request to the arbiter is not settled yet; start the module, and stop it again when it has its answer".to_owned(),
            );
        }
        // First the record: a copy that is not known must not count as current for a moment.
        self.step(Input::Replica(ReplicaNote::Replaced { by })).await;
        if let Some(failure) = &self.failure {
            return error(failure.clone());
        }
        if matches!(self.engine.saved().flag, Flag::UpToDate | Flag::Volatile) {
            return error("the record still calls this copy current; nothing was changed".to_owned());
        }
        match identity::forget(&data.marks) {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Error { message: format!("{error:#}") },
        }
    }

    /// Somebody has something to do in the directories.
    pub(super) async fn open(&mut self, by: String) -> Reply {
        let error = |message: String| Reply::Error { message };
        if self.hands.setting().data.is_none() {
            return error("this module replicates nothing".to_owned());
        }
        if self.engine.state() != State::Stop || self.engine.is_planning() {
            return error("the module is not stopped; stop it on this node first".to_owned());
        }
        match self.hands.open_directories().await {
            Ok(()) => {
                // The agent's own, before the module goes, concerns nobody.
                if by != BY_AGENT {
                    self.report(Event::Opened { by });
                }
                Reply::Done
            }
            Err(e) => error(format!("{e:#}")),
        }
    }

    /// Tells the engine what has changed.
    pub(super) async fn tell_facts(&mut self) {
        let setting = self.hands.setting();
        let is_ping = self.hands.authority().kind == Authority::Ping;
        let facts = Facts {
            networks: self.hands.networks(),
            is_up_to_date: setting.data.as_ref().map(|_| self.engine.is_up_to_date()),
            has_witness: match self.hands.arbiter_view(self.engine.arbiter()) {
                ArbiterView::Reachable if is_ping => Some(true),
                ArbiterView::Unreachable if is_ping => Some(false),
                _ => None,
            },
        };
        let mut now = facts.wanted(&setting.def.rules);
        // Told when it is found out.
        now.extend(self.facts.get_key_value(USABLE).map(|(name, fact)| (name.clone(), fact.clone())));
        let before = std::mem::replace(&mut self.facts, now.clone());
        let gone = before.keys().filter(|name| !now.contains_key(*name)).map(|name| (name.clone(), (Health::Off, String::new())));
        let changed = now.iter().filter(|(name, fact)| before.get(*name) != Some(fact)).map(|(name, fact)| (name.clone(), fact.clone()));
        let all: Vec<_> = gone.chain(changed).collect();
        for (name, fact) in all {
            self.tell_fact(name, fact).await;
        }
        self.look_at_directories();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsugi_core::rules::{HANDLE_TIME, parse};

    fn rules(text: &str) -> Ruleset {
        let (rules, faults) = parse(text);
        assert!(faults.is_empty(), "{faults:?}");
        Ruleset { handle_time: HANDLE_TIME, rules }
    }

    fn facts() -> Facts {
        let network = |lan: &str, is_up| NetworkView { lan: lan.to_owned(), is_up, rtt_us: None };
        Facts { networks: vec![network("a", true), network("b", false)], is_up_to_date: Some(false), has_witness: Some(true) }
    }

    #[test]
    fn only_what_a_rule_looks_at_is_told() {
        assert!(facts().wanted(&rules("x: if (tcp.web == down) then stop();")).is_empty());
        let one = facts().wanted(&rules("x: if (remote.heartbeat.b == down && rfs.uptodate != down) then swap();"));
        assert_eq!(one.keys().collect::<Vec<_>>(), ["heartbeat.b", "rfs.uptodate"]);
        let all = facts().wanted(&rules("x: if (heartbeat.* == down || splitbrain.? == down) then wait();"));
        assert_eq!(all.keys().collect::<Vec<_>>(), ["heartbeat.a", "heartbeat.b", "splitbrain.uptodate"]);
    }

    #[test]
    fn what_is_down_says_why() {
        let told = facts().wanted(&rules("x: if (heartbeat.* == down || rfs.* == down || splitbrain.* == down) then wait();"));
        assert_eq!(told["heartbeat.a"], (Health::Up, String::new()));
        assert_eq!(told["heartbeat.b"].0, Health::Down);
        assert!(told["heartbeat.b"].1.contains("no heartbeat"));
        assert_eq!(
            (told["rfs.uptodate"].0, told["rfs.degraded"].0, told["splitbrain.uptodate"].0),
            (Health::Down, Health::Down, Health::Up)
        );
    }
}
