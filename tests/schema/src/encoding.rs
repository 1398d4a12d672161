//! How Go's JSON encoder treats each field, read from the table of protobuf fields.
//!
//! `src/api/src/protobuf/fields.txt` has one line per message with, for each field,
//! whether Go holds it by value, by pointer or as a list, and whether its `json` tag
//! lacks `omitempty` (`!`). Together they say what an encoded object contains:
//!
//! | held | tag | encoded |
//! | --- | --- | --- |
//! | scalar by value | `omitempty` | left out when zero |
//! | scalar by value | none | always, zero when unset |
//! | pointer, list, map, bytes | `omitempty` | left out when nil; a list also when empty |
//! | pointer, list, map, bytes | none | always, `null` when unset |
//! | struct by value | any | always |
//! | time, raw JSON by value | any | always, `null` when unset |

use std::collections::HashMap;

use crate::facts;
use crate::format::flag;

const TABLE: &str = include_str!("../../../src/api/src/protobuf/fields.txt");

/// Structs by value that are left out when zero (`omitzero`), by definition and field.
const OMIT_ZERO_STRUCTS: &[(&str, &str)] = &[(
    "apimachinery.pkg.apis.meta.v1.ObjectMeta",
    "creationTimestamp",
)];

/// The encoding of the fields of all messages.
pub struct Encoding {
    fields: HashMap<(&'static str, &'static str), u8>,
    embedded: HashMap<&'static str, Vec<&'static str>>,
}

impl Default for Encoding {
    /// Reads the table.
    fn default() -> Self {
        let messages = messages();
        let mut fields = HashMap::new();
        let mut embedded: HashMap<_, Vec<_>> = HashMap::new();
        for (name, (package, declared)) in &messages {
            let short = facts::short(name);
            flatten(&messages, package, declared, &mut |field, held, always| {
                let omitted = OMIT_ZERO_STRUCTS.contains(&(short, field));
                let mut flags = if omitted { 0 } else { flags_of(held, always) };
                if flags & flag::EMBEDDED != 0 {
                    flags = 0;
                    embedded.entry(short).or_default().push(field);
                }
                fields.insert((short, field), flags);
            });
        }
        Self { fields, embedded }
    }
}

impl Encoding {
    /// Returns the flags of a field; `None` if no message has it.
    pub fn flags(&self, def: &str, field: &str) -> Option<u8> {
        self.fields.get(&(def, field)).copied()
    }

    /// Returns whether Go holds a message in the field by value.
    pub fn is_embedded(&self, def: &str, field: &str) -> bool {
        self.embedded
            .get(def)
            .is_some_and(|fields| fields.contains(&field))
    }
}

/// A message's package and its fields as the table has them, by definition name.
type Messages = HashMap<&'static str, (&'static str, &'static str)>;

fn messages() -> Messages {
    let mut package = "";
    let mut messages = HashMap::new();
    for line in TABLE.lines() {
        if let Some(name) = line.strip_prefix('@') {
            package = name;
            continue;
        }
        let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
        let full = format!("{package}.{name}");
        messages.insert(&*full.leak(), (package, fields));
    }
    messages
}

/// Calls `add` with the name, the code and the `!` of each field that JSON has in the
/// message's own object.
fn flatten(
    messages: &Messages,
    package: &'static str,
    fields: &'static str,
    add: &mut impl FnMut(&'static str, &'static str, bool),
) {
    for text in fields.split(' ').filter(|text| !text.is_empty()) {
        let (_, rest) = text.split_once(':').expect("a field has a number");
        if let Some(inline) = rest.strip_prefix('>') {
            let name = match inline.strip_prefix('.') {
                Some(name) => format!("{package}.{name}"),
                None => inline.to_owned(),
            };
            let (package, fields) = messages
                .get(name.as_str())
                .unwrap_or_else(|| panic!("fields.txt has no {name}"));
            flatten(messages, package, fields, add);
            continue;
        }
        let (name, code) = rest.split_once('=').expect("a field has a type");
        match name.strip_suffix('!') {
            Some(name) => add(name, code, true),
            None => add(name, code, false),
        }
    }
}

fn flags_of(code: &str, always: bool) -> u8 {
    let null_if_always = if always { flag::ALWAYS | flag::NULL } else { 0 };
    match code {
        "s" | "b" | "i" | "l" | "d" if always => flag::ALWAYS,
        "s" | "b" | "i" | "l" | "d" => flag::OMIT_ZERO,
        "q" | "o" => flag::ALWAYS,
        "t" | "u" | "r" => flag::ALWAYS | flag::NULL,
        "y" if !always => flag::OMIT_ZERO,
        // Schemas or something else are always pointers.
        "y" | "x" | "ca" | "cb" | "cs" => null_if_always,
        _ if code.starts_with('*') || code.starts_with("[]") || code.starts_with("{}") => {
            null_if_always
        }
        _ => flag::EMBEDDED,
    }
}
