//! Constructors for field errors and field paths.

use rkube_api::status::{FieldError, FieldErrorKind};
use serde_json::Value;

/// The errors found so far, with one method per kind of error.
#[derive(Default)]
pub(crate) struct Errors(pub(crate) Vec<FieldError>);

impl Errors {
    /// Returns an empty list of errors.
    pub(crate) fn new() -> Self {
        Errors(Vec::new())
    }

    fn push(
        &mut self,
        kind: FieldErrorKind,
        field: impl Into<String>,
        value: Option<Value>,
        detail: impl Into<String>,
    ) {
        self.0.push(FieldError {
            kind,
            field: field.into(),
            value,
            detail: detail.into(),
        });
    }

    /// Adds `Required`.
    pub(crate) fn required(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.push(FieldErrorKind::Required, field, None, detail);
    }

    /// Adds `Invalid` with the rejected value.
    pub(crate) fn invalid(
        &mut self,
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.push(FieldErrorKind::Invalid, field, Some(value.into()), detail);
    }

    /// Adds `Invalid` with a rejected value as upstream shows its structs, see [`shown`].
    pub(crate) fn invalid_shown(&mut self, field: impl Into<String>, shown: &str, detail: &str) {
        let detail = match detail {
            "" => shown.to_owned(),
            detail => format!("{shown}: {detail}"),
        };
        self.push(FieldErrorKind::Invalid, field, None, detail);
    }

    /// Adds `NotSupported` with a rejected value as upstream shows its structs, see [`shown`].
    pub(crate) fn not_supported_shown(
        &mut self,
        field: impl Into<String>,
        shown: &str,
        known: &[&str],
    ) {
        let known: Vec<String> = known.iter().map(|k| format!("{k:?}")).collect();
        self.push(
            FieldErrorKind::NotSupported,
            field,
            None,
            format!("{shown}: supported values: {}", known.join(", ")),
        );
    }

    /// Adds `Duplicate` with a value as upstream shows its structs, see [`shown`].
    pub(crate) fn duplicate_shown(&mut self, field: impl Into<String>, shown: &str) {
        self.push(FieldErrorKind::Duplicate, field, None, shown);
    }

    /// Adds `Invalid` without the rejected value.
    pub(crate) fn invalid_omitted(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.push(FieldErrorKind::Invalid, field, None, detail);
    }

    /// Adds one `Invalid` error per message.
    pub(crate) fn invalid_each(&mut self, field: &str, value: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(field, value, message);
        }
    }

    /// Adds `Forbidden`.
    pub(crate) fn forbidden(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.push(FieldErrorKind::Forbidden, field, None, detail);
    }

    /// Adds `Duplicate`.
    pub(crate) fn duplicate(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.push(FieldErrorKind::Duplicate, field, Some(value.into()), "");
    }

    /// Adds `NotFound`.
    pub(crate) fn not_found(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.push(FieldErrorKind::NotFound, field, Some(value.into()), "");
    }

    /// Adds `NotFound` with a detail that says where the value should be.
    pub(crate) fn not_found_in(
        &mut self,
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.push(FieldErrorKind::NotFound, field, Some(value.into()), detail);
    }

    /// Adds `NotSupported`; lists the supported values in the given order. Upstream's is sorted
    /// where it has a set, and as declared where it has a list. Upstream's enumerations have types
    /// of their own, whose values its messages show as JSON; see [`Errors::not_supported_text`].
    pub(crate) fn not_supported(&mut self, field: impl Into<String>, value: &str, known: &[&str]) {
        self.not_supported_shown(field, &Value::from(value).to_string(), known);
    }

    /// Adds `NotSupported` for a plain string, which upstream shows with Go's escapes.
    pub(crate) fn not_supported_text(
        &mut self,
        field: impl Into<String>,
        value: &str,
        known: &[&str],
    ) {
        let known: Vec<String> = known.iter().map(|k| format!("{k:?}")).collect();
        self.push(
            FieldErrorKind::NotSupported,
            field,
            Some(value.into()),
            format!("supported values: {}", known.join(", ")),
        );
    }

    /// Adds `NotSupported` for a value that is no text.
    pub(crate) fn value_not_supported(
        &mut self,
        field: impl Into<String>,
        value: Value,
        known: &[&str],
    ) {
        self.not_supported(field, "", known);
        if let Some(error) = self.0.last_mut() {
            error.value = Some(value);
        }
    }

    /// Adds `TooLong`; `max` is in bytes.
    pub(crate) fn too_long(&mut self, field: impl Into<String>, max: usize) {
        self.0.push(FieldError::too_long(field, max));
    }

    /// Adds `TooMany`; `max` is the number of items.
    pub(crate) fn too_many(&mut self, field: impl Into<String>, actual: usize, max: usize) {
        self.0.push(FieldError::too_many(field, actual, max));
    }

    /// Adds the errors of another validation.
    pub(crate) fn extend(&mut self, more: Vec<FieldError>) {
        self.0.extend(more);
    }
}

/// Removes errors about the notation of addresses that the old object has already (upstream:
/// `IsValidIPForLegacyField` and `IsValidCIDRForLegacyField` with the old values). Such objects
/// were stored before the notation became strict, and must remain changeable. `old` returns
/// the errors of the old object; it is only called if there is something to remove.
pub(crate) fn ratcheted(
    mut errors: Vec<FieldError>,
    old: impl FnOnce() -> Vec<FieldError>,
) -> Vec<FieldError> {
    let strict = |error: &FieldError| crate::names::is_strictness(&error.detail);
    if errors.iter().any(strict) {
        let old = old();
        let before = |error: &FieldError| {
            old.iter()
                .any(|o| o.detail == error.detail && o.value == error.value)
        };
        errors.retain(|error| !strict(error) || !before(error));
    }
    errors
}

/// Returns the JSON text of a struct as upstream's messages show it: all fields, in the order
/// of their declaration, with the names that they have in Go.
pub(crate) fn show_fields(fields: &[(&str, String)]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

/// Returns the JSON text of the string at a path, which is empty if it is unset.
pub(crate) fn shown_text(value: &Value, path: &str) -> String {
    Value::from(crate::tree::text(value, path)).to_string()
}

/// Returns the JSON text of the number at a path, which is zero if it is unset.
pub(crate) fn shown_number(value: &Value, path: &str) -> String {
    crate::tree::int(value, path).unwrap_or(0).to_string()
}

/// Returns the JSON text of the value at a path, `null` if it is unset.
pub(crate) fn shown_any(value: &Value, path: &str) -> String {
    crate::tree::at(value, path).to_string()
}

/// Returns the JSON text of a list of structs, `null` if it is unset.
pub(crate) fn shown_list(list: &Value, item: impl Fn(&Value) -> String) -> String {
    match list {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(item).collect();
            format!("[{}]", items.join(","))
        }
        _ => "null".to_owned(),
    }
}

/// Returns the JSON text of a struct behind a pointer, `null` if it is unset.
pub(crate) fn shown_pointer(value: &Value, item: impl Fn(&Value) -> String) -> String {
    match value {
        Value::Null => "null".to_owned(),
        value => item(value),
    }
}

/// Returns `base.name`, or `name` if the base is empty.
pub(crate) fn child(base: &str, name: &str) -> String {
    if base.is_empty() {
        name.to_owned()
    } else {
        format!("{base}.{name}")
    }
}

/// Returns `base[i]`.
pub(crate) fn index(base: &str, i: usize) -> String {
    format!("{base}[{i}]")
}

/// Returns `base[key]`.
pub(crate) fn keyed(base: &str, key: &str) -> String {
    format!("{base}[{key}]")
}

/// Upstream's message for a changed immutable field.
pub(crate) const IMMUTABLE: &str = "field is immutable";
/// Upstream's message for a negative number.
pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::strategy_for;
    use crate::tests::validation::{patched, prepared};

    /// Lists of supported values in upstream's order, which is not always sorted.
    #[test]
    fn supported_values_are_in_order() {
        let pod = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
        let driver = json!({"spec": {}});
        let binding = json!({"spec": {"policyName": "p", "validationActions": ["Deny"],
            "paramRef": {"name": "n", "parameterNotFoundAction": "Deny"}}});
        for (group, kind, object, patch, want) in [
            (
                "",
                "Pod",
                &pod,
                r#"{"spec": {"restartPolicy": "X"}}"#,
                r#"spec.restartPolicy: Unsupported value: "X": supported values: "Always", "OnFailure", "Never""#,
            ),
            (
                "",
                "Pod",
                &pod,
                r#"{"spec": {"dnsPolicy": "X"}}"#,
                r#"spec.dnsPolicy: Unsupported value: "X": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None""#,
            ),
            (
                "storage.k8s.io",
                "CSIDriver",
                &driver,
                r#"{"spec": {"volumeLifecycleModes": ["X"]}}"#,
                r#"spec.volumeLifecycleModes: Unsupported value: "X": supported values: "Persistent", "Ephemeral""#,
            ),
            (
                "storage.k8s.io",
                "CSIDriver",
                &driver,
                r#"{"spec": {"fsGroupPolicy": "X"}}"#,
                r#"spec.fsGroupPolicy: Unsupported value: "X": supported values: "File", "None", "ReadWriteOnceWithFSType""#,
            ),
            (
                "admissionregistration.k8s.io",
                "ValidatingAdmissionPolicyBinding",
                &binding,
                r#"{"spec": {"paramRef": {"parameterNotFoundAction": "X"}}}"#,
                r#"spec.paramRef.parameterNotFoundAction: Unsupported value: "X": supported values: "Deny", "Allow""#,
            ),
        ] {
            let object = patched(&prepared(group, kind, object.clone()), patch);
            let errors = strategy_for(group, kind).validate_create(&object);
            let messages: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(messages, [want], "{kind} {patch}");
        }
    }
}
