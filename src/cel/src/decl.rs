//! Types of data as schemas declare them, with the bounds that cost estimates
//! are made from.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::Type;

/// The largest request that an API server accepts, in bytes.
pub const MAX_REQUEST_SIZE: u64 = 3 * 1024 * 1024;

/// A declared type.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclType {
    /// As the checker sees it.
    pub ty: Type,
    /// Fields of an object, by escaped name.
    pub fields: BTreeMap<String, DeclField>,
    /// Items of a list, values of a map.
    pub element: Option<Arc<DeclType>>,
    /// How many items, entries, characters or bytes there may be.
    pub max_elements: u64,
    /// The fewest bytes a value takes as JSON.
    pub min_size: u64,
    /// How a JSON value is to be read.
    pub read: Read,
}

/// A declared field.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclField {
    /// The name in JSON.
    pub name: String,
    /// The type of its values.
    pub ty: Arc<DeclType>,
    /// Whether it must be there.
    pub required: bool,
    /// What it is when absent, where the schema says so.
    pub default: Option<serde_json::Value>,
}

/// How JSON becomes a value of the declared type.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Read {
    /// As it is.
    #[default]
    Plain,
    /// A text that is a duration.
    Duration,
    /// A text that is a day.
    Date,
    /// A text that is a moment.
    DateTime,
    /// A text of base64.
    Bytes,
    /// A list that is compared as a set.
    Set,
    /// A list that is compared by keys, and those keys.
    ListMap(Vec<String>),
    /// Unknown to the schema; cannot be looked into.
    Opaque,
}

impl DeclType {
    /// A scalar.
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

    /// Anything at all.
    pub fn any() -> Self {
        Self::simple(Type::Dyn, 0, 1)
    }

    /// A list of at most so many items.
    pub fn list(element: Arc<DeclType>, max_items: u64) -> Self {
        let mut list = Self::simple(Type::list(element.ty.clone()), max_items, 2);
        list.element = Some(element);
        list
    }

    /// A map from texts to values.
    pub fn map(element: Arc<DeclType>, max_entries: u64) -> Self {
        let ty = Type::map(Type::String, element.ty.clone());
        let mut map = Self::simple(ty, max_entries, 2);
        map.element = Some(element);
        map
    }

    /// An object; unnamed ones get names from [`DeclType::named`].
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

    /// Whether values have fields.
    pub fn is_object(&self) -> bool {
        matches!(self.ty, Type::Struct(_))
    }

    /// The same with names for the objects in it that have none, made from the
    /// place they are at.
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

    /// All objects in it, by name.
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

    /// The type at a path of field names, `@items`, `@values` and `@keys` below
    /// a variable; `None` if nothing is known.
    pub(crate) fn at(&self, path: &[String]) -> Option<u64> {
        let mut now = self;
        for step in path {
            match step.as_str() {
                "@items" | "@values" => now = now.element.as_deref()?,
                // Keys have no bound of their own; upstream counts them as nothing.
                "@keys" => return matches!(now.ty, Type::Map(_)).then_some(0),
                field => now = &now.fields.get(field)?.ty,
            }
        }
        Some(now.max_elements)
    }

    /// How often a value of this type may be in one request.
    pub fn max_cardinality(&self) -> u64 {
        MAX_REQUEST_SIZE / (self.min_size + 1)
    }
}

/// Words that a field may not be called by in an expression.
const KEYWORDS: [&str; 4] = ["true", "false", "null", "in"];
const RESERVED: [&str; 17] = [
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

/// Whether a name is a word of the language.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || KEYWORDS.contains(&name)
}

/// The name that a property has in expressions; `None` if it cannot have one.
/// `__`, `.`, `-`, `/` and reserved words are written in words between
/// underscores.
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

/// The property that an escaped name stands for; `None` if it is not one.
pub fn unescape(name: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        // As the pattern `__[^_]+__` would be found: leftmost, then as it goes.
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
