//! A module's application on this machine: what its scripts start, as a whole, and the guard's care for it.

use super::Setting;
use crate::cgroup::{Ended, Group};
use crate::clock::boottime_ns;
use crate::guard::{Address, Described, Kept, Right};
use crate::script::{self, Marks};
use crate::vip::Vips;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tsugi_core::ids::{ModuleName, NodeName};
use tsugi_core::module::ScriptName;

/// What the guard froze is ended after this, should the agent not come back.
const FREEZE_MAX: Duration = Duration::from_secs(30);
/// The kernel counts an address's life in whole seconds.
const LIFETIME_MIN: Duration = Duration::from_secs(1);

/// Clones stand for the same application.
#[derive(Clone)]
pub(super) struct Application {
    module: ModuleName,
    node: NodeName,
    /// Absent where the machine has no control groups.
    group: Option<Group>,
    /// Absent where there is no guard.
    kept: Option<Kept>,
    /// `F`.
    grace: Duration,
    /// Longest life of an address without renewal.
    lifetime: Duration,
}

impl Application {
    /// Ends what an earlier life left, and hands the module to the guard.
    pub async fn take_up(setting: &Setting) -> Application {
        let mut application = Application::of(setting);
        let ended = script::kill_module(&setting.module, &setting.node, application.group.as_ref(), Marks::Too).await;
        if let Err(why) = ended.proof() {
            tracing::error!(module.name = %setting.module, "what an earlier life of module {} left is still there: {why}", setting.module);
        }
        application.hand_to_guard(setting).await;
        application
    }

    /// Leaves what an earlier life started as it is, and hands the module to the guard.
    pub async fn go_on(setting: &Setting) -> Application {
        let mut application = Application::of(setting);
        application.hand_to_guard(setting).await;
        application
    }

    fn of(setting: &Setting) -> Application {
        let limits = setting.def.user.as_ref().map(|u| u.limits).unwrap_or_default();
        let group = setting.cgroups.group(&setting.module, &limits).unwrap_or_else(|error| {
            tracing::warn!(module.name = %setting.module, %error, "module {} runs without a control group: {error}", setting.module);
            None
        });
        let timing = &setting.def.heart.timing;
        // Less than the time after which the peer may take the address, which counts from a beat that may be older than
        // the renewal by a whole period.
        let lifetime = Duration::from_secs((timing.keep - timing.beat).as_secs()).max(LIFETIME_MIN);
        Application { module: setting.module.clone(), node: setting.node.clone(), group, kept: None, grace: timing.freeze, lifetime }
    }

    async fn hand_to_guard(&mut self, setting: &Setting) {
        let Some(guard) = &setting.guard else { return };
        let described = Described {
            name: setting.module.to_string(),
            group: self.group.as_ref().map(|g| (g.version(), g.dir().to_string_lossy().into_owned())),
            grace: self.grace,
            freeze_max: FREEZE_MAX,
            lifetime: self.lifetime,
        };
        self.kept = guard.keep(described).await;
        if self.kept.is_none() {
            tracing::warn!(module.name = %setting.module, "the guard has no room for module {}: nobody freezes it should the agent die", setting.module);
        }
    }

    /// Its group, for scripts.
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// What it is entitled to; in the form the data process knows. What is entitled is not frozen.
    pub fn set_deadline(&self, until_ns: Option<u64>) {
        let right = Right::of_deadline(until_ns);
        if let Some(kept) = &self.kept {
            kept.set_right(right);
        }
        if right.holds(boottime_ns())
            && self.is_frozen()
            && let Err(why) = self.set_frozen(false)
        {
            tracing::error!(module.name = %self.module, "module {} may serve, but {why}", self.module);
        }
    }

    fn is_frozen(&self) -> bool {
        self.kept.as_ref().is_some_and(Kept::is_frozen_by_guard) || self.group.as_ref().is_some_and(Group::is_freezing)
    }

    /// Somebody looks after it should the agent die.
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Stops everything in it, or lets it go on. Without control groups there is nothing to freeze with, which is no
    /// error: it was said at the start.
    pub async fn freeze(&self, is_frozen: bool) -> Result<(), String> {
        if let Some(kept) = &self.kept {
            // What the guard is just doing must not come after this.
            kept.settle().await;
        }
        self.set_frozen(is_frozen)
    }

    fn set_frozen(&self, is_frozen: bool) -> Result<(), String> {
        if let Some(kept) = self.kept.as_ref().filter(|_| !is_frozen) {
            kept.thawed();
        }
        let Some(group) = &self.group else { return Ok(()) };
        if is_frozen { group.freeze() } else { group.thaw() }.map_err(|e| e.to_string())
    }

    /// A frozen application cannot be told to stop, and a script in its group would not even begin.
    pub async fn prepare_script(&self) {
        if self.is_frozen()
            && let Err(why) = self.freeze(false).await
        {
            tracing::error!(module.name = %self.module, "a script of module {} is held up: {why}", self.module);
        }
    }

    /// Ends everything its scripts started. `Ok` = proof that nothing of it runs, with the number of processes ended;
    /// `Err` = who is left, and what helps.
    pub async fn kill(&self) -> Result<usize, String> {
        if let Some(kept) = &self.kept {
            kept.settle().await;
        }
        let ended = script::kill_module(&self.module, &self.node, self.group.as_ref(), Marks::WithoutGroup).await;
        if let Some(kept) = &self.kept {
            kept.thawed();
        }
        ended.proof().map(|()| ended.killed)
    }

    /// Ends what the start script undone by the stop script `stopped` left running. Nothing to do for others.
    pub async fn kill_started(&self, stopped: ScriptName) -> Result<usize, String> {
        let (Some(group), Some(start)) = (&self.group, stopped.stops()) else { return Ok(0) };
        let ended: Ended = script::end_runs(group, &[start.file()]).await;
        if ended.killed > 0 {
            tracing::info!(module.name = %self.module, killed = ended.killed, "module {}: {} with force left processes, which were ended", self.module, stopped.file());
        }
        ended.proof().map(|()| ended.killed)
    }

    /// Somebody else keeps the addresses alive.
    pub fn is_guarded(&self) -> bool {
        self.kept.as_ref().is_some_and(Kept::is_guarded)
    }

    /// How long an address may live without renewal, from now: never longer than the right to it and the time that is
    /// allowed for giving it up.
    pub fn lifetime(&self, until_ns: Option<u64>) -> Duration {
        let Some(until) = until_ns else { return self.lifetime };
        let left = Duration::from_nanos(until.saturating_sub(boottime_ns())) + self.grace;
        left.min(self.lifetime).max(LIFETIME_MIN)
    }

    /// The addresses are up: the guard keeps them alive.
    pub async fn keep_addresses(&self, vips: &Vips) {
        let Some(kept) = &self.kept else { return };
        match vips.standing().await {
            Ok(all) => {
                let all: Vec<Address> = all.into_iter().map(|(addr, prefix, index)| Address { addr, prefix, index }).collect();
                if !kept.keep_addresses(&all).await {
                    tracing::warn!(module.name = %self.module, "module {} has more addresses than the guard can keep: the last ones run out", self.module);
                }
            }
            Err(error) => tracing::error!(module.name = %self.module, %error, "the guard cannot be told where the addresses are"),
        }
    }

    /// The addresses are about to go: when it returns, the guard renews none.
    pub async fn forget_addresses(&self) {
        if let Some(kept) = &self.kept {
            kept.forget_addresses().await;
        }
    }
}

/// Environment of everything the module's files run in.
pub(super) fn environment(setting: &Setting) -> BTreeMap<String, String> {
    let path = |p: &Path| p.to_string_lossy().into_owned();
    // What scripts written for it call as `$SAFE/safekit` and `$SAFEBIN/…`.
    let commands = path(&crate::commands::dir(&setting.run_dir));
    let mut env: BTreeMap<String, String> =
        [("PATH", crate::commands::path(&setting.run_dir)), ("HOME", "/root".into()), ("LANG", "C.UTF-8".into())]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
    env.extend(setting.def.user.iter().flat_map(|u| u.vars.clone()));
    env.extend([
        ("SAFE".into(), commands.clone()),
        ("SAFEBIN".into(), commands),
        ("SAFEMODULE".into(), setting.module.to_string()),
        ("SAFEUSERBIN".into(), path(&setting.active_dir.join("bin"))),
        ("SAFEUSERCONF".into(), path(&setting.active_dir.join("conf"))),
        ("SAFEUSERVAR".into(), path(&setting.log_dir)),
        ("SAFEVAR".into(), path(&setting.state_dir)),
        ("TSUGI_MODULE".into(), setting.module.to_string()),
        ("TSUGI_NODE".into(), setting.node.to_string()),
        ("TSUGI_RUN".into(), path(&setting.run_dir)),
        ("TSUGI_STATE_DIR".into(), path(&setting.state_dir)),
    ]);
    env
}

/// The same, with the script's own name in it.
pub(super) fn environment_of_script(setting: &Setting, script: ScriptName) -> BTreeMap<String, String> {
    let mut env = environment(setting);
    env.insert("TSUGI_SCRIPT".into(), script.file().to_owned());
    env
}
