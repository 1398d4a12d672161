//! The errors of the API: the `Status` object, with upstream's codes, reasons, messages
//! and causes.

mod field;

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value, json};

use crate::Object;
use crate::gvk::{GroupKind, GroupResource};
use crate::text::quote;

pub use field::{FieldError, FieldErrorKind};

/// A failed request.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, as `NotFound`; empty when unknown.
    pub reason: Cow<'static, str>,
    /// The human-readable message.
    pub message: String,
    /// The details of the failure.
    pub details: Option<Box<Details>>,
    /// The token with which an expired list can be continued; empty for other failures.
    pub list_token: Box<str>,
}

/// The details of a failure. Empty fields are not encoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// The object's name (or the operation's, for a server timeout).
    pub name: String,
    /// The group.
    pub group: String,
    /// The kind, or for many reasons the resource.
    pub kind: String,
    /// The object's uid.
    pub uid: String,
    /// The causes.
    pub causes: Vec<Cause>,
    /// The time after which the client may retry, in seconds; 0 if unspecified.
    pub retry_after_seconds: u32,
}

/// One cause of a failure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cause {
    /// The machine-readable kind of cause, as `FieldValueRequired`.
    pub reason: Cow<'static, str>,
    /// The human-readable message.
    pub message: String,
    /// The field's path, as `spec.containers[0].name`.
    pub field: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// Creates a failure without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            details: None,
            list_token: Box::default(),
        }
    }

    fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: resource.group.clone(),
            kind: resource.resource.clone(),
            ..Details::default()
        }));
        self
    }

    /// Sets the details.
    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// Sets the token with which the client can continue an expired list.
    #[must_use]
    pub fn with_continue(mut self, token: String) -> Self {
        self.list_token = token.into();
        self
    }

    /// Sets the time after which the client may retry, in seconds.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Returns 404: the object does not exist.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{resource} {} not found", quote(name)),
        )
        .about(resource, name)
    }

    /// Returns 404 for an unknown path.
    pub fn page_not_found() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
        .with_details(Details::default())
    }

    /// Returns 405: the path exists, but not with this method.
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with_details(Details::default())
    }

    /// Returns 409: an object of the name exists.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{resource} {} already exists", quote(name)),
        )
        .about(resource, name)
    }

    /// Returns 409: no free name was found for `generateName`.
    pub fn generate_name_conflict(resource: &GroupResource, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!(
                "{resource} {} already exists, the server was not able to generate a unique name for the object",
                quote(name)
            ),
        )
        .about(resource, name)
        .with_retry_after(1)
    }

    /// Returns 409: the object has been modified, or a precondition failed.
    pub fn conflict(resource: &GroupResource, name: &str, message: impl fmt::Display) -> Self {
        Self::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {resource} {}: {message}",
                quote(name)
            ),
        )
        .about(resource, name)
    }

    /// Returns [`Status::conflict`] for an outdated `resourceVersion`.
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Returns 409: other managers own fields of a server-side apply.
    pub fn apply_conflict(causes: Vec<Cause>, message: impl Into<String>) -> Self {
        Self::new(409, "Conflict", message).with_details(Details {
            causes,
            ..Details::default()
        })
    }

    /// Returns 422: the object is invalid.
    pub fn invalid(kind: &GroupKind, name: &str, errors: Vec<FieldError>) -> Self {
        let mut message = format!("{kind} {} is invalid", quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&FieldError::aggregate(&errors));
        }
        let causes = errors
            .into_iter()
            .map(|e| Cause {
                reason: e.kind.reason().into(),
                message: e.body(),
                field: e.field,
            })
            .collect();
        Self::new(422, "Invalid", message).with_details(Details {
            name: name.to_owned(),
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            causes,
            ..Details::default()
        })
    }

    /// Returns 400: the request is malformed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// Returns 403: the user is not allowed to make the request.
    pub fn forbidden(resource: &GroupResource, name: &str, message: impl fmt::Display) -> Self {
        let text = if resource.resource.is_empty() {
            format!("forbidden: {message}")
        } else if name.is_empty() {
            format!("{resource} is forbidden: {message}")
        } else {
            format!("{resource} {} is forbidden: {message}", quote(name))
        };
        Self::new(403, "Forbidden", text).about(resource, name)
    }

    /// Returns 401: the request has no valid credentials.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// Returns 405: the resource does not support the verb.
    pub fn method_not_supported(resource: &GroupResource, verb: &str) -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            format!(
                "{verb} is not supported on resources of kind {}",
                quote(&resource.to_string())
            ),
        )
        .with_details(Details {
            group: resource.group.clone(),
            kind: resource.resource.clone(),
            ..Details::default()
        })
    }

    /// Returns 410, reason `Expired`: the revision is compacted.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// Returns 500: an internal error.
    pub fn internal(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
        .with_details(Details {
            causes: vec![Cause {
                message,
                ..Cause::default()
            }],
            ..Details::default()
        })
    }

    /// Returns 429: the client may retry after `retry_after` seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        Self::new(429, "TooManyRequests", message).with_details(Details {
            retry_after_seconds: retry_after,
            ..Details::default()
        })
    }

    /// Returns 504: the request timed out.
    pub fn timeout(message: impl fmt::Display) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {message}")).with_details(Details::default())
    }

    /// Returns 500, reason `ServerTimeout`: the operation cannot be performed now.
    pub fn server_timeout(resource: &GroupResource, operation: &str, retry_after: u32) -> Self {
        Self::new(
            500,
            "ServerTimeout",
            format!(
                "The {operation} operation against {resource} could not be completed at this time, please try again."
            ),
        )
        .about(resource, operation)
        .with_retry_after(retry_after)
    }

    /// Returns 415: the media type of the request is not one of `accepted`.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }

    /// Returns 406: the client accepts none of the media types `accepted`.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        Self::new(
            406,
            "NotAcceptable",
            format!(
                "only the following media types are accepted: {}",
                accepted.join(", ")
            ),
        )
    }

    /// Returns 413: the body exceeds the limit.
    pub fn request_too_large(message: impl fmt::Display) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: {message}"),
        )
    }

    /// Returns 503: the server is unavailable.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// Returns whether the reason is `NotFound`.
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// Returns whether the reason is `Conflict`.
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// Encodes the failure as a `Status` object.
    pub fn to_value(&self) -> Object {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.list_token.is_empty() {
            status["metadata"]["continue"] = self.list_token.as_ref().into();
        }
        let map = crate::meta::map_mut(&mut status);
        if !self.reason.is_empty() {
            map.insert("reason".into(), self.reason.as_ref().into());
        }
        if let Some(details) = &self.details {
            map.insert("details".into(), details.to_value());
        }
        status
    }

    /// Decodes a `Status` object, such as the response of another server.
    pub fn from_value(value: &Object) -> Self {
        let text = |v: &Value, f: &str| {
            v.get(f)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let details = value.get("details").filter(|d| d.is_object()).map(|d| {
            Box::new(Details {
                name: text(d, "name"),
                group: text(d, "group"),
                kind: text(d, "kind"),
                uid: text(d, "uid"),
                retry_after_seconds: d
                    .get("retryAfterSeconds")
                    .and_then(Value::as_u64)
                    .and_then(|s| s.try_into().ok())
                    .unwrap_or(0),
                causes: d
                    .get("causes")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .map(|c| Cause {
                        reason: text(c, "reason").into(),
                        message: text(c, "message"),
                        field: text(c, "field"),
                    })
                    .collect(),
            })
        });
        Self {
            code: value
                .get("code")
                .and_then(Value::as_u64)
                .and_then(|c| c.try_into().ok())
                .unwrap_or(500),
            reason: text(value, "reason").into(),
            message: text(value, "message"),
            details,
            list_token: Box::default(),
        }
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, value) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !value.is_empty() {
                map.insert(key.into(), value.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self.causes.iter().map(Cause::to_value).collect();
            map.insert("causes".into(), causes.into());
        }
        if self.retry_after_seconds != 0 {
            map.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, value) in [
            ("reason", self.reason.as_ref()),
            ("message", &self.message),
            ("field", &self.field),
        ] {
            if !value.is_empty() {
                map.insert(key.into(), value.into());
            }
        }
        Value::Object(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_failures_as_upstream() {
        let deployments = GroupResource::new("apps", "deployments");
        assert_eq!(
            Status::not_found(&deployments, "web").message,
            r#"deployments.apps "web" not found"#
        );
        assert_eq!(
            Status::forbidden(&deployments, "", "no").message,
            "deployments.apps is forbidden: no"
        );
        let one = Status::invalid(
            &GroupKind::new("", "Pod"),
            "x",
            vec![FieldError::required("spec.containers", "")],
        );
        assert_eq!(
            one.message,
            r#"Pod "x" is invalid: spec.containers: Required value"#
        );
        let two = Status::invalid(
            &GroupKind::new("apps", "Deployment"),
            "x",
            vec![
                FieldError::required("spec.selector", ""),
                FieldError::invalid("spec.replicas", -1, "must be greater than or equal to 0"),
            ],
        );
        assert_eq!(
            two.message,
            r#"Deployment.apps "x" is invalid: [spec.selector: Required value, spec.replicas: Invalid value: -1: must be greater than or equal to 0]"#
        );
        assert_eq!(
            two.details.as_ref().unwrap().causes[1].reason,
            "FieldValueInvalid"
        );
        assert_eq!(Status::from_value(&two.to_value()), two);
    }
}
