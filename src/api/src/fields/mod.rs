//! Decoding: bytes into a tree, and the tree against its type.

mod check;
mod decode;

use crate::meta;
use crate::status::Status;
use crate::{Object, gvk};

pub use check::{check, empty, zero};
pub use decode::{MAX_DEPTH, parse_json, parse_yaml, yaml_duplicate};

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
                crate::FieldError::not_supported(
                    "fieldValidation",
                    other,
                    &["Ignore", "Strict", "Warn"],
                )
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

/// A place in an object, as messages name it: `spec.containers[0].name`.
#[derive(Default)]
struct Path {
    text: String,
}

impl Path {
    /// Steps into a field; answers what [`Path::back`] takes.
    fn field(&mut self, name: &str) -> usize {
        let at = self.text.len();
        if at > 0 {
            self.text.push('.');
        }
        self.text.push_str(name);
        at
    }

    /// Steps into an item.
    fn index(&mut self, index: usize) -> usize {
        use std::fmt::Write as _;
        let at = self.text.len();
        // Writing to a String cannot fail.
        let _ = write!(self.text, "[{index}]");
        at
    }

    fn back(&mut self, at: usize) {
        self.text.truncate(at);
    }
}

#[cfg(test)]
mod tests;
