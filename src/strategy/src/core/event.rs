//! Events of the core group and of `events.k8s.io`.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use crate::errors::{Errors, IMMUTABLE, show_fields, shown_text};
use crate::generic;
use crate::names;
use crate::tree::{at, has, int, same, same_at, text};
use crate::{Context, GarbageCollection, Strategy};

/// The strategy of kind `Event`; accepts the field names of either group.
pub(crate) struct Event {
    /// Whether the requests are to the group `events.k8s.io`, whose rules are stricter. What they
    /// send may have the names of the core group already.
    pub(crate) strict: bool,
}

impl Strategy for Event {
    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        generic::prepare_create_plain(obj);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        legacy(&mut errors, obj, self.strict);
        if self.strict {
            series(&mut errors, obj);
            strict(&mut errors, obj);
        }
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        legacy(&mut errors, new, self.strict);
        if self.strict {
            if !same_at(new, old, "series") {
                series(&mut errors, new);
            }
            unchanged(&mut errors, new, old);
        }
        errors.0
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn default_garbage_collection(&self) -> GarbageCollection {
        GarbageCollection::Unsupported
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

/// Returns a field that has another name in the group `events.k8s.io`.
fn either<'a>(obj: &'a Object, core: &str, events: &str) -> &'a Value {
    match at(obj, events) {
        Value::Null => at(obj, core),
        value => value,
    }
}

/// Validates what holds in both groups. Fields in errors have the names of upstream's internal
/// type.
fn legacy(errors: &mut Errors, obj: &Object, strict: bool) {
    const WHERE: &str = "involvedObject.namespace";
    const MISMATCH: &str = "does not match event.namespace";
    let namespace = text(obj, "metadata.namespace");
    let expected = text(obj, &format!("{}.namespace", involved(obj)));
    if !has(obj, "eventTime") {
        // Events about cluster-scoped objects are in `default`.
        let fits = match expected {
            "" => matches!(namespace, "" | "default"),
            expected => namespace == expected,
        };
        if !fits {
            errors.invalid(WHERE, expected, MISMATCH);
        }
    } else {
        if expected.is_empty() && !matches!(namespace, "default" | "kube-system") {
            errors.invalid(WHERE, expected, MISMATCH);
        }
        new_fields(errors, obj, strict);
    }
    errors.invalid_each("namespace", namespace, names::dns1123_subdomain(namespace));
}

/// Validates the fields that events with an `eventTime` must have.
fn new_fields(errors: &mut Errors, obj: &Object, strict: bool) {
    let controller = match strict {
        true => "reportingController",
        false => "reportingComponent",
    };
    let name = either(obj, "reportingComponent", "reportingController");
    let name = name.as_str().unwrap_or_default();
    if name.is_empty() {
        errors.required(controller, "");
    }
    errors.invalid_each(controller, name, names::qualified_name(name));
    for key in ["reportingInstance", "action", "reason"] {
        let value = text(obj, key);
        if value.is_empty() {
            errors.required(key, "");
        } else if value.len() > 128 {
            errors.invalid(key, "", "can have at most 128 characters");
        }
    }
    let message = either(obj, "message", "note").as_str();
    if message.is_some_and(|message| message.len() > 1024) {
        errors.invalid("message", "", "can have at most 1024 characters");
    }
}

fn series(errors: &mut Errors, obj: &Object) {
    if !has(obj, "series") {
        return;
    }
    if int(obj, "series.count").unwrap_or(0) < 2 {
        errors.invalid("series.count", "", "should be at least 2");
    }
    if !has(obj, "series.lastObservedTime") {
        errors.required("series.lastObservedTime", "");
    }
}

/// Validates what only the group `events.k8s.io` demands.
fn strict(errors: &mut Errors, obj: &Object) {
    if !has(obj, "eventTime") {
        errors.required("eventTime", "");
    }
    let kind = text(obj, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid("type", "", format!("has invalid value: {kind}"));
    }
    let source = either(obj, "source", "deprecatedSource");
    let source = ["component", "host"]
        .iter()
        .any(|key| !text(source, key).is_empty());
    let first = either(obj, "firstTimestamp", "deprecatedFirstTimestamp");
    let last = either(obj, "lastTimestamp", "deprecatedLastTimestamp");
    let count = either(obj, "count", "deprecatedCount");
    for (shown, set) in [
        ("firstTimestamp", !first.is_null()),
        ("lastTimestamp", !last.is_null()),
        ("count", count.as_i64().unwrap_or(0) != 0),
        ("source", source),
    ] {
        if set {
            errors.invalid(shown, "", "needs to be unset");
        }
    }
}

/// Validates that an update changes nothing but the series and metadata.
fn unchanged(errors: &mut Errors, new: &Object, old: &Object) {
    for (core, events) in [
        ("involvedObject", "regarding"),
        ("reason", "reason"),
        ("message", "note"),
        ("source", "deprecatedSource"),
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "deprecatedCount"),
        ("reason", "reason"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        let value = either(new, core, events);
        if !same(value, either(old, core, events)) {
            let shown = match core {
                "reportingComponent" => events,
                _ => core,
            };
            changed(errors, core, shown, value);
        }
    }
}

/// Reports a changed field. A field that is unset is shown as Go's value of its type.
fn changed(errors: &mut Errors, field: &str, shown: &str, value: &Value) {
    match field {
        "involvedObject" => errors.invalid_shown(shown, &show_reference(value), IMMUTABLE),
        "related" if !value.is_null() => {
            errors.invalid_shown(shown, &show_reference(value), IMMUTABLE);
        }
        "source" => {
            let fields = ["Component", "Host"].map(|name| {
                let path = name.to_ascii_lowercase();
                (name, shown_text(value, &path))
            });
            errors.invalid_shown(shown, &show_fields(&fields), IMMUTABLE);
        }
        "count" => errors.invalid(shown, value.as_i64().unwrap_or(0), IMMUTABLE),
        "reason" | "message" | "type" | "action" | "reportingComponent" | "reportingInstance" => {
            errors.invalid(shown, value.as_str().unwrap_or_default(), IMMUTABLE);
        }
        _ => errors.invalid(shown, value.clone(), IMMUTABLE),
    }
}

/// Returns a reference as upstream's messages show it.
fn show_reference(reference: &Value) -> String {
    show_fields(&[
        ("Kind", shown_text(reference, "kind")),
        ("Namespace", shown_text(reference, "namespace")),
        ("Name", shown_text(reference, "name")),
        ("UID", shown_text(reference, "uid")),
        ("APIVersion", shown_text(reference, "apiVersion")),
        ("ResourceVersion", shown_text(reference, "resourceVersion")),
        ("FieldPath", shown_text(reference, "fieldPath")),
    ])
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

    const CORE: Event = Event { strict: false };
    const NEW: Event = Event { strict: true };

    #[test]
    fn strict_in_the_group_of_events_only() {
        let event = json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingInstance": "i", "action": "a",
            "reason": "r", "type": "Odd", "count": 1, "source": {"host": "h"}});
        let fields = |strategy: Event| -> Vec<String> {
            let errors = strategy.validate_create(&event);
            errors.into_iter().map(|error| error.field).collect()
        };
        assert!(
            fields(CORE)
                .iter()
                .all(|field| field == "reportingComponent")
        );
        let errors = fields(NEW);
        assert_eq!(errors[0], "reportingController");
        assert_eq!(errors[errors.len() - 3..], ["type", "count", "source"]);
        let mut changed = event.clone();
        changed["message"] = "m".into();
        let errors = NEW.validate_update(&changed, &event);
        assert!(errors.iter().any(|error| error.field == "message"));
        assert!(
            !CORE
                .validate_update(&changed, &event)
                .iter()
                .any(|error| error.field == "message")
        );
    }

    #[test]
    fn selectable_by_what_it_is_about() {
        let e = json!({"metadata": {"namespace": "a"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "a"},
            "source": {"component": "kubelet"}, "reason": "Pulled"});
        assert_eq!(
            CORE.field_value(&e, "involvedObject.name").as_deref(),
            Some("p")
        );
        assert_eq!(CORE.field_value(&e, "source").as_deref(), Some("kubelet"));
        assert_eq!(CORE.field_value(&e, "nonsense"), None);
        assert!(CORE.validate_create(&e).is_empty());
    }

    #[test]
    fn lives_where_its_object_does() {
        let e = json!({"metadata": {"namespace": "b"}, "involvedObject": {"namespace": "a"}});
        assert_eq!(
            CORE.validate_create(&e)[0].field,
            "involvedObject.namespace"
        );
    }
}
