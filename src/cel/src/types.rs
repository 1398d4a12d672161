//! Static types.

use std::fmt;
use std::sync::Arc;

/// Static type of an expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Any type; checked at run time.
    Dyn,
    /// Type of an expression with a type error.
    Error,
    /// `null`
    Null,
    /// `true` and `false`
    Bool,
    /// Signed 64-bit integer.
    Int,
    /// Unsigned 64-bit integer.
    Uint,
    /// Double-precision floating-point number.
    Double,
    /// Unicode string.
    String,
    /// Byte string.
    Bytes,
    /// Duration in nanoseconds.
    Duration,
    /// Point in time (UTC).
    Timestamp,
    /// List with elements of one type.
    List(Arc<Type>),
    /// Map with key and value type.
    Map(Arc<(Type, Type)>),
    /// Type of a type; the parameter is the type, if known.
    Type(Option<Arc<Type>>),
    /// Named type of a library with parameters, such as `optional_type(T)` or `net.IP`.
    Opaque(Arc<str>, Arc<[Type]>),
    /// Object type by name; see [`crate::TypeProvider`].
    Struct(Arc<str>),
    /// Type parameter in the signature of a function.
    Param(Arc<str>),
}

impl Type {
    /// Returns a list type.
    pub fn list(element: Self) -> Self {
        Self::List(Arc::new(element))
    }

    /// Returns a map type.
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// Returns an object type by name.
    pub fn object(name: &str) -> Self {
        Self::Struct(name.into())
    }

    /// Returns the type of optional values.
    pub fn optional(value: Self) -> Self {
        Self::Opaque("optional_type".into(), [value].into())
    }

    /// Returns a library type without parameters.
    pub(crate) fn opaque(name: &str) -> Self {
        Self::Opaque(name.into(), [].into())
    }

    /// Returns the parameter of an optional type, `None` for other types.
    pub(crate) fn unwrap_optional(&self) -> Option<&Self> {
        match self {
            Self::Opaque(name, params) if &**name == "optional_type" => params.first(),
            _ => None,
        }
    }

    /// Returns whether the type is `dyn`.
    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    /// Returns whether the type is `dyn` or erroneous.
    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// Returns whether values have a fixed size for cost estimates.
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

    /// Returns the type parameters.
    pub(crate) fn params(&self) -> Vec<&Self> {
        match self {
            Self::List(e) => vec![e],
            Self::Map(kv) => vec![&kv.0, &kv.1],
            Self::Type(t) => t.iter().map(|t| &**t).collect(),
            Self::Opaque(_, params) => params.iter().collect(),
            _ => Vec::new(),
        }
    }

    /// Returns the name of the type in `type()` and in run-time errors.
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

/// Formats a signature for error messages: `a.(b, c)`.
pub(crate) fn signature(args: &[Type], member: bool) -> String {
    let (target, rest) = match args {
        [target, rest @ ..] if member => (format!("{target}."), rest),
        all => (String::new(), all),
    };
    let rest: Vec<_> = rest.iter().map(ToString::to_string).collect();
    format!("{target}({})", rest.join(", "))
}
