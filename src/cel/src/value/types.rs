//! Types of values.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use rkube_api::quantity::Quantity;
use serde_json::Value as Json;

use super::named_format::NamedFormat;
use super::semver::Semver;
use super::url::Url;
use crate::ast::Literal;
use crate::authz::Check;
use crate::decl::{DeclType, Read};
use crate::time::{self, Moment};
use crate::types::Type;

/// A string, borrowed from a document or program, or computed.
#[derive(Clone, Debug)]
pub enum Str<'a> {
    /// Borrowed from a document or program.
    Borrowed(&'a str),
    /// Computed.
    Shared(Arc<str>),
}

impl Deref for Str<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(s) => s,
            Self::Shared(s) => s,
        }
    }
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Signed integer.
    Int(i64),
    /// Unsigned integer.
    Uint(u64),
    /// Floating-point number.
    Double(f64),
    /// Unicode string.
    String(Str<'a>),
    /// Byte string.
    Bytes(Arc<[u8]>),
    /// Duration in nanoseconds.
    Duration(i64),
    /// Point in time.
    Timestamp(Moment),
    /// List.
    List(List<'a>),
    /// Map.
    Map(Map<'a>),
    /// Object with fields.
    Object(Object<'a>),
    /// A type.
    Type(Type),
    /// Optional value.
    Optional(Option<Arc<Value<'a>>>),
    /// A parsed URL.
    Url(Arc<Url>),
    /// Quantity.
    Quantity(Arc<Quantity>),
    /// IP address.
    Ip(IpAddr),
    /// CIDR: address and prefix length.
    Cidr(IpAddr, u8),
    /// Named format.
    Format(&'static NamedFormat),
    /// Semantic version.
    Semver(Arc<Semver>),
    /// Authorization check, or its decision.
    Check(Arc<Check>),
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// A list of a document, with its declared type if known.
    Json(&'a [Json], Option<&'a DeclType>),
    /// A computed list.
    Own(Arc<Vec<Value<'a>>>),
    /// A declared set or map to which another list was added: it stays one.
    Keyed(Arc<Vec<Value<'a>>>, &'a Read),
    /// Concatenation of two long lists, with the total length; avoids a copy.
    Concat(Arc<(List<'a>, List<'a>, usize)>),
}

/// A map.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// A map of a document, with its declared type if known.
    Json(&'a serde_json::Map<String, Json>, Option<&'a DeclType>),
    /// A computed map.
    Own(Arc<OwnMap<'a>>),
}

/// An object with fields.
#[derive(Clone, Debug)]
pub enum Object<'a> {
    /// An object of a document, with its declared type.
    Json(&'a serde_json::Map<String, Json>, &'a DeclType),
    /// An object constructed by `Name{…}`.
    Own(Arc<ConstructedObject<'a>>),
}

/// An object constructed by an expression.
#[derive(Clone, Debug)]
pub struct ConstructedObject<'a> {
    /// Name of the type.
    pub name: String,
    /// Fields, in the order of the expression.
    pub fields: Vec<(String, Value<'a>)>,
}

/// A map key, normalized so that equal keys are identical.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    Bool(bool),
    Int(i64),
    /// An integer above `i64::MAX`.
    Uint(u64),
    String(String),
}

impl Key {
    /// Returns the key for a value, `None` if the value cannot be a key.
    pub(crate) fn of(value: &Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(i) => Self::Int(*i),
            Value::Uint(u) => i64::try_from(*u).map_or(Self::Uint(*u), Self::Int),
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 9.0e18 => Self::Int(*d as i64),
            Value::String(s) => Self::String(s.to_string()),
            _ => return None,
        })
    }
}

/// A computed map.
#[derive(Clone, Debug, Default)]
pub struct OwnMap<'a> {
    pub(super) entries: Vec<(Value<'a>, Value<'a>)>,
    pub(super) index: HashMap<Key, usize>,
    /// What an absent key yields, if reading one is no error.
    pub(super) missing: Option<Value<'a>>,
}

impl<'a> OwnMap<'a> {
    /// Returns the map of named entries. Of equal names, the first counts. With `missing`, reading
    /// an absent key yields that value instead of an error; `in` still tells them apart.
    pub fn of_fields(
        entries: impl IntoIterator<Item = (String, Value<'a>)>,
        missing: Option<Value<'a>>,
    ) -> Self {
        let mut map = Self {
            missing,
            ..Self::default()
        };
        for (name, value) in entries {
            map.insert(Value::text(name), value);
        }
        map
    }

    /// Adds an entry unless the key exists, and returns whether it was added. `None` if the value
    /// cannot be a key.
    pub(crate) fn insert(&mut self, key: Value<'a>, value: Value<'a>) -> Option<bool> {
        let at = self.entries.len();
        match self.index.entry(Key::of(&key)?) {
            std::collections::hash_map::Entry::Occupied(_) => Some(false),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(at);
                self.entries.push((key, value));
                Some(true)
            }
        }
    }

    /// Sets the value of a key, which need not be new.
    ///
    /// # Errors
    ///
    /// The value cannot be a key.
    pub(crate) fn set(&mut self, key: Value<'a>, value: Value<'a>) -> Result<(), EvalError> {
        match self.position(&key)? {
            Some(at) => self.entries[at].1 = value,
            None => {
                self.insert(key, value);
            }
        }
        Ok(())
    }

    /// Removes a key, which need not exist.
    ///
    /// # Errors
    ///
    /// The value cannot be a key.
    pub(crate) fn remove(&mut self, key: &Value<'a>) -> Result<(), EvalError> {
        if let Some(at) = self.position(key)? {
            self.entries.remove(at);
            self.index.retain(|_, place| *place != at);
            for place in self.index.values_mut().filter(|place| **place > at) {
                *place -= 1;
            }
        }
        Ok(())
    }

    fn position(&self, key: &Value<'a>) -> Result<Option<usize>, EvalError> {
        let key = Key::of(key).ok_or_else(|| EvalError::new("unsupported key type"))?;
        Ok(self.index.get(&key).copied())
    }

    /// Returns the value of a key, `None` if it is absent.
    pub(super) fn get(&self, key: &Value<'_>) -> Option<&Value<'a>> {
        match self.index.get(&Key::of(key)?) {
            Some(at) => Some(&self.entries[*at].1),
            None => self.missing.as_ref(),
        }
    }

    /// Returns the entries, in order of insertion.
    pub fn entries(&self) -> &[(Value<'a>, Value<'a>)] {
        &self.entries
    }
}

/// Error of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalError {
    /// Upstream's message.
    pub message: String,
    /// Whether the error aborts the evaluation; logical operators and macros cannot absorb it.
    pub fatal: bool,
}

impl EvalError {
    /// Returns an error that logical operators can absorb.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            fatal: false,
        }
    }

    /// Returns the error for an exceeded cost limit.
    pub(crate) fn over_limit() -> Self {
        Self {
            message: "operation cancelled: actual cost limit exceeded".into(),
            fatal: true,
        }
    }

    /// Returns whether the cost limit was exceeded.
    pub fn is_over_limit(&self) -> bool {
        self.fatal
    }

    /// Returns the error for arguments without matching overload.
    pub(crate) fn no_overload() -> Self {
        Self::new("no such overload")
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EvalError {}

/// Result of an evaluation.
pub type Outcome<'a> = Result<Value<'a>, EvalError>;

impl<'a> Value<'a> {
    /// Returns a computed string.
    pub fn text(s: impl Into<Arc<str>>) -> Self {
        Self::String(Str::Shared(s.into()))
    }

    /// Returns the semantic version of a text.
    ///
    /// # Errors
    ///
    /// Why the text is none.
    pub fn version(text: &str) -> Result<Self, String> {
        Ok(Self::Semver(Arc::new(Semver::parse(text)?)))
    }

    /// Returns a computed map.
    pub fn map(map: OwnMap<'a>) -> Self {
        Self::Map(Map::Own(Arc::new(map)))
    }

    /// Returns a computed list.
    pub fn list(items: Vec<Self>) -> Self {
        Self::List(List::Own(Arc::new(items)))
    }

    /// Returns a present optional value.
    pub fn some(value: Self) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// Returns the value of a literal.
    pub(crate) fn literal(literal: &Literal) -> Value<'static> {
        match literal {
            Literal::Null => Value::Null,
            Literal::Bool(b) => Value::Bool(*b),
            Literal::Int(i) => Value::Int(*i),
            Literal::Uint(u) => Value::Uint(*u),
            Literal::Double(d) => Value::Double(*d),
            Literal::String(s) => Value::String(Str::Shared(s.clone())),
            Literal::Bytes(b) => Value::Bytes(b.clone()),
        }
    }

    /// Returns the value of a JSON document without declared type.
    pub fn json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => match n.as_i64() {
                Some(i) => Self::Int(i),
                None => match n.as_u64() {
                    Some(u) => Self::Uint(u),
                    None => Self::Double(n.as_f64().unwrap_or(f64::NAN)),
                },
            },
            Json::String(s) => Self::String(Str::Borrowed(s)),
            Json::Array(items) => Self::List(List::Json(items, None)),
            Json::Object(map) => Self::Map(Map::Json(map, None)),
        }
    }

    /// Returns the value of a JSON document of a declared type. Elements and fields are checked
    /// on access.
    ///
    /// # Errors
    ///
    /// The document does not conform to the type.
    pub fn typed(json: &'a Json, decl: &'a DeclType) -> Outcome<'a> {
        let wrong = |want: &str| {
            EvalError::new(format!(
                "invalid data, expected {want} to match the type '{}'",
                decl.ty
            ))
        };
        Ok(match (&decl.ty, json) {
            (_, Json::Null) => Self::Null,
            (Type::Double, Json::Number(n)) => Self::Double(n.as_f64().unwrap_or(f64::NAN)),
            (Type::Int, Json::Number(n)) => match n.as_i64() {
                Some(i) => Self::Int(i),
                None => Self::Int(n.as_f64().unwrap_or_default() as i64),
            },
            (Type::Duration, Json::String(s)) => Self::Duration(
                time::loose_duration(s)
                    .map_err(|e| EvalError::new(format!("Invalid duration {s}, caused by {e}")))?,
            ),
            (Type::Timestamp, Json::String(s)) => {
                let parsed = if decl.read == Read::Date {
                    time::parse_date(s).map(Moment::utc)
                } else {
                    Moment::parse(s)
                };
                Self::Timestamp(parsed.map_err(|e| {
                    let what = if decl.read == Read::Date {
                        "date"
                    } else {
                        "date-time"
                    };
                    EvalError::new(format!("Invalid {what} formatted string {s}, err: {e}"))
                })?)
            }
            (Type::Bytes, Json::String(s)) => {
                use base64::Engine;
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(s.replace(['\n', '\r'], ""))
                    .map_err(|e| {
                        EvalError::new(format!("Invalid byte formatted string {s}, err: {e}"))
                    })?;
                Self::Bytes(bytes.into())
            }
            (Type::List(_), Json::Array(items)) => Self::List(List::Json(items, Some(decl))),
            (Type::List(_), _) => return Err(wrong("an array")),
            (Type::Map(_), Json::Object(map)) => Self::Map(Map::Json(map, Some(decl))),
            (Type::Map(_), _) => return Err(wrong("an object")),
            (Type::Struct(_), Json::Object(map)) => Self::Object(Object::Json(map, decl)),
            (Type::Struct(_), _) => return Err(wrong("an object")),
            _ => Self::json(json),
        })
    }

    /// Returns the type of the value (`type()`).
    pub fn type_of(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Duration(_) => Type::Duration,
            Self::Timestamp(_) => Type::Timestamp,
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Self::Object(Object::Json(_, decl)) => decl.ty.clone(),
            Self::Object(Object::Own(made)) => Type::object(&made.name),
            Self::Type(_) => Type::Type(None),
            Self::Optional(_) => Type::optional(Type::Dyn),
            Self::Url(_) => Type::object("kubernetes.URL"),
            Self::Quantity(_) => Type::object("kubernetes.Quantity"),
            Self::Ip(_) => Type::opaque("net.IP"),
            Self::Cidr(..) => Type::opaque("net.CIDR"),
            Self::Format(_) => Type::object("kubernetes.NamedFormat"),
            Self::Semver(_) => Type::object("kubernetes.Semver"),
            Self::Check(check) => Type::object(check.type_name()),
        }
    }

    /// Returns the size of the value (`size()`), `None` if it has none.
    pub(crate) fn size(&self) -> Option<u64> {
        Some(match self {
            Self::String(s) => s.chars().count() as u64,
            Self::Bytes(b) => b.len() as u64,
            Self::List(l) => l.len() as u64,
            Self::Map(m) => m.len() as u64,
            Self::Ip(IpAddr::V4(_)) => 4,
            Self::Ip(IpAddr::V6(_)) => 16,
            Self::Cidr(_, bits) => u64::from(*bits).div_ceil(8),
            _ => return None,
        })
    }

    /// Returns whether two values are equal; numbers of different types are compared by value.
    /// Deducts the number of visited values from `work`; `None` if it is exhausted.
    pub(crate) fn equals(&self, other: &Value<'_>, work: &mut u64) -> Option<bool> {
        *work = work.checked_sub(1)?;
        Some(match (self, other) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(a), Value::Bool(b)) => a == b,
            (Self::Int(_) | Self::Uint(_) | Self::Double(_), _) => {
                self.compare_numbers(other) == Some(Ordering::Equal)
            }
            (Self::String(a), Value::String(b)) => {
                *work = work.checked_sub(a.len().min(b.len()) as u64 / 64)?;
                **a == **b
            }
            (Self::Bytes(a), Value::Bytes(b)) => a == b,
            (Self::Duration(a), Value::Duration(b)) => a == b,
            (Self::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Self::List(a), Value::List(b)) => return a.equals(b, work),
            (Self::Map(a), Value::Map(b)) => return a.equals(b, work),
            (Self::Object(a), Value::Object(b)) => return a.equals(b, work),
            (Self::Type(a), Value::Type(b)) => a.runtime_name() == b.runtime_name(),
            (Self::Optional(None), Value::Optional(None)) => true,
            (Self::Optional(Some(a)), Value::Optional(Some(b))) => return a.equals(b, work),
            (Self::Url(a), Value::Url(b)) => a == b,
            (Self::Quantity(a), Value::Quantity(b)) => a.cmp(b) == Ordering::Equal,
            (Self::Ip(a), Value::Ip(b)) => a == b,
            (Self::Cidr(a, n), Value::Cidr(b, m)) => a == b && n == m,
            (Self::Format(a), Value::Format(b)) => a.name == b.name,
            (Self::Semver(a), Value::Semver(b)) => a.compare(b) == Ordering::Equal,
            (Self::Check(a), Value::Check(b)) => a == b,
            _ => false,
        })
    }

    /// Compares two numbers by value, `None` if either is NaN or not a number.
    pub(crate) fn compare_numbers(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
            (Self::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            // As in cel-go, the integer is rounded to a double.
            (Self::Int(a), Value::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Uint(a), Value::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Double(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Self::Double(a), Value::Uint(b)) => a.partial_cmp(&(*b as f64)),
            _ => None,
        }
    }

    /// Compares two values.
    ///
    /// # Errors
    ///
    /// The values have no order, or one is NaN.
    pub(crate) fn compare(&self, other: &Value<'_>) -> Result<Ordering, EvalError> {
        Ok(match (self, other) {
            (
                Self::Int(_) | Self::Uint(_) | Self::Double(_),
                Value::Int(_) | Value::Uint(_) | Value::Double(_),
            ) => self
                .compare_numbers(other)
                .ok_or_else(|| EvalError::new("NaN values cannot be ordered"))?,
            (Self::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Self::String(a), Value::String(b)) => (**a).cmp(&**b),
            (Self::Bytes(a), Value::Bytes(b)) => a.cmp(b),
            (Self::Duration(a), Value::Duration(b)) => a.cmp(b),
            (Self::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
            _ => return Err(EvalError::no_overload()),
        })
    }

    /// Formats the value for error messages.
    pub(crate) fn to_display(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(b) => b.to_string(),
            Self::Int(i) => i.to_string(),
            Self::Uint(u) => u.to_string(),
            Self::Double(d) => crate::number::go_general(*d),
            Self::String(s) => s.to_string(),
            other => other.type_of().runtime_name().to_owned(),
        }
    }
}
