use super::*;
use crate::cluster::xml::parse_cluster;
use crate::ids::{ArbiterName, ClusterName};
use crate::module::{
    Action, Async, Authority, Boot, Check, Compress, DefaultPrim, Heart, Heartbeat, Interface, Limits, Mode, NamePattern, Probe, Profile,
    Replicated, Rfs, Timing, User, Vip, When, default_rules,
};
use crate::rules::Ruleset;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn cluster() -> ClusterDef {
    let text = r#"<cluster><lans>
        <lan name="default"><node name="n1" addr="10.0.0.1"/><node name="n2" addr="10.0.0.2"/></lan>
        <lan name="repl"><node name="n1" addr="10.0.1.1"/><node name="n2" addr="10.0.1.2"/></lan>
        <lan name="office"><node name="n1" addr="192.168.7.1"/></lan>
    </lans><arbiters>
        <witness name="w1" addr="10.0.0.50"/><witness name="n1" addr="10.0.0.1" own="true"/>
    </arbiters></cluster>"#;
    parse_cluster(text, &ClusterName::new("lab").unwrap()).def.unwrap()
}

fn nodes() -> [NodeName; 2] {
    ["n1", "n2"].map(|n| NodeName::new(n).unwrap())
}

/// What is said about a text, a line each, in the surroundings of the table.
fn said(text: &str) -> Vec<String> {
    let (cluster, nodes) = (cluster(), nodes());
    let parsed = parse(text, &ParseContext { cluster: Some(&cluster), nodes: &nodes });
    assert_eq!(parsed.def.is_none(), parsed.problems.iter().any(Problem::is_error), "a definition, exactly without errors: {text}");
    parsed.problems.iter().map(ToString::to_string).collect()
}

/// Title, document and what is to be said, of each block of the table.
fn cases() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let read = |block: &'static str| {
        let (title, rest) = block.split_once('\n').unwrap();
        let (document, said) = rest.split_once("----").unwrap();
        (title, document.trim_end_matches('\n'), said.lines().filter(|l| !l.is_empty()).collect())
    };
    include_str!("cases.txt").split("\n## ").skip(1).map(read).collect()
}

#[test]
fn every_document_of_the_table_gives_exactly_what_is_written_there() {
    let mut wrong = String::new();
    for (title, document, expected) in cases() {
        let found = said(document);
        if found != expected {
            wrong.push_str(&format!("\n## {title}\n{document}\n----\n{}\n", found.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "these say something else:\n{wrong}");
}

const WHOLE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE safe>
<safe>
  <macro name="VIP" value="10.0.0.9"/>
  <macro name="URL" value="%VIP%:8080"/>
  <service mode="mirror" boot="on" boot_delay="1m" failover="off" defaultprim="n1" maxloop="5" loop_interval="1d" authority="manual">
    <heart port="9000" profile="fast" timeout="10s" pulse="500">
      <heartbeat name="default"/>
      <heartbeat name="repl" ident="flow"/>
    </heart>
    <rfs async="second" reiallowedbw="2048" compress="lz4" verify="168">
      <replicated dir="/srv/data/"><notreplicated path="tmp/cache/"/><tocheck path=".here"/>
        <notreplicated regexpath=" ~$"/><notreplicated regexpath="!\.(mdf|ldf)$"/></replicated>
      <replicated dir="/srv/with blank"/>
    </rfs>
    <vip><interface_list><interface name="eth0"><real_interface>
      <virtual_addr addr="%VIP%" where="one_side_alias" netmask="255.255.254.0"/>
      <virtual_addr addr="fd00::9" check="off"/>
    </real_interface></interface></interface_list></vip>
    <user nicestoptimeout="60" forcestoptimeout="1m" starttimeout="90s" memory_max="512" pids_max="200"><var name="ADDR" value=" %URL% at 50% "/></user>
    <errd polltimer="5s">
      <proc name="nginx" atleast="2" atmax="9" class="both" action="restart"/>
      <proc name="jvm" nameregex="^java$" argregex="shop\.jar" atleast="-1"/>
      <proc name="intruder" atmax="0" action="stop"/>
    </errd>
    <check>
      <tcp ident="web"><to addr="%VIP%" port="80" interval="2s" timeout="1"/></tcp>
      <tcp ident="db" when="pre"><to addr="db.example.com" port="5432"/></tcp>
    </check>
  </service>
</safe>
"#;

#[test]
fn everything_a_module_can_say_is_read() {
    let (cluster, nodes) = (cluster(), nodes());
    let parsed = parse(WHOLE, &ParseContext { cluster: Some(&cluster), nodes: &nodes });
    let vip = "10.0.0.9".parse().unwrap();
    let check = |name: &str, when, interval: u32, action, probe| Check::new(name, when, SECOND * interval, probe, action);
    let errd =
        |name: &str, class: &str, when, action, probe| Check { class: Some(class.to_owned()), ..check(name, when, 5, action, probe) };
    let proc = |command: Option<&str>, name_regex: Option<&str>, arg_regex: Option<&str>, at_least, at_most| Probe::Proc {
        command: command.map(str::to_owned),
        name_regex: name_regex.map(str::to_owned),
        arg_regex: arg_regex.map(str::to_owned),
        at_least,
        at_most,
    };
    let tcp = |addr: &str, port, timeout: u32| Probe::Tcp { addr: addr.to_owned(), port, timeout: SECOND * timeout };
    let interface = Some("eth0".to_owned());
    let expected = ModuleDef {
        mode: Mode::Mirror,
        boot: Boot::On,
        boot_delay: SECOND * 60,
        is_failover_on: false,
        default_prim: DefaultPrim::Node(nodes[0].clone()),
        maxloop: 5,
        loop_interval: SECOND * 86_400,
        authority: Authority::Manual,
        arbiter: ArbiterName::console(),
        witnesses: vec![],
        fence: None,
        heart: Heart {
            port: Some(9000),
            timing: Timing::with_timeout(Profile::Fast, SECOND * 10, Some(SECOND / 2)).unwrap(),
            heartbeats: vec![Heartbeat { lan: "default".to_owned(), is_flow: false }, Heartbeat { lan: "repl".to_owned(), is_flow: true }],
        },
        vips: vec![
            Vip { addr: vip, prefix: Some(23), interface: interface.clone(), is_checked: true },
            Vip { addr: "fd00::9".parse().unwrap(), prefix: None, interface, is_checked: false },
        ],
        rfs: Some(Rfs {
            ack: Async::Second,
            resync_kb_per_s_max: Some(2048),
            compress: Compress::Lz4,
            verify_every: Some(Duration::from_secs(7 * 24 * 3600)),
            replicated: vec![
                Replicated {
                    dir: "/srv/data".to_owned(),
                    not_replicated: vec!["tmp/cache".to_owned()],
                    not_replicated_names: vec![
                        NamePattern { text: " ~$".to_owned(), place: Place { line: 13, column: 35 } },
                        NamePattern { text: r"!\.(mdf|ldf)$".to_owned(), place: Place { line: 13, column: 67 } },
                    ],
                    to_check: vec![".here".to_owned()],
                },
                Replicated { dir: "/srv/with blank".to_owned(), not_replicated: vec![], not_replicated_names: vec![], to_check: vec![] },
            ],
        }),
        user: Some(User {
            start_timeout: SECOND * 90,
            stop_timeout: SECOND * 60,
            force_timeout: SECOND * 60,
            vars: BTreeMap::from([("ADDR".to_owned(), " 10.0.0.9:8080 at 50% ".to_owned())]),
            limits: Limits { memory_bytes_max: Some(512 << 20), pids_max: Some(200), cpu_weight: None },
        }),
        checks: vec![
            errd("proc.nginx", "both", When::Both, Action::Restart, proc(Some("nginx"), None, None, 2, Some(9))),
            errd("proc.jvm", "prim", When::Prim, Action::StopStart, proc(None, Some("^java$"), Some(r"shop\.jar"), 0, None)),
            errd("proc.intruder", "prim", When::Prim, Action::Stop, proc(Some("intruder"), None, None, 0, Some(0))),
            check("tcp.web", When::Prim, 2, Action::Restart, tcp("10.0.0.9", 80, 1)),
            check("tcp.db", When::Pre, 10, Action::Wait, tcp("db.example.com", 5432, 5)),
            check("ip.10.0.0.9", When::Prim, 10, Action::StopStart, Probe::Ip { addr: vip }),
            check("intf.eth0", When::Pre, 10, Action::Wait, Probe::Intf { interface: Interface::Name("eth0".to_owned()) }),
        ],
        rules: Ruleset::default(),
        depends: vec![],
    };
    let expected = ModuleDef { rules: Ruleset { rules: default_rules(&expected.checks), ..Ruleset::default() }, ..expected };
    assert_eq!(parsed, Parsed { def: Some(expected), problems: vec![] });
}

#[test]
fn the_interface_of_an_address_is_watched_unless_that_is_switched_off() {
    let names = |check: &str| {
        let text = format!(
            "<safe><service mode=\"mirror\"><user/><vip><interface_list><interface{check}><real_interface>\
             <virtual_addr addr=\"10.0.0.9\"/></real_interface></interface></interface_list></vip></service></safe>"
        );
        let def = parse(&text, &ParseContext::default()).def.unwrap();
        def.checks.into_iter().map(|c| c.name).collect::<Vec<_>>()
    };
    let both = ["ip.10.0.0.9", "intf.10.0.0.9"];
    assert_eq!((names(""), names(" check=\"on\"")), (both.map(String::from).to_vec(), both.map(String::from).to_vec()));
    assert_eq!(names(" check=\"off\""), both[..1]);
}

#[test]
fn what_is_not_written_has_the_documented_default() {
    let parsed = parse("<safe><service mode=\"mirror\" boot=\"ignore\"><user/></service></safe>", &ParseContext::default());
    let expected = ModuleDef {
        mode: Mode::Mirror,
        boot: Boot::Auto,
        boot_delay: Duration::ZERO,
        is_failover_on: true,
        default_prim: DefaultPrim::Alone,
        maxloop: 3,
        loop_interval: SECOND * 86_400,
        authority: Authority::Arbiter,
        arbiter: ArbiterName::console(),
        witnesses: vec![],
        fence: None,
        heart: Heart { port: None, timing: Timing::of(Profile::Normal), heartbeats: vec![] },
        vips: vec![],
        rfs: None,
        user: Some(User {
            start_timeout: SECOND * 120,
            stop_timeout: SECOND * 300,
            force_timeout: SECOND * 300,
            vars: BTreeMap::new(),
            limits: Limits::default(),
        }),
        checks: vec![],
        rules: Ruleset::default(),
        depends: vec![],
    };
    assert_eq!(parsed, Parsed { def: Some(expected), problems: vec![] });
}

#[test]
fn the_least_time_out_that_is_named_is_accepted() {
    for profile in ["fast", "normal", "tolerant"] {
        let with = |timeout: &str| {
            format!("<safe><service mode=\"mirror\"><user/><heart profile=\"{profile}\" timeout=\"{timeout}\"/></service></safe>")
        };
        let problems = parse(&with("1ms"), &ParseContext::default()).problems;
        let [Problem { kind: ProblemKind::TooSmall { least, .. }, .. }] = problems.as_slice() else { panic!("{problems:?}") };
        assert_eq!(parse(&with(least), &ParseContext::default()).problems, []);
    }
}

#[test]
fn a_flow_that_is_no_heartbeat_network_becomes_one() {
    let (cluster, nodes) = (cluster(), nodes());
    let ctx = ParseContext { cluster: Some(&cluster), nodes: &nodes };
    let flow = |heart: &str| {
        let text = format!(
            "<safe><service mode=\"mirror\"><user/>{heart}<rfs><flow name=\"repl\"/><replicated dir=\"/srv/a\"/></rfs></service></safe>"
        );
        let beats = parse(&text, &ctx).def.unwrap().heart.heartbeats;
        beats.into_iter().map(|h| (h.lan, h.is_flow)).collect::<Vec<_>>()
    };
    let both = [("default".to_owned(), false), ("repl".to_owned(), true)];
    assert_eq!(flow(""), both);
    assert_eq!(flow("<heart><heartbeat name=\"default\"/></heart>"), both);
    assert_eq!(flow("<heart><heartbeat name=\"default\"/><heartbeat name=\"repl\"/></heart>"), both);
}

#[test]
fn a_module_on_three_nodes_is_refused_and_on_one_is_accepted_with_a_warning() {
    let text = "<safe><service mode=\"mirror\"><user/></service></safe>";
    let on = |names: &[&str]| {
        let nodes: Vec<_> = names.iter().map(|n| NodeName::new(*n).unwrap()).collect();
        let parsed = parse(text, &ParseContext { cluster: None, nodes: &nodes });
        (parsed.def.is_some(), parsed.problems.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(on(&["a", "b"]), (true, vec![]));
    let one = "1:22 safe/service mode (warning): The module is on 1 node, and needs 2. Choose 2 nodes.";
    assert_eq!(on(&["a"]), (true, vec![one.to_owned()]));
    let three = "1:22 safe/service mode: The module is on 3 nodes, and needs 2. Choose 2 nodes.";
    assert_eq!(on(&["a", "b", "c"]), (false, vec![three.to_owned()]));
}

#[test]
fn line_ends_of_windows_and_a_byte_order_mark_change_no_place() {
    let text = "<safe>\n <service mode=\"mirror\">\n  <user/><vpi/></service></safe>";
    let plain = said(text);
    assert_eq!(plain.len(), 2);
    assert_eq!(said(&text.replace('\n', "\r\n")), plain);
    assert_eq!(said(&format!("\u{feff}{text}")), plain);
}

#[test]
fn a_text_is_bounded_in_size_depth_and_number_of_elements() {
    let only = |text: &str| {
        let problems = parse(text, &ParseContext::default()).problems;
        problems.into_iter().filter_map(|p| if let ProblemKind::Malformed(fault) = p.kind { Some(fault) } else { None }).collect::<Vec<_>>()
    };
    let long = "x".repeat(2 << 20);
    assert_eq!(only(&long), [Fault::TooLong { bytes: 2 << 20, most: 1 << 20 }]);
    assert_eq!(only(&"<a>".repeat(100_000)), [Fault::TooDeep { most: 32 }]);
    let many = format!("<safe>{}", "<a/>".repeat(100_000));
    assert_eq!(only(&many), [Fault::TooMany { most: 20_000 }]);
    // A thousand million characters if macros could double without end.
    let doubling: String = (1..40).map(|i| format!("<macro name=\"M{i}\" value=\"%M{0}%%M{0}%\"/>", i - 1)).collect();
    let bomb = format!("<safe><macro name=\"M0\" value=\"0123456789\"/>{doubling}</safe>");
    let problems = parse(&bomb, &ParseContext::default()).problems;
    assert!(problems.iter().any(|p| matches!(p.kind, ProblemKind::TooLarge { .. })), "{problems:?}");
    assert!(problems.iter().all(|p| p.to_string().len() < 1000), "a problem never quotes a whole value");
}

#[test]
fn broken_tags_without_end_are_not_read_on_for_ever() {
    for piece in ["<a b=\"", "<a b=\"/>", "<a ", "<", "&", "<a b='<", "</"] {
        let text = piece.repeat(1 << 16);
        let parsed = parse(&text, &ParseContext::default());
        assert!(parsed.def.is_none() && parsed.problems.iter().any(Problem::is_error), "{piece}");
    }
}

/// Every place lies in the text, or one past the end of it or of a line.
fn assert_inside(text: &str, parsed: &Parsed) {
    let lines: Vec<&str> = text.strip_prefix('\u{feff}').unwrap_or(text).split('\n').collect();
    for problem in &parsed.problems {
        let line = lines.get(problem.place.line as usize - 1).unwrap_or_else(|| panic!("{problem} is below {text:?}"));
        assert!((1..=line.chars().count() + 1).contains(&(problem.place.column as usize)), "{problem} is beside {text:?}");
        assert!(!problem.message().is_empty() && !problem.remedy().is_empty());
    }
    assert_eq!(parsed.def.is_none(), parsed.problems.iter().any(Problem::is_error), "{text:?}");
}

/// Pieces of configurations, so that random texts get further than the first character.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "<safe>",
        "</safe>",
        "<service mode=\"mirror\">",
        "</service>",
        "<service ",
        "mode=",
        "\"",
        "'",
        ">",
        "/>",
        "<",
        "&",
        "&amp;",
        "&#0;",
        "%",
        "%A%",
        "<macro name=\"A\" value=\"%A%\"/>",
        "<heart timeout=\"",
        "5s",
        "18446744073709551615",
        "h\"/>",
        "<heartbeat name=\"repl\"/>",
        "<user>",
        "<var name=\"継\" value=\"ぎ\"/>",
        "</user>",
        "<rfs><replicated dir=\"/a",
        "/..",
        "\"/></rfs>",
        "<vip><interface_list><interface><real_interface>",
        "<virtual_addr addr=\"10.0.0.9\" netmask=\"",
        "</real_interface></interface></interface_list></vip>",
        "<!--",
        "-->",
        "<![CDATA[",
        "]]>",
        "<!DOCTYPE safe",
        "[",
        "]>",
        "<?xml",
        "?>",
        "\n",
        "\r",
        "\t",
        "𠮷",
        "\u{feff}",
        "\u{0}",
        "<errd><proc name=\"a\" atmax=\"-1\"/></errd>",
        "<check><tcp ident=\"a\"><to addr=\"10.0.0.1\" port=\"1\"/></tcp></check>",
        "-9223372036854775808",
    ]);
    let any = prop_oneof![4 => piece.prop_map(str::to_owned), 1 => any::<String>()];
    prop::collection::vec(any, 0..24).prop_map(|parts| parts.concat())
}

/// A whole configuration with one stretch of it replaced.
fn damaged() -> impl Strategy<Value = String> {
    (0..WHOLE.len(), 0..40_usize, ".{0,6}").prop_map(|(at, length, with)| {
        let (start, end) = (WHOLE.floor_char_boundary(at), WHOLE.floor_char_boundary((at + length).min(WHOLE.len())));
        format!("{}{with}{}", &WHOLE[..start], &WHOLE[end..])
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic_or_point_outside(text in prop_oneof![pieces(), damaged(), any::<String>()]) {
        let (cluster, nodes) = (cluster(), nodes());
        assert_inside(&text, &parse(&text, &ParseContext::default()));
        assert_inside(&text, &parse(&text, &ParseContext { cluster: Some(&cluster), nodes: &nodes }));
        let read = parse_cluster(&text, &ClusterName::new("lab").unwrap());
        assert_eq!(read.def.is_none(), read.problems.iter().any(Problem::is_error));
    }
}
