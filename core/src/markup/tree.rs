//! XML text → elements that know where they stand.
//!
//! Reads on after every fault it can read on after, so that one missing quote does not hide the other problems
//! of a text. What could not be read for certain is left out, and [`Document::is_whole`] says so: nobody then
//! complains that something is *missing*.
//!
//! Bounded in size, depth and number of elements; entities and DOCTYPE subsets are refused. A text is therefore
//! read in time and memory proportional to its length, whoever wrote it.

use super::problem::{Fault, Place, Problem, ProblemKind, Severity};
use super::schema::is_near;
use quick_xml::Reader;
use quick_xml::errors::{IllFormedError, SyntaxError};
use quick_xml::events::attributes::AttrError;
use quick_xml::events::{BytesStart, Event};

/// Longest text read: a configuration of a thousand virtual addresses has a tenth of it.
pub(crate) const BYTES_MAX: usize = 1 << 20;
/// Deepest nesting: `userconfig.xml` needs 8.
const DEPTH_MAX: usize = 32;
/// Most elements and attributes together; bounds the number of problems too.
const NODES_MAX: usize = 20_000;

/// What a CDATA section begins with.
const CDATA: &str = "<![CDATA[";

/// Most tags without end read on after; each costs a look at the rest of the text.
const RESTARTS_MAX: usize = 50;

/// An element.
#[derive(Debug, Clone)]
pub(crate) struct Element {
    pub name: String,
    /// The element this one is read as: its name, or the name it is a misspelling of. An error was reported then;
    /// what stands inside is checked all the same.
    pub role: String,
    /// Of its `<`.
    pub place: Place,
    pub attributes: Vec<Attribute>,
    pub children: Vec<Element>,
    /// First text in it that is not blank.
    pub text: Option<Place>,
    /// All text in it, entities resolved.
    pub content: Content,
}

/// Text of an element, each character of which knows its place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub text: String,
    /// Where each piece begins in `text` and in the document. Inside a piece the two run side by side.
    pieces: Vec<(usize, Place)>,
}

impl Content {
    fn push(&mut self, text: &str, place: Place) {
        self.pieces.push((self.text.len(), place));
        self.text.push_str(text);
    }

    /// Place of the character at byte `offset` of the text, or just past its end.
    pub fn place_at(&self, offset: usize) -> Option<Place> {
        let (begin, mut place) = *self.pieces.iter().rfind(|(begin, _)| *begin <= offset)?;
        for c in self.text.get(begin..offset)?.chars() {
            place = if c == '\n' { Place { line: place.line + 1, column: 1 } } else { Place { column: place.column + 1, ..place } };
        }
        Some(place)
    }
}

/// An attribute, its value with entities resolved.
#[derive(Debug, Clone)]
pub(crate) struct Attribute {
    pub name: String,
    /// See [`Element::role`].
    pub role: String,
    pub place: Place,
    pub value: String,
    /// Of the first character inside the quotes.
    pub value_place: Place,
    /// False when the value could not be made out (an unknown macro): it is reported, and not read.
    pub is_sound: bool,
}

impl Element {
    /// The attribute called `name`.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|a| a.role == name)
    }
    /// Children called `name`, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> + 'a {
        self.children.iter().filter(move |c| c.role == name)
    }
}

/// What was read of a text.
#[derive(Debug)]
pub(crate) struct Document {
    pub root: Option<Element>,
    /// No fault was found: what is not in the tree is not in the text.
    pub is_whole: bool,
}

/// Distance of two checkpoints of [`Places`] in bytes.
const STRIDE: usize = 512;

/// Byte offset → line and column, in constant time: a text may be one line of a megabyte.
struct Places<'t> {
    text: &'t str,
    /// Place of the first character at or after each multiple of [`STRIDE`], with its offset.
    checkpoints: Vec<(usize, Place)>,
}

fn advance(place: &mut Place, c: char) {
    if c == '\n' {
        place.line += 1;
        place.column = 1;
    } else {
        place.column += 1;
    }
}

impl<'t> Places<'t> {
    fn new(text: &'t str) -> Self {
        let mut checkpoints = Vec::with_capacity(text.len() / STRIDE + 1);
        let mut place = Place::START;
        for (offset, c) in text.char_indices() {
            if offset >= checkpoints.len() * STRIDE {
                checkpoints.push((offset, place));
            }
            advance(&mut place, c);
        }
        Places { text, checkpoints }
    }

    /// Place of the character at `offset`; an offset inside a character means that character, one past the end
    /// the end.
    fn at(&self, offset: usize) -> Place {
        let before = self.checkpoints.partition_point(|(o, _)| *o <= offset);
        let Some((start, mut place)) = before.checked_sub(1).map(|i| self.checkpoints[i]) else { return Place::START };
        for (o, c) in self.text[start..].char_indices() {
            if start + o + c.len_utf8() > offset {
                break;
            }
            advance(&mut place, c);
        }
        place
    }
}

/// Reads `text`, adding what is not XML to `problems`.
pub(crate) fn read(text: &str, problems: &mut Vec<Problem>) -> Document {
    // A byte order mark is no character of the text. All of them: the reader below would take another one off without
    // counting it, and every offset would be wrong by it.
    let text = text.trim_start_matches('\u{feff}');
    if text.len() > BYTES_MAX {
        let fault = Fault::TooLong { bytes: text.len(), most: BYTES_MAX };
        problems.push(Problem::error(Place::START, String::new(), None, ProblemKind::Malformed(fault)));
        return Document { root: None, is_whole: false };
    }
    Builder { text, places: Places::new(text), open: Vec::new(), root: None, nodes: 0, is_whole: true, problems }.run()
}

struct Builder<'t, 'p> {
    text: &'t str,
    places: Places<'t>,
    /// Elements not closed yet, outermost first.
    open: Vec<Element>,
    root: Option<Element>,
    nodes: usize,
    is_whole: bool,
    problems: &'p mut Vec<Problem>,
}

/// How to go on reading.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Stop,
    /// At this offset, with a new reader: the present one has taken several tags for one.
    From(usize),
}

impl Builder<'_, '_> {
    fn run(mut self) -> Document {
        let mut base = 0;
        let mut is_cut = true;
        for _ in 0..=RESTARTS_MAX {
            match self.read_from(base) {
                Next::Go => {
                    is_cut = false;
                    break;
                }
                Next::Stop => break,
                Next::From(offset) => base = offset,
            }
        }
        self.end(is_cut)
    }

    /// Reads from `base`, a tag's `<` or the beginning, to the end or to a tag that is broken.
    fn read_from(&mut self, base: usize) -> Next {
        let text = self.text;
        let mut reader = Reader::from_str(&text[base..]);
        let config = reader.config_mut();
        // Names are matched here, with places.
        config.check_end_names = false;
        config.allow_unmatched_ends = true;
        let offset = |position: u64| usize::try_from(position).map_or(text.len(), |p| (base + p).min(text.len()));
        loop {
            let start = offset(reader.buffer_position());
            let next = match reader.read_event() {
                Ok(Event::Eof) => return Next::Go,
                Ok(event) => self.take(event, start, offset(reader.buffer_position())),
                Err(error) => self.refuse(&error, start, offset(reader.error_position())),
            };
            if next != Next::Go {
                return next;
            }
        }
    }

    fn take(&mut self, event: Event<'_>, start: usize, end: usize) -> Next {
        match event {
            Event::Start(tag) => return self.begin(&tag, start, end, false),
            Event::Empty(tag) => return self.begin(&tag, start, end, true),
            Event::End(tag) => self.close(tag.name().0, start),
            Event::Text(text) => self.text_at(&text, start),
            Event::CData(text) => self.text_at(&text, start + CDATA.len()),
            Event::GeneralRef(name) => {
                if !is_entity(&name) {
                    self.fault(start, Fault::UnknownEntity { name: shorten(&name) });
                }
                let resolved = entity(&name).unwrap_or('&');
                self.text_at(resolved.encode_utf8(&mut [0; 4]), start);
            }
            Event::DocType(content) => {
                let content = content.trim();
                let is_early = self.root.is_none() && self.open.is_empty();
                let is_name = !content.is_empty() && content.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':'));
                if !is_early || !is_name {
                    self.fault(start, Fault::Doctype);
                }
            }
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::Eof => {}
        }
        Next::Go
    }

    /// A start tag, whole or cut off before the next `<`.
    fn begin(&mut self, tag: &BytesStart<'_>, start: usize, end: usize, is_empty: bool) -> Next {
        if let Some(cut) = cut(&self.text[start + 1..end]) {
            return self.begin_cut(cut, start);
        }
        if self.push(tag, start, end) == Next::Stop {
            return Next::Stop;
        }
        if is_empty {
            self.pop();
        }
        Next::Go
    }

    /// A start tag that swallowed the next one: what stands before that one is the tag.
    fn begin_cut(&mut self, cut: Cut, start: usize) -> Next {
        let text = self.text;
        let base = start + 1;
        let head = text[base..base + cut.end].trim_end();
        let is_empty = head.ends_with("/>");
        let head = head.strip_suffix('>').unwrap_or(head);
        let head = head.strip_suffix('/').unwrap_or(head);
        let name_len = head.find(|c: char| c.is_whitespace()).unwrap_or(head.len());
        let tag = BytesStart::from_content(head, name_len);
        if self.push(&tag, start, base + head.len()) == Next::Stop {
            return Next::Stop;
        }
        self.fault(base + cut.lacks_at, Fault::CutOff { expected: cut.lacks.to_string() });
        if is_empty {
            self.pop();
        }
        Next::From(base + cut.end)
    }

    fn push(&mut self, tag: &BytesStart<'_>, start: usize, end: usize) -> Next {
        if self.open.len() >= DEPTH_MAX {
            self.fault(start, Fault::TooDeep { most: DEPTH_MAX });
            return Next::Stop;
        }
        let place = self.places.at(start);
        let name = tag.name().0.to_owned();
        let is_named = !name.is_empty();
        self.open.push(Element {
            role: name.clone(),
            name,
            place,
            attributes: Vec::new(),
            children: Vec::new(),
            text: None,
            content: Content::default(),
        });
        if !is_named {
            self.fault(start + 1, Fault::Syntax { expected: "the name of an element".to_owned() });
        }
        let attributes = self.attributes(tag, start + 1, end);
        self.nodes += 1 + attributes.len();
        if let Some(element) = self.open.last_mut() {
            element.attributes = attributes;
        }
        if self.nodes > NODES_MAX {
            self.fault(start, Fault::TooMany { most: NODES_MAX });
            return Next::Stop;
        }
        Next::Go
    }

    fn attributes(&mut self, tag: &BytesStart<'_>, base: usize, end: usize) -> Vec<Attribute> {
        let content: &str = tag;
        // The slices of an attribute lie in the tag's own text, so their distance from its start is a position.
        let offset_of = |part: &str| base + (part.as_ptr() as usize).saturating_sub(content.as_ptr() as usize);
        let mut found: Vec<Attribute> = Vec::new();
        for attribute in tag.attributes() {
            let attribute = match attribute {
                Ok(attribute) => attribute,
                Err(error) => {
                    self.attribute_fault(&error, base, end, &found);
                    continue;
                }
            };
            let (name_at, value_at) = (offset_of(attribute.key.0), offset_of(&attribute.value));
            let value = self.unescape(attribute.key.0, &attribute.value, value_at);
            let (place, value_place) = (self.places.at(name_at), self.places.at(value_at));
            let name = attribute.key.0.to_owned();
            found.push(Attribute { role: name.clone(), name, place, value, value_place, is_sound: true });
        }
        found
    }

    fn attribute_fault(&mut self, error: &AttrError, base: usize, end: usize, found: &[Attribute]) {
        let at = |relative: usize| (base + relative).min(end);
        let expected = |text: &str| Fault::BadAttribute { expected: text.to_owned() };
        match *error {
            AttrError::ExpectedEq(p) => self.fault(at(p), expected("`=` and a value in quotes")),
            AttrError::ExpectedValue(p) => self.fault(at(p), expected("a value in quotes")),
            AttrError::UnquotedValue(p) => self.fault(at(p), expected("a quote before the value")),
            // Only of a tag that was cut off, which is reported with its place.
            AttrError::ExpectedQuote(..) => {}
            AttrError::Duplicated(p, previous) => {
                let first = self.places.at(at(previous));
                let name = found.iter().find(|a| a.place == first).map(|a| a.name.clone()).unwrap_or_default();
                self.fault_in(&name, at(p), Fault::AttributeTwice { first });
            }
        }
    }

    /// Resolves the five entities of XML and character numbers; line ends and tabs count as blanks.
    fn unescape(&mut self, attribute: &str, raw: &str, at: usize) -> String {
        let mut value = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some(c) = rest.chars().next() {
            let offset = at + raw.len() - rest.len();
            if c == '<' {
                self.fault_in(attribute, offset, Fault::Syntax { expected: "`&lt;`".to_owned() });
            }
            if c != '&' {
                value.push(if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c });
                rest = &rest[c.len_utf8()..];
                continue;
            }
            let reference = rest[1..].split_once(';').filter(|(name, _)| name.len() <= 32);
            match reference.map(|(name, after)| (entity(name), name, after)) {
                Some((Some(resolved), _, after)) => {
                    value.push(resolved);
                    rest = after;
                }
                Some((None, name, _)) if name.chars().all(|c| c.is_alphanumeric() || c == '#') => {
                    self.fault_in(attribute, offset, Fault::UnknownEntity { name: shorten(name) });
                    rest = &rest[1..];
                }
                Some(_) | None => {
                    self.fault_in(attribute, offset, Fault::Syntax { expected: "`&amp;`".to_owned() });
                    rest = &rest[1..];
                }
            }
        }
        value
    }

    fn text_at(&mut self, text: &str, start: usize) {
        let begin = self.places.at(start);
        if let Some(element) = self.open.last_mut() {
            element.content.push(text, begin);
        }
        let Some(offset) = text.find(|c: char| !c.is_whitespace()) else { return };
        let place = self.places.at(start + offset);
        match self.open.last_mut() {
            Some(element) => {
                element.text.get_or_insert(place);
            }
            None => self.fault(start + offset, Fault::OutsideRoot),
        }
    }

    fn close(&mut self, found: &str, start: usize) {
        let Some(innermost) = self.open.last() else {
            return self.fault(start, Fault::LoneEndTag { found: shorten(found) });
        };
        if innermost.name == found {
            return self.pop();
        }
        let fault = Fault::WrongEndTag { open: innermost.name.clone(), opened: innermost.place, found: shorten(found) };
        let is_typo = is_near(found, &innermost.name);
        self.fault(start, fault);
        // Closes an outer element: those inside lack their end tags. A misspelt name closes the element it is
        // like; any other end tag is one too many.
        if self.open.iter().any(|e| e.name == found) {
            while self.open.last().is_some_and(|e| e.name != found) {
                self.pop();
            }
            self.pop();
        } else if is_typo {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some(element) = self.open.pop() else { return };
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None if self.root.is_none() => self.root = Some(element),
            None => {
                let place = element.place;
                self.fault_at(place, String::new(), None, Fault::OutsideRoot);
            }
        }
    }

    fn refuse(&mut self, error: &quick_xml::Error, start: usize, at: usize) -> Next {
        match error {
            quick_xml::Error::Syntax(syntax) => {
                // A quote that never ends, or a last tag without `>`: the tag may end before the next `<`.
                let rest = &self.text[start..];
                let is_tag = rest.starts_with('<') && !["<!", "<?", "</"].iter().any(|p| rest.starts_with(p));
                if let Some(cut) = rest.get(1..).filter(|_| is_tag).and_then(cut) {
                    return self.begin_cut(cut, start);
                }
                let expected = match syntax {
                    SyntaxError::UnclosedPI | SyntaxError::UnclosedXmlDecl => "?>",
                    SyntaxError::UnclosedComment => "-->",
                    SyntaxError::UnclosedCData => "]]>",
                    SyntaxError::UnclosedSingleQuotedAttributeValue => "'",
                    SyntaxError::UnclosedDoubleQuotedAttributeValue => "\"",
                    SyntaxError::UnclosedDoctype | SyntaxError::UnclosedTag => ">",
                    SyntaxError::InvalidBangMarkup => {
                        let expected = "a comment, a CDATA section or a DOCTYPE".to_owned();
                        self.fault(start, Fault::Syntax { expected });
                        return Next::Stop;
                    }
                };
                self.fault(start, Fault::CutOff { expected: expected.to_owned() });
                Next::Stop
            }
            quick_xml::Error::IllFormed(IllFormedError::UnclosedReference) => {
                self.fault(at, Fault::Syntax { expected: "`&amp;`".to_owned() });
                Next::Go
            }
            // Faults of the XML declaration and the DOCTYPE's name: neither changes what the text means.
            quick_xml::Error::IllFormed(IllFormedError::MissingDoctypeName) => {
                self.fault(start, Fault::Doctype);
                Next::Go
            }
            quick_xml::Error::IllFormed(_) => {
                self.fault(start, Fault::Syntax { expected: "well-formed XML".to_owned() });
                Next::Go
            }
            _ => {
                self.fault(at, Fault::Syntax { expected: "well-formed XML".to_owned() });
                Next::Stop
            }
        }
    }

    fn end(mut self, is_cut: bool) -> Document {
        // Behind a tag that does not end, end tags may well be there: their lack is no problem of its own.
        while !self.open.is_empty() {
            let path = self.path();
            if let Some(open) = self.open.last()
                && !is_cut
            {
                let fault = Fault::NeverClosed { open: open.name.clone() };
                let place = open.place;
                self.fault_at(place, path, None, fault);
            }
            self.pop();
        }
        if self.root.is_none() && self.is_whole {
            self.fault(self.text.len(), Fault::NoRoot);
        }
        Document { root: self.root, is_whole: self.is_whole }
    }

    fn path(&self) -> String {
        self.open.iter().map(|e| e.name.as_str()).collect::<Vec<_>>().join("/")
    }

    fn fault(&mut self, offset: usize, fault: Fault) {
        let (place, path) = (self.places.at(offset), self.path());
        self.fault_at(place, path, None, fault);
    }

    fn fault_in(&mut self, attribute: &str, offset: usize, fault: Fault) {
        let (place, path) = (self.places.at(offset), self.path());
        self.fault_at(place, path, Some(attribute.to_owned()).filter(|a| !a.is_empty()), fault);
    }

    fn fault_at(&mut self, place: Place, path: String, attribute: Option<String>, fault: Fault) {
        self.is_whole = false;
        self.problems.push(Problem::error(place, path, attribute, ProblemKind::Malformed(fault)));
    }
}

impl Problem {
    pub(crate) fn error(place: Place, element: String, attribute: Option<String>, kind: ProblemKind) -> Problem {
        Problem { place, element, attribute, kind, severity: Severity::Error }
    }
}

/// Greatest number of characters of a text quoted in a problem.
const QUOTE_MAX: usize = 80;

/// `text`, cut to what a message can hold.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(QUOTE_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Where a tag that does not end before the next `<` is cut. Offsets from behind the tag's `<`.
#[derive(Clone, Copy)]
struct Cut {
    /// The `<` of the next tag.
    end: usize,
    /// Where `lacks` should stand.
    lacks_at: usize,
    /// A quote or `>`.
    lacks: char,
}

/// Finds the end of a tag that swallows the next one. `content` begins behind its `<`. A value that holds a `<` and
/// is followed by what may follow a value is no such case.
fn cut(content: &str) -> Option<Cut> {
    let mut at = 0;
    while let Some(found) = content[at..].find(['"', '\'', '<', '>']) {
        let here = at + found;
        let quote = match content.as_bytes()[here] {
            b'>' => return None,
            b'<' => return Some(Cut { end: here, lacks_at: content[..here].trim_end().len(), lacks: '>' }),
            quote => char::from(quote),
        };
        let value = &content[here + 1..];
        let close = value.find(quote);
        let ends_tag = |rest: &str| rest.starts_with("/>") || rest.starts_with(|c: char| c.is_whitespace() || c == '>');
        let is_closed = close.is_some_and(|c| ends_tag(&value[c + 1..]));
        let inside = &value[..close.unwrap_or(value.len())];
        if let Some(next) = inside.find('<').filter(|_| !is_closed) {
            let line_end = inside[..next].find('\n').unwrap_or(next);
            let line = &inside[..line_end];
            let lacks_at = line.rfind("/>").or_else(|| line.rfind('>')).unwrap_or(line_end);
            return Some(Cut { end: here + 1 + next, lacks_at: here + 1 + lacks_at, lacks: quote });
        }
        at = here + 1 + close? + 1;
    }
    None
}

fn entity(name: &str) -> Option<char> {
    Some(match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            // Characters XML does not allow, NUL first of all: a path with one would be cut there.
            char::from_u32(code).filter(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r'))?
        }
    })
}

fn is_entity(name: &str) -> bool {
    entity(name).is_some()
}
