//! Problems in English: what is wrong, and what to do.

use super::problem::{Expected, Fault, Problem, ProblemKind, UnusedReason};
use super::rule_fault::{RESOURCE_CLASSES, RuleFault};
use super::value::NAME_PATTERN_BYTES_MAX;

fn list(words: &[String]) -> String {
    match words {
        [] => "none".to_owned(),
        [one] => format!("`{one}`"),
        [head @ .., last] => format!("{} or `{last}`", head.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")),
    }
}

fn names(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ") }
}

impl Problem {
    /// What is wrong: one sentence in English.
    pub fn message(&self) -> String {
        match &self.kind {
            ProblemKind::Malformed(fault) => fault_message(fault),
            ProblemKind::UnknownElement { name, .. } => format!("There is no element `{name}`."),
            ProblemKind::Misplaced { name, .. } => format!("Element `{name}` cannot stand here."),
            ProblemKind::Repeated { name, first } => format!("Element `{name}` stands here a second time; the first is at {first}."),
            ProblemKind::UnexpectedText => "Text cannot stand here.".to_owned(),
            ProblemKind::UnknownAttribute { name, .. } => format!("This element has no attribute `{name}`."),
            ProblemKind::NotSupported { what, .. } => format!("`{what}` is not in this release."),
            ProblemKind::NotUsed { what, why } => format!("`{what}` is accepted and has no effect: {}.", unused(*why)),
            ProblemKind::WrongMode { what, mode } => format!("`{what}` does not belong into a module with mode=\"{mode}\"."),
            ProblemKind::MissingElement { name } => format!("Element `{name}` is missing."),
            ProblemKind::MissingAttribute { name } => format!("Attribute `{name}` is missing."),
            ProblemKind::BadValue { value, .. } => format!("`{value}` cannot be used."),
            ProblemKind::BadPattern { pattern, why } => format!("The regular expression `{pattern}` cannot be used: {why}."),
            ProblemKind::BadUnit { value, .. } => format!("`{value}` does not end with a unit of time."),
            ProblemKind::TooFine { value, unit } => format!("`{value}` is finer than this attribute can hold: it counts whole `{unit}`."),
            ProblemKind::TooSmall { value, .. } => format!("`{value}` is too small."),
            ProblemKind::TooLarge { value, .. } => format!("`{value}` is too large."),
            ProblemKind::BadAction { action, when, .. } => format!("Action `{action}` cannot be used with when=\"{when}\"."),
            ProblemKind::DuplicateVip { addr, first } => format!("The virtual address {addr} is already given at {first}."),
            ProblemKind::VipIsNode { addr, node } => format!("The virtual address {addr} is the own address of node `{node}`."),
            ProblemKind::VipOutsideLans { addr, lans } => {
                format!("The virtual address {addr} is in no network of the cluster ({}).", names(lans))
            }
            ProblemKind::DuplicateName { name, first } => format!("The name `{name}` is already used at {first}."),
            ProblemKind::DuplicateAddress { addr, first } => format!("The address {addr} is already used at {first}."),
            ProblemKind::ReservedName { name } => format!("The name `{name}` is set by the product itself."),
            ProblemKind::NestedDirectories { dir, other, first } if dir == other => {
                format!("The directory `{dir}` is already replicated at {first}.")
            }
            ProblemKind::NestedDirectories { dir, other, first } => {
                format!("The directory `{dir}` lies inside, or holds, the replicated directory `{other}` of {first}.")
            }
            ProblemKind::DirNotAbsolute { dir } => format!("The directory `{dir}` is not an absolute path."),
            ProblemKind::BadDirectory { dir } => format!("The directory `{dir}` cannot be replicated."),
            ProblemKind::UnknownMacro { name, .. } => format!("There is no macro `{name}`."),
            ProblemKind::UnknownLan { name, .. } => format!("The cluster has no network `{name}`."),
            ProblemKind::UnknownNode { name, .. } => format!("The module has no node `{name}`."),
            ProblemKind::NodeNotOnLan { lan, node } => format!("Node `{node}` has no address on the network `{lan}`."),
            ProblemKind::NodeCount { found, needed } => {
                format!("The module is on {found} {}, and needs {needed}.", if *found == 1 { "node" } else { "nodes" })
            }
            ProblemKind::FlowWithoutRfs => "A heartbeat is marked as replication network, and nothing is replicated.".to_owned(),
            ProblemKind::NoScripts => "Without `user` no script of the module runs.".to_owned(),
            ProblemKind::UnknownArbiter { name, .. } => format!("The cluster has no arbiter `{name}`."),
            ProblemKind::ArbiterOnNode { arbiter, node } => {
                format!("The arbiter `{arbiter}` runs on node `{node}`: when that node fails, the other one cannot take over.")
            }
            ProblemKind::SplitBrainPossible { authority } => {
                format!("With authority=\"{authority}\" both nodes may serve at once, and writes that were confirmed can be lost.")
            }
            ProblemKind::NotEncrypted => {
                "The connection to this arbiter is not encrypted: whoever is on the line can change its answers.".to_owned()
            }
            ProblemKind::SecondCommandLan { first } => format!("Another network already has command=\"on\" at {first}."),
            ProblemKind::Rule(fault) => rule_message(fault),
            ProblemKind::NeedsOneOf { names } => format!("None of {} is given.", self::names(names)),
            ProblemKind::NoCommonLan { missing, lan } => {
                format!("No network holds every node: {} missing on `{lan}`, which holds the most.", names(missing))
            }
        }
    }

    /// What to do about it: one sentence in English.
    pub fn remedy(&self) -> String {
        match &self.kind {
            ProblemKind::Malformed(fault) => fault_remedy(fault),
            ProblemKind::UnknownElement { near: Some(near), .. } => format!("Did you mean `{near}`?"),
            ProblemKind::UnknownElement { near: None, .. } => "Remove it.".to_owned(),
            ProblemKind::Misplaced { belongs, .. } => format!("Move it into `{belongs}`."),
            ProblemKind::Repeated { .. } => "Keep one of them.".to_owned(),
            ProblemKind::UnexpectedText => "Remove it, or make it a comment: <!-- … -->.".to_owned(),
            ProblemKind::UnknownAttribute { near: Some(near), .. } => format!("Did you mean `{near}`?"),
            ProblemKind::UnknownAttribute { near: None, .. } => "Remove it.".to_owned(),
            ProblemKind::NotSupported { instead: Some(instead), .. } => format!("Use instead: {instead}."),
            ProblemKind::NotSupported { instead: None, .. } => "Remove it.".to_owned(),
            ProblemKind::NotUsed { .. } => "It may be removed.".to_owned(),
            ProblemKind::WrongMode { .. } => "Remove it, or change the mode of the module.".to_owned(),
            ProblemKind::MissingElement { name } => format!("Add <{name}> inside this element."),
            ProblemKind::MissingAttribute { name } => format!("Add {name}=\"…\"."),
            ProblemKind::BadValue { expected, .. } => expected_words(expected),
            ProblemKind::BadPattern { .. } => {
                "Correct the expression; a character that stands for itself gets a `\\` before it: `\\.`, `\\*`, `\\{`.".to_owned()
            }
            ProblemKind::BadUnit { allowed, .. } => format!("Write a whole number and one of {}.", names(allowed)),
            ProblemKind::TooFine { unit, .. } => format!("Write a whole number of `{unit}`."),
            ProblemKind::TooSmall { least, .. } => format!("Write at least {least}."),
            ProblemKind::TooLarge { most, .. } => format!("Write at most {most}."),
            ProblemKind::BadAction { allowed, .. } => format!("Write {}.", list(allowed)),
            ProblemKind::DuplicateVip { .. } => "Remove one of the two.".to_owned(),
            ProblemKind::VipIsNode { .. } => "Choose an address of the same network that no machine has.".to_owned(),
            ProblemKind::VipOutsideLans { .. } => {
                "Check the address; if it belongs to a network outside the cluster, name the interface.".to_owned()
            }
            ProblemKind::DuplicateName { .. } => "Choose another name.".to_owned(),
            ProblemKind::DuplicateAddress { .. } => "Give every node an address of its own on each network.".to_owned(),
            ProblemKind::ReservedName { .. } => "Choose another name.".to_owned(),
            ProblemKind::NestedDirectories { dir, other, .. } if dir == other => "Remove one of the two.".to_owned(),
            ProblemKind::NestedDirectories { .. } => "Replicate the outer directory only.".to_owned(),
            ProblemKind::DirNotAbsolute { .. } => "Write the path from the root: /…".to_owned(),
            ProblemKind::BadDirectory { .. } => {
                "Write the path of a data directory, without `.`, `..` or `//`, that belongs to one application.".to_owned()
            }
            ProblemKind::UnknownMacro { near: Some(near), .. } => format!("Did you mean `%{near}%`?"),
            ProblemKind::UnknownMacro { name, near: None } => format!("Add <macro name=\"{name}\" value=\"…\"/> to <safe>."),
            ProblemKind::UnknownLan { known, .. } => format!("The networks of the cluster are: {}.", names(known)),
            ProblemKind::UnknownNode { known, .. } => format!("The nodes of the module are: {}.", names(known)),
            ProblemKind::NodeNotOnLan { .. } => "Add the node to that network in cluster.xml, or use another network.".to_owned(),
            ProblemKind::NodeCount { needed, .. } => format!("Choose {needed} nodes."),
            ProblemKind::FlowWithoutRfs => "Remove ident=\"flow\", or add `rfs`.".to_owned(),
            ProblemKind::NoScripts => "Add <user/> if the module has scripts.".to_owned(),
            ProblemKind::UnknownArbiter { known, .. } => format!("The arbiters of the cluster are: {}.", names(known)),
            ProblemKind::ArbiterOnNode { .. } => "Run it on a third machine; if there is none, say own=\"true\" at the witness.".to_owned(),
            ProblemKind::SplitBrainPossible { .. } => {
                "Use authority=\"arbiter\"; if the risk is accepted, say allow_split_brain=\"true\" at `service`.".to_owned()
            }
            ProblemKind::NotEncrypted => "Use https://.".to_owned(),
            ProblemKind::SecondCommandLan { .. } => "Keep it at one network.".to_owned(),
            ProblemKind::Rule(fault) => rule_remedy(fault),
            ProblemKind::NeedsOneOf { names } => format!("Add at least one of {}.", self::names(names)),
            ProblemKind::NoCommonLan { lan, .. } => format!("Add the missing nodes to `{lan}`."),
        }
    }
}

fn unused(why: UnusedReason) -> &'static str {
    match why {
        UnusedReason::ChosenByItself => "the product chooses this by itself",
        UnusedReason::AlwaysDone => "what it asks for, or better, is always done",
        UnusedReason::ConnectionsCut => "the connections of an address that leaves are always cut",
        UnusedReason::NeverDone => "this is not done here, and nothing depends on it",
        UnusedReason::NotYet => "it is not in this release, and the module works without it",
        UnusedReason::OtherSystem => "it is meant for another operating system",
        UnusedReason::TimesOfHeart => "the times of `heart` decide",
        UnusedReason::OtherAuthority => "it belongs to another `authority`",
        UnusedReason::OtherDriver => "`agent` is given and goes before",
    }
}

fn expected_words(expected: &Expected) -> String {
    match expected {
        Expected::OneOf(words) => format!("Write {}.", list(words)),
        Expected::Number { least, most } => format!("Write a whole number from {least} to {most}."),
        Expected::Time => "Write a whole number, with a unit if needed: `10s`, `500ms`.".to_owned(),
        Expected::Address => "Write an IPv4 or IPv6 address; names are not looked up.".to_owned(),
        Expected::AddressOrName => "Write an IPv4 or IPv6 address or a host name.".to_owned(),
        Expected::Netmask => "Write a netmask such as `255.255.255.0`, or a prefix length such as `24`.".to_owned(),
        Expected::Name => "Write 1 to 63 of a-z, A-Z, 0-9, `-`, `_`, `.`, beginning with a letter or digit.".to_owned(),
        Expected::VariableName => "Write letters, digits and `_`, not beginning with a digit.".to_owned(),
        Expected::InterfaceName => "Write the name of a network interface, at most 15 bytes, such as `eth0`.".to_owned(),
        Expected::RelativePath => "Write a path relative to the replicated directory, without `.`, `..` or `//`.".to_owned(),
        Expected::NamePattern => format!(
            "Write a POSIX extended regular expression for names, or `!` and one: at most {NAME_PATTERN_BYTES_MAX} bytes, \
             without `<` and `>`."
        ),
        Expected::CommandName => {
            "Write the name of the command without its path, at most 15 bytes (the kernel keeps no more), or use `nameregex`.".to_owned()
        }
        Expected::Url => "Write `http://HOST[:PORT]/PATH` or `https://…`, without user, password or `#`.".to_owned(),
        Expected::StatusCodes => "Write codes from 100 to 599: `200`, `200-399`, or several with commas.".to_owned(),
        Expected::ScriptName => "Write the name of a file in the module's `bin`.".to_owned(),
        Expected::UnitName => "Write the name of a systemd unit, such as `nginx` or `backup.timer`.".to_owned(),
        Expected::Program => "Write the name of a file in the module's `bin`, or an absolute path.".to_owned(),
        Expected::NotEmpty => "Write a value.".to_owned(),
        Expected::OneLine => "Write it without a line break.".to_owned(),
        Expected::AbsolutePath => "Write the path from the root: /…".to_owned(),
        Expected::Addresses => "Write IPv4 or IPv6 addresses with blanks between them; names are not looked up.".to_owned(),
        Expected::Endpoints => {
            "Write `https://ADDRESS:PORT`, several separated by commas; addresses, not names, and all of them `https` or all `http`."
                .to_owned()
        }
        Expected::FenceAgent => {
            "Write the name of a program of the package fence-agents, such as `fence_ipmilan`, or an absolute path.".to_owned()
        }
    }
}

fn fault_message(fault: &Fault) -> String {
    match fault {
        Fault::WrongEndTag { open, opened, found } => {
            format!("Found </{found}> where </{open}> was expected; <{open}> was opened at {opened}.")
        }
        Fault::LoneEndTag { found } => format!("</{found}> closes nothing."),
        Fault::NeverClosed { open } => format!("<{open}> is never closed."),
        Fault::CutOff { expected } => format!("This does not end: `{expected}` was expected."),
        Fault::Syntax { expected } => format!("Expected {expected} here."),
        Fault::BadAttribute { expected } => format!("Expected {expected} here."),
        Fault::AttributeTwice { first } => format!("This attribute is already given at {first}."),
        Fault::UnknownEntity { name } => format!("There is no entity `&{name};`."),
        Fault::Doctype => "The DOCTYPE has more than a name.".to_owned(),
        Fault::NoRoot => "The text has no element.".to_owned(),
        Fault::OutsideRoot => "Something stands outside the outermost element.".to_owned(),
        Fault::TooLong { bytes, most } => format!("The text has {bytes} bytes; at most {most} are read."),
        Fault::TooDeep { most } => format!("Elements are nested more than {most} deep."),
        Fault::TooMany { most } => format!("The text has more than {most} elements and attributes."),
    }
}

fn fault_remedy(fault: &Fault) -> String {
    match fault {
        Fault::WrongEndTag { open, .. } => format!("Write </{open}> before it, correct its name, or remove it."),
        Fault::LoneEndTag { .. } => "Remove it, or add the missing start tag.".to_owned(),
        Fault::NeverClosed { open } => format!("Add </{open}>, or write <{open}/>."),
        Fault::CutOff { expected } => format!("Add `{expected}`."),
        Fault::Syntax { .. } => "Write `&lt;` and `&amp;` for the characters themselves.".to_owned(),
        Fault::BadAttribute { .. } => "Write attributes as name=\"value\".".to_owned(),
        Fault::AttributeTwice { .. } => "Keep one of them.".to_owned(),
        Fault::UnknownEntity { .. } => "Use &lt; &gt; &amp; &quot; &apos; or a character number.".to_owned(),
        Fault::Doctype => "Write <!DOCTYPE safe>, or nothing.".to_owned(),
        Fault::NoRoot => "Begin with the outermost element.".to_owned(),
        Fault::OutsideRoot => "Remove it, or move it inside.".to_owned(),
        Fault::TooLong { .. } => "Shorten it.".to_owned(),
        Fault::TooDeep { .. } | Fault::TooMany { .. } => "Check that the text is a configuration.".to_owned(),
    }
}

fn rule_message(fault: &RuleFault) -> String {
    match fault {
        RuleFault::Unexpected { found, expected } if found.is_empty() => format!("The rules end where {expected} was expected."),
        RuleFault::Unexpected { found, expected } => format!("Found `{found}` where {expected} was expected."),
        RuleFault::UnknownClass { name, .. } => format!("There is no class of resources `{name}`."),
        RuleFault::UnknownResource { name, .. } => {
            format!("Nothing in this configuration sets the resource `{name}`: the rule never sees it change.")
        }
        RuleFault::UnknownAction { name, .. } => format!("There is no action `{name}`."),
        RuleFault::StateAlone { state } => format!("`{state}` alone is no condition."),
        RuleFault::MixedComparison => "A condition is compared with a state.".to_owned(),
        RuleFault::NeverUnknown { name } => format!("`{name}` is of this node, and is never `unknown`."),
        RuleFault::NoSwap => "This module has no other node that could take its role.".to_owned(),
        RuleFault::NoRemote => "This module has no other node that `remote.` could mean.".to_owned(),
        RuleFault::Lua => {
            "The Lua form of the rules is not read: rules are checked before they are used, and what a program will do cannot be."
                .to_owned()
        }
        RuleFault::DuplicateLabel { label } => format!("The label `{label}` is already used by a rule before."),
        RuleFault::TooDeep { most } => format!("Brackets and `!` are nested more than {most} deep."),
        RuleFault::TooLong { most } => format!("The rules have more than {most} bytes."),
        RuleFault::TooMany { most } => format!("There are more than {most} rules."),
        RuleFault::WithoutDefaults => {
            "With extends=\"no\" no checker does anything by itself: only the rules written here hold.".to_owned()
        }
    }
}

fn rule_remedy(fault: &RuleFault) -> String {
    let meant = |near: &Option<String>, otherwise: String| near.as_ref().map_or(otherwise, |n| format!("Did you mean `{n}`?"));
    match fault {
        RuleFault::Unexpected { .. } => "A rule looks like `label: if (tcp.web == down) then restart();`.".to_owned(),
        RuleFault::UnknownClass { near, .. } => meant(near, format!("The classes are: {}.", RESOURCE_CLASSES.join(", "))),
        RuleFault::UnknownResource { near, .. } => meant(near, "Add the checker, or correct the name.".to_owned()),
        RuleFault::UnknownAction { near, .. } => {
            meant(near, "Write `restart()`, `swap()`, `wait()`, `stopstart()` or `stop()`.".to_owned())
        }
        RuleFault::StateAlone { state } => format!("Compare a resource with it: `tcp.web == {state}`."),
        RuleFault::MixedComparison => "Compare a resource with a state, or two conditions with each other.".to_owned(),
        RuleFault::NeverUnknown { .. } => "Write `init`, or `remote.` before the resource.".to_owned(),
        RuleFault::NoSwap => "Write `restart()`, `stopstart()`, `stop()` or `wait()`.".to_owned(),
        RuleFault::NoRemote => "Remove what needs the other node.".to_owned(),
        RuleFault::Lua => "Write each rule as `label: if (…) then action();`.".to_owned(),
        RuleFault::DuplicateLabel { .. } => "Choose another label.".to_owned(),
        RuleFault::TooDeep { .. } | RuleFault::TooLong { .. } | RuleFault::TooMany { .. } => "Shorten it.".to_owned(),
        RuleFault::WithoutDefaults => "Remove it to add these rules to those of the checkers.".to_owned(),
    }
}
