//! A fleet with every kind of module, for the gallery and for the tests of the pages.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tsugi_core::command::{Refusal, Verb};
use tsugi_core::event::{Event, EventRecord, Level};
use tsugi_core::ids::{ArbiterName, ClusterName, Epoch, Gen, ModuleName, NodeName, Session};
use tsugi_core::module::{
    Action, Async, Authority, Boot, Compress, DefaultPrim, Heart, Heartbeat, Mode, ModuleDef, Profile, Replicated, Rfs, ScriptName, Timing,
    Vip,
};
use tsugi_core::rehearsal::{Rehearsal, Rehearsed};
use tsugi_core::state::{
    Allowed, ArbiterView, Flag, Health, NetworkView, PeerView, Readiness, Reason, Replication, ResourceView, Resync, Snapshot, State,
};
use tsugi_web::fleet::{Approval, ClusterView, Contact, HealthView, ModuleView, NodeCell, NodeView};
use tsugi_web::live_ids::Scope;
use tsugi_web::say::{Interruption, Target};
use tsugi_web::text::Lang;
use tsugi_web::view::*;

/// 2026-11-23 05:32:08 UTC.
pub const NOW: u64 = 1_795_411_928_000;
const MIN: u64 = 60_000;

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}
pub fn module(name: &str) -> ModuleName {
    ModuleName::new(name).unwrap()
}
pub fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}
fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn chrome(lang: Lang, theme: Theme, path: &str, scope: Option<Scope>) -> Chrome {
    Chrome {
        lang,
        theme,
        user: Some(UserView { name: "sato".to_owned(), role: Role::Admin }),
        path: path.to_owned(),
        console: "console01".to_owned(),
        version: "0.1.0".to_owned(),
        now_unix_ms: NOW,
        tz_offset_minutes: 540,
        attention: 4,
        live: scope.map(|s| LiveStart { epoch: "01J5".to_owned(), seq: 48_210, scope: s.to_string() }),
        toast: None,
    }
}

pub fn def(mode: Mode, vip: &str, dir: Option<&str>) -> ModuleDef {
    ModuleDef {
        mode,
        boot: Boot::Auto,
        boot_delay: Duration::ZERO,
        is_failover_on: true,
        default_prim: DefaultPrim::Alone,
        maxloop: 3,
        loop_interval: Duration::from_secs(86_400),
        authority: Authority::Arbiter,
        arbiter: ArbiterName::console(),
        witnesses: vec![],
        fence: None,
        heart: Heart {
            port: None,
            timing: Timing::of(Profile::Normal),
            heartbeats: vec![Heartbeat { lan: "default".to_owned(), is_flow: true }],
        },
        vips: vec![Vip { addr: ip(vip), prefix: None, interface: None, is_checked: true }],
        rfs: dir.map(|dir| Rfs {
            verify_every: None,
            ack: Async::None,
            resync_kb_per_s_max: None,
            compress: Compress::Off,
            replicated: vec![Replicated { dir: dir.to_owned(), not_replicated: vec![], not_replicated_names: vec![], to_check: vec![] }],
        }),
        user: None,
        checks: vec![],
        rules: Default::default(),
        depends: vec![],
    }
}

pub fn snapshot(m: &str, n: &str, state: State, readiness: Readiness) -> Snapshot {
    let refusal = |verb: &Verb| match (verb, state) {
        (Verb::Start, State::Stop) => None,
        (Verb::Start, _) => Some(Refusal::AlreadyStarted),
        (Verb::Stop | Verb::StopStart, State::Stop) => Some(Refusal::AlreadyStopped),
        (Verb::Stop | Verb::StopStart, _) => None,
        (Verb::Swap, State::Prim) => None,
        (Verb::Swap, State::Alone) => Some(Refusal::NotProtected),
        (Verb::Swap | Verb::Restart, s) if !s.is_serving() => Some(Refusal::NotServing),
        (Verb::Prim { .. } | Verb::PrimForce | Verb::Second { .. }, State::Stop) => None,
        (Verb::Prim { .. } | Verb::PrimForce | Verb::Second { .. }, _) => Some(Refusal::MustBeStopped),
        _ => None,
    };
    let resource = |name: &str, detail: &str, action| ResourceView {
        name: name.to_owned(),
        health: if state.is_serving() { Health::Up } else { Health::Off },
        detail: detail.to_owned(),
        action,
    };
    Snapshot {
        module: module(m),
        node: node(n),
        config_generation: 3,
        state,
        readiness,
        reason: None,
        since_unix_ms: NOW - 24 * MIN,
        maintenance_until_unix_ms: None,
        traffic: None,
        verification: Default::default(),
        flag: Flag::UpToDate,
        is_up_to_date: true,
        epoch: Epoch(12),
        gen_id: Gen(7),
        session: Session(4),
        in_sync: BTreeSet::new(),
        vips_held: vec![],
        replication: Replication::Synchronous,
        resync: None,
        peer: PeerView {
            node: None,
            in_contact: true,
            state: None,
            networks: ["default", "replication"].map(|lan| NetworkView { lan: lan.to_owned(), is_up: true, rtt_us: Some(420) }).into(),
        },
        arbiter: ArbiterView::Reachable,
        authority: Default::default(),
        resources: vec![
            resource("proc.postgres", "1 process", Action::Restart),
            resource("tcp.5432", "connected in 3 ms", Action::Restart),
            resource("ip.10.20.0.50", "", Action::StopStart),
        ],
        allowed: Verb::each().into_iter().map(|verb| Allowed { refusal: refusal(&verb), verb }).collect(),
    }
}

pub fn cell(snapshot: Snapshot, addr: &str) -> NodeCell {
    NodeCell {
        node: snapshot.node.clone(),
        addr: Some(ip(addr)),
        contact: Contact::Connected,
        snapshot: Some(snapshot),
        resync_still_ms: None,
    }
}

fn mirror(c: &str, m: &str, vip: &str, health: HealthView, cells: [NodeCell; 2]) -> ModuleView {
    let dir = format!("/srv/{m}/data");
    ModuleView {
        cluster: cluster(c),
        module: module(m),
        def: Some(def(Mode::Mirror, vip, Some(&dir))),
        version: 3,
        health,
        cells: cells.into(),
    }
}

/// `prim` serves and `second` follows.
pub fn protected(c: &str, m: &str, vip: &str, prim: (&str, &str), second: (&str, &str)) -> ModuleView {
    let mut serving = snapshot(m, prim.0, State::Prim, Readiness::Ready);
    serving.vips_held = vec![ip(vip)];
    let mut cells = [cell(serving, prim.1), cell(snapshot(m, second.0, State::Second, Readiness::Ready), second.1)];
    cells.sort_by(|a, b| a.node.cmp(&b.node));
    mirror(c, m, vip, HealthView::Protected, cells)
}

/// mes-1 serves alone while mes-2 is brought level.
pub fn resyncing() -> ModuleView {
    let (m, vip) = ("mes-db", "10.20.0.50");
    let mut alone = snapshot(m, "mes-1", State::Alone, Readiness::Ready);
    alone.vips_held = vec![ip(vip)];
    alone.replication = Replication::Resync;
    let mut second = snapshot(m, "mes-2", State::Second, Readiness::Transient);
    second.reason = Some(Reason::Resyncing);
    second.flag = Flag::Inconsistent;
    second.is_up_to_date = false;
    second.since_unix_ms = NOW - 7 * MIN;
    second.resync = Some(Resync {
        bytes_done: 46_100_000_000,
        bytes_total: 74_300_000_000,
        bytes_copied: 8_120_000_000,
        files_done: 18_204,
        files_total: 29_377,
        rate: 118_000_000,
    });
    mirror("yokohama-mes", m, vip, HealthView::InProgress, [cell(alone, "10.20.0.11"), cell(second, "10.20.0.12")])
}

/// osaka-2 is silent.
pub fn alone_without_contact() -> ModuleView {
    let (m, vip) = ("files-osaka", "172.16.4.20");
    let mut alone = snapshot(m, "osaka-1", State::Alone, Readiness::Ready);
    alone.vips_held = vec![ip(vip)];
    alone.replication = Replication::Off;
    alone.peer.in_contact = false;
    alone.peer.networks.iter_mut().for_each(|n| n.is_up = false);
    let mut lost = cell(snapshot(m, "osaka-2", State::Second, Readiness::Ready), "172.16.4.12");
    lost.contact = Contact::Lost { since_unix_ms: NOW - 18 * MIN };
    mirror("osaka", m, vip, HealthView::AtRisk, [cell(alone, "172.16.4.11"), lost])
}

pub fn stopped() -> ModuleView {
    let one = |n: &str, addr: &str| {
        let mut s = snapshot("lab-app", n, State::Stop, Readiness::NotReady);
        s.reason = Some(Reason::StoppedBy { by: "tanaka".to_owned() });
        s.since_unix_ms = NOW - 130 * MIN;
        s.replication = Replication::Off;
        cell(s, addr)
    };
    mirror("test-lab", "lab-app", "10.99.0.5", HealthView::Stopped, [one("lab-1", "10.99.0.11"), one("lab-2", "10.99.0.12")])
}

/// Both wait: nobody may serve.
pub fn blocked() -> ModuleView {
    let mut a = snapshot("ledger", "hq-db1", State::Wait, Readiness::NotReady);
    a.reason = Some(Reason::DataOlder { newer: Some(node("hq-db2")), since_unix_ms: None });
    a.flag = Flag::Stale;
    a.is_up_to_date = false;
    a.since_unix_ms = NOW - 6 * MIN;
    a.replication = Replication::Off;
    let mut b = cell(snapshot("ledger", "hq-db2", State::Prim, Readiness::Ready), "192.168.10.12");
    b.contact = Contact::Lost { since_unix_ms: NOW - 6 * MIN };
    mirror("hq-core", "ledger", "192.168.10.52", HealthView::NotReady, [cell(a, "192.168.10.11"), b])
}

/// Two histories; under maintenance, so that nothing more happens.
pub fn split() -> ModuleView {
    let side = |n: &str, peer: &str, addr: &str| {
        let mut s = snapshot("ledger", n, State::Wait, Readiness::NotReady);
        s.reason = Some(Reason::SplitBrain { peer: node(peer) });
        s.is_up_to_date = false;
        s.maintenance_until_unix_ms = Some(NOW + 25 * MIN);
        s.replication = Replication::Off;
        cell(s, addr)
    };
    let cells = [side("hq-db1", "hq-db2", "192.168.10.11"), side("hq-db2", "hq-db1", "192.168.10.12")];
    mirror("hq-core", "ledger", "192.168.10.52", HealthView::Conflict, cells)
}

/// Nobody has said yet which copy is good.
pub fn undecided() -> ModuleView {
    let mut m = split();
    m.health = HealthView::NotReady;
    for s in m.cells.iter_mut().filter_map(|c| c.snapshot.as_mut()) {
        (s.reason, s.maintenance_until_unix_ms) = (Some(Reason::FirstStart), None);
    }
    m
}

/// Whose data to keep.
pub fn resolve(chrome: Chrome) -> ActionView {
    let keep = node("hq-db2");
    ActionView { module: split(), verb: Verb::Resolve { keep }, target: Target::Module, error: None, ..force(chrome) }
}

pub fn farm() -> ModuleView {
    let cells = ["web1", "web2", "web3", "web4"].map(|n| {
        let mut s = snapshot("nginx-farm", n, State::Up, Readiness::Ready);
        s.vips_held = vec![ip("203.0.113.10")];
        s.replication = Replication::None;
        if n == "web3" {
            s.state = State::Wait;
            s.readiness = Readiness::NotReady;
            s.reason = Some(Reason::CheckFailed { resource: "tcp.443".to_owned(), detail: "connect 127.0.0.1:443: refused".to_owned() });
            s.vips_held = vec![];
            s.since_unix_ms = NOW - 41 * MIN;
        }
        cell(s, "203.0.113.21")
    });
    ModuleView {
        cluster: cluster("web-front"),
        module: module("nginx-farm"),
        def: Some(def(Mode::Farm, "203.0.113.10", None)),
        version: 5,
        health: HealthView::AtRisk,
        cells: cells.into(),
    }
}

/// Runs on app-1; app-2 is `other`.
pub fn light(health: HealthView, other: (State, Readiness), reason: Reason) -> ModuleView {
    let of = |n: &str, (state, readiness)| {
        let mut s = snapshot("batch", n, state, readiness);
        s.replication = Replication::None;
        s.flag = Flag::Unknown;
        s.is_up_to_date = false;
        s.arbiter = ArbiterView::NotNeeded;
        s.peer = PeerView::default();
        for row in &mut s.allowed {
            let is_there = matches!(row.verb, Verb::Start | Verb::Stop | Verb::Restart | Verb::StopStart);
            row.refusal = (!is_there).then_some(Refusal::NoSuchRole);
        }
        s
    };
    let up = of("app-1", (State::Up, Readiness::Ready));
    let mut second = of("app-2", other);
    second.reason = Some(reason);
    ModuleView {
        cluster: cluster("dr-hub"),
        module: module("batch"),
        def: Some(ModuleDef { vips: vec![], ..def(Mode::Light, "203.0.113.10", None) }),
        version: 1,
        health,
        cells: vec![cell(up, "10.9.0.1"), cell(second, "10.9.0.2")],
    }
}

fn nodes(names: &[(&str, &str)], lost: &[&str]) -> Vec<NodeView> {
    names
        .iter()
        .map(|(n, addr)| NodeView {
            node: node(n),
            addresses: vec![("default".to_owned(), ip(addr))],
            contact: if lost.contains(n) { Contact::Lost { since_unix_ms: NOW - 18 * MIN } } else { Contact::Connected },
            approval: Approval::Approved { fingerprint: "9f2c".repeat(16) },
            agent_version: Some("0.1.0".to_owned()),
            os: Some("Ubuntu 24.04.1 LTS".to_owned()),
        })
        .collect()
}

pub fn fleet() -> Vec<ClusterView> {
    let view = |name: &str, nodes, modules| ClusterView { cluster: cluster(name), nodes, modules };
    let mut osaka = nodes(&[("osaka-1", "172.16.4.11"), ("osaka-2", "172.16.4.12")], &["osaka-2"]);
    osaka[0].addresses.push(("replication".to_owned(), ip("10.0.4.1")));
    osaka[1].addresses.push(("replication".to_owned(), ip("10.0.4.2")));
    let mut dr = nodes(&[("app-a", "10.9.0.1"), ("app-b", "10.9.0.2"), ("app-c", "10.9.0.3"), ("backup", "10.9.0.9")], &[]);
    dr[2].approval = Approval::Pending { fingerprint: "41d7b0c3".repeat(8), since_unix_ms: NOW - 3 * MIN };
    dr[2].contact = Contact::Never;
    dr[2].agent_version = None;
    vec![
        view(
            "hq-core",
            nodes(&[("hq-db1", "192.168.10.11"), ("hq-db2", "192.168.10.12")], &[]),
            vec![
                protected("hq-core", "postgres", "192.168.10.50", ("hq-db1", "192.168.10.11"), ("hq-db2", "192.168.10.12")),
                protected("hq-core", "erp-app", "192.168.10.51", ("hq-db2", "192.168.10.12"), ("hq-db1", "192.168.10.11")),
            ],
        ),
        view("osaka", osaka, vec![alone_without_contact()]),
        view("test-lab", nodes(&[("lab-1", "10.99.0.11"), ("lab-2", "10.99.0.12")], &[]), vec![stopped()]),
        view(
            "yokohama-mes",
            nodes(&[("mes-1", "10.20.0.11"), ("mes-2", "10.20.0.12")], &[]),
            vec![resyncing(), protected("yokohama-mes", "scada", "10.20.0.51", ("mes-1", "10.20.0.11"), ("mes-2", "10.20.0.12"))],
        ),
        view(
            "web-front",
            nodes(&[("web1", "203.0.113.21"), ("web2", "203.0.113.22"), ("web3", "203.0.113.23"), ("web4", "203.0.113.24")], &[]),
            vec![farm()],
        ),
        view(
            "dr-hub",
            dr,
            vec![
                protected("dr-hub", "payroll", "10.9.0.11", ("app-a", "10.9.0.1"), ("backup", "10.9.0.9")),
                protected("dr-hub", "crm", "10.9.0.12", ("app-b", "10.9.0.2"), ("backup", "10.9.0.9")),
            ],
        ),
    ]
}

pub fn events(c: &str, m: &str, a: &str, b: &str) -> Vec<EventView> {
    let list: Vec<(u64, &str, Event)> = vec![
        (7, b, Event::ResyncStarted { session: Session(5) }),
        (7, b, Event::Entered { from: State::Wait, to: State::Second, readiness: Readiness::Transient, reason: Some(Reason::Resyncing) }),
        (8, b, Event::AgentStarted),
        (24, a, Event::Entered { from: State::Prim, to: State::Alone, readiness: Readiness::Ready, reason: None }),
        (24, a, Event::ClaimAccepted { epoch: Epoch(12) }),
        (24, a, Event::PeerLost { peer: node(b) }),
        (190, a, Event::Ordered { verb: Verb::Swap, by: "sato".to_owned(), reason: Some("メモリ交換".to_owned()) }),
        (191, a, Event::ScriptDone { script: ScriptName::StartPrim, code: Some(1), millis: 4200 }),
    ];
    list.into_iter()
        .enumerate()
        .map(|(i, (minutes, n, event))| EventView {
            cluster: cluster(c),
            record: EventRecord { seq: 900 - i as u64, at_unix_ms: NOW - minutes * MIN, node: node(n), module: module(m), event },
        })
        .collect()
}

pub fn versions() -> Vec<VersionView> {
    let version = |number, by: &str, days: u64, reason: Option<&str>, is_active| VersionView {
        number,
        by: by.to_owned(),
        at_unix_ms: NOW - days * 1440 * MIN,
        reason: reason.map(str::to_owned),
        is_active,
    };
    vec![
        version(3, "sato", 4, Some("チェッカーの間隔を 10 秒に変更"), true),
        version(2, "tanaka", 31, Some("add the audit directory"), false),
        version(1, "sato", 90, None, false),
    ]
}

pub fn module_page(chrome: Chrome, m: ModuleView) -> ModulePageView {
    let (a, b) = (m.cells[0].node.to_string(), m.cells[m.cells.len() - 1].node.to_string());
    let events = events(m.cluster.as_str(), m.module.as_str(), &a, &b);
    ModulePageView { chrome, module: m, events, versions: versions(), operation: None }
}

pub fn operation(m: &ModuleView, state: OperationState) -> OperationView {
    OperationView {
        id: "0192f0c1".to_owned(),
        cluster: m.cluster.clone(),
        module: m.module.clone(),
        what: OperationKind::Action(Verb::Swap),
        by: "sato".to_owned(),
        reason: Some("メモリ交換".to_owned()),
        started_unix_ms: NOW - 4000,
        ended_unix_ms: (state != OperationState::Running).then_some(NOW),
        state,
        nodes: m
            .cells
            .iter()
            .map(|c| NodeOutcome {
                node: c.node.clone(),
                state,
                refusal: (state == OperationState::Failed).then_some(Refusal::NotProtected),
                problems: vec![],
            })
            .collect(),
    }
}

pub const USERCONFIG: &str = r#"<!DOCTYPE safe>
<safe>
  <!-- 基幹データベース -->
  <service mode="mirror" defaultprim="alone" maxloop="3">
    <heart>
      <heartbeat name="default" />
      <heartbeat name="replication" ident="flow" />
    </heart>
    <vip>
      <interface_list>
        <interface check="on">
          <real_interface>
            <virtual_addr addr="10.20.0.50" where="one_side_alias" />
          </real_interface>
        </interface>
      </interface_list>
    </vip>
    <rfs async="none">
      <replicated dir="/srv/mes/data" />
      <replicated dir="/srv/mes/data/tmp" />
    </rfs>
    <user nicestoptimeout="300" forcestoptimeout="300" />
  </service>
</safe>
"#;

pub fn problems(lang: Lang) -> Vec<ProblemView> {
    let ja = lang == Lang::Ja;
    let say = |en: &str, japanese: &str| if ja { japanese.to_owned() } else { en.to_owned() };
    vec![
        ProblemView {
            file: "conf/userconfig.xml".to_owned(),
            line: 20,
            column: 23,
            element: "replicated/@dir".to_owned(),
            message: say(
                "/srv/mes/data/tmp lies inside /srv/mes/data, which is replicated already.",
                "/srv/mes/data/tmp は、すでに複製される /srv/mes/data の中にあります。",
            ),
            remedy: Some(say("Remove this line, or exclude the directory.", "この行を削除するか、除外ディレクトリに指定してください。")),
            is_warning: false,
        },
        ProblemView {
            file: "bin/start_prim".to_owned(),
            line: 0,
            column: 0,
            element: String::new(),
            message: say("The script is empty.", "スクリプトが空です。"),
            remedy: None,
            is_warning: true,
        },
    ]
}

pub fn config(chrome: Chrome, is_new: bool) -> ModuleConfigView {
    let lang = chrome.lang;
    ModuleConfigView {
        chrome,
        cluster: cluster("yokohama-mes"),
        module: (!is_new).then(|| module("mes-db")),
        name: String::new(),
        nodes: vec![(node("mes-1"), true), (node("mes-2"), true), (node("mes-3"), false)],
        userconfig: USERCONFIG.to_owned(),
        scripts: vec![(
            "start_prim".to_owned(),
            "#!/bin/sh\n# Starts the database and waits until it answers.\nexec systemctl start postgresql\n".to_owned(),
        )],
        problems: (!is_new).then(|| problems(lang)),
        reason: String::new(),
        version: if is_new { 0 } else { 3 },
        is_running: !is_new,
        templates: vec![("mirror".to_owned(), "mirror.safe".to_owned()), ("postgresql".to_owned(), "postgresql.safe".to_owned())],
        template: is_new.then(|| "postgresql".to_owned()),
    }
}

/// What a primary says it would do on a swap.
pub fn rehearsal() -> Rehearsal {
    let script = |script, forced| Rehearsed::Script { script, forced };
    let enter = |state, readiness, reason| Rehearsed::Enter { state, readiness, reason };
    let steps = vec![
        script(ScriptName::StopPrim, false),
        script(ScriptName::StopPrim, true),
        Rehearsed::DropVips,
        Rehearsed::Release,
        enter(State::Second, Readiness::Transient, None),
    ];
    Rehearsal { refusal: None, steps }
}

pub fn swap(chrome: Chrome) -> ActionView {
    ActionView {
        chrome,
        module: protected("hq-core", "postgres", "192.168.10.50", ("hq-db1", "192.168.10.11"), ("hq-db2", "192.168.10.12")),
        verb: Verb::Swap,
        target: Target::Module,
        interruption: Interruption::Measured { median_ms: 11_000, least_ms: 9200, most_ms: 13_400, count: 5 },
        rehearsals: vec![(node("hq-db1"), Some(rehearsal()))],
        reason: String::new(),
        error: None,
        plan_hash: "a1b2".to_owned(),
    }
}

pub fn force(chrome: Chrome) -> ActionView {
    let mut m = blocked();
    if let Some(s) = m.cells[0].snapshot.as_mut() {
        s.state = State::Stop;
        s.allowed = Verb::each()
            .into_iter()
            .map(|verb| Allowed { refusal: matches!(verb, Verb::Prim { .. }).then_some(Refusal::NeedsAcceptLoss), verb })
            .collect();
    }
    ActionView {
        chrome,
        target: Target::Node(m.cells[0].node.clone()),
        module: m,
        verb: Verb::Prim { accept_loss: true },
        interruption: Interruption::None,
        rehearsals: vec![(node("hq-db1"), None)],
        reason: String::new(),
        error: Some(ActionError::NameDiffers),
        plan_hash: "a1b2".to_owned(),
    }
}

/// Every page by name, rendered.
pub fn pages(lang: Lang, theme: Theme) -> Vec<(&'static str, String)> {
    use tsugi_web::render;
    let c = |path: &str, scope: Option<Scope>| chrome(lang, theme, path, scope);
    let plain = || Chrome { user: None, ..chrome(lang, theme, "/login", None) };
    let in_module = |m: &ModuleView| {
        let path = format!("/clusters/{}/modules/{}", m.cluster, m.module);
        c(&path, Some(Scope::Module(m.cluster.clone(), m.module.clone())))
    };
    let mes = resyncing();
    let hq = protected("hq-core", "postgres", "192.168.10.50", ("hq-db1", "192.168.10.11"), ("hq-db2", "192.168.10.12"));
    let mut with_operation = module_page(in_module(&hq), hq.clone());
    with_operation.operation = Some(operation(&hq, OperationState::Running));
    let join = JoinView {
        command: format!("tsugi-agent enroll --console https://console01:9454 --token tsugi1.{}.q3Zr81 --name app-d", "ab01".repeat(16)),
        expires_unix_ms: NOW + 3_600_000,
    };
    let dr = fleet().pop().unwrap();
    let dashboard = |filter| DashboardView { chrome: c("/", Some(Scope::All)), filter, clusters: fleet() };
    vec![
        ("dashboard", render::dashboard(&dashboard(None))),
        ("dashboard-filtered", render::dashboard(&dashboard(Some(HealthView::AtRisk)))),
        ("dashboard-empty", render::dashboard(&DashboardView { chrome: c("/", Some(Scope::All)), filter: None, clusters: vec![] })),
        ("clusters", render::clusters(&ClustersView { chrome: c("/clusters", Some(Scope::Clusters)), clusters: fleet(), query: String::new() })),
        (
            "clusters-found",
            render::clusters(&ClustersView { chrome: c("/clusters?q=osaka", None), clusters: fleet(), query: "osaka".to_owned() }),
        ),
        (
            "cluster",
            render::cluster(&ClusterPageView {
                chrome: c("/clusters/dr-hub", Some(Scope::Cluster(cluster("dr-hub")))),
                cluster: dr,
                join: Some(join),
                events: events("dr-hub", "crm", "app-b", "backup"),
            }),
        ),
        (
            "cluster-new",
            render::cluster_config(&ClusterConfigView {
                chrome: c("/clusters/new", None),
                cluster: None,
                name: String::new(),
                xml: "<cluster>\n  <lans>\n    <lan name=\"default\">\n      <node name=\"n1\" addr=\"10.0.0.1\"/>\n      <node name=\"n2\" addr=\"10.0.0.2\"/>\n    </lan>\n  </lans>\n</cluster>\n".to_owned(),
                problems: vec![],
            }),
        ),
        ("module-resync", render::module(&module_page(in_module(&mes), mes.clone()))),
        ("module-protected", render::module(&with_operation)),
        ("module-alone", render::module(&module_page(in_module(&alone_without_contact()), alone_without_contact()))),
        ("module-blocked", render::module(&module_page(in_module(&blocked()), blocked()))),
        ("module-split", render::module(&module_page(in_module(&split()), split()))),
        ("action-resolve", render::action(&resolve(c("/clusters/hq-core/modules/ledger/actions/resolve", None)))),
        ("module-stopped", render::module(&module_page(in_module(&stopped()), stopped()))),
        ("module-farm", render::module(&module_page(in_module(&farm()), farm()))),
        ("config", render::module_config(&config(c("/clusters/yokohama-mes/modules/mes-db/config", None), false))),
        ("config-new", render::module_config(&config(c("/clusters/yokohama-mes/modules/new", None), true))),
        ("action-swap", render::action(&swap(c("/clusters/hq-core/modules/postgres/actions/swap", None)))),
        ("action-force", render::action(&force(c("/clusters/hq-core/modules/ledger/actions/prim", None)))),
        (
            "events",
            render::events(&EventsView {
                chrome: c("/events", Some(Scope::Events)),
                filter: EventFilter { cluster: Some(cluster("yokohama-mes")), module: None, level: Some(Level::Warning) },
                clusters: fleet().iter().map(|c| (c.cluster.clone(), c.modules.iter().map(|m| m.module.clone()).collect())).collect(),
                events: events("yokohama-mes", "mes-db", "mes-1", "mes-2"),
                older: Some("893".to_owned()),
            }),
        ),
        (
            "operation",
            render::operation(&OperationPageView { chrome: c("/operations/0192f0c1", None), operation: operation(&hq, OperationState::Failed) }),
        ),
        (
            "login",
            render::login(&LoginView { chrome: plain(), user: "sato".to_owned(), next: "/".to_owned(), error: Some(LoginError::Wrong) }),
        ),
        ("setup", render::setup(&SetupView { chrome: plain(), code: String::new(), user: String::new(), error: None })),
        ("error", render::error(&ErrorView { chrome: c("/nowhere", None), error: PageError::NotFound })),
    ]
}
