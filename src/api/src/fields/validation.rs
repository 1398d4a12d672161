//! The treatment of unknown and duplicate fields.

use crate::meta;
use crate::status::{FieldError, Status};
use crate::{Object, gvk};

/// The treatment of unknown and duplicate fields (`?fieldValidation=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validation {
    /// Reject the request.
    Strict,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Drop them.
    Ignore,
}

impl Validation {
    /// Parses the query parameter; empty is the default.
    ///
    /// # Errors
    /// 400 with the message `Unsupported value`.
    pub fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            "Ignore" => Ok(Self::Ignore),
            other => Err(Status::bad_request(
                FieldError::not_supported(
                    "fieldValidation",
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                )
                .to_string(),
            )),
        }
    }

    /// Converts the messages of [`parse_json`](super::parse_json) and
    /// [`check`](super::check) into the warnings of the response.
    ///
    /// # Errors
    /// 400 if there are messages and the validation is strict.
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

/// Returns 400: `Deployment in version "v1" cannot be handled as a Deployment: …`.
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
