//! Events of the core group and of `events.k8s.io`.

use rkube_api::Object;
use rkube_api::status::FieldError;

use crate::errors::Errors;
use crate::generic;
use crate::tree::{has, int, same_at, text};
use crate::{Context, Strategy};

/// The strategy of kind `Event` in both groups; accepts the field names of either.
pub(crate) struct Event;

impl Strategy for Event {
    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        generic::prepare_create_plain(obj);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        // Events about cluster-scoped objects are in `default` or `kube-system`.
        let namespace = text(obj, "metadata.namespace");
        let about = involved(obj);
        let expected = text(obj, &format!("{about}.namespace"));
        let lives_here = if expected.is_empty() {
            matches!(namespace, "default" | "kube-system" | "")
        } else {
            namespace == expected
        };
        if !lives_here {
            errors.invalid(
                format!("{about}.namespace"),
                expected,
                "does not match event.namespace",
            );
        }
        // Stricter rules apply to events with an `eventTime` (upstream: `v1ValidateEvent`).
        if has(obj, "eventTime") {
            let controller = if has(obj, "reportingComponent") {
                "reportingComponent"
            } else {
                "reportingController"
            };
            for (key, max) in [
                (controller, 128),
                ("reportingInstance", 128),
                ("action", 128),
                ("reason", 128),
            ] {
                let value = text(obj, key);
                let shown = if key == "reportingComponent" {
                    "reportingController"
                } else {
                    key
                };
                if value.is_empty() {
                    errors.required(shown, "");
                } else if value.len() > max {
                    errors.invalid(shown, "", format!("can have at most {max} characters"));
                }
            }
            let note = if has(obj, "note") { "note" } else { "message" };
            if text(obj, note).len() > 1024 {
                errors.invalid("message", "", "can have at most 1024 characters");
            }
            if !matches!(text(obj, "type"), "Normal" | "Warning") {
                errors.invalid(
                    "type",
                    "",
                    format!("has invalid value: {}", text(obj, "type")),
                );
            }
            if has(obj, "series") {
                if int(obj, "series.count").unwrap_or(0) < 2 {
                    errors.invalid("series.count", "", "should be at least 2");
                }
                if !has(obj, "series.lastObservedTime") {
                    errors.required("series.lastObservedTime", "");
                }
            }
        }
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        errors.extend(self.validate_create(new));
        if has(old, "eventTime") {
            for key in [
                "involvedObject",
                "regarding",
                "reason",
                "eventTime",
                "action",
                "type",
            ] {
                if !same_at(new, old, key) {
                    super::service::immutable(&mut errors, new, old, key);
                }
            }
        }
        errors.0
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        let about = involved(obj);
        if let Some(rest) = field
            .strip_prefix("involvedObject.")
            .or_else(|| field.strip_prefix("regarding."))
        {
            return matches!(
                rest,
                "kind"
                    | "namespace"
                    | "name"
                    | "uid"
                    | "apiVersion"
                    | "resourceVersion"
                    | "fieldPath"
            )
            .then(|| text(obj, &format!("{about}.{rest}")).to_owned());
        }
        match field {
            "reason" | "type" => Some(text(obj, field).to_owned()),
            "reportingComponent" | "reportingController" => Some(
                ["reportingComponent", "reportingController"]
                    .into_iter()
                    .map(|f| text(obj, f))
                    .find(|s| !s.is_empty())
                    .unwrap_or(source(obj))
                    .to_owned(),
            ),
            "source" => Some(
                Some(source(obj))
                    .filter(|s| !s.is_empty())
                    .unwrap_or(text(obj, "reportingComponent"))
                    .to_owned(),
            ),
            _ => generic::field_value(obj, field),
        }
    }
}

/// Returns the name of the field that refers to the involved object; it differs by group.
fn involved(obj: &Object) -> &'static str {
    if has(obj, "regarding") {
        "regarding"
    } else {
        "involvedObject"
    }
}

fn source(obj: &Object) -> &str {
    match text(obj, "source.component") {
        "" => text(obj, "deprecatedSource.component"),
        component => component,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectable_by_what_it_is_about() {
        let e = json!({"metadata": {"namespace": "a"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "a"},
            "source": {"component": "kubelet"}, "reason": "Pulled"});
        assert_eq!(
            Event.field_value(&e, "involvedObject.name").as_deref(),
            Some("p")
        );
        assert_eq!(Event.field_value(&e, "source").as_deref(), Some("kubelet"));
        assert_eq!(Event.field_value(&e, "nonsense"), None);
        assert!(Event.validate_create(&e).is_empty());
    }

    #[test]
    fn lives_where_its_object_does() {
        let e = json!({"metadata": {"namespace": "b"}, "involvedObject": {"namespace": "a"}});
        assert_eq!(
            Event.validate_create(&e)[0].field,
            "involvedObject.namespace"
        );
    }
}
