//! `<arbiters>` ⇄ [`ArbiterDef`]: who may keep the records of modules besides the console.

use super::escape;
use crate::cluster::{ArbiterDef, ArbiterKind, ClusterDef, EtcdDef};
use crate::ids::ArbiterName;
use crate::markup::schema::{At, ChildRule, Kind, Rule, needed, read as optional};
use crate::markup::value::{self, bad};
use crate::markup::{Expected, Place, Problem, ProblemKind};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Port of a witness that names none.
const WITNESS_PORT: u16 = 9455;
/// More members than any etcd cluster has; each of them may cost a part of the time a request has.
const ENDPOINTS_MAX: usize = 9;

const YES_NO: Kind = Kind::OneOf(&["true", "false"]);

pub(super) static ARBITERS: Rule =
    Rule { name: "arbiters", attributes: &[], children: &[ChildRule::One(&CONSOLE), ChildRule::Many(&WITNESS), ChildRule::Many(&ETCD)] };

/// The console is there anyway; the element is for those who want to see it written.
static CONSOLE: Rule = Rule { name: "console", attributes: &[], children: &[] };

static WITNESS: Rule = Rule {
    name: "witness",
    attributes: &[
        needed("name", Kind::Name),
        needed("addr", Kind::Address),
        optional("port", Kind::Number(1, 65_535)),
        optional("own", YES_NO),
    ],
    children: &[],
};

static ETCD: Rule = Rule {
    name: "etcd",
    attributes: &[
        needed("name", Kind::Name),
        needed("endpoints", Kind::Text),
        optional("ca", Kind::Text),
        optional("cert", Kind::Text),
        optional("key", Kind::Text),
        optional("tls_name", Kind::Host),
    ],
    children: &[],
};

/// Reads what is right. `cluster` has the nodes already.
pub(super) fn read(root: &At<'_>, cluster: &ClusterDef, problems: &mut Vec<Problem>) -> Vec<ArbiterDef> {
    let mut names: BTreeMap<ArbiterName, Place> = BTreeMap::new();
    let mut found = Vec::new();
    let Some(arbiters) = root.one("arbiters") else { return found };
    let mut all: Vec<(At<'_>, bool)> = arbiters.all("witness").into_iter().map(|at| (at, true)).collect();
    all.extend(arbiters.all("etcd").into_iter().map(|at| (at, false)));
    all.sort_by_key(|(at, _)| at.element.place);
    for (at, is_witness) in all {
        let name = name(&at, &mut names, problems);
        let kind = if is_witness { witness(&at, name.as_ref(), cluster, problems) } else { etcd(&at, problems).map(ArbiterKind::Etcd) };
        if let (Some(name), Some(kind)) = (name, kind) {
            found.push(ArbiterDef { name, kind });
        }
    }
    found
}

fn name(at: &At<'_>, names: &mut BTreeMap<ArbiterName, Place>, problems: &mut Vec<Problem>) -> Option<ArbiterName> {
    let name = ArbiterName::new(at.text("name")?).ok()?;
    if name.is_console() {
        problems.push(at.wrong("name", ProblemKind::ReservedName { name: name.to_string() }));
        return None;
    }
    if let Some(first) = names.insert(name.clone(), at.place_of("name")) {
        problems.push(at.wrong("name", ProblemKind::DuplicateName { name: name.to_string(), first }));
    }
    Some(name)
}

fn witness(at: &At<'_>, name: Option<&ArbiterName>, cluster: &ClusterDef, problems: &mut Vec<Problem>) -> Option<ArbiterKind> {
    let addr = at.address("addr")?;
    let is_own = at.text("own") == Some("true");
    if let (Some(node), Some(name)) = (cluster.node_at(addr), name) {
        let problem = at.wrong("addr", ProblemKind::ArbiterOnNode { arbiter: name.to_string(), node: node.clone() });
        problems.push(if is_own { problem.into_warning() } else { problem });
    }
    let port = at.number("port").unwrap_or(WITNESS_PORT);
    Some(ArbiterKind::Witness { addr: SocketAddr::new(addr, port), is_own })
}

fn etcd(at: &At<'_>, problems: &mut Vec<Problem>) -> Option<EtcdDef> {
    let text = at.text("endpoints")?;
    let found = endpoints(text);
    if found.is_none() {
        problems.push(at.wrong("endpoints", bad(text, Expected::Endpoints)));
    }
    let mut path = |attribute: &str| {
        let text = at.text(attribute)?;
        if !text.starts_with('/') || text.contains('\0') {
            problems.push(at.wrong(attribute, bad(text, Expected::AbsolutePath)));
        }
        Some(text.to_owned())
    };
    let (ca, cert, key) = (path("ca"), path("cert"), path("key"));
    let mut missing = |attribute: &str| problems.push(at.wrong(attribute, ProblemKind::MissingAttribute { name: attribute.to_owned() }));
    match (&cert, &key) {
        (Some(_), None) => missing("key"),
        (None, Some(_)) => missing("cert"),
        _ => {}
    }
    let (is_tls, endpoints) = found?;
    if is_tls && ca.is_none() {
        missing("ca");
    }
    if !is_tls && endpoints.iter().any(|e| !e.ip().is_loopback()) {
        problems.push(at.wrong("endpoints", ProblemKind::NotEncrypted).into_warning());
    }
    Some(EtcdDef { endpoints, is_tls, ca, cert: cert.zip(key), tls_name: at.text("tls_name").map(str::to_owned) })
}

/// `https://192.0.2.1:2379,https://[2001:db8::1]:2379`.
fn endpoints(text: &str) -> Option<(bool, Vec<SocketAddr>)> {
    let mut tls = None;
    let mut found = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (is_tls, rest) = match part.split_once("://")? {
            ("https", rest) => (true, rest),
            ("http", rest) => (false, rest),
            _ => return None,
        };
        if *tls.get_or_insert(is_tls) != is_tls {
            return None;
        }
        let addr: SocketAddr = rest.strip_suffix('/').unwrap_or(rest).parse().ok()?;
        value::address(&addr.ip().to_string()).ok()?;
        if addr.port() == 0 || found.contains(&addr) {
            return None;
        }
        found.push(addr);
    }
    (found.len() <= ENDPOINTS_MAX).then_some((tls?, found))
}

/// Appends the element, if there is anything to say.
pub(super) fn write(arbiters: &[ArbiterDef], text: &mut String) {
    if arbiters.is_empty() {
        return;
    }
    text.push_str("  <arbiters>\n");
    for arbiter in arbiters {
        match &arbiter.kind {
            ArbiterKind::Witness { addr, is_own } => {
                let own = if *is_own { " own=\"true\"" } else { "" };
                text.push_str(&format!("    <witness name=\"{}\" addr=\"{}\" port=\"{}\"{own}/>\n", arbiter.name, addr.ip(), addr.port()));
            }
            ArbiterKind::Etcd(etcd) => {
                let scheme = if etcd.is_tls { "https" } else { "http" };
                let endpoints: Vec<String> = etcd.endpoints.iter().map(|e| format!("{scheme}://{e}")).collect();
                text.push_str(&format!("    <etcd name=\"{}\" endpoints=\"{}\"", arbiter.name, endpoints.join(",")));
                let (cert, key) = etcd.cert.clone().unzip();
                for (attribute, value) in [("ca", &etcd.ca), ("cert", &cert), ("key", &key), ("tls_name", &etcd.tls_name)] {
                    if let Some(value) = value {
                        text.push_str(&format!(" {attribute}=\"{}\"", escape(value)));
                    }
                }
                text.push_str("/>\n");
            }
        }
    }
    text.push_str("  </arbiters>\n");
}

#[cfg(test)]
mod tests {
    use crate::cluster::xml::{ParsedCluster, parse_cluster, to_xml};
    use crate::cluster::{ArbiterKind, EtcdDef};
    use crate::ids::{ArbiterName, ClusterName};

    const LANS: &str =
        "<lans><lan name=\"l\"><node name=\"n1\" addr=\"10.0.0.1\"/><node name=\"n2\" addr=\"10.0.0.2\" laddr=\"10.9.0.2\"/></lan></lans>";

    fn parse(arbiters: &str) -> ParsedCluster {
        parse_cluster(&format!("<cluster>{LANS}\n<arbiters>\n{arbiters}</arbiters>\n</cluster>"), &ClusterName::new("lab").unwrap())
    }
    fn lines(arbiters: &str) -> Vec<String> {
        parse(arbiters).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn arbiters_are_read_and_written_and_read_again_the_same() {
        let parsed = parse(
            "<console/>
<etcd name=\"store\" endpoints=\"https://10.0.0.21:2379, https://[fd00::2]:2379/\" ca=\"/etc/a&amp;b/ca.pem\" cert=\"/c\" key=\"/k\" tls_name=\"etcd.example\"/>
<witness name=\"w1\" addr=\"10.0.0.9\"/>
<witness name=\"w2\" addr=\"fd00::9\" port=\"99\"/>
",
        );
        assert_eq!(parsed.problems, []);
        let def = parsed.def.unwrap();
        assert_eq!(def.arbiters.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["store", "w1", "w2"]);
        let etcd = EtcdDef {
            endpoints: vec!["10.0.0.21:2379".parse().unwrap(), "[fd00::2]:2379".parse().unwrap()],
            is_tls: true,
            ca: Some("/etc/a&b/ca.pem".into()),
            cert: Some(("/c".into(), "/k".into())),
            tls_name: Some("etcd.example".into()),
        };
        assert_eq!(def.arbiters[0].kind, ArbiterKind::Etcd(etcd));
        let w1 = def.arbiter(&ArbiterName::new("w1").unwrap()).unwrap();
        assert_eq!(w1.kind, ArbiterKind::Witness { addr: "10.0.0.9:9455".parse().unwrap(), is_own: false });
        assert_eq!(parse_cluster(&to_xml(&def), &def.name).def, Some(def.clone()));
        // What a console of before wrote has no arbiters.
        let mut json = serde_json::to_value(&def).unwrap();
        json.as_object_mut().unwrap().remove("arbiters");
        assert_eq!(serde_json::from_value::<crate::cluster::ClusterDef>(json).unwrap().arbiters, []);
    }

    #[test]
    fn every_problem_is_found_at_its_place() {
        assert_eq!(
            lines(
                "<witness name=\"console\" addr=\"10.0.0.9\"/>
<witness name=\"w1\" addr=\"10.9.0.2\"/>
<witness name=\"w1\" addr=\"w.example\" port=\"0\"/>
<witness nam=\"w2\" own=\"yes\"/>
<etcd name=\"a\" endpoints=\"https://10.0.0.1:1,http://10.0.0.2:1\"/>
<etcd name=\"b\" endpoints=\"https://etcd.example:2379\" ca=\"ca.pem\" key=\"/k\"/>
<etcd name=\"c\" endpoints=\"https://10.0.0.1:2379\" cert=\"/c\"/>
<etcd name=\"d\" endpoints=\"http://10.0.0.1:2379\"/>
<etcd name=\"e\"/>
<zookeeper/>
"
            ),
            [
                "3:16 cluster/arbiters/witness name: The name `console` is set by the product itself. Choose another name.",
                "4:26 cluster/arbiters/witness addr: The arbiter `w1` runs on node `n2`: when that node fails, the other one cannot take over. Run it on a third machine; if there is none, say own=\"true\" at the witness.",
                "5:16 cluster/arbiters/witness name: The name `w1` is already used at 4:16. Choose another name.",
                "5:26 cluster/arbiters/witness addr: `w.example` cannot be used. Write an IPv4 or IPv6 address; names are not looked up.",
                "5:43 cluster/arbiters/witness port: `0` cannot be used. Write a whole number from 1 to 65535.",
                "6:1 cluster/arbiters/witness addr: Attribute `addr` is missing. Add addr=\"…\".",
                "6:10 cluster/arbiters/witness nam: This element has no attribute `nam`. Did you mean `name`?",
                "6:24 cluster/arbiters/witness own: `yes` cannot be used. Write `true` or `false`.",
                "7:27 cluster/arbiters/etcd endpoints: `https://10.0.0.1:1,http://10.0.0.2:1` cannot be used. Write `https://ADDRESS:PORT`, several separated by commas; addresses, not names, and all of them `https` or all `http`.",
                "8:1 cluster/arbiters/etcd cert: Attribute `cert` is missing. Add cert=\"…\".",
                "8:27 cluster/arbiters/etcd endpoints: `https://etcd.example:2379` cannot be used. Write `https://ADDRESS:PORT`, several separated by commas; addresses, not names, and all of them `https` or all `http`.",
                "8:58 cluster/arbiters/etcd ca: `ca.pem` cannot be used. Write the path from the root: /…",
                "9:1 cluster/arbiters/etcd key: Attribute `key` is missing. Add key=\"…\".",
                "9:1 cluster/arbiters/etcd ca: Attribute `ca` is missing. Add ca=\"…\".",
                "10:27 cluster/arbiters/etcd endpoints (warning): The connection to this arbiter is not encrypted: whoever is on the line can change its answers. Use https://.",
                "11:1 cluster/arbiters/etcd endpoints: Attribute `endpoints` is missing. Add endpoints=\"…\".",
                "12:1 cluster/arbiters/zookeeper: There is no element `zookeeper`. Remove it.",
            ]
        );
    }

    #[test]
    fn a_witness_on_a_node_is_accepted_when_said_on_purpose() {
        let parsed = parse("<witness name=\"n1\" addr=\"10.0.0.1\" own=\"true\"/>\n");
        assert!(parsed.def.is_some());
        assert_eq!(
            parsed.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "3:26 cluster/arbiters/witness addr (warning): The arbiter `n1` runs on node `n1`: when that node fails, the other one cannot take over. Run it on a third machine; if there is none, say own=\"true\" at the witness."
            ]
        );
    }
}
