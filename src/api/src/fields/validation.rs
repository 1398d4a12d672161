//! The treatment of unknown and duplicate fields.

use crate::meta;
use crate::status::{FieldError, Status};
use crate::{Object, gvk};

/// What to do about unknown and duplicate fields (`?fieldValidation=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validation {
    /// Refuse the request.
    Strict,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Drop them.
    Ignore,
}

impl Validation {
    /// Reads the query parameter; empty is the default. The error is the
    /// detail of an `Unsupported value`.
    pub fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            "Ignore" => Ok(Self::Ignore),
            other => Err(Status::bad_request(
                FieldError::not_supported("fieldValidation", other, &["Ignore", "Strict", "Warn"])
                    .to_string(),
            )),
        }
    }

    /// What to do about the messages of [`parse_json`] and [`check`]: an error,
    /// warnings, or nothing.
    pub fn judge(self, object: &Object, messages: Vec<String>) -> Result<Vec<String>, Status> {
        match self {
            _ if messages.is_empty() => Ok(messages),
            Self::Strict => Err(cannot_be_handled(
                object,
                &format!("strict decoding error: {}", messages.join(", ")),
            )),
            Self::Warn => Ok(messages),
            Self::Ignore => Ok(Vec::new()),
        }
    }
}

/// 400: `Deployment in version "v1" cannot be handled as a Deployment: …`.
pub fn cannot_be_handled(object: &Object, why: &str) -> Status {
    let (kind, api_version) = (meta::kind(object), meta::api_version(object));
    if kind.is_empty() {
        return Status::bad_request(why);
    }
    let (_, version) = gvk::parse_api_version(api_version);
    Status::bad_request(format!(
        "{kind} in version {} cannot be handled as a {kind}: {why}",
        crate::text::quote(version)
    ))
}
