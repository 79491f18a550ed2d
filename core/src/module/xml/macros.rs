//! `<macro name="X" value="…"/>` and `%X%`.
//!
//! Values are expanded in the tree, after the text was read: every place still is that of the original text, and
//! a macro can never make elements. A macro may use macros that stand before it. A `%` that begins no `%NAME%` is
//! a plain `%`. There is no expansion of environment variables: two nodes could read two configurations.

use crate::markup::schema::near;
use crate::markup::tree::{Attribute, Element, shorten};
use crate::markup::value::is_variable_name;
use crate::markup::{Expected, Place, Problem, ProblemKind};
use std::collections::BTreeMap;

/// Longest value after expansion: macros of macros could otherwise double their way through memory.
const VALUE_BYTES_MAX: usize = 64 * 1024;

type Macros = BTreeMap<String, (String, Place)>;

/// Expands every value below `root`.
pub(super) fn expand(root: &mut Element, problems: &mut Vec<Problem>) {
    let mut macros = Macros::new();
    let root_path = root.name.clone();
    for child in root.children.iter_mut().filter(|c| c.name == "macro") {
        let path = format!("{root_path}/macro");
        for attribute in child.attributes.iter_mut().filter(|a| a.name == "value") {
            expand_value(attribute, &path, &macros, problems);
        }
        let find = |name: &str| child.attributes.iter().find(|a| a.name == name);
        let (Some(name), Some(value)) = (find("name"), find("value")) else { continue };
        let text = name.value.trim();
        let wrong = |kind| Problem::error(name.value_place, path.clone(), Some("name".to_owned()), kind);
        if text.is_empty() {
            continue; // the table says so
        }
        if !is_variable_name(text) {
            problems.push(wrong(ProblemKind::BadValue { value: shorten(text), expected: Expected::VariableName }));
        } else if let Some((_, first)) = macros.get(text) {
            problems.push(wrong(ProblemKind::DuplicateName { name: shorten(text), first: *first }));
        } else {
            macros.insert(text.to_owned(), (value.value.clone(), name.value_place));
        }
    }
    for child in root.children.iter_mut().filter(|c| c.name != "macro") {
        let path = format!("{root_path}/{}", shorten(&child.name));
        expand_below(child, &path, &macros, problems);
    }
}

fn expand_below(element: &mut Element, path: &str, macros: &Macros, problems: &mut Vec<Problem>) {
    for attribute in &mut element.attributes {
        expand_value(attribute, path, macros, problems);
    }
    for child in &mut element.children {
        let path = format!("{path}/{}", shorten(&child.name));
        expand_below(child, &path, macros, problems);
    }
}

fn expand_value(attribute: &mut Attribute, path: &str, macros: &Macros, problems: &mut Vec<Problem>) {
    let mut value = String::with_capacity(attribute.value.len());
    let mut rest = attribute.value.as_str();
    let mut is_sound = true;
    let mut wrong = |kind| problems.push(Problem::error(attribute.value_place, path.to_owned(), Some(shorten(&attribute.name)), kind));
    while let Some((before, after)) = rest.split_once('%') {
        value.push_str(before);
        let name = after.split_once('%').filter(|(name, _)| is_variable_name(name));
        rest = match name {
            None => {
                value.push('%');
                after
            }
            Some((name, behind)) => {
                match macros.get(name) {
                    Some((text, _)) => value.push_str(text),
                    None => {
                        is_sound = false;
                        let near = near(name, macros.keys().map(String::as_str)).map(str::to_owned);
                        wrong(ProblemKind::UnknownMacro { name: shorten(name), near });
                    }
                }
                behind
            }
        };
        if value.len() > VALUE_BYTES_MAX {
            is_sound = false;
            let most = format!("{VALUE_BYTES_MAX} bytes");
            wrong(ProblemKind::TooLarge { value: shorten(&value), most });
            break;
        }
    }
    value.push_str(rest);
    attribute.is_sound = attribute.is_sound && is_sound;
    attribute.value = value;
}
