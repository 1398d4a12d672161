//! The type of values.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use jiff::Timestamp;
use rkube_api::quantity::Quantity;
use serde_json::Value as Json;

use super::named_format::NamedFormat;
use super::semver::Semver;
use super::url::Url;
use crate::ast::Literal;
use crate::authz::Check;
use crate::decl::{DeclType, Read};
use crate::time;
use crate::types::Type;

/// A text: of a document, or made.
#[derive(Clone, Debug)]
pub enum Str<'a> {
    /// In a document or program.
    Borrowed(&'a str),
    /// Made by evaluation.
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

/// A value at run time.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Signed.
    Int(i64),
    /// Unsigned.
    Uint(u64),
    /// Floating point.
    Double(f64),
    /// Text.
    String(Str<'a>),
    /// Octets.
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    /// A moment.
    Timestamp(Timestamp),
    /// Values in order.
    List(List<'a>),
    /// Keys and values.
    Map(Map<'a>),
    /// Fields.
    Object(Object<'a>),
    /// A type.
    Type(Type),
    /// Something or nothing.
    Optional(Option<Arc<Value<'a>>>),
    /// A parsed URL.
    Url(Arc<Url>),
    /// An amount.
    Quantity(Arc<Quantity>),
    /// An address.
    Ip(IpAddr),
    /// A network and how long its prefix is.
    Cidr(IpAddr, u8),
    /// A way to check texts.
    Format(&'static NamedFormat),
    /// A semantic version.
    Semver(Arc<Semver>),
    /// A question to the authorizer, as far as it is put together.
    Check(Arc<Check>),
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Of a document, with its declared type where there is one.
    Json(&'a [Json], Option<&'a DeclType>),
    /// Made.
    Own(Arc<Vec<Value<'a>>>),
    /// Two long ones, one after the other, and how long that is.
    Concat(Arc<(List<'a>, List<'a>, usize)>),
}

/// A map.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// Of a document, with its declared type where there is one.
    Json(&'a serde_json::Map<String, Json>, Option<&'a DeclType>),
    /// Made.
    Own(Arc<OwnMap<'a>>),
}

/// Something with fields.
#[derive(Clone, Debug)]
pub enum Object<'a> {
    /// Of a document.
    Json(&'a serde_json::Map<String, Json>, &'a DeclType),
    /// Made by `Name{…}`.
    Own(Arc<Made<'a>>),
}

/// An object that an expression made.
#[derive(Clone, Debug)]
pub struct Made<'a> {
    /// The type's name.
    pub name: String,
    /// Fields in the order written.
    pub fields: Vec<(String, Value<'a>)>,
}

/// A key in a form that equal keys share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    Bool(bool),
    Int(i64),
    /// Above what an `Int` holds.
    Uint(u64),
    String(String),
}

impl Key {
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

/// A map that evaluation made.
#[derive(Clone, Debug, Default)]
pub struct OwnMap<'a> {
    pub(super) entries: Vec<(Value<'a>, Value<'a>)>,
    pub(super) index: HashMap<Key, usize>,
}

impl<'a> OwnMap<'a> {
    /// Adds an entry; says whether the key was new. `None` for what cannot be a key.
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

    pub(super) fn get(&self, key: &Value<'_>) -> Option<&Value<'a>> {
        let at = self.index.get(&Key::of(key)?)?;
        Some(&self.entries[*at].1)
    }

    /// The entries, in the order they were made.
    pub fn entries(&self) -> &[(Value<'a>, Value<'a>)] {
        &self.entries
    }
}

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalError {
    /// What is wrong, worded as upstream's.
    pub message: String,
    /// Ends the evaluation whatever is around it.
    pub fatal: bool,
}

impl EvalError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            fatal: false,
        }
    }

    pub(crate) fn over_limit() -> Self {
        Self {
            message: "operation cancelled: actual cost limit exceeded".into(),
            fatal: true,
        }
    }

    /// Whether the budget ran out.
    pub fn is_over_limit(&self) -> bool {
        self.fatal
    }

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

/// A value, or why there is none.
pub type Outcome<'a> = Result<Value<'a>, EvalError>;

impl<'a> Value<'a> {
    /// A text that was made.
    pub fn text(s: impl Into<Arc<str>>) -> Self {
        Self::String(Str::Shared(s.into()))
    }

    /// A list that was made.
    pub fn list(items: Vec<Self>) -> Self {
        Self::List(List::Own(Arc::new(items)))
    }

    /// Something.
    pub fn some(value: Self) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

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

    /// A document as it is.
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

    /// A document as its declared type says.
    ///
    /// # Errors
    /// The document is not of the type.
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
                    time::parse_date(s)
                } else {
                    time::parse_date_time(s)
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

    /// The type that `type()` gives.
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

    /// What `size()` gives, for what has a size.
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

    /// Whether two values are the same. Numbers are compared by what they
    /// stand for. `work` counts what was looked at; `None` if it ran out.
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

    /// How numbers of any kind are ordered; `None` for NaN and what is no number.
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

    /// How values are ordered.
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

    /// As messages show it.
    pub(crate) fn shown(&self) -> String {
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
