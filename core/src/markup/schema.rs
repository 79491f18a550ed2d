//! What may stand where, as a table, and the pass that holds a tree against it.
//!
//! The table says of every element and attribute what it is called, what its value looks like and what becomes
//! of it: read, accepted without effect, or refused. [`check`] reports everything that can be seen from the table
//! alone; readers of the tree ([`At`]) then take only what is right and stay silent about the rest.

use super::problem::{Expected, Place, Problem, ProblemKind, Severity, UnusedReason};
use super::tree::{Attribute, Element, shorten};
use super::value::{self, Unit};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// An element that is read.
#[derive(Debug)]
pub(crate) struct Rule {
    pub name: &'static str,
    pub attributes: &'static [AttributeRule],
    pub children: &'static [ChildRule],
}

/// An attribute.
#[derive(Debug)]
pub(crate) struct AttributeRule {
    pub name: &'static str,
    pub kind: Kind,
    pub take: Take,
    pub is_required: bool,
}

/// What a value looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Anything, also nothing.
    Any,
    /// Anything but nothing.
    Text,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A whole number in this range.
    Number(i64, i64),
    /// A time, without a unit in this one, at least so many of it.
    Time(Unit, u64),
    /// An IP address.
    Address,
    /// An IP address or host name.
    Host,
    /// A netmask or prefix length.
    Netmask,
    /// A name of ours: LAN, node, resource.
    Name,
    /// A path below a directory.
    Path,
    /// A regular expression for names.
    NamePattern,
}

/// What becomes of an attribute that is right.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Take {
    /// It is read.
    Read,
    /// It has no effect: a warning, but for these values, which ask for what is done anyway.
    Unused { silent: &'static [&'static str], why: UnusedReason },
    /// It is refused, but for these values, which ask for what is done anyway.
    Refused { fine: &'static [&'static str], instead: Option<&'static str> },
}

/// An element below another.
#[derive(Debug)]
pub(crate) enum ChildRule {
    /// At most one of it.
    One(&'static Rule),
    /// Exactly one of it.
    Needed(&'static Rule),
    /// Any number.
    Many(&'static Rule),
    /// At least one.
    Some(&'static Rule),
    /// At most one of it, which holds text.
    Text(&'static Rule),
    /// Understood and refused; nothing inside is looked at.
    Refused { name: &'static str, instead: Option<&'static str> },
}

impl ChildRule {
    fn name(&self) -> &'static str {
        match self {
            ChildRule::One(rule) | ChildRule::Needed(rule) | ChildRule::Many(rule) | ChildRule::Some(rule) | ChildRule::Text(rule) => {
                rule.name
            }
            ChildRule::Refused { name, .. } => name,
        }
    }
    fn rule(&self) -> Option<&'static Rule> {
        match self {
            ChildRule::One(rule) | ChildRule::Needed(rule) | ChildRule::Many(rule) | ChildRule::Some(rule) | ChildRule::Text(rule) => {
                Some(rule)
            }
            ChildRule::Refused { .. } => None,
        }
    }
}

/// An attribute that is read and may be absent.
pub(crate) const fn read(name: &'static str, kind: Kind) -> AttributeRule {
    AttributeRule { name, kind, take: Take::Read, is_required: false }
}
/// An attribute that is read and must be there.
pub(crate) const fn needed(name: &'static str, kind: Kind) -> AttributeRule {
    AttributeRule { name, kind, take: Take::Read, is_required: true }
}
/// An attribute that has no effect.
pub(crate) const fn unused(name: &'static str, kind: Kind, why: UnusedReason) -> AttributeRule {
    AttributeRule { name, kind, take: Take::Unused { silent: &[], why }, is_required: false }
}
/// An attribute that has no effect; some values are what is done anyway.
pub(crate) const fn unused_but(name: &'static str, kind: Kind, silent: &'static [&'static str], why: UnusedReason) -> AttributeRule {
    AttributeRule { name, kind, take: Take::Unused { silent, why }, is_required: false }
}
/// An attribute that is refused but for some values.
pub(crate) const fn refused(name: &'static str, kind: Kind, fine: &'static [&'static str], instead: Option<&'static str>) -> AttributeRule {
    AttributeRule { name, kind, take: Take::Refused { fine, instead }, is_required: false }
}

impl Kind {
    /// Why `text` is no such value.
    fn check(self, text: &str) -> Result<(), ProblemKind> {
        match self {
            Kind::Any => Ok(()),
            Kind::Text if text.trim().is_empty() => Err(value::bad(text, Expected::NotEmpty)),
            Kind::Text => Ok(()),
            Kind::OneOf(words) if words.contains(&text.trim()) => Ok(()),
            Kind::OneOf(words) => Err(value::bad(text, Expected::OneOf(words.iter().map(|w| (*w).to_owned()).collect()))),
            Kind::Number(least, most) => value::number(text, least, most).map(drop),
            Kind::Time(unit, least) => {
                let least = unit.of(least);
                let time = value::time(text, unit)?;
                if time < least { Err(ProblemKind::TooSmall { value: shorten(text), least: unit.write(least) }) } else { Ok(()) }
            }
            Kind::Address => value::address(text).map(drop),
            Kind::Host => value::host(text).map(drop),
            Kind::Netmask => value::netmask(text).map(drop),
            Kind::Name => crate::ids::ModuleName::new(text.trim()).map(drop).map_err(|_| value::bad(text, Expected::Name)),
            Kind::Path => value::relative_path(text).map(drop),
            Kind::NamePattern => value::name_pattern(text),
        }
    }
}

/// Holds `root` against `rule`, adding to `problems`. With `is_whole` false nothing is reported as missing.
pub(crate) fn check(root: &mut Element, rule: &'static Rule, is_whole: bool, problems: &mut Vec<Problem>) {
    let mut pass = Pass { root: rule, is_whole, problems };
    if root.name == rule.name {
        pass.element(root, rule, rule.name);
        return;
    }
    let near = near(&root.name, [rule.name]);
    let kind = ProblemKind::UnknownElement { name: shorten(&root.name), near: Some(rule.name.to_owned()) };
    pass.problems.push(Problem::error(root.place, shorten(&root.name), None, kind));
    if near.is_some() {
        let path = root.name.clone();
        pass.element(root, rule, &path);
    }
}

struct Pass<'p> {
    root: &'static Rule,
    is_whole: bool,
    problems: &'p mut Vec<Problem>,
}

impl Pass<'_> {
    fn element(&mut self, element: &mut Element, rule: &'static Rule, path: &str) {
        element.role = rule.name.to_owned();
        self.attributes(element, rule, path);
        if let Some(place) = element.text {
            self.problems.push(Problem::error(place, path.to_owned(), None, ProblemKind::UnexpectedText));
        }
        self.children(element, rule, path);
    }

    fn attributes(&mut self, element: &mut Element, rule: &'static Rule, path: &str) {
        let mut seen: Vec<&str> = Vec::new();
        for attribute in &mut element.attributes {
            let known = rule.attributes.iter().find(|a| a.name == attribute.name);
            let known = known.or_else(|| {
                let guess = near(&attribute.name, rule.attributes.iter().map(|a| a.name));
                let kind = ProblemKind::UnknownAttribute { name: shorten(&attribute.name), near: guess.map(str::to_owned) };
                self.problems.push(Problem::error(attribute.place, path.to_owned(), Some(shorten(&attribute.name)), kind));
                rule.attributes.iter().find(|a| Some(a.name) == guess)
            });
            if let Some(known) = known {
                attribute.role = known.name.to_owned();
                seen.push(known.name);
                self.value(attribute, known, path);
            }
        }
        for lacking in rule.attributes.iter().filter(|a| a.is_required && self.is_whole && !seen.contains(&a.name)) {
            let kind = ProblemKind::MissingAttribute { name: lacking.name.to_owned() };
            self.problems.push(Problem::error(element.place, path.to_owned(), Some(lacking.name.to_owned()), kind));
        }
    }

    fn value(&mut self, attribute: &mut Attribute, known: &AttributeRule, path: &str) {
        if !attribute.is_sound {
            return;
        }
        let text = attribute.value.trim();
        let (kind, place, severity) = match known.take {
            _ if known.kind.check(&attribute.value).is_err() => {
                attribute.is_sound = false;
                let Err(kind) = known.kind.check(&attribute.value) else { return };
                (kind, attribute.value_place, Severity::Error)
            }
            // A misspelt name is reported already; that it would have no effect can wait.
            Take::Unused { silent, why } if attribute.name == known.name && !silent.contains(&text) => {
                (ProblemKind::NotUsed { what: known.name.to_owned(), why }, attribute.place, Severity::Warning)
            }
            Take::Refused { fine, instead } if !fine.contains(&text) => {
                let what = format!("{}=\"{}\"", known.name, shorten(text));
                let kind = ProblemKind::NotSupported { what, instead: instead.map(str::to_owned) };
                (kind, attribute.place, Severity::Error)
            }
            Take::Read | Take::Unused { .. } | Take::Refused { .. } => return,
        };
        self.problems.push(Problem { place, element: path.to_owned(), attribute: Some(shorten(&attribute.name)), kind, severity });
    }

    fn children(&mut self, element: &mut Element, rule: &'static Rule, path: &str) {
        let mut firsts: BTreeMap<&'static str, Place> = BTreeMap::new();
        for child in &mut element.children {
            let child_path = format!("{path}/{}", shorten(&child.name));
            let known = rule.children.iter().find(|c| c.name() == child.name);
            let known = known.or_else(|| self.unknown(child, rule, &child_path));
            let Some(known) = known else { continue };
            child.role = known.name().to_owned();
            let first = *firsts.entry(known.name()).or_insert(child.place);
            match known {
                ChildRule::Refused { name, instead } => {
                    let kind = ProblemKind::NotSupported { what: (*name).to_owned(), instead: instead.map(str::to_owned) };
                    self.problems.push(Problem::error(child.place, child_path, None, kind));
                }
                ChildRule::One(inner)
                | ChildRule::Needed(inner)
                | ChildRule::Many(inner)
                | ChildRule::Some(inner)
                | ChildRule::Text(inner) => {
                    let is_single = matches!(known, ChildRule::One(_) | ChildRule::Needed(_) | ChildRule::Text(_));
                    if is_single && first != child.place {
                        let kind = ProblemKind::Repeated { name: inner.name.to_owned(), first };
                        self.problems.push(Problem::error(child.place, child_path.clone(), None, kind));
                    }
                    if matches!(known, ChildRule::Text(_)) {
                        child.text = None; // it may have some
                    }
                    self.element(child, inner, &child_path);
                }
            }
        }
        for lacking in rule.children {
            let is_needed = matches!(lacking, ChildRule::Needed(_) | ChildRule::Some(_));
            if is_needed && self.is_whole && !firsts.contains_key(lacking.name()) {
                let kind = ProblemKind::MissingElement { name: lacking.name().to_owned() };
                self.problems.push(Problem::error(element.place, path.to_owned(), None, kind));
            }
        }
    }

    /// Reports an element that cannot stand here; gives the one it is probably meant to be.
    fn unknown(&mut self, child: &Element, rule: &'static Rule, path: &str) -> Option<&'static ChildRule> {
        let (kind, guess) = match belongs(self.root, &child.name) {
            Some(belongs) => (ProblemKind::Misplaced { name: child.name.clone(), belongs }, None),
            None => {
                let guess = near(&child.name, rule.children.iter().map(ChildRule::name));
                let elsewhere = guess.or_else(|| near(&child.name, all_names(self.root)));
                (ProblemKind::UnknownElement { name: shorten(&child.name), near: elsewhere.map(str::to_owned) }, guess)
            }
        };
        self.problems.push(Problem::error(child.place, path.to_owned(), None, kind));
        rule.children.iter().find(|c| Some(c.name()) == guess)
    }
}

/// Path of the element into which `name` belongs.
fn belongs(rule: &'static Rule, name: &str) -> Option<String> {
    if rule.children.iter().any(|c| c.name() == name) {
        return Some(rule.name.to_owned());
    }
    rule.children.iter().filter_map(ChildRule::rule).find_map(|r| belongs(r, name)).map(|below| format!("{}/{below}", rule.name))
}

fn all_names(rule: &'static Rule) -> Vec<&'static str> {
    let below = rule.children.iter().flat_map(|c| c.rule().map(all_names).unwrap_or_default());
    rule.children.iter().map(ChildRule::name).chain(below).collect()
}

/// Names longer than this are no misspellings; bounds the work on hostile texts.
const NEAR_LENGTH_MAX: usize = 40;

/// The candidate `name` is most probably a misspelling of.
pub(crate) fn near<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    candidates.into_iter().filter(|c| is_near(name, c)).min_by_key(|c| distance(name, c))
}

/// Whether `name` is a likely misspelling of `known`: the same but for case, dashes, or a third of its letters (at
/// most two).
pub(crate) fn is_near(name: &str, known: &str) -> bool {
    if name.len() > NEAR_LENGTH_MAX || known.len() > NEAR_LENGTH_MAX {
        return false;
    }
    distance(name, known) <= (known.chars().count() / 3).clamp(1, 2)
}

/// Number of letters to insert, remove, change or swap; case and `-` for `_` count for nothing.
fn distance(a: &str, b: &str) -> usize {
    let fold = |t: &str| t.to_lowercase().replace('-', "_").chars().collect::<Vec<_>>();
    let (a, b) = (fold(a), fold(b));
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = last;
        last = row;
    }
    last[b.len()]
}

/// An element of a checked tree with its path: gives values that are right, and makes problems with their place.
#[derive(Debug, Clone)]
pub(crate) struct At<'t> {
    pub element: &'t Element,
    rule: &'static Rule,
    path: String,
}

impl<'t> At<'t> {
    /// The outermost element.
    pub fn root(element: &'t Element, rule: &'static Rule) -> At<'t> {
        At { element, rule, path: element.name.clone() }
    }

    /// Children called `name`.
    pub fn all(&self, name: &'static str) -> Vec<At<'t>> {
        let Some(rule) = self.rule.children.iter().filter_map(ChildRule::rule).find(|r| r.name == name) else { return Vec::new() };
        let path = |e: &Element| format!("{}/{}", self.path, shorten(&e.name));
        self.element.all(name).map(|element| At { element, rule, path: path(element) }).collect()
    }

    /// The first child called `name`.
    pub fn one(&self, name: &'static str) -> Option<At<'t>> {
        self.all(name).into_iter().next()
    }

    fn sound(&self, name: &str) -> Option<&'t Attribute> {
        self.element.attribute(name).filter(|a| a.is_sound)
    }

    /// Value of an attribute that is there and right.
    pub fn text(&self, name: &str) -> Option<&'t str> {
        self.sound(name).map(|a| a.value.trim())
    }
    /// The value with its blanks.
    pub fn raw(&self, name: &str) -> Option<&'t str> {
        self.sound(name).map(|a| a.value.as_str())
    }
    /// `on` or `off`.
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.text(name).map(|t| t == "on")
    }
    /// A time.
    pub fn time(&self, name: &str) -> Option<Duration> {
        let unit = self.unit(name)?;
        value::time(self.text(name)?, unit).ok()
    }
    /// The attribute's own unit.
    pub fn unit(&self, name: &str) -> Option<Unit> {
        self.rule.attributes.iter().find(|a| a.name == name).and_then(|a| if let Kind::Time(unit, _) = a.kind { Some(unit) } else { None })
    }
    /// A whole number, if it fits.
    pub fn number<N: TryFrom<i64>>(&self, name: &str) -> Option<N> {
        self.text(name)?.parse::<i64>().ok().and_then(|n| N::try_from(n).ok())
    }
    /// An address.
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        value::address(self.text(name)?).ok()
    }

    /// Place of an attribute's value, else of the element.
    pub fn place_of(&self, name: &str) -> Place {
        self.element.attribute(name).map_or(self.element.place, |a| a.value_place)
    }

    /// A problem with the value of an attribute (or with its absence).
    pub fn wrong(&self, name: &str, kind: ProblemKind) -> Problem {
        let written = self.element.attribute(name).map_or(name, |a| &a.name);
        Problem::error(self.place_of(name), self.path.clone(), Some(shorten(written)), kind)
    }
    /// A problem with the element.
    pub fn wrong_here(&self, kind: ProblemKind) -> Problem {
        Problem::error(self.element.place, self.path.clone(), None, kind)
    }
}

impl Problem {
    /// The same as a warning.
    pub(crate) fn into_warning(mut self) -> Problem {
        self.severity = Severity::Warning;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_are_recognised_and_other_words_are_not() {
        assert_eq!(near("servce", ["service", "macro"]), Some("service"));
        assert_eq!(near("timeuot", ["port", "timeout"]), Some("timeout"));
        assert_eq!(near("Virtual-Addr", ["virtual_addr"]), Some("virtual_addr"));
        assert_eq!(near("vpi", ["vip", "rfs"]), Some("vip"));
        assert_eq!(near("database", ["vip", "rfs", "user"]), None);
        assert_eq!(near(&"x".repeat(10_000), ["vip"]), None);
    }
}
