//! What of a replicated directory is not replicated: what lies at a path, and what has a name that an expression fits.
//!
//! Each node decides for itself, and both must decide alike: nothing counts but the configuration, the path, and whether it
//! is a directory. Below what is excluded everything is; whoever walks a tree does not go there, and asks of each entry of
//! a directory that is replicated.

use super::volume;
use anyhow::bail;
use regex::{RegexBuilder, RegexSet, RegexSetBuilder};
use std::io;
use tsugi_core::module::xml::Problem;
use tsugi_core::module::{ModuleDef, NamePattern, Replicated};

/// An expression compiled, and all of a directory together: hundreds of times what names need.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// Groups inside one another.
const NEST_MAX: u32 = 50;
/// Expressions of one directory: each is tried by itself before it is used.
const PATTERNS_MAX: usize = 100;

/// What is not replicated of one directory. The default: nothing.
#[derive(Debug, Default)]
pub struct Excluded {
    /// Relative to it, without a slash at the end.
    paths: Vec<Vec<u8>>,
    /// Whatever one of these fits.
    unwanted: Option<RegexSet>,
    /// And what none of these fits, unless it is a directory: it may hold something that one does.
    wanted: Option<RegexSet>,
}

impl Excluded {
    /// As configured.
    ///
    /// # Errors
    /// Every expression that cannot be used. A configuration that has one is not taken ([`problems`]).
    pub fn new(tree: &Replicated) -> Result<Self, Vec<Problem>> {
        let problems: Vec<_> = tree.not_replicated_names.iter().enumerate().filter_map(|(at, pattern)| problem(at, pattern)).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let set = |is_for: fn(&NamePattern) -> bool| set(tree.not_replicated_names.iter().filter(|p| is_for(p)).collect());
        Ok(Self {
            paths: tree.not_replicated.iter().map(|p| p.trim_matches('/').as_bytes().to_vec()).collect(),
            unwanted: set(|p| !is_of_wanted(p))?,
            wanted: set(is_of_wanted)?,
        })
    }

    /// The same of a configuration that was judged before.
    ///
    /// # Errors
    /// It was judged by another version, which takes more.
    pub fn judged(tree: &Replicated) -> anyhow::Result<Self> {
        match Self::new(tree) {
            Ok(excluded) => Ok(excluded),
            Err(problems) => bail!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        }
    }

    /// Whether everything is replicated.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.unwanted.is_none() && self.wanted.is_none()
    }

    /// Whether an entry of a replicated directory is not replicated. `parent` is the path of that directory, `is_dir` says
    /// whether the entry is one itself. Mostly the name alone tells, and neither is asked for.
    ///
    /// # Errors
    /// Those of `parent` and `is_dir`.
    pub fn is_excluded_entry<P: AsRef<[u8]>>(
        &self,
        parent: impl FnOnce() -> io::Result<P>,
        name: &[u8],
        is_dir: impl FnOnce() -> io::Result<bool>,
    ) -> io::Result<bool> {
        if self.unwanted.as_ref().is_some_and(|unwanted| fits(unwanted, name)) {
            return Ok(true);
        }
        if self.paths.iter().any(|path| split(path).1 == name) && self.paths.contains(&volume::join(parent()?.as_ref(), name)) {
            return Ok(true);
        }
        match &self.wanted {
            Some(wanted) if !fits(wanted, name) => Ok(!is_dir()?),
            Some(_) | None => Ok(false),
        }
    }

    /// Whether what is at a path, or a directory on the way to it, is not replicated.
    ///
    /// # Errors
    /// That of `is_dir`.
    pub fn is_excluded(&self, path: &[u8], is_dir: impl FnOnce() -> io::Result<bool>) -> io::Result<bool> {
        if self.is_empty() || path.is_empty() {
            return Ok(false);
        }
        for (at, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let (parent, name) = split(&path[..at]);
            if self.is_excluded_entry(|| Ok(parent), name, || Ok(true))? {
                return Ok(true);
            }
        }
        let (parent, name) = split(path);
        self.is_excluded_entry(|| Ok(parent), name, is_dir)
    }
}

/// Every expression of a definition that cannot be used.
pub fn problems(def: &ModuleDef) -> Vec<Problem> {
    def.rfs.iter().flat_map(|rfs| &rfs.replicated).filter_map(|tree| Excluded::new(tree).err()).flatten().collect()
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.iter().rposition(|b| *b == b'/').map_or((&[], path), |at| (&path[..at], &path[at + 1..]))
}

/// Names are any bytes. One that is no UTF-8 counts as an unknown character: `^.*\.tmp$` must fit it, whatever comes before.
fn fits(set: &RegexSet, name: &[u8]) -> bool {
    set.is_match(&String::from_utf8_lossy(name))
}

fn is_of_wanted(pattern: &NamePattern) -> bool {
    pattern.text.starts_with('!')
}

/// Without what says whether it is of the wanted.
fn expression(pattern: &NamePattern) -> &str {
    pattern.text.strip_prefix('!').unwrap_or(&pattern.text)
}

/// Why the expression at this position of the list cannot be used.
fn problem(at: usize, pattern: &NamePattern) -> Option<Problem> {
    if at >= PATTERNS_MAX {
        let why = format!("a directory may have {PATTERNS_MAX} of them; several can be one, with `|` between them");
        return (at == PATTERNS_MAX).then(|| pattern.cannot_be_used(&why));
    }
    let mut builder = RegexBuilder::new(expression(pattern));
    builder.size_limit(COMPILED_BYTES_MAX).nest_limit(NEST_MAX).dot_matches_new_line(true);
    builder.build().err().map(|error| pattern.cannot_be_used(&why(&error)))
}

fn why(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => "it would take too much memory; a smaller number of repetitions helps".to_owned(),
        // The last line says it, those before it draw where.
        other => other.to_string().lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned(),
    }
}

/// All of them in one: a name is looked at once. `None`: there is none.
fn set(patterns: Vec<&NamePattern>) -> Result<Option<RegexSet>, Vec<Problem>> {
    let Some(last) = patterns.last() else { return Ok(None) };
    let mut builder = RegexSetBuilder::new(patterns.iter().map(|p| expression(p)));
    builder.size_limit(COMPILED_BYTES_MAX).dfa_size_limit(COMPILED_BYTES_MAX).nest_limit(NEST_MAX).dot_matches_new_line(true);
    let of_all = |error| vec![last.cannot_be_used(&format!("with those before it: {}", why(&error)))];
    builder.build().map(Some).map_err(of_all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in a test it is the assertion
    use super::*;
    use tsugi_core::module::xml::{self, Place};

    fn pattern(text: &str) -> NamePattern {
        NamePattern { text: text.to_owned(), place: Place::START }
    }

    fn excluded(paths: &[&str], names: &[&str]) -> Excluded {
        let tree = Replicated {
            not_replicated: paths.iter().map(|p| (*p).to_owned()).collect(),
            not_replicated_names: names.iter().map(|n| pattern(n)).collect(),
            ..Replicated::default()
        };
        Excluded::new(&tree).unwrap()
    }

    fn nobody_asks<T>() -> io::Result<T> {
        panic!("the name alone tells")
    }

    /// Of names that say it alone: whether they are excluded.
    fn by_name(excluded: &Excluded, names: &[&str]) -> Vec<bool> {
        names.iter().map(|name| excluded.is_excluded_entry(nobody_asks::<Vec<u8>>, name.as_bytes(), nobody_asks).unwrap()).collect()
    }

    #[test]
    fn an_expression_is_searched_in_the_name_and_case_counts() {
        let of = |expression: &str, name: &str| by_name(&excluded(&[], &[expression]), &[name])[0];
        assert!(of(r"\.tmp$", "a.tmp") && of("tmp", "a.tmp.swap") && of("^a", "a.tmp") && of(r".*\.tmp$", ".tmp"));
        assert!(!of(r"\.tmp$", "a.tmp.swap") && !of(r"\.tmp$", "a.TMP") && !of("^tmp", "a.tmp"));
        // As POSIX has it.
        assert!(of("^[[:alpha:]_]+[[:digit:]]{2,3}$", "core_12") && !of("^[[:alpha:]]+[[:digit:]]{2,3}$", "core1"));
        assert!(of("^(bak|old)?~$", "~") && of("^[]x]$", "]") && of("^a.b$", "a\nb") && !of("a$", "a\n"));
        // A path never: that has no names.
        assert!(!of("a/b", "b"));
        // Names are any characters, and any bytes.
        assert!(of("^控.$", "控え") && of("^[あ-ん]+$", "ひかえ"));
        let any = excluded(&[], &[r"^.*\.tmp$"]);
        assert!(any.is_excluded_entry(nobody_asks::<Vec<u8>>, b"\xe9t\xe9.tmp", nobody_asks).unwrap());
    }

    #[test]
    fn a_configuration_that_knows_no_expressions_is_understood() {
        let tree: Replicated = serde_json::from_str(r#"{"dir":"/srv/a","not_replicated":["b/"],"to_check":[]}"#).unwrap();
        let excluded = Excluded::new(&tree).unwrap();
        assert!(excluded.is_excluded(b"b/c", nobody_asks).unwrap() && !excluded.is_excluded(b"c", nobody_asks).unwrap());
    }

    #[test]
    fn several_expressions_and_paths_add_up() {
        let both = excluded(&["a/cache", "top"], &[r"\.tmp$", "^~"]);
        assert_eq!(by_name(&both, &["x.tmp", "~x", "x~", "cache.x"]), [true, true, false, false]);
        let at = |parent: &'static str, name: &str| both.is_excluded_entry(|| Ok(parent), name.as_bytes(), nobody_asks).unwrap();
        assert!(at("a", "cache") && !at("b", "cache") && !at("", "cache") && at("", "top") && !at("a", "top"));
        let is = |path: &str| both.is_excluded(path.as_bytes(), nobody_asks).unwrap();
        assert!(is("a/cache") && is("a/cache/below/it") && is("d.tmp/below/it") && is("b/~c/d"));
        assert!(!is("") && !is("a") && !is("a/cache2") && !is("b/a/cache") && !is("d.tmp2/below"));
        assert!(Excluded::default().is_empty() && !both.is_empty());
    }

    #[test]
    fn with_an_exclamation_mark_only_files_that_one_fits_are_replicated_and_directories_always() {
        let only = excluded(&["gone"], &[r"!\.mdf$", r"!\.ldf$", "^old"]);
        let of = |name: &str, is_dir: bool| only.is_excluded_entry(|| Ok(""), name.as_bytes(), || Ok(is_dir)).unwrap();
        assert!(!of("a.mdf", false) && !of("a.ldf", false) && of("a.txt", false));
        assert!(!of("dir", true) && !of("dir.mdf", true));
        // What is excluded otherwise stays so.
        assert!(of("old.mdf", false) && of("old", true) && of("gone", true));
        let is = |path: &str, is_dir: bool| only.is_excluded(path.as_bytes(), || Ok(is_dir)).unwrap();
        assert!(!is("dir/a.mdf", false) && is("dir/a", false) && !is("dir/a", true) && is("dir/old/a.mdf", false));
        // A directory that one fits brings along nothing of what is in it.
        assert!(is("dir.mdf/a", false));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_place_and_remedy() {
        let expressions =
            [r"\.(tmp", r"\.tmp$", "*.bak", "!a{", "[a-", "(a{500}){500}{500}", &format!("{}a{}", "(".repeat(60), ")".repeat(60))];
        let elements = expressions.map(|e| format!("  <notreplicated regexpath=\"{e}\"/>\n")).concat();
        let text = format!(
            "<safe><service mode=\"mirror\"><user/><rfs>\n <replicated dir=\"/srv/a\">\n{elements} </replicated>\n \
             <replicated dir=\"/srv/b\"><notreplicated path=\"x\" regexpath=\"(?=a)\"/></replicated></rfs></service></safe>"
        );
        let found = problems(&xml::parse(&text, &xml::ParseContext::default()).def.unwrap());
        let said = |at: usize, place: &str, expression: &str, why: &str| {
            let found = found[at].to_string();
            let wanted = format!(
                "{place} safe/service/rfs/replicated/notreplicated regexpath: The regular expression `{expression}` cannot be used: {why}"
            );
            assert!(found.starts_with(&wanted) && found.contains(". Correct the expression"), "{found}\n{wanted}");
        };
        said(0, "3:29", r"\.(tmp", "unclosed group");
        said(1, "5:29", "*.bak", "repetition operator missing expression");
        said(2, "6:29", "!a{", "");
        said(3, "7:29", "[a-", "unclosed character class");
        said(4, "8:29", "(a{500}){500}{500}", "it would take too much memory");
        said(5, "9:29", &format!("{}a{}…", "(".repeat(60), ")".repeat(19)), "");
        said(6, "11:62", "(?=a)", "look-around");
        assert_eq!(found.len(), 7);
    }

    #[test]
    fn expressions_are_bounded_in_number_and_all_together() {
        let many = |count: usize, text: &str| {
            let not_replicated_names = (0..count).map(|n| pattern(&format!("{text}{n}"))).collect();
            Excluded::new(&Replicated { not_replicated_names, ..Replicated::default() })
        };
        assert!(many(PATTERNS_MAX, "a").is_ok());
        let said = |refused: Result<Excluded, Vec<Problem>>| refused.unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>();
        let one = said(many(PATTERNS_MAX + 50, "a"));
        assert!(one.len() == 1 && one[0].contains("with `|` between them"), "{one:?}");
        assert!(many(1, r"\w{20}").is_ok(), "one of them alone");
        let together = said(many(PATTERNS_MAX, r"\w{20}"));
        assert!(together.len() == 1 && together[0].contains("with those before it"), "{together:?}");
    }
}
