//! `cluster.xml` ⇄ [`super::ClusterDef`], with every problem at its line and column.
//!
//! ```xml
//! <cluster>
//!   <lans>
//!     <lan name="default" command="on">
//!       <node name="n1" addr="192.0.2.11"/>
//!       <node name="n2" addr="192.0.2.12" laddr="10.0.0.12"/>
//!     </lan>
//!   </lans>
//!   <arbiters>
//!     <witness name="w1" addr="192.0.2.9"/>
//!     <etcd name="etcd" endpoints="https://192.0.2.21:2379,https://192.0.2.22:2379" ca="/etc/tsugi/etcd-ca.pem"/>
//!   </arbiters>
//! </cluster>
//! ```
//!
//! Addresses are IP addresses: a name would be one more thing that must work while the cluster is in trouble, and
//! two nodes may look it up differently. One network at least holds every node; a cluster may begin with one node.

use super::{ClusterDef, Lan, LanNode};
use crate::ids::{ClusterName, NodeName};
use crate::markup::schema::{self, At, ChildRule, Kind, Rule, needed, read, unused, unused_but};
use crate::markup::tree::{self, shorten};
use crate::markup::{Expected, Place, Problem, ProblemKind, Unit, UnusedReason};
use std::collections::BTreeMap;
use std::net::IpAddr;

mod arbiters;

/// What came of a `cluster.xml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedCluster {
    /// The definition; none if any problem is an error.
    pub def: Option<ClusterDef>,
    /// Every problem, in the order of the text.
    pub problems: Vec<Problem>,
}

const SWITCH: Kind = Kind::OneOf(&["on", "off"]);
const COUNT: Kind = Kind::Number(1, 1_000_000);

static CLUSTER: Rule =
    Rule { name: "cluster", attributes: &[], children: &[ChildRule::Needed(&LANS), ChildRule::One(&arbiters::ARBITERS)] };

// Membership needs no protocol of its own here: nodes hear each other through their modules' heartbeats, the
// console hears every node. The values every example carries are therefore passed over in silence.
static LANS: Rule = Rule {
    name: "lans",
    attributes: &[
        unused_but("port", Kind::Number(1, 65_535), &["4800"], UnusedReason::NeverDone),
        unused("pulse", Kind::Time(Unit::Ms, 1), UnusedReason::TimesOfHeart),
        unused("mlost_count", COUNT, UnusedReason::TimesOfHeart),
        unused("slost_count", COUNT, UnusedReason::TimesOfHeart),
    ],
    children: &[ChildRule::Some(&LAN)],
};

static LAN: Rule = Rule {
    name: "lan",
    attributes: &[
        needed("name", Kind::Text),
        read("command", SWITCH),
        unused("console", SWITCH, UnusedReason::NeverDone),
        unused("framework", SWITCH, UnusedReason::NeverDone),
        unused("connect", Kind::Any, UnusedReason::NeverDone),
    ],
    children: &[ChildRule::Some(&NODE)],
};

static NODE: Rule = Rule {
    name: "node",
    attributes: &[needed("name", Kind::Name), needed("addr", Kind::Address), read("laddr", Kind::Address)],
    children: &[],
};

/// Reads a `cluster.xml`. The name is the console's, the file has none. Total: any text gives a definition or at
/// least one error.
pub fn parse_cluster(text: &str, name: &ClusterName) -> ParsedCluster {
    let mut problems = Vec::new();
    let document = tree::read(text, &mut problems);
    let mut def = None;
    if let Some(mut root) = document.root {
        schema::check(&mut root, &CLUSTER, document.is_whole, &mut problems);
        let root = At::root(&root, &CLUSTER);
        let lans = lans(&root, &mut problems);
        // A node that could not be read would be found missing everywhere.
        let is_read = |p: &Problem| {
            use ProblemKind::{DuplicateAddress, DuplicateName, SecondCommandLan};
            !p.is_error() || matches!(p.kind, DuplicateAddress { .. } | DuplicateName { .. } | SecondCommandLan { .. })
        };
        if document.is_whole && problems.iter().all(is_read) {
            common_lan(&root, &lans, &mut problems);
        }
        let mut cluster = ClusterDef { name: name.clone(), lans, arbiters: Vec::new() };
        cluster.arbiters = arbiters::read(&root, &cluster, &mut problems);
        def = Some(cluster);
    }
    problems.sort_by_key(|p| (p.place, p.severity));
    problems.dedup();
    if problems.iter().any(Problem::is_error) {
        def = None;
    }
    ParsedCluster { def, problems }
}

fn lans(cluster: &At<'_>, problems: &mut Vec<Problem>) -> Vec<Lan> {
    let mut names: BTreeMap<&str, Place> = BTreeMap::new();
    let mut addresses: BTreeMap<IpAddr, Place> = BTreeMap::new();
    let mut command: Option<Place> = None;
    let mut found = Vec::new();
    for at in cluster.all("lans").iter().flat_map(|l| l.all("lan")) {
        let is_command = at.switch("command").unwrap_or(false);
        if is_command {
            match command {
                Some(first) => problems.push(at.wrong("command", ProblemKind::SecondCommandLan { first })),
                None => command = Some(at.place_of("command")),
            }
        }
        let nodes = nodes(&at, &mut addresses, problems);
        let Some(name) = at.text("name") else { continue };
        if let Some(first) = names.insert(name, at.place_of("name")) {
            problems.push(at.wrong("name", ProblemKind::DuplicateName { name: shorten(name), first }));
        }
        found.push(Lan { name: name.to_owned(), is_command, nodes });
    }
    found
}

fn nodes(lan: &At<'_>, addresses: &mut BTreeMap<IpAddr, Place>, problems: &mut Vec<Problem>) -> Vec<LanNode> {
    let mut names: BTreeMap<NodeName, Place> = BTreeMap::new();
    let mut found = Vec::new();
    for at in lan.all("node") {
        let addr = at.address("addr");
        if let Some(addr) = addr {
            match addresses.get(&addr) {
                Some(first) => problems.push(at.wrong("addr", ProblemKind::DuplicateAddress { addr, first: *first })),
                None => drop(addresses.insert(addr, at.place_of("addr"))),
            }
        }
        let Some(name) = at.text("name").and_then(|n| NodeName::new(n).ok()) else { continue };
        if let Some(first) = names.insert(name.clone(), at.place_of("name")) {
            problems.push(at.wrong("name", ProblemKind::DuplicateName { name: name.to_string(), first }));
        }
        let local = at.address("laddr");
        if let (Some(addr), Some(local)) = (addr, local)
            && addr.is_ipv4() != local.is_ipv4()
        {
            let kind = ProblemKind::BadValue { value: local.to_string(), expected: Expected::Address };
            problems.push(at.wrong("laddr", kind));
        }
        if let Some(addr) = addr {
            found.push(LanNode { name, addr, local });
        }
    }
    found
}

/// Every pair of nodes must be able to talk: one network, and the one that carries orders, holds all.
fn common_lan(cluster: &At<'_>, lans: &[Lan], problems: &mut Vec<Problem>) {
    let mut all: Vec<&NodeName> = lans.iter().flat_map(|l| l.nodes.iter().map(|n| &n.name)).collect();
    all.sort();
    all.dedup();
    let missing = |lan: &Lan| all.iter().filter(|n| lan.addr(n).is_none()).map(|n| (*n).clone()).collect::<Vec<_>>();
    if let Some(fullest) = lans.iter().min_by_key(|l| missing(l).len()).filter(|l| !missing(l).is_empty())
        && let Some(at) = cluster.one("lans")
    {
        let missing = missing(fullest).iter().map(ToString::to_string).collect();
        problems.push(at.wrong_here(ProblemKind::NoCommonLan { missing, lan: fullest.name.clone() }));
        return;
    }
    for (at, lan) in cluster.all("lans").iter().flat_map(|l| l.all("lan")).zip(lans) {
        for node in missing(lan).into_iter().filter(|_| lan.is_command) {
            problems.push(at.wrong("command", ProblemKind::NodeNotOnLan { lan: lan.name.clone(), node }));
        }
    }
}

/// Writes a definition as `cluster.xml`; [`parse_cluster`] gives the same definition back.
pub fn to_xml(def: &ClusterDef) -> String {
    let mut text = String::from("<cluster>\n  <lans>\n");
    for lan in &def.lans {
        let command = if lan.is_command { " command=\"on\"" } else { "" };
        text.push_str(&format!("    <lan name=\"{}\"{command}>\n", escape(&lan.name)));
        for node in &lan.nodes {
            let local = node.local.map(|l| format!(" laddr=\"{l}\"")).unwrap_or_default();
            text.push_str(&format!("      <node name=\"{}\" addr=\"{}\"{local}/>\n", node.name, node.addr));
        }
        text.push_str("    </lan>\n");
    }
    text.push_str("  </lans>\n");
    arbiters::write(&def.arbiters, &mut text);
    text.push_str("</cluster>\n");
    text
}

fn escape(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ParsedCluster {
        parse_cluster(text, &ClusterName::new("lab").unwrap())
    }

    fn lines(text: &str) -> Vec<String> {
        let parsed = parse(text);
        assert_eq!(parsed.def.is_none(), parsed.problems.iter().any(Problem::is_error));
        parsed.problems.iter().map(ToString::to_string).collect()
    }

    const GOOD: &str = r#"<cluster>
  <lans port="4800">
    <lan name="default" command="on">
      <node name="n1" addr="192.0.2.11"/>
      <node name="n2" addr="[2001:db8::2]"/>
    </lan>
    <lan name="a &amp; b">
      <node name="n1" addr="198.51.100.11" laddr="10.0.0.11"/>
    </lan>
  </lans>
</cluster>
"#;

    #[test]
    fn a_cluster_is_read_and_written_and_read_again_the_same() {
        let first = parse(GOOD);
        assert_eq!(first.problems, []);
        let def = first.def.unwrap();
        assert_eq!(def.nodes().iter().map(NodeName::as_str).collect::<Vec<_>>(), ["n1", "n2"]);
        assert_eq!(def.lans[1].name, "a & b");
        assert_eq!(def.lans[1].nodes[0].local, Some("10.0.0.11".parse().unwrap()));
        assert!(def.lans[0].is_command && !def.lans[1].is_command);
        assert_eq!(parse(&to_xml(&def)).def, Some(def));
    }

    #[test]
    fn a_cluster_of_one_node_is_enough_to_begin_with() {
        let text = r#"<cluster><lans><lan name="l"><node name="n1" addr="10.0.0.1"/></lan></lans></cluster>"#;
        assert_eq!(lines(text), [""; 0]);
    }

    #[test]
    fn every_problem_is_found_at_its_place() {
        let text = r#"<cluster>
  <lans pulse="1s">
    <lan name="default" command="on">
      <node name="n1" addr="192.0.2.11"/>
      <node name="n1" addr="192.0.2.11"/>
      <node name="n 3" addr="db.example.com"/>
      <node nam="n4"/>
    </lan>
    <lan name="default" command="on"/>
    <lam/>
  </lans>
</cluster>"#;
        assert_eq!(
            lines(text),
            [
                "2:9 cluster/lans pulse (warning): `pulse` is accepted and has no effect: the times of `heart` decide. It may be removed.",
                "5:19 cluster/lans/lan/node name: The name `n1` is already used at 4:19. Choose another name.",
                "5:29 cluster/lans/lan/node addr: The address 192.0.2.11 is already used at 4:29. Give every node an address of its own on each network.",
                "6:19 cluster/lans/lan/node name: `n 3` cannot be used. Write 1 to 63 of a-z, A-Z, 0-9, `-`, `_`, `.`, beginning with a letter or digit.",
                "6:30 cluster/lans/lan/node addr: `db.example.com` cannot be used. Write an IPv4 or IPv6 address; names are not looked up.",
                "7:7 cluster/lans/lan/node addr: Attribute `addr` is missing. Add addr=\"…\".",
                "7:13 cluster/lans/lan/node nam: This element has no attribute `nam`. Did you mean `name`?",
                "9:5 cluster/lans/lan: Element `node` is missing. Add <node> inside this element.",
                "9:16 cluster/lans/lan name: The name `default` is already used at 3:16. Choose another name.",
                "9:34 cluster/lans/lan command: Another network already has command=\"on\" at 3:34. Keep it at one network.",
                "10:5 cluster/lans/lam: There is no element `lam`. Did you mean `lan`?",
                "10:5 cluster/lans/lam name: Attribute `name` is missing. Add name=\"…\".",
                "10:5 cluster/lans/lam: Element `node` is missing. Add <node> inside this element.",
            ]
        );
    }

    #[test]
    fn some_network_must_hold_every_node() {
        let text = r#"<cluster><lans>
<lan name="a"><node name="n1" addr="10.0.0.1"/><node name="n2" addr="10.0.0.2"/></lan>
<lan name="b"><node name="n1" addr="10.0.1.1"/><node name="n3" addr="10.0.1.3"/></lan>
</lans></cluster>"#;
        assert_eq!(
            lines(text),
            ["1:10 cluster/lans: No network holds every node: `n3` missing on `a`, which holds the most. Add the missing nodes to `a`."]
        );
    }

    #[test]
    fn the_network_for_orders_must_hold_every_node() {
        let text = r#"<cluster><lans>
<lan name="a"><node name="n1" addr="10.0.0.1"/><node name="n2" addr="10.0.0.2"/></lan>
<lan name="b" command="on"><node name="n1" addr="10.0.1.1"/></lan>
</lans></cluster>"#;
        assert_eq!(
            lines(text),
            [
                "3:24 cluster/lans/lan command: Node `n2` has no address on the network `b`. Add the node to that network in cluster.xml, or use another network."
            ]
        );
    }
}
