//! The table of messages, parsed from `fields.txt`.
//!
//! The file has `@package` lines, each followed by one line per message with its fields as
//! `number:name=type`. A `!` after the name marks fields that JSON contains even when
//! empty. A `>` in place of the name marks a message whose fields JSON has in the parent.
//! A type is preceded by `*` (held by pointer in Go), `[]` (a list) or `{}` (a map with
//! string keys), and is one of:
//!
//! | | |
//! | --- | --- |
//! | `s` `b` `i` `l` `d` `y` | text, flag, 32 and 64 bits, floating point, bytes |
//! | `q` `o` `t` `u` `r` | quantity, number or text, time, with microseconds, raw JSON |
//! | `x` | texts in a message of their own |
//! | `ca` `cb` `cs` | a schema, or schemas; or a flag; or texts |
//! | `.Name`, `~Name`, `package.Name` | a message of this package, of `meta/v1`, of another |

use std::collections::HashMap;
use std::sync::LazyLock;

const META: &str = "apimachinery.pkg.apis.meta.v1";

/// A message, by its position in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message(u16);

/// The type of a single value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Text,
    Flag,
    Int32,
    Int64,
    Double,
    Bytes,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Raw,
    Texts,
    SchemaOrSchemas,
    SchemaOrFlag,
    SchemaOrTexts,
    Message(Message),
}

/// The cardinality of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// One, always written.
    Value,
    /// One or none.
    Pointer,
    List,
    Map,
    /// A message whose fields are in the parent's object.
    Inline,
}

/// A field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub number: u32,
    /// The name in JSON; empty for inline messages.
    pub name: &'static str,
    pub holder: Holder,
    pub shape: Shape,
    /// Whether JSON contains it even when it is empty.
    pub always: bool,
}

struct Table {
    messages: Vec<Vec<Field>>,
    names: HashMap<(&'static str, &'static str), Message>,
}

static TABLE: LazyLock<Table> = LazyLock::new(read);

impl Message {
    /// Returns the fields in the order of their numbers.
    pub fn fields(self) -> &'static [Field] {
        &TABLE.messages[usize::from(self.0)]
    }

    /// Returns the field with a number.
    pub fn field(self, number: u32) -> Option<&'static Field> {
        let fields = self.fields();
        let at = fields.binary_search_by_key(&number, |f| f.number).ok()?;
        Some(&fields[at])
    }
}

/// Returns a message by package and name.
pub fn named(package: &str, name: &str) -> Option<Message> {
    TABLE.names.get(&(package, name)).copied()
}

/// Returns every message by the name of its OpenAPI definition without `io.k8s.`.
#[cfg(test)]
pub fn all() -> impl Iterator<Item = (String, Message)> {
    TABLE
        .names
        .iter()
        .map(|((package, name), message)| (format!("{package}.{name}"), *message))
}

/// Returns the message of a kind.
pub fn find_kind(api_version: &str, kind: &str) -> Option<Message> {
    let (group, version) = crate::gvk::parse_api_version(api_version);
    // Every group version has options and statuses.
    let meta = || {
        (kind.ends_with("Options") || matches!(kind, "Status" | "WatchEvent"))
            .then(|| named(META, kind))
            .flatten()
    };
    match group {
        // Kinds that are the same in both versions.
        "meta.k8s.io" => named(&format!("apimachinery.pkg.apis.meta.{version}"), kind)
            .or_else(|| named(META, kind)),
        "apiextensions.k8s.io" => named(
            &format!("apiextensions-apiserver.pkg.apis.apiextensions.{version}"),
            kind,
        )
        .or_else(meta),
        "apiregistration.k8s.io" => named(
            &format!("kube-aggregator.pkg.apis.apiregistration.{version}"),
            kind,
        )
        .or_else(meta),
        "" => named(&format!("api.core.{version}"), kind)
            .or_else(meta)
            // Kinds of discovery.
            .or_else(|| kind.starts_with("API").then(|| named(META, kind)).flatten()),
        group => {
            let package = group.split('.').next().unwrap_or_default();
            named(&format!("api.{package}.{version}"), kind).or_else(meta)
        }
    }
}

fn read() -> Table {
    const TEXT: &str = include_str!("fields.txt");
    let lines = || {
        let mut package = "";
        TEXT.lines().filter_map(move |line| {
            if let Some(name) = line.strip_prefix('@') {
                package = name;
                return None;
            }
            let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
            Some((package, name, fields))
        })
    };
    let mut names = HashMap::new();
    for (i, (package, name, _)) in lines().enumerate() {
        names.insert((package, name), Message(i as u16));
    }
    let messages = lines()
        .map(|(package, name, fields)| {
            fields
                .split(' ')
                .filter(|f| !f.is_empty())
                .map(|text| {
                    // A test reads the whole table: what is wrong in it is
                    // found there and not by a client.
                    field(text, package, &names)
                        .unwrap_or_else(|| panic!("fields.txt: {package}.{name}: {text}"))
                })
                .collect()
        })
        .collect();
    Table { messages, names }
}

fn field(
    text: &'static str,
    package: &str,
    names: &HashMap<(&'static str, &'static str), Message>,
) -> Option<Field> {
    let (number, rest) = text.split_once(':')?;
    let number = number.parse().ok()?;
    if let Some(inline) = rest.strip_prefix('>') {
        return Some(Field {
            number,
            name: "",
            holder: Holder::Inline,
            shape: shape(inline, package, names)?,
            always: false,
        });
    }
    let (name, code) = rest.split_once('=')?;
    let (name, always) = name.strip_suffix('!').map_or((name, false), |n| (n, true));
    let (holder, code) = if let Some(code) = code.strip_prefix("[]") {
        (Holder::List, code)
    } else if let Some(code) = code.strip_prefix("{}") {
        (Holder::Map, code)
    } else if let Some(code) = code.strip_prefix('*') {
        (Holder::Pointer, code)
    } else {
        (Holder::Value, code)
    };
    let shape = shape(code, package, names)?;
    // Bytes and texts in a message are slices, which Go leaves out when nil.
    let holder = match (holder, shape) {
        (Holder::Value, Shape::Bytes | Shape::Texts) => Holder::Pointer,
        (holder, _) => holder,
    };
    Some(Field {
        number,
        name,
        holder,
        shape,
        always,
    })
}

fn shape(
    code: &'static str,
    package: &str,
    names: &HashMap<(&'static str, &'static str), Message>,
) -> Option<Shape> {
    Some(match code {
        "s" => Shape::Text,
        "b" => Shape::Flag,
        "i" => Shape::Int32,
        "l" => Shape::Int64,
        "d" => Shape::Double,
        "y" => Shape::Bytes,
        "q" => Shape::Quantity,
        "o" => Shape::IntOrString,
        "t" => Shape::Time,
        "u" => Shape::MicroTime,
        "r" => Shape::Raw,
        "x" => Shape::Texts,
        "ca" => Shape::SchemaOrSchemas,
        "cb" => Shape::SchemaOrFlag,
        "cs" => Shape::SchemaOrTexts,
        _ => {
            let (package, name) = match code.split_at(1) {
                (".", name) => (package, name),
                ("~", name) => (META, name),
                _ => code.rsplit_once('.')?,
            };
            Shape::Message(*names.get(&(package, name))?)
        }
    })
}
