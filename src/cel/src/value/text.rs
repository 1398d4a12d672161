//! Conversion of values to text.

use super::types::{EvalError, Value};
use crate::number::go_general;
use crate::time;

impl Value<'_> {
    /// Converts the value to text as the function `string` does.
    ///
    /// # Errors
    ///
    /// The type has no conversion to text, or bytes are not UTF-8.
    pub(crate) fn to_text(&self) -> Result<String, EvalError> {
        Ok(match self {
            Self::String(s) => s.to_string(),
            Self::Bool(b) => b.to_string(),
            Self::Int(i) => i.to_string(),
            Self::Uint(u) => u.to_string(),
            Self::Double(d) => go_general(*d),
            Self::Bytes(b) => match std::str::from_utf8(b) {
                Ok(text) => text.to_owned(),
                Err(_) => {
                    return Err(EvalError::new(
                        "invalid UTF-8 in bytes, cannot convert to string",
                    ));
                }
            },
            Self::Duration(d) => time::format_duration(*d),
            Self::Timestamp(t) => t.to_string(),
            Self::Type(t) => t.runtime_name().to_owned(),
            Self::Ip(ip) => ip.to_string(),
            Self::Cidr(ip, bits) => format!("{ip}/{bits}"),
            _ => return Err(EvalError::no_overload()),
        })
    }
}
