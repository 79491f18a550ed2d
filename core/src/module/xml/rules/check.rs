//! What is watched and what follows: `errd`, `check`, `failover`, `depends`.

use super::PORT;
use crate::markup::Unit;
use crate::markup::UnusedReason::{AlwaysDone, ChosenByItself, NotYet};
use crate::markup::schema::{AttributeRule, ChildRule, Kind, Rule, needed, read, unused, unused_but};

/// Shortest time to the next test after one that contradicts what is shown, in milliseconds.
const RETRY_MS_MIN: u64 = 10;
/// Most results in a row a checker may be asked to see before it believes them.
const IN_A_ROW_MAX: i64 = 100;
/// Most cycles of `polltimer` a process may be left alone at first.
const START_AFTER_MAX: i64 = 10_000;
const PERCENT: Kind = Kind::Number(1, 99);
const MEGABYTES: Kind = Kind::Number(1, 1 << 40);

const WHEN: Kind = Kind::OneOf(&["pre", "prim", "second", "both"]);
const ACTION: Kind = Kind::OneOf(&["wait", "restart", "stopstart", "stop", "noaction"]);

const IDENT: AttributeRule = needed("ident", Kind::Name);
const INTERVAL: AttributeRule = read("interval", Kind::Time(Unit::S, 1));
const TIMEOUT: AttributeRule = read("timeout", Kind::Time(Unit::S, 1));
const RISE: AttributeRule = read("rise", Kind::Number(1, IN_A_ROW_MAX));
const FALL: AttributeRule = read("fall", Kind::Number(1, IN_A_ROW_MAX));
const RETRY: AttributeRule = read("retry", Kind::Time(Unit::Ms, RETRY_MS_MIN));

pub(super) static ERRD: Rule =
    Rule { name: "errd", attributes: &[read("polltimer", Kind::Time(Unit::S, 1))], children: &[ChildRule::Many(&PROC)] };

static PROC: Rule = Rule {
    name: "proc",
    attributes: &[
        needed("name", Kind::Text),
        read("service", Kind::OneOf(&["yes", "no"])),
        read("nameregex", Kind::Text),
        read("argregex", Kind::Text),
        read("class", Kind::Name),
        read("action", Kind::Text),
        unused("restart_services", Kind::Any, NotYet),
        read("start_after", Kind::Number(0, START_AFTER_MAX)),
        read("atleast", Kind::Number(-1, 100_000)),
        read("atmax", Kind::Number(-1, 100_000)),
    ],
    children: &[],
};

pub(super) static CHECK: Rule = Rule {
    name: "check",
    attributes: &[],
    children: &[
        ChildRule::Many(&TCP),
        ChildRule::Many(&PING),
        ChildRule::Many(&INTF),
        ChildRule::Many(&IP),
        ChildRule::Many(&CUSTOM),
        ChildRule::Many(&MODULE),
        ChildRule::Many(&HTTP),
        ChildRule::Many(&LOAD),
        ChildRule::Many(&MEMORY),
        ChildRule::Many(&DISK),
        ChildRule::Many(&EXEC),
        ChildRule::One(&SPLITBRAIN),
    ],
};

static SPLITBRAIN: Rule = Rule {
    name: "splitbrain",
    attributes: &[
        needed("ident", Kind::Name),
        read("when", Kind::OneOf(&["pre"])),
        read("exec", Kind::OneOf(&["ping"])),
        needed("arg", Kind::Text),
    ],
    children: &[],
};

static TCP: Rule =
    Rule { name: "tcp", attributes: &[IDENT, read("when", WHEN), read("action", ACTION)], children: &[ChildRule::Needed(&TCP_TO)] };

static TCP_TO: Rule = Rule {
    name: "to",
    attributes: &[needed("addr", Kind::Host), needed("port", PORT), INTERVAL, TIMEOUT, RISE, FALL, RETRY],
    children: &[],
};

static PING: Rule =
    Rule { name: "ping", attributes: &[IDENT, read("when", WHEN), read("action", ACTION)], children: &[ChildRule::Needed(&PING_TO)] };

static PING_TO: Rule = Rule { name: "to", attributes: &[needed("addr", Kind::Host), INTERVAL, TIMEOUT, RISE, FALL, RETRY], children: &[] };

static INTF: Rule =
    Rule { name: "intf", attributes: &[IDENT, read("when", Kind::OneOf(&["pre"]))], children: &[ChildRule::Needed(&INTF_TO)] };

static INTF_TO: Rule =
    Rule { name: "to", attributes: &[read("local_addr", Kind::Address), read("name", Kind::Text), INTERVAL], children: &[] };

static IP: Rule = Rule { name: "ip", attributes: &[IDENT, read("when", Kind::OneOf(&["prim"]))], children: &[ChildRule::Needed(&IP_TO)] };

static IP_TO: Rule = Rule { name: "to", attributes: &[needed("addr", Kind::Address), INTERVAL], children: &[] };

static CUSTOM: Rule = Rule {
    name: "custom",
    attributes: &[IDENT, read("when", WHEN), read("action", ACTION), read("exec", Kind::Text), read("arg", Kind::Any)],
    children: &[],
};

static MODULE: Rule = Rule {
    name: "module",
    attributes: &[
        needed("name", Kind::Name),
        read("ident", Kind::Name),
        read("when", Kind::OneOf(&["pre"])),
        read("state", Kind::OneOf(&["up", "prim", "second"])),
    ],
    children: &[ChildRule::One(&MODULE_TO)],
};

static MODULE_TO: Rule = Rule {
    name: "to",
    attributes: &[
        needed("addr", Kind::Host),
        unused("port", PORT, ChosenByItself),
        unused("interval", Kind::Time(Unit::S, 1), ChosenByItself),
        unused("timeout", Kind::Time(Unit::S, 1), ChosenByItself),
        unused_but("secure", Kind::OneOf(&["on", "off"]), &["on"], AlwaysDone),
    ],
    children: &[],
};

static HTTP: Rule =
    Rule { name: "http", attributes: &[IDENT, read("when", WHEN), read("action", ACTION)], children: &[ChildRule::Needed(&HTTP_TO)] };

static HTTP_TO: Rule = Rule {
    name: "to",
    attributes: &[
        needed("url", Kind::Text),
        read("status", Kind::Text),
        read("match", Kind::Text),
        read("slow", Kind::Time(Unit::Ms, 1)),
        read("ca", Kind::Text),
        INTERVAL,
        TIMEOUT,
        RISE,
        FALL,
        RETRY,
    ],
    children: &[],
};

static LOAD: Rule = Rule {
    name: "load",
    attributes: &[
        IDENT,
        read("when", WHEN),
        read("action", ACTION),
        read("of", Kind::OneOf(&["load", "cpu", "pressure"])),
        needed("max", Kind::Number(1, 100_000)),
        INTERVAL,
        RISE,
        FALL,
        RETRY,
    ],
    children: &[],
};

static MEMORY: Rule = Rule {
    name: "memory",
    attributes: &[
        IDENT,
        read("when", WHEN),
        read("action", ACTION),
        read("min", PERCENT),
        read("min_mb", MEGABYTES),
        read("pressure", PERCENT),
        INTERVAL,
        RISE,
        FALL,
        RETRY,
    ],
    children: &[],
};

static DISK: Rule = Rule {
    name: "disk",
    attributes: &[
        IDENT,
        read("when", WHEN),
        read("action", ACTION),
        needed("path", Kind::Text),
        read("min", PERCENT),
        read("min_mb", MEGABYTES),
        read("min_inodes", PERCENT),
        INTERVAL,
        TIMEOUT,
        RISE,
        FALL,
        RETRY,
    ],
    children: &[],
};

static EXEC: Rule = Rule {
    name: "exec",
    attributes: &[
        IDENT,
        read("when", WHEN),
        read("action", ACTION),
        needed("exec", Kind::Text),
        read("arg", Kind::Any),
        INTERVAL,
        TIMEOUT,
        RISE,
        FALL,
        RETRY,
    ],
    children: &[],
};

pub(super) static FAILOVER: Rule = Rule {
    name: "failover",
    attributes: &[
        read("extends", Kind::OneOf(&["yes", "no"])),
        unused_but("period", Kind::Time(Unit::Ms, 1), &["5000", "5000ms", "5s"], AlwaysDone),
        read("handle_time", Kind::Time(Unit::Ms, 0)),
    ],
    children: &[],
};

pub(super) static DEPENDS: Rule = Rule { name: "depends", attributes: &[], children: &[ChildRule::Some(&ON)] };

static ON: Rule =
    Rule { name: "on", attributes: &[needed("module", Kind::Name), read("state", Kind::OneOf(&["up", "prim", "second"]))], children: &[] };
