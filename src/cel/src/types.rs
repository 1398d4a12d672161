//! Static types.

use std::fmt;
use std::sync::Arc;

/// The type of an expression as far as it is known before evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Anything; checked at run time.
    Dyn,
    /// The type of what did not compile.
    Error,
    /// `null`
    Null,
    /// `true` and `false`
    Bool,
    /// 64 bits, signed.
    Int,
    /// 64 bits, unsigned.
    Uint,
    /// 64 bits, floating point.
    Double,
    /// Unicode text.
    String,
    /// Octets.
    Bytes,
    /// A span of time in nanoseconds.
    Duration,
    /// A moment in UTC.
    Timestamp,
    /// Values of one type, in order.
    List(Arc<Type>),
    /// Keys and values.
    Map(Arc<(Type, Type)>),
    /// A type as a value, and which if known.
    Type(Option<Arc<Type>>),
    /// A library's own type, with parameters: `optional_type(T)`, `net.IP`.
    Opaque(Arc<str>, Arc<[Type]>),
    /// Fields by name; see [`crate::TypeProvider`].
    Struct(Arc<str>),
    /// Stands for any one type in a function's signature.
    Param(Arc<str>),
}

impl Type {
    /// A list of these.
    pub fn list(element: Self) -> Self {
        Self::List(Arc::new(element))
    }

    /// A map.
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// A structure by name.
    pub fn object(name: &str) -> Self {
        Self::Struct(name.into())
    }

    /// Something that may be absent.
    pub fn optional(value: Self) -> Self {
        Self::Opaque("optional_type".into(), [value].into())
    }

    pub(crate) fn opaque(name: &str) -> Self {
        Self::Opaque(name.into(), [].into())
    }

    /// What is inside an optional type.
    pub(crate) fn unwrap_optional(&self) -> Option<&Self> {
        match self {
            Self::Opaque(name, params) if &**name == "optional_type" => params.first(),
            _ => None,
        }
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// Of a size known without the value; texts and collections are not.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Self::Bool
            | Self::Double
            | Self::Duration
            | Self::Int
            | Self::Timestamp
            | Self::Uint => true,
            _ => self.unwrap_optional().is_some_and(Self::is_scalar),
        }
    }

    pub(crate) fn params(&self) -> Vec<&Self> {
        match self {
            Self::List(e) => vec![e],
            Self::Map(kv) => vec![&kv.0, &kv.1],
            Self::Type(t) => t.iter().map(|t| &**t).collect(),
            Self::Opaque(_, params) => params.iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The name that `type()` and messages at run time give it.
    pub(crate) fn runtime_name(&self) -> &str {
        match self {
            Self::Dyn => "dyn",
            Self::Error => "error",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Duration => "google.protobuf.Duration",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Type(_) => "type",
            Self::Opaque(name, _) | Self::Struct(name) | Self::Param(name) => name,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => return f.write_str("!error!"),
            Self::Null => return f.write_str("null"),
            Self::Duration => return f.write_str("duration"),
            Self::Timestamp => return f.write_str("timestamp"),
            _ => f.write_str(self.runtime_name())?,
        }
        let params = self.params();
        for (i, param) in params.iter().enumerate() {
            write!(f, "{}{param}", if i == 0 { "(" } else { ", " })?;
        }
        if params.is_empty() {
            Ok(())
        } else {
            f.write_str(")")
        }
    }
}

/// A function's type as messages about calls have it: `a.(b, c)`.
pub(crate) fn signature(args: &[Type], member: bool) -> String {
    let (target, rest) = match args {
        [target, rest @ ..] if member => (format!("{target}."), rest),
        all => (String::new(), all),
    };
    let rest: Vec<_> = rest.iter().map(ToString::to_string).collect();
    format!("{target}({})", rest.join(", "))
}
