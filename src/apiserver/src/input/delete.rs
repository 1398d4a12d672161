//! `DeleteOptions`, in the body or in the query.

use bytes::Bytes;
use rkube_api::schema::Schema;
use rkube_api::status::{FieldError, Status};
use rkube_api::{GroupKind, Object, fields, meta};
use serde_json::{Value, json};

use super::decode::{identified, parse_body};
use super::list::number;
use super::options::dry_run_values;
use crate::call::Call;
use crate::negotiate;

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// Parsed `DeleteOptions`.
#[derive(Clone, Default)]
pub struct DeleteOptions {
    /// The grace period in seconds; `None` uses the kind's default.
    pub grace: Option<i64>,
    /// Precondition: the object's uid.
    pub uid: Option<String>,
    /// Precondition: the object's `resourceVersion`.
    pub revision: Option<String>,
    /// The propagation policy: `Orphan`, `Background` or `Foreground`.
    pub propagation: Option<String>,
    /// The deprecated form of the propagation policy.
    pub orphan_dependents: Option<bool>,
    /// Whether the request is a dry run.
    pub dry_run: bool,
    /// The options object, for admission.
    pub object: Object,
}

impl DeleteOptions {
    /// Reads the options from the request's body, or from its query if the body is empty. As
    /// upstream, the query does not count beside a body.
    pub fn read(call: &Call, bytes: &Bytes) -> Result<Self, Status> {
        let query = &call.info.query;
        let mut object = if bytes.is_empty() {
            let mut object = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
            if let Some(grace) = number(call, "gracePeriodSeconds")? {
                object["gracePeriodSeconds"] = grace.into();
            }
            let dry_run: Vec<&str> = query.all("dryRun").collect();
            if !dry_run.is_empty() {
                object["dryRun"] = json!(dry_run);
            }
            if let Some(policy) = query.non_empty("propagationPolicy") {
                object["propagationPolicy"] = policy.into();
            }
            if query.get("orphanDependents").is_some() {
                object["orphanDependents"] = query.is_true("orphanDependents").into();
            }
            object
        } else {
            let encoding = negotiate::content_encoding(&call.headers)?;
            identified(parse_body(bytes, encoding)?.0)?
        };
        let kind = meta::kind(&object);
        if !matches!(kind, "" | "DeleteOptions") {
            let kind = rkube_api::text::quote(kind);
            let version = rkube_api::text::quote(meta::api_version(&object));
            return Err(Status::bad_request(format!(
                "no kind {kind} is registered for version {version} in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\""
            )));
        }
        if let Some(ty) = Schema::builtin().definition(DELETE_OPTIONS) {
            // Unknown fields are dropped, as upstream.
            fields::check(ty, &mut object)?;
        }
        Self::from_object(object)
    }

    /// Parses and validates a `DeleteOptions` object.
    pub fn from_object(object: Object) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let values = object["dryRun"].as_array().into_iter().flatten();
        let values: Vec<&str> = values.filter_map(Value::as_str).collect();
        let dry_run = dry_run_values(&values, &mut errors);
        let propagation = object["propagationPolicy"].as_str().map(str::to_owned);
        let orphan_dependents = object["orphanDependents"].as_bool();
        if propagation.is_some() && orphan_dependents.is_some() {
            errors.push(FieldError::invalid(
                "propagationPolicy",
                object["propagationPolicy"].clone(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        if let Some(policy) = &propagation
            && !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan")
        {
            errors.push(FieldError::not_supported(
                "propagationPolicy",
                policy.as_str(),
                &["Foreground", "Background", "Orphan", "nil"],
            ));
        }
        if !errors.is_empty() {
            return Err(Status::invalid(
                &GroupKind::new("meta.k8s.io", "DeleteOptions"),
                "",
                errors,
            ));
        }
        Ok(Self {
            grace: object["gracePeriodSeconds"].as_i64(),
            uid: object["preconditions"]["uid"].as_str().map(str::to_owned),
            revision: object["preconditions"]["resourceVersion"]
                .as_str()
                .map(str::to_owned),
            propagation,
            orphan_dependents,
            dry_run,
            object,
        })
    }
}
