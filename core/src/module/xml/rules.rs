//! What may stand in `userconfig.xml`, and what becomes of it.
//!
//! Element and attribute names are those administrators of mirror clusters already know. Each is *read*,
//! *unused* (accepted, a warning says why nothing is lost) or *refused* (an error says what to use in its place):
//! nothing is left out silently. Our own: `service authority=`, `arbiter=`, `allow_split_brain=` and `fence`,
//! `heart profile=`, `user starttimeout=`, the checkers `http`, `load`, `memory`, `disk`, `exec`, the attributes `rise`,
//! `fall` and `retry` of all of them, `depends`, `rfs verify= compress=`, `user memory_max= pids_max= cpu_weight=`.

mod check;

use crate::markup::UnusedReason::{AlwaysDone, ChosenByItself, ConnectionsCut, NeverDone, NotYet, OtherSystem, TimesOfHeart};
use crate::markup::schema::{ChildRule, Kind, Rule, needed, read, refused, unused, unused_but};
use crate::markup::{Unit, UnusedReason};
use check::{CHECK, DEPENDS, ERRD, FAILOVER};

/// Shortest heartbeat period in milliseconds: below, the scheduler's own delays would count as silence.
pub(super) const PULSE_MS_MIN: u64 = 10;

/// Least limit of memory in MB: less, and not even a shell starts.
const MEMORY_MB_MIN: i64 = 16;
/// Least limit of processes: a script, what it calls, and the pipes between them.
const PIDS_MIN: i64 = 16;

const SWITCH: Kind = Kind::OneOf(&["on", "off"]);
const COUNT: Kind = Kind::Number(0, i64::MAX);
const PORT: Kind = Kind::Number(1, 65_535);
const CHOSEN: UnusedReason = ChosenByItself;

/// `<safe>`.
pub(super) static SAFE: Rule = Rule { name: "safe", attributes: &[], children: &[ChildRule::Many(&MACRO), ChildRule::Needed(&SERVICE)] };

static MACRO: Rule = Rule { name: "macro", attributes: &[needed("name", Kind::Text), needed("value", Kind::Any)], children: &[] };

static SERVICE: Rule = Rule {
    name: "service",
    attributes: &[
        needed("mode", Kind::OneOf(&["mirror", "farm", "light"])),
        read("boot", Kind::OneOf(&["on", "off", "auto", "ignore"])),
        read("boot_delay", Kind::Time(Unit::S, 0)),
        read("failover", SWITCH),
        read("defaultprim", Kind::Name),
        read("maxloop", Kind::Number(0, 1_000_000)),
        read("loop_interval", Kind::Time(Unit::H, 0)),
        refused("automatic_reboot", SWITCH, &["off"], Some("the action `stopstart`, which does not restart the machine")),
        read("authority", Kind::OneOf(&["arbiter", "fence", "manual", "ping", "none"])),
        read("arbiter", Kind::Name),
        read("allow_split_brain", Kind::OneOf(&["true", "false"])),
    ],
    children: &[
        ChildRule::One(&HEART),
        ChildRule::One(&RFS),
        ChildRule::One(&VIP),
        ChildRule::One(&USER),
        ChildRule::One(&ERRD),
        ChildRule::One(&CHECK),
        ChildRule::One(&FENCE),
        ChildRule::Refused { name: "farm", instead: None },
        ChildRule::Refused { name: "vhost", instead: Some("the virtual address, or a name that DNS gives it") },
        ChildRule::Text(&FAILOVER),
        ChildRule::One(&DEPENDS),
    ],
};

static HEART: Rule = Rule {
    name: "heart",
    attributes: &[
        read("port", PORT),
        read("pulse", Kind::Time(Unit::Ms, PULSE_MS_MIN)),
        read("timeout", Kind::Time(Unit::Ms, 1)),
        read("profile", Kind::OneOf(&["fast", "normal", "tolerant"])),
        unused_but("permanent_arp", SWITCH, &["off"], NeverDone),
    ],
    children: &[ChildRule::Many(&HEARTBEAT)],
};

static HEARTBEAT: Rule = Rule {
    name: "heartbeat",
    attributes: &[
        needed("name", Kind::Text),
        read("ident", Kind::Name),
        unused("pulse", Kind::Time(Unit::Ms, 1), TimesOfHeart),
        unused("timeout", Kind::Time(Unit::Ms, 1), TimesOfHeart),
    ],
    children: &[ChildRule::Refused { name: "server", instead: Some("`name` with a network of cluster.xml") }],
};

static VIP: Rule = Rule {
    name: "vip",
    attributes: &[unused_but("tcpreset", SWITCH, &["on"], ConnectionsCut), refused("scriptcontrol", SWITCH, &["off"], None)],
    children: &[ChildRule::Some(&INTERFACE_LIST), ChildRule::Refused { name: "loadbalancing_list", instead: None }],
};

static INTERFACE_LIST: Rule = Rule { name: "interface_list", attributes: &[], children: &[ChildRule::Some(&INTERFACE)] };

static INTERFACE: Rule = Rule {
    name: "interface",
    attributes: &[
        read("name", Kind::Text),
        read("check", SWITCH),
        unused_but("arpreroute", SWITCH, &["off"], NotYet),
        unused("arpinterval", Kind::Time(Unit::S, 0), NotYet),
        unused("arpelapse", Kind::Time(Unit::S, 0), NotYet),
    ],
    children: &[
        ChildRule::Many(&REAL_INTERFACE),
        ChildRule::Refused {
            name: "virtual_interface",
            instead: Some("`real_interface`; the move of the address is announced to its network"),
        },
    ],
};

static REAL_INTERFACE: Rule = Rule { name: "real_interface", attributes: &[], children: &[ChildRule::Some(&VIRTUAL_ADDR)] };

static VIRTUAL_ADDR: Rule = Rule {
    name: "virtual_addr",
    attributes: &[
        needed("addr", Kind::Address),
        read("where", Kind::OneOf(&["one_side_alias", "one_side", "alias"])),
        read("check", SWITCH),
        unused_but("connections", SWITCH, &["off"], NotYet),
        read("netmask", Kind::Netmask),
    ],
    children: &[],
};

static RFS: Rule = Rule {
    name: "rfs",
    attributes: &[
        read("async", Kind::OneOf(&["none", "second"])),
        read("reiallowedbw", Kind::Number(0, 1 << 40)),
        read("compress", Kind::OneOf(&["off", "lz4"])),
        read("verify", Kind::Time(Unit::H, 0)),
        unused("packetsize", COUNT, CHOSEN),
        unused("reipacketsize", COUNT, CHOSEN),
        unused("ruzone_blocksize", COUNT, CHOSEN),
        unused("locktimeout", Kind::Time(Unit::S, 0), TimesOfHeart),
        unused("sendtimeout", Kind::Time(Unit::S, 0), TimesOfHeart),
        unused("nbrei", COUNT, CHOSEN),
        unused("namespacepolicy", Kind::OneOf(&["0", "1", "3", "4"]), CHOSEN),
        unused("reitimeout", Kind::Time(Unit::S, 0), CHOSEN),
        unused("reicommit", COUNT, CHOSEN),
        unused_but("reidetail", SWITCH, &["off"], NeverDone),
        unused("nbremconn", COUNT, CHOSEN),
        unused("checktime", Kind::Time(Unit::Ms, 0), CHOSEN),
        unused("checkintv", Kind::Time(Unit::S, 0), CHOSEN),
        refused("scripts", SWITCH, &["off"], Some("the scripts of the module")),
        refused("syncdelta", Kind::Time(Unit::M, 0), &["0", "0m", "0s", "1", "1m"], Some("the order `prim` with acceptance of the loss")),
        refused("syncat", Kind::Any, &[], Some("real-time replication")),
        unused_but("acl", SWITCH, &["on"], AlwaysDone),
        unused("mountoversuffix", Kind::Any, ChosenByItself),
        unused("mountover", SWITCH, ChosenByItself),
        unused("iotimeout", Kind::Time(Unit::S, 0), OtherSystem),
        unused("roflags", Kind::Any, OtherSystem),
        unused("allocthreshold", Kind::Any, OtherSystem),
        unused("nfsbox_options", Kind::Any, OtherSystem),
    ],
    children: &[ChildRule::One(&FLOW), ChildRule::Some(&REPLICATED)],
};

static FLOW: Rule = Rule { name: "flow", attributes: &[needed("name", Kind::Text)], children: &[] };

static REPLICATED: Rule = Rule {
    name: "replicated",
    attributes: &[needed("dir", Kind::Any), unused_but("mode", Kind::OneOf(&["read_only"]), &["read_only"], NotYet)],
    children: &[ChildRule::Many(&NOT_REPLICATED), ChildRule::Many(&TO_CHECK)],
};

static NOT_REPLICATED: Rule =
    Rule { name: "notreplicated", attributes: &[read("path", Kind::Path), read("regexpath", Kind::NamePattern)], children: &[] };

static TO_CHECK: Rule = Rule { name: "tocheck", attributes: &[needed("path", Kind::Path)], children: &[] };

static USER: Rule = Rule {
    name: "user",
    attributes: &[
        read("starttimeout", Kind::Time(Unit::S, 1)),
        read("nicestoptimeout", Kind::Time(Unit::S, 1)),
        read("forcestoptimeout", Kind::Time(Unit::S, 1)),
        read("memory_max", Kind::Number(MEMORY_MB_MIN, 1 << 30)),
        read("pids_max", Kind::Number(PIDS_MIN, 1 << 22)),
        read("cpu_weight", Kind::Number(1, 10_000)),
        unused_but("logging", Kind::OneOf(&["userlog", "none"]), &["userlog"], AlwaysDone),
        unused("userlogsize", COUNT, ChosenByItself),
    ],
    children: &[ChildRule::Many(&VAR)],
};

static VAR: Rule = Rule { name: "var", attributes: &[needed("name", Kind::Text), needed("value", Kind::Any)], children: &[] };

static FENCE: Rule = Rule {
    name: "fence",
    attributes: &[
        read("script", Kind::Text),
        read("agent", Kind::Text),
        read("delay", Kind::Time(Unit::S, 0)),
        read("timeout", Kind::Time(Unit::S, 1)),
    ],
    children: &[ChildRule::Many(&FENCE_OPTION)],
};

static FENCE_OPTION: Rule =
    Rule { name: "option", attributes: &[needed("name", Kind::Text), needed("value", Kind::Any), read("node", Kind::Name)], children: &[] };
