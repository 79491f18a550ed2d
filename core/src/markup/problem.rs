//! One thing that is wrong in a configuration: where, what, how bad. Worded in English by `Display`, in every
//! language by the console's `say`.

use super::rule_fault::RuleFault;
use crate::ids::NodeName;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// A position in the text. Lines and columns begin at 1; columns count characters, not bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Place {
    /// The first character of a text.
    pub const START: Place = Place { line: 1, column: 1 };
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Whether a problem keeps the configuration from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The configuration is refused as a whole.
    Error,
    /// The configuration is used; something in it has no effect or deserves a look.
    Warning,
}

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// Where: at the value if the value is wrong, at the attribute's name if that is, else at the element.
    pub place: Place,
    /// Path of the element from the root: `safe/service/vip`. Empty when the text has no element there.
    pub element: String,
    /// The attribute concerned.
    pub attribute: Option<String>,
    /// What is wrong.
    pub kind: ProblemKind,
    /// How bad.
    pub severity: Severity,
}

impl Problem {
    /// Whether the configuration is refused because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// `3:14 safe/service/vip addr: message. Remedy.` — one line, readable alone.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.place, if self.element.is_empty() { "document" } else { &self.element })?;
        if let Some(attribute) = &self.attribute {
            write!(f, " {attribute}")?;
        }
        if self.severity == Severity::Warning {
            f.write_str(" (warning)")?;
        }
        write!(f, ": {} {}", self.message(), self.remedy())
    }
}

/// How a text fails to be XML.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// `</found>` where `</open>` was expected.
    WrongEndTag {
        /// Innermost open element.
        open: String,
        /// Where it was opened.
        opened: Place,
        /// Name in the end tag.
        found: String,
    },
    /// An end tag with no open element.
    LoneEndTag {
        /// Name in the end tag.
        found: String,
    },
    /// The text ends inside an element; the place is where it was opened.
    NeverClosed {
        /// The open element.
        open: String,
    },
    /// A tag, comment, CDATA section or declaration begins and does not end.
    CutOff {
        /// What the text lacks: `>`, `-->`, `]]>`, `?>`.
        expected: String,
    },
    /// Characters that cannot stand where they stand.
    Syntax {
        /// What would have been right there.
        expected: String,
    },
    /// An attribute without value or quotes.
    BadAttribute {
        /// What would have been right there.
        expected: String,
    },
    /// The same attribute twice in one tag.
    AttributeTwice {
        /// Where it stood first.
        first: Place,
    },
    /// `&name;` other than the five of XML and character numbers.
    UnknownEntity {
        /// Its name.
        name: String,
    },
    /// A DOCTYPE with an internal subset or an external reference: refused, entities could hide anything.
    Doctype,
    /// No element at all.
    NoRoot,
    /// A second element or text outside the root.
    OutsideRoot,
    /// The text is longer than a configuration may be.
    TooLong {
        /// Length in bytes.
        bytes: usize,
        /// Greatest length.
        most: usize,
    },
    /// Elements nested more deeply than any configuration needs.
    TooDeep {
        /// Greatest depth.
        most: usize,
    },
    /// More elements or attributes than any configuration needs.
    TooMany {
        /// Greatest number.
        most: usize,
    },
}

/// What a value should have been.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// One of these words.
    OneOf(Vec<String>),
    /// A whole number in this range.
    Number {
        /// Least.
        least: i64,
        /// Greatest.
        most: i64,
    },
    /// A whole number with a unit of time.
    Time,
    /// An IPv4 or IPv6 address.
    Address,
    /// An IPv4 or IPv6 address or a host name.
    AddressOrName,
    /// A netmask (`255.255.255.0`) or prefix length.
    Netmask,
    /// A name: letters, digits, `-`, `_`, `.`, beginning with a letter or digit, at most 63.
    Name,
    /// A name of an environment variable: letters, digits, `_`, not beginning with a digit.
    VariableName,
    /// A name of a network interface: at most 15 bytes.
    InterfaceName,
    /// A path relative to the replicated directory, without `..`.
    RelativePath,
    /// A regular expression for names: not too long, without `<` and `>`, and something after a leading `!`.
    NamePattern,
    /// A command name as the kernel keeps it: at most 15 bytes.
    CommandName,
    /// A URL: `http://HOST[:PORT]/PATH` or `https://…`.
    Url,
    /// HTTP status codes: `200`, `200-399`, or several with commas.
    StatusCodes,
    /// An absolute path.
    AbsolutePath,
    /// A script: a name in the module's `bin`.
    ScriptName,
    /// Name of a systemd unit.
    UnitName,
    /// A program: a name in the module's `bin`, or an absolute path.
    Program,
    /// Anything but nothing.
    NotEmpty,
    /// Text without a line break.
    OneLine,
    /// Addresses, separated by blanks.
    Addresses,
    /// `https://ADDRESS:PORT`, several separated by commas; all of them `https` or all `http`.
    Endpoints,
    /// A program of the package `fence-agents`.
    FenceAgent,
}

/// An attribute or element that is accepted and has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnusedReason {
    /// The product does without: sizes and numbers of the engine are chosen by itself.
    ChosenByItself,
    /// What it asks for is always done.
    AlwaysDone,
    /// Connections of a virtual address that leaves are always cut.
    ConnectionsCut,
    /// What it asks for is never done, and does no harm.
    NeverDone,
    /// Not in this release; the module works without it.
    NotYet,
    /// Only for another operating system.
    OtherSystem,
    /// The times of the `heart` element hold for every heartbeat.
    TimesOfHeart,
    /// It belongs to another `authority` than the module's.
    OtherAuthority,
    /// The other way of fencing is given too, and goes before.
    OtherDriver,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Not XML.
    Malformed(Fault),
    /// An element that exists nowhere.
    UnknownElement {
        /// Its name.
        name: String,
        /// The allowed name most like it.
        near: Option<String>,
    },
    /// An element that exists, but elsewhere.
    Misplaced {
        /// Its name.
        name: String,
        /// Path of the element it belongs into.
        belongs: String,
    },
    /// An element that may stand once only.
    Repeated {
        /// Its name.
        name: String,
        /// Where it stood first.
        first: Place,
    },
    /// Text where only elements are allowed.
    UnexpectedText,
    /// An attribute this element does not have.
    UnknownAttribute {
        /// Its name.
        name: String,
        /// The allowed name most like it.
        near: Option<String>,
    },
    /// Understood, and not done by this release: refused, so that nothing is silently left out.
    NotSupported {
        /// What: an element, or `attribute="value"`.
        what: String,
        /// What to use in its place (English, a half sentence), if there is something.
        instead: Option<String>,
    },
    /// Accepted without effect (warning).
    NotUsed {
        /// The attribute or element.
        what: String,
        /// Why nothing is lost.
        why: UnusedReason,
    },
    /// Belongs to another type of module.
    WrongMode {
        /// What: an element, or `attribute="value"`.
        what: String,
        /// The mode of this module.
        mode: String,
    },
    /// An element that must be there; the place is the parent's.
    MissingElement {
        /// Its name.
        name: String,
    },
    /// An attribute that must be there.
    MissingAttribute {
        /// Its name.
        name: String,
    },
    /// A value of the wrong kind.
    BadValue {
        /// The value.
        value: String,
        /// What it should be.
        expected: Expected,
    },
    /// A regular expression that cannot be used.
    BadPattern {
        /// The expression.
        pattern: String,
        /// Why (English, a half sentence).
        why: String,
    },
    /// A time with something that is no unit of time.
    BadUnit {
        /// The value.
        value: String,
        /// The units.
        allowed: Vec<String>,
    },
    /// A time finer than the attribute can hold: `500ms` where whole seconds count.
    TooFine {
        /// The value.
        value: String,
        /// The attribute's unit.
        unit: String,
    },
    /// Below the least acceptable value.
    TooSmall {
        /// The value.
        value: String,
        /// The least acceptable, with its unit.
        least: String,
    },
    /// Above the greatest acceptable value.
    TooLarge {
        /// The value.
        value: String,
        /// The greatest acceptable, with its unit.
        most: String,
    },
    /// An action that cannot follow in that phase.
    BadAction {
        /// The action.
        action: String,
        /// The phase.
        when: String,
        /// Actions of that phase.
        allowed: Vec<String>,
    },
    /// The same virtual address twice.
    DuplicateVip {
        /// The address.
        addr: IpAddr,
        /// Where it stood first.
        first: Place,
    },
    /// The virtual address is a node's own address.
    VipIsNode {
        /// The address.
        addr: IpAddr,
        /// Whose it is.
        node: NodeName,
    },
    /// No node has an address in the network of the virtual address (warning).
    VipOutsideLans {
        /// The address.
        addr: IpAddr,
        /// LANs of the cluster.
        lans: Vec<String>,
    },
    /// The same name twice where names tell things apart.
    DuplicateName {
        /// The name.
        name: String,
        /// Where it stood first.
        first: Place,
    },
    /// The same address for two nodes, or twice for one.
    DuplicateAddress {
        /// The address.
        addr: IpAddr,
        /// Where it stood first.
        first: Place,
    },
    /// A name the product sets itself.
    ReservedName {
        /// The name.
        name: String,
    },
    /// One replicated directory inside another, or the same twice.
    NestedDirectories {
        /// This one.
        dir: String,
        /// The other.
        other: String,
        /// Where the other stands.
        first: Place,
    },
    /// A directory that is not an absolute path.
    DirNotAbsolute {
        /// The value.
        dir: String,
    },
    /// A directory that must not be replicated as a whole, or a path that is not plain.
    BadDirectory {
        /// The value.
        dir: String,
    },
    /// `%NAME%` without a `macro` of that name.
    UnknownMacro {
        /// The name.
        name: String,
        /// The macro most like it.
        near: Option<String>,
    },
    /// A LAN that is not in `cluster.xml`.
    UnknownLan {
        /// The name.
        name: String,
        /// LANs of the cluster.
        known: Vec<String>,
    },
    /// A node that is not one of the module's.
    UnknownNode {
        /// The name.
        name: String,
        /// Nodes of the module.
        known: Vec<String>,
    },
    /// A heartbeat network on which a node of the module has no address.
    NodeNotOnLan {
        /// The network.
        lan: String,
        /// The node.
        node: NodeName,
    },
    /// The module lives on a number of nodes its mode cannot use.
    NodeCount {
        /// Number of nodes.
        found: usize,
        /// Number the mode needs.
        needed: usize,
    },
    /// A heartbeat marked as replication network, and no `rfs` (warning).
    FlowWithoutRfs,
    /// No `user` element: no script runs (warning).
    NoScripts,
    /// An arbiter that is not in `cluster.xml`.
    UnknownArbiter {
        /// The name.
        name: String,
        /// Arbiters of the cluster.
        known: Vec<String>,
    },
    /// The arbiter runs on a node it may have to decide about. In `cluster.xml` an error until it is said on purpose,
    /// then (and in a module that uses it) a warning.
    ArbiterOnNode {
        /// The arbiter.
        arbiter: String,
        /// The node.
        node: NodeName,
    },
    /// With this authority two nodes may serve at once: an error until the configuration accepts it, then a warning.
    SplitBrainPossible {
        /// `ping` or `none`.
        authority: String,
    },
    /// A connection to an arbiter that anybody on the line can read and change (warning).
    NotEncrypted,
    /// A second network with `command="on"`.
    SecondCommandLan {
        /// Where the first stands.
        first: Place,
    },
    /// A rule of `failover` that cannot be used, or (warning) can hardly be meant so.
    Rule(RuleFault),
    /// Neither of several attributes, one of which is needed.
    NeedsOneOf {
        /// The attributes.
        names: Vec<String>,
    },
    /// No network of the cluster holds every node.
    NoCommonLan {
        /// Nodes missing on the network that holds the most.
        missing: Vec<String>,
        /// That network.
        lan: String,
    },
}

impl ProblemKind {
    /// Whether it says that something is not there.
    pub(crate) fn is_about_absence(&self) -> bool {
        use ProblemKind::{FlowWithoutRfs, MissingAttribute, MissingElement, NoScripts};
        matches!(self, MissingElement { .. } | MissingAttribute { .. } | FlowWithoutRfs | NoScripts)
    }
}
