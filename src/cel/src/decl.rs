//! Types declared by schemas, with the size bounds that cost estimates are based on.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::Type;

/// Maximum size of a request that an API server accepts, in bytes.
pub const MAX_REQUEST_SIZE: u64 = 3 * 1024 * 1024;

/// A declared type.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclType {
    /// Static type for the checker.
    pub ty: Type,
    /// Fields of an object by escaped name; see [`escape`].
    pub fields: BTreeMap<String, DeclField>,
    /// Type of the items of a list or the values of a map.
    pub element: Option<Arc<DeclType>>,
    /// Maximum number of items, entries, characters or bytes.
    pub max_elements: u64,
    /// Minimum size of a value in JSON, in bytes.
    pub min_size: u64,
    /// Interpretation of JSON values.
    pub read: Read,
}

/// A declared field.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclField {
    /// Name of the property in JSON.
    pub name: String,
    /// Type of the values.
    pub ty: Arc<DeclType>,
    /// Whether the schema requires the field.
    pub required: bool,
    /// Default of the schema, if any.
    pub default: Option<serde_json::Value>,
}

/// Interpretation of a JSON value of a declared type.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Read {
    /// By the JSON type.
    #[default]
    Plain,
    /// A string in the format `duration`.
    Duration,
    /// A string in the format `date`.
    Date,
    /// A string in the format `date-time`.
    DateTime,
    /// A base64-encoded string.
    Bytes,
    /// A list with set semantics (`x-kubernetes-list-type: set`).
    Set,
    /// A list with map semantics (`x-kubernetes-list-type: map`), with its keys.
    ListMap(Vec<String>),
    /// A value without schema; has no accessible fields.
    Opaque,
}

impl DeclType {
    /// Returns a type without fields and elements.
    pub fn simple(ty: Type, max_elements: u64, min_size: u64) -> Self {
        Self {
            ty,
            fields: BTreeMap::new(),
            element: None,
            max_elements,
            min_size,
            read: Read::Plain,
        }
    }

    /// Returns the type of arbitrary values.
    pub fn any() -> Self {
        Self::simple(Type::Dyn, 0, 1)
    }

    /// Returns a list type with a maximum number of items.
    pub fn list(element: Arc<DeclType>, max_items: u64) -> Self {
        let mut list = Self::simple(Type::list(element.ty.clone()), max_items, 2);
        list.element = Some(element);
        list
    }

    /// Returns a map type with string keys and a maximum number of entries.
    pub fn map(element: Arc<DeclType>, max_entries: u64) -> Self {
        let ty = Type::map(Type::String, element.ty.clone());
        let mut map = Self::simple(ty, max_entries, 2);
        map.element = Some(element);
        map
    }

    /// Returns an object type. Types named `object` get their names from [`DeclType::named`].
    pub fn object(name: &str, fields: BTreeMap<String, DeclField>) -> Self {
        let mut object = Self::simple(Type::object(name), 0, 2);
        object.min_size += fields
            .values()
            .filter(|f| f.required && f.default.is_none())
            .map(|f| f.name.len() as u64 + f.ty.min_size + 4)
            .sum::<u64>();
        object.fields = fields;
        object
    }

    /// Returns whether the type is an object.
    pub fn is_object(&self) -> bool {
        matches!(self.ty, Type::Struct(_))
    }

    /// Returns the type with the given name, and nested objects named after their path. Objects
    /// that have a name keep it.
    pub fn named(self: &Arc<Self>, name: &str) -> Arc<Self> {
        if let Type::Struct(own) = &self.ty {
            if &**own != "object" {
                return self.clone();
            }
            let mut new = (**self).clone();
            new.ty = Type::object(name);
            for (field, decl) in &mut new.fields {
                decl.ty = decl.ty.named(&format!("{name}.{field}"));
            }
            return Arc::new(new);
        }
        let Some(element) = &self.element else {
            return self.clone();
        };
        let suffix = if matches!(self.ty, Type::List(_)) {
            "@idx"
        } else {
            "@elem"
        };
        let named = element.named(&format!("{name}.{suffix}"));
        let mut new = (**self).clone();
        new.ty = match &self.ty {
            Type::List(_) => Type::list(named.ty.clone()),
            _ => Type::map(Type::String, named.ty.clone()),
        };
        new.element = Some(named);
        Arc::new(new)
    }

    /// Adds all objects in the type to a map by name.
    pub(crate) fn collect(self: &Arc<Self>, into: &mut BTreeMap<String, Arc<DeclType>>) {
        if let Type::Struct(name) = &self.ty {
            if into.contains_key(&**name) {
                return;
            }
            into.insert(name.to_string(), self.clone());
            for field in self.fields.values() {
                field.ty.collect(into);
            }
        }
        if let Some(element) = &self.element {
            element.collect(into);
        }
    }

    /// Returns the maximum size of the value at a path of field names, `@items`, `@values` and
    /// `@keys`; `None` if unknown.
    pub(crate) fn at(&self, path: &[String]) -> Option<u64> {
        let mut now = self;
        for step in path {
            match step.as_str() {
                "@items" | "@values" => now = now.element.as_deref()?,
                // Keys have no bound; upstream assumes size zero.
                "@keys" => return matches!(now.ty, Type::Map(_)).then_some(0),
                field => now = &now.fields.get(field)?.ty,
            }
        }
        Some(now.max_elements)
    }

    /// Returns the maximum number of values of this type in one request.
    pub fn max_cardinality(&self) -> u64 {
        MAX_REQUEST_SIZE / (self.min_size + 1)
    }
}

/// Names that fields cannot have in expressions.
const KEYWORDS: [&str; 4] = ["true", "false", "null", "in"];
/// Words that the language reserves.
pub(crate) const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Returns whether a name is a keyword or reserved word of CEL.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || KEYWORDS.contains(&name)
}

/// Returns the name of a property in expressions, `None` if it cannot be accessed. Replaces `__`,
/// `.`, `-` and `/`, and encloses reserved words, as described for CEL in Kubernetes:
/// `__dot__`, `__dash__`, `__namespace__`.
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) || KEYWORDS.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut chars = name.chars().peekable();
    let first = *chars.peek()?;
    if !(first.is_ascii_alphabetic() || first == '_' || matches!(first, '.' | '-' | '/')) {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    while let Some(c) = chars.next() {
        match c {
            '_' if chars.peek() == Some(&'_') => {
                chars.next();
                out.push_str("__underscores__");
            }
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
    }
    Some(out)
}

/// Returns the property for an escaped name, `None` if the name is not a valid escape.
pub fn unescape(name: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        // Equivalent to a search for the pattern `__[^_]+__`: leftmost matches, without overlap.
        let after = &rest[at + 2..];
        let word_end = after.find('_').unwrap_or(after.len());
        let word = &after[..word_end];
        if word.is_empty() || !after[word_end..].starts_with("__") {
            let keep = at + 1;
            out.push_str(&rest[..keep]);
            rest = &rest[keep..];
            continue;
        }
        out.push_str(&rest[..at]);
        out.push_str(match word {
            "underscores" => "__",
            "dot" => ".",
            "dash" => "-",
            "slash" => "/",
            _ if (RESERVED.contains(&word) || KEYWORDS.contains(&word))
                && name.len() == word.len() + 4 =>
            {
                word
            }
            _ => return None,
        });
        rest = &after[word_end + 2..];
    }
    out.push_str(rest);
    Some(out)
}
