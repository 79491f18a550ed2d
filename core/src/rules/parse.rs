//! Text → rules, with every fault at its place. Total: any text gives rules, faults, or both.
//!
//! Reads on behind the next `;` after a fault, so that one slip does not hide the others. Bounded in length, depth,
//! number of rules and number of faults.

use super::{Expr, Ident, Operand, ResourceRef, Rule, RuleAction, RuleFault, Side, Value};
use crate::markup::RESOURCE_CLASSES as CLASSES;
use crate::markup::schema::near;
use std::collections::BTreeSet;

/// Longest text: a hundred rules have a tenth of it.
pub const BYTES_MAX: usize = 64 * 1024;
/// Deepest nesting of brackets and `!`.
pub const DEPTH_MAX: usize = 32;
/// Most rules.
pub const RULES_MAX: usize = 256;
/// Faults reported at most; who has more has not written rules.
const FAULTS_MAX: usize = 50;
/// Longest piece of a text quoted in a fault.
const QUOTE_MAX: usize = 40;

/// A fault and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleProblem {
    /// Byte offset into the text, at most its length.
    pub offset: usize,
    /// What is wrong.
    pub fault: RuleFault,
}

/// Reads rules. Faults are in the order of the text.
pub fn parse(text: &str) -> (Vec<Rule>, Vec<RuleProblem>) {
    let (placed, faults) = parse_placed(text);
    (placed.into_iter().map(|(_, rule)| rule).collect(), faults)
}

/// As [`parse`], each rule with the byte offset of its label.
pub fn parse_placed(text: &str) -> (Vec<(usize, Rule)>, Vec<RuleProblem>) {
    let mut faults = Vec::new();
    let mut rules = Vec::new();
    if text.len() > BYTES_MAX {
        faults.push(RuleProblem { offset: 0, fault: RuleFault::TooLong { most: BYTES_MAX } });
        return (rules, faults);
    }
    if let Some(offset) = lua(text) {
        faults.push(RuleProblem { offset, fault: RuleFault::Lua });
        return (rules, faults);
    }
    let mut reader = Reader { tokens: tokens(text), at: 0, end: text.len(), depth: 0, found: Vec::new() };
    let mut labels = BTreeSet::new();
    while reader.peek().is_some() {
        let begin = reader.here();
        match reader.rule() {
            Ok(rule) => {
                if !labels.insert(rule.label.clone()) {
                    faults.push(RuleProblem { offset: begin, fault: RuleFault::DuplicateLabel { label: rule.label.clone() } });
                }
                if rules.len() == RULES_MAX {
                    faults.push(RuleProblem { offset: begin, fault: RuleFault::TooMany { most: RULES_MAX } });
                    break;
                }
                rules.push((begin, rule));
            }
            Err(problem) => {
                faults.push(problem);
                reader.skip_rule();
            }
        }
        faults.append(&mut reader.found);
        if faults.len() >= FAULTS_MAX {
            break;
        }
    }
    faults.sort();
    faults.dedup();
    faults.truncate(FAULTS_MAX);
    (rules, faults)
}

/// Where the Lua form begins, if it does.
fn lua(text: &str) -> Option<usize> {
    let begin = text.len() - text.trim_start().len();
    let first = text.trim_start();
    let is_assignment = first.strip_prefix("Rules").is_some_and(|rest| rest.trim_start().starts_with('=') || rest.starts_with(".disable"));
    (first.starts_with("--") || is_assignment).then_some(begin)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Sign,
    /// A character no rule has.
    Strange,
}

#[derive(Debug, Clone, Copy)]
struct Token<'t> {
    kind: Kind,
    text: &'t str,
    offset: usize,
}

/// Characters of names; ids of resources may be addresses (`ip.fd00::9`).
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = if c.is_whitespace() {
            c.len_utf8()
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(inside) = rest.strip_prefix("/*") {
            inside.find("*/").map_or(rest.len(), |end| end + 4)
        } else {
            let (kind, length) = if c.is_ascii_alphanumeric() || c == '_' {
                (Kind::Word, word_length(rest))
            } else if ["&&", "||", "==", "!="].iter().any(|s| rest.starts_with(s)) {
                (Kind::Sign, 2)
            } else if "():;!".contains(c) {
                (Kind::Sign, 1)
            } else {
                (Kind::Strange, c.len_utf8())
            };
            found.push(Token { kind, text: &rest[..length], offset: at });
            length
        };
        at += length.max(1);
    }
    found
}

/// Length of the word `rest` begins with. A `*` or `?` ends it; a colon belongs to it inside an address only.
fn word_length(rest: &str) -> usize {
    let mut length = 0;
    for (at, c) in rest.char_indices() {
        let is_in_address = c == ':' && rest[..at].contains('.') && rest[at + 1..].starts_with(|n: char| n.is_ascii_hexdigit() || n == ':');
        if is_word(c) || is_in_address {
            length = at + c.len_utf8();
        } else if matches!(c, '*' | '?') && rest[..at].ends_with('.') {
            return at + 1;
        } else {
            break;
        }
    }
    length
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(QUOTE_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// One side of `==` before it is known what it is.
enum Term {
    State(Value),
    Resource(ResourceRef),
    Condition(Expr),
}

struct Reader<'t> {
    tokens: Vec<Token<'t>>,
    at: usize,
    /// Length of the text.
    end: usize,
    depth: usize,
    /// Faults that do not keep the rule from being read on.
    found: Vec<RuleProblem>,
}

type Read<T> = Result<T, RuleProblem>;

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<Token<'t>> {
        self.tokens.get(self.at).copied()
    }
    fn here(&self) -> usize {
        self.peek().map_or(self.end, |t| t.offset)
    }
    fn is_next(&self, text: &str) -> bool {
        self.peek().is_some_and(|t| t.text == text)
    }
    fn take(&mut self, text: &str) -> bool {
        let is_next = self.is_next(text);
        self.at += usize::from(is_next);
        is_next
    }
    fn fault(&self, fault: RuleFault) -> RuleProblem {
        RuleProblem { offset: self.here(), fault }
    }
    fn unexpected(&self, expected: &str) -> RuleProblem {
        let found = self.peek().map_or(String::new(), |t| shorten(t.text));
        self.fault(RuleFault::Unexpected { found, expected: expected.to_owned() })
    }
    fn expect(&mut self, text: &str) -> Read<()> {
        if self.take(text) { Ok(()) } else { Err(self.unexpected(&format!("`{text}`"))) }
    }

    /// Behind the next `;`.
    fn skip_rule(&mut self) {
        while let Some(token) = self.peek() {
            self.at += 1;
            if token.text == ";" {
                break;
            }
        }
        self.depth = 0;
    }

    fn rule(&mut self) -> Read<Rule> {
        let label = match self.peek() {
            Some(token) if token.kind == Kind::Word && token.text != "if" && !token.text.contains([':', '*', '?']) => token.text.to_owned(),
            _ => return Err(self.unexpected("a label")),
        };
        self.at += 1;
        self.expect(":")?;
        self.expect("if")?;
        if !self.is_next("(") {
            return Err(self.unexpected("`(`"));
        }
        let begin = self.here();
        let condition = self.any_of()?;
        let condition = self.condition(condition, begin)?;
        self.expect("then")?;
        let action = self.action()?;
        self.expect(";")?;
        Ok(Rule { label, condition, action, is_hard: false, is_generated: false })
    }

    fn action(&mut self) -> Read<RuleAction> {
        let Some(token) = self.peek().filter(|t| t.kind == Kind::Word) else { return Err(self.unexpected("an action")) };
        let Some(action) = RuleAction::ALL.into_iter().find(|a| a.word() == token.text) else {
            let near = near(token.text, RuleAction::ALL.iter().map(|a| a.word())).map(str::to_owned);
            return Err(self.fault(RuleFault::UnknownAction { name: shorten(token.text), near }));
        };
        self.at += 1;
        self.expect("(")?;
        self.expect(")")?;
        Ok(action)
    }

    /// What stands there, as a condition.
    fn condition(&mut self, term: Term, offset: usize) -> Read<Expr> {
        match term {
            Term::Condition(expr) => Ok(expr),
            Term::Resource(resource) => Ok(Expr::IsUp(resource)),
            Term::State(state) => Err(RuleProblem { offset, fault: RuleFault::StateAlone { state: state.word().to_owned() } }),
        }
    }

    fn any_of(&mut self) -> Read<Term> {
        self.chain("||", Self::all_of, Expr::Or)
    }
    fn all_of(&mut self) -> Read<Term> {
        self.chain("&&", Self::comparison, Expr::And)
    }

    fn chain(&mut self, sign: &str, part: fn(&mut Self) -> Read<Term>, join: fn(Vec<Expr>) -> Expr) -> Read<Term> {
        let begin = self.here();
        let first = part(self)?;
        if !self.is_next(sign) {
            return Ok(first);
        }
        let mut parts = vec![self.condition(first, begin)?];
        while self.take(sign) {
            let begin = self.here();
            let next = part(self)?;
            parts.push(self.condition(next, begin)?);
        }
        Ok(Term::Condition(join(parts)))
    }

    fn comparison(&mut self) -> Read<Term> {
        let begin = self.here();
        let left = self.factor()?;
        let is_equal = match self.peek().map(|t| t.text) {
            Some("==") => true,
            Some("!=") => false,
            _ => return Ok(left),
        };
        let sign = self.here();
        self.at += 1;
        let right_begin = self.here();
        let right = self.factor()?;
        let operand = |term: Term| match term {
            Term::State(value) => Ok(Operand::Value(value)),
            Term::Resource(resource) => Ok(Operand::Resource(resource)),
            Term::Condition(expr) => Err(expr),
        };
        let expr = match (operand(left), operand(right)) {
            (Ok(left), Ok(right)) => {
                self.check_unknown(&left, &right, begin, right_begin);
                Expr::Compare { is_equal, left, right }
            }
            (Err(left), Err(right)) => Expr::Match { is_equal, left: Box::new(left), right: Box::new(right) },
            (Ok(Operand::Resource(left)), Err(right)) => Expr::Match { is_equal, left: Box::new(Expr::IsUp(left)), right: Box::new(right) },
            (Err(left), Ok(Operand::Resource(right))) => Expr::Match { is_equal, left: Box::new(left), right: Box::new(Expr::IsUp(right)) },
            (Ok(Operand::Value(_)), Err(_)) | (Err(_), Ok(Operand::Value(_))) => {
                return Err(RuleProblem { offset: sign, fault: RuleFault::MixedComparison });
            }
        };
        if matches!(self.peek().map(|t| t.text), Some("==" | "!=")) {
            return Err(self.unexpected("`&&`, `||` or `)`"));
        }
        Ok(Term::Condition(expr))
    }

    fn check_unknown(&mut self, left: &Operand, right: &Operand, left_at: usize, right_at: usize) {
        for (one, other, offset) in [(left, right, left_at), (right, left, right_at)] {
            if let Operand::Resource(resource) = one
                && resource.side == Side::Local
                && *other == Operand::Value(Value::Unknown)
            {
                self.found.push(RuleProblem { offset, fault: RuleFault::NeverUnknown { name: shorten(&resource.to_string()) } });
            }
        }
    }

    fn factor(&mut self) -> Read<Term> {
        if self.depth == DEPTH_MAX {
            return Err(self.fault(RuleFault::TooDeep { most: DEPTH_MAX }));
        }
        if self.take("!") {
            self.depth += 1;
            let begin = self.here();
            let inner = self.factor()?;
            self.depth -= 1;
            let inner = self.condition(inner, begin)?;
            return Ok(Term::Condition(Expr::Not(Box::new(inner))));
        }
        if self.take("(") {
            self.depth += 1;
            let inner = self.any_of()?;
            self.expect(")")?;
            self.depth -= 1;
            return Ok(inner);
        }
        let Some(token) = self.peek().filter(|t| t.kind == Kind::Word) else { return Err(self.unexpected("a resource or a state")) };
        if let Some(value) = Value::ALL.into_iter().find(|v| v.word() == token.text) {
            self.at += 1;
            return Ok(Term::State(value));
        }
        let resource = self.resource(token)?;
        self.at += 1;
        Ok(Term::Resource(resource))
    }

    fn resource(&mut self, token: Token<'t>) -> Read<ResourceRef> {
        let (side, name, skipped) = match token.text.split_once('.') {
            Some(("local", rest)) => (Side::Local, rest, "local.".len()),
            Some(("remote", rest)) => (Side::Remote, rest, "remote.".len()),
            _ => (Side::Local, token.text, 0),
        };
        let Some((class, ident)) = name.split_once('.').filter(|(class, ident)| !class.is_empty() && !ident.is_empty()) else {
            return Err(self.unexpected("a resource or a state"));
        };
        if !CLASSES.contains(&class) {
            let near = near(class, CLASSES.iter().copied()).map(str::to_owned);
            return Err(RuleProblem { offset: token.offset + skipped, fault: RuleFault::UnknownClass { name: shorten(class), near } });
        }
        let ident = match ident {
            "*" => Ident::All,
            "?" => Ident::Any,
            // `tcp.web.*` stands for nothing.
            name if name.ends_with(['*', '?']) => return Err(self.unexpected("a resource or a state")),
            name => Ident::Name(name.to_owned()),
        };
        Ok(ResourceRef { side, class: class.to_owned(), ident })
    }
}
