//! Behavior shared by all kinds, and strategies without kind-specific code.

use serde_json::Value;

use crate::tree::{at, has, int, keep, put, remove, same, text};
use crate::{Context, Object, Strategy};

/// Strategy of kinds without specific rules, among them custom resources with a status
/// subresource.
pub struct Generic;

impl Strategy for Generic {
    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        prepare_custom_status_update(new, old);
    }
}

/// Strategy of custom resources without a status subresource: `status` is an ordinary field.
pub struct WithoutStatus;

impl Strategy for WithoutStatus {
    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        put(obj, "metadata.generation", 1);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        set_generation(new, old, !same_but(new, old, &["metadata"]));
    }
}

/// Removes the status and sets generation 1.
pub(crate) fn prepare_create(obj: &mut Object) {
    remove(obj, "status");
    put(obj, "metadata.generation", 1);
}

/// Keeps the status, and increments the generation if anything but metadata and status changed.
pub(crate) fn prepare_update(new: &mut Object, old: &Object) {
    keep(new, old, "status");
    set_generation(new, old, !same_but(new, old, &["metadata", "status"]));
}

/// Keeps the status, and increments the generation only if `spec` changed.
pub(crate) fn prepare_spec_update(new: &mut Object, old: &Object) {
    keep(new, old, "status");
    set_generation(new, old, !same(at(new, "spec"), at(old, "spec")));
}

/// Prepares a new object of a kind without generation.
pub(crate) fn prepare_create_plain(_obj: &mut Object) {}

/// Prepares a status update that changes no metadata but the owners of fields: keeps labels,
/// annotations, finalizers and owners (upstream: `ResetObjectMetaForStatus`).
pub(crate) fn reset_metadata(new: &mut Object, old: &Object) {
    for key in [
        "deletionTimestamp",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ] {
        keep(new, old, &format!("metadata.{key}"));
    }
}

/// Prepares an update of a kind without generation.
pub(crate) fn prepare_update_plain(new: &mut Object, old: &Object) {
    keep(new, old, "metadata.generation");
}

/// Keeps everything but metadata and status, including the generation.
pub(crate) fn prepare_status_update(new: &mut Object, old: &Object) {
    let status = remove(new, "status");
    let metadata = remove(new, "metadata");
    *new = old.clone();
    if let Value::Object(map) = new {
        match status {
            Some(status) if !status.is_null() => map.insert("status".into(), status),
            _ => map.remove("status"),
        };
        if let Some(metadata) = metadata {
            map.insert("metadata".into(), metadata);
        }
    }
    keep(new, old, "metadata.generation");
}

/// Prepares a status update of a custom resource: keeps everything but `status`,
/// `metadata.managedFields` and `metadata.resourceVersion`.
fn prepare_custom_status_update(new: &mut Object, old: &Object) {
    prepare_status_update(new, old);
    keep_metadata(new, old);
}

/// Keeps the metadata except `managedFields` and `resourceVersion`.
fn keep_metadata(new: &mut Object, old: &Object) {
    let managed = at(new, "metadata.managedFields").clone();
    let version = at(new, "metadata.resourceVersion").clone();
    keep(new, old, "metadata");
    for (path, value) in [
        ("metadata.managedFields", managed),
        ("metadata.resourceVersion", version),
    ] {
        if value.is_null() {
            remove(new, path);
        } else {
            put(new, path, value);
        }
    }
}

/// Sets the generation to that of the old object, plus one if the object changed.
pub(crate) fn set_generation(new: &mut Object, old: &Object, changed: bool) {
    match int(old, "metadata.generation") {
        Some(generation) => put(
            new,
            "metadata.generation",
            generation.saturating_add(i64::from(changed)),
        ),
        None if changed => put(new, "metadata.generation", 1),
        None => {
            remove(new, "metadata.generation");
        }
    }
}

/// Returns whether two objects are equal except for `apiVersion`, `kind` and the given top-level
/// fields.
pub(crate) fn same_but(new: &Object, old: &Object, but: &[&str]) -> bool {
    let ignored =
        |key: &String| but.contains(&key.as_str()) || key == "apiVersion" || key == "kind";
    let (Some(a), Some(b)) = (new.as_object(), old.as_object()) else {
        return new == old;
    };
    a.iter()
        .filter(|(key, _)| !ignored(key))
        .all(|(key, value)| same(value, b.get(key).unwrap_or(&Value::Null)))
        && b.iter()
            .filter(|(key, _)| !ignored(key) && !a.contains_key(*key))
            .all(|(_, value)| same(value, &Value::Null))
}

/// Returns the value of a field that all kinds can be selected by.
pub(crate) fn field_value(obj: &Object, field: &str) -> Option<String> {
    match field {
        "metadata.name" | "metadata.namespace" => Some(text(obj, field).to_owned()),
        _ => None,
    }
}

/// Returns the scalar at a path as text for field selectors; empty if unset.
pub(crate) fn selectable(obj: &Object, path: &str) -> String {
    match at(obj, path) {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// Returns whether the object is being deleted.
pub(crate) fn deleting(obj: &Object) -> bool {
    has(obj, "metadata.deletionTimestamp")
}

/// The rule by which `metadata.generation` counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    /// It is what the creator says, and no update changes it.
    Given,
    /// It is what the creator says, plus one with every change but of metadata and status.
    GivenThenCounted,
    /// It is one, and no update changes it.
    One,
    /// It is one, plus one with every change but of metadata and status.
    Counted,
    /// As [`Generation::Counted`], and labels count.
    CountedWithLabels,
}

/// The metadata that an update of `/status` may change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusMetadata {
    /// All that an update of the object may.
    Taken,
    /// See [`reset_metadata`].
    Reset,
    /// Nothing.
    Kept,
}

/// A strategy composed of functions, for kinds that need no state or overrides.
pub(crate) struct Rules {
    /// Sets defaults.
    pub(crate) default: fn(&mut Object),
    /// Prepares a new object, or an updated one with the old one as third argument.
    pub(crate) prepare: fn(&Context<'_>, &mut Object, Option<&Object>),
    /// Prepares an update of `/status`, after the rest of the object is that of the old one.
    pub(crate) prepare_status: fn(&mut Object, &Object),
    /// Validates new and updated objects.
    pub(crate) validate: fn(&Object) -> Vec<rkube_api::status::FieldError>,
    /// Validates what only new objects must be.
    pub(crate) validate_new: fn(&Object) -> Vec<rkube_api::status::FieldError>,
    /// Validates the change from the old (second argument) to the new object (first argument).
    pub(crate) validate_update: fn(&Object, &Object) -> Vec<rkube_api::status::FieldError>,
    /// Validates the status, on an update of `/status` with the old object as second argument.
    pub(crate) validate_status: fn(&Object, &Object) -> Vec<rkube_api::status::FieldError>,
    /// Returns the warnings about a new or an updated object.
    pub(crate) warnings: fn(&Object, Option<&Object>) -> Vec<String>,
    /// The rule by which `metadata.generation` counts.
    pub(crate) generation: Generation,
    /// Whether `status` is a subresource.
    pub(crate) status: bool,
    /// The metadata that an update of `/status` may change.
    pub(crate) status_metadata: StatusMetadata,
    /// Whether a PUT may create the object.
    pub(crate) create_on_update: bool,
    /// Whether a PUT may omit `metadata.resourceVersion`.
    pub(crate) unconditional: bool,
    /// Whether the errors of a new object's metadata are returned with those of the rest.
    pub(crate) metadata: bool,
    /// Syntax of names.
    pub(crate) names: crate::NameRule,
    /// Fields that selectors support in addition to name and namespace.
    pub(crate) selectable: &'static [&'static str],
}

impl Rules {
    /// No generation, no status subresource, no defaults and no validation.
    pub(crate) const PLAIN: Rules = Rules {
        default: |_| {},
        prepare: |_, _, _| {},
        prepare_status: |_, _| {},
        validate: |_| Vec::new(),
        validate_new: |_| Vec::new(),
        validate_update: |_, _| Vec::new(),
        validate_status: |_, _| Vec::new(),
        warnings: |_, _| Vec::new(),
        generation: Generation::Given,
        status: false,
        status_metadata: StatusMetadata::Taken,
        create_on_update: false,
        unconditional: true,
        metadata: true,
        names: crate::NameRule::Dns1123Subdomain,
        selectable: &[],
    };

    /// Status subresource, no generation.
    pub(crate) const SPEC_AND_STATUS_PLAIN: Rules = Rules {
        status: true,
        ..Rules::PLAIN
    };

    /// Status subresource and generation.
    pub(crate) const SPEC_AND_STATUS: Rules = Rules {
        generation: Generation::Counted,
        status: true,
        ..Rules::PLAIN
    };
}

impl Strategy for Rules {
    fn default(&self, obj: &mut Object) {
        (self.default)(obj);
    }

    fn name_rule(&self) -> crate::NameRule {
        self.names
    }

    fn validates_metadata(&self) -> bool {
        self.metadata
    }

    fn prepare_create(&self, ctx: &Context<'_>, obj: &mut Object) {
        if self.status {
            remove(obj, "status");
        }
        (self.prepare)(ctx, obj, None);
        match self.generation {
            Generation::Given | Generation::GivenThenCounted => {}
            Generation::One | Generation::Counted | Generation::CountedWithLabels => {
                put(obj, "metadata.generation", 1);
            }
        }
    }

    fn prepare_update(&self, ctx: &Context<'_>, new: &mut Object, old: &Object) {
        if self.status {
            keep(new, old, "status");
        }
        (self.prepare)(ctx, new, Some(old));
        let changed = !same_but(new, old, &["metadata", "status"]);
        let labels = "metadata.labels";
        match self.generation {
            Generation::Given | Generation::One => prepare_update_plain(new, old),
            Generation::GivenThenCounted | Generation::Counted => set_generation(new, old, changed),
            Generation::CountedWithLabels => {
                let changed = changed || !same(at(new, labels), at(old, labels));
                set_generation(new, old, changed);
            }
        }
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        prepare_status_update(new, old);
        match self.status_metadata {
            StatusMetadata::Taken => {}
            StatusMetadata::Reset => reset_metadata(new, old),
            StatusMetadata::Kept => keep_metadata(new, old),
        }
        (self.prepare_status)(new, old);
    }

    fn validate_create(&self, obj: &Object) -> Vec<rkube_api::status::FieldError> {
        let mut errors = (self.validate)(obj);
        errors.extend((self.validate_new)(obj));
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<rkube_api::status::FieldError> {
        let errors = (self.validate)(new);
        let mut errors = crate::errors::ratcheted(errors, || (self.validate)(old));
        errors.extend((self.validate_update)(new, old));
        errors
    }

    fn validate_status_update(
        &self,
        new: &Object,
        old: &Object,
    ) -> Vec<rkube_api::status::FieldError> {
        (self.validate_status)(new, old)
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        (self.warnings)(new, old)
    }

    fn allow_create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn allow_unconditional_update(&self) -> bool {
        self.unconditional
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        if self.selectable.contains(&field) {
            return Some(selectable(obj, field));
        }
        field_value(obj, field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ctx() -> Context<'static> {
        Context::new(jiff::Timestamp::UNIX_EPOCH, "test")
    }

    #[test]
    fn generation_follows_the_spec() {
        let old = json!({"metadata": {"name": "a", "generation": 3}, "spec": {"x": 1}, "status": {"s": 1}});
        let mut new = json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "spec": {"x": 1}, "status": {"s": 2}});
        Generic.prepare_update(&ctx(), &mut new, &old);
        assert_eq!(new["metadata"]["generation"], 3);
        assert_eq!(new["status"]["s"], 1);
        new["spec"]["x"] = json!(2);
        Generic.prepare_update(&ctx(), &mut new, &old);
        assert_eq!(new["metadata"]["generation"], 4);
    }

    #[test]
    fn status_update_changes_only_the_status() {
        let old = json!({"metadata": {"name": "a", "generation": 3, "labels": {"a": "b"}}, "spec": {"x": 1}});
        let mut new = json!({"metadata": {"name": "a"}, "spec": {"x": 2}, "status": {"ok": true}});
        Generic.prepare_status_update(&ctx(), &mut new, &old);
        assert_eq!(new["spec"]["x"], 1);
        assert_eq!(new["status"]["ok"], true);
        assert_eq!(new["metadata"]["labels"]["a"], "b");
    }
}
