use super::*;
use crate::cluster::xml::parse_cluster;
use crate::ids::ClusterName;
use crate::module::*;
use std::time::Duration;

fn good() -> String {
    r#"<!DOCTYPE safe>
<safe>
  <macro name="VIP" value="10.0.0.9"/>
  <service mode="mirror" boot="on" defaultprim="n1" maxloop="5" loop_interval="1d">
    <heart timeout="10s" pulse="500">
      <heartbeat name="default"/>
      <heartbeat name="repl" ident="flow"/>
    </heart>
    <rfs async="none" reiallowedbw="2048">
      <replicated dir="/srv/data/"><notreplicated path="tmp/cache"/><tocheck path=".here"/></replicated>
    </rfs>
    <vip><interface_list><interface name="eth0"><real_interface>
      <virtual_addr addr="%VIP%" where="one_side_alias" netmask="255.255.255.0"/>
    </real_interface></interface></interface_list></vip>
    <user nicestoptimeout="60" forcestoptimeout="1m"><var name="ADDR" value="%VIP%:80 50%"/></user>
    <errd polltimer="5s"><proc name="nginx" atleast="2" class="prim" action="restart"/></errd>
    <check><tcp ident="web" when="prim"><to addr="%VIP%" port="80" interval="2s" timeout="1"/></tcp></check>
  </service>
</safe>
"#
    .to_owned()
}

/// `document` in a service of an otherwise right configuration; line 2 of the text.
fn service(inner: &str) -> String {
    format!("<safe><service mode=\"mirror\"><user/>\n{inner}\n</service></safe>")
}

fn lines(text: &str) -> Vec<String> {
    lines_in(text, &ParseContext::default())
}

/// Place, path, attribute, severity, and the whole sentence.
fn lines_in(text: &str, ctx: &ParseContext<'_>) -> Vec<String> {
    let parsed = parse(text, ctx);
    assert_eq!(parsed.def.is_none(), parsed.problems.iter().any(Problem::is_error), "a definition exists exactly without errors");
    parsed.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn dump() {
    for (name, text) in CASES {
        println!("=== {name}");
        for line in lines(text) {
            println!("  {line}");
        }
    }
    println!("{:#?}", parse(&good(), &ParseContext::default()));
    let _ = (service(""), parse_cluster("", &ClusterName::new("c").unwrap()), Duration::ZERO, Mode::Mirror);
}
const CASES: &[(&str, &str)] = &[
    ("empty", ""),
    ("text", "hello"),
    ("cut tag", "<safe><service mode=\"mirror\"><user/></service></safe"),
    ("cut attr", "<safe>\n <service mode=\"mirror>\n  <user/>\n </service>\n</safe>"),
    ("cut attr2", "<safe>\n <service mode=\"mirror>\n  <user nicestoptimeout=\"5\"/>\n </service>\n</safe>"),
    ("no gt", "<safe>\n <service mode=\"mirror\"\n  <user/>\n </service>\n</safe>"),
    ("unclosed", "<safe>\n <service mode=\"mirror\">\n  <heart>\n <user/></service>\n</safe>"),
    ("typo end", "<safe>\n <service mode=\"mirror\">\n <user/></servce>\n</safe>"),
    ("stray end", "<safe>\n <service mode=\"mirror\">\n <user/></vip></service>\n</safe>"),
    ("eof", "<safe>\n <service mode=\"mirror\"><user/>"),
    ("two roots", "<safe><service mode=\"mirror\"><user/></service></safe>\n<safe/>"),
    ("amp", "<safe><service mode=\"mirror\"><user><var name=\"A\" value=\"a & b &foo; &lt;&#65;\"/></user></service></safe>"),
    ("noq", "<safe><service mode=mirror boot><user/></service></safe>"),
    ("twice", "<safe><service mode=\"mirror\" mode=\"farm\"><user/></service></safe>"),
    ("doctype", "<!DOCTYPE safe [<!ENTITY x \"y\">]><safe><service mode=\"mirror\"><user/></service></safe>"),
    ("comment", "<safe><!-- <service mode=\"mirror\"><user/></service></safe>"),
    ("misspelt", "<safe><servce mod=\"mirror\"><user/><vpi/><rfs><replicated dir=\"a\"/></rfs></servce></safe>"),
];
