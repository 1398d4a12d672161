//! Server-side apply and the tracking of field ownership, with the semantics of
//! upstream's `structured-merge-diff` (v6) and of its field manager.

mod field_type;
mod managed;
mod path;
mod set;
mod typed;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::Object;
use crate::fields;
use crate::meta;
use crate::schema::Type;
use crate::status::{Cause, Status};

use managed::{Managed, Manager, Operation, Owned};
pub use path::PathElement;
pub use set::FieldSet;
use typed::Comparison;

/// The annotation in which kubectl's client-side apply records its configuration.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manager of an object's fields before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Converts an object between versions of its kind, for field sets that were
/// recorded in another version than the request's.
pub trait Versions {
    /// Converts an object to `api_version` and returns it with its type in that version;
    /// `None` if the version is no longer served.
    fn convert<'s>(&'s self, object: &Object, api_version: &str) -> Option<(Object, Type<'s>)>;
}

/// A write, with the data that field ownership needs.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The kind's type in the request's version.
    pub ty: Type<'a>,
    /// The request's version, as in `apiVersion`.
    pub api_version: &'a str,
    /// The field manager's name.
    pub manager: &'a str,
    /// The subresource written, as `status`.
    pub subresource: Option<&'a str>,
    /// The time, RFC 3339 in seconds.
    pub now: &'a str,
    /// Converts between the kind's versions, if there are several. Without it all field
    /// sets are assumed to be of the request's version.
    pub versions: Option<&'a dyn Versions>,
    /// Fields that this write resets and therefore cannot own, as paths of names:
    /// `[["status"]]`.
    pub reset_fields: &'a [&'a [&'a str]],
}

/// A conflict: a manager and the path of a field that it owns.
type Conflict = (Manager, Vec<PathElement>);

enum Failure {
    Conflicts(Vec<Conflict>),
    Status(Status),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// Merges an applied configuration into the live object (none on create).
///
/// The objects are in the request's version. The result is neither defaulted nor
/// validated.
///
/// # Errors
/// 409 with causes if other managers own fields that would change, unless `force` is set.
/// 400 and 500 with upstream's messages for an invalid configuration.
pub fn apply(
    request: &Request<'_>,
    live: Option<&Object>,
    applied: &Object,
    force: bool,
) -> Result<Object, Status> {
    if meta::api_version(applied) != request.api_version {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {}",
            meta::api_version(applied),
            request.api_version
        )));
    }
    if applied
        .get("metadata")
        .and_then(|m| m.get("managedFields"))
        .is_some_and(|m| !m.is_null())
    {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    typed::validate(Some(request.ty), applied, false, &mut Vec::new()).map_err(|e| {
        let namespace = meta::namespace(applied);
        let name = meta::name(applied);
        let message = format!(
            "failed to create typed patch object ({namespace}/{name}; {}{}, Kind={}): {e}",
            if request.api_version.contains('/') {
                ""
            } else {
                "/"
            },
            request.api_version,
            meta::kind(applied)
        );
        // Upstream does not convert this error.
        Status::new(500, "", message)
    })?;

    let is_new = live.is_none();
    let created;
    let live = match live {
        Some(live) => live,
        None => {
            created = fields::empty(request.ty);
            &created
        }
    };
    let mut managed = Managed::decode(meta::managed_fields(live))
        .map_err(|e| Status::internal(format!("failed to decode managed fields: {e}")))?;
    // A new object has no fields with a previous owner.
    if managed.entries.is_empty() && !is_new {
        let nothing = fields::empty(request.ty);
        let request = Request {
            manager: BEFORE_FIRST_APPLY,
            ..*request
        };
        track(&request, &nothing, live, &mut managed);
    }

    let outcome = match apply_managed(request, live, applied, managed.clone(), force) {
        Err(Failure::Conflicts(conflicts)) if request.manager == "kubectl" => {
            match allowed_by_last_applied(request, live) {
                None => Err(Failure::Conflicts(conflicts)),
                Some(allowed) => {
                    let left: Vec<Conflict> = conflicts
                        .into_iter()
                        .filter(|(_, path)| !allowed.has_path(path))
                        .collect();
                    if left.is_empty() {
                        apply_managed(request, live, applied, managed, true)
                    } else {
                        Err(Failure::Conflicts(left))
                    }
                }
            }
        }
        outcome => outcome,
    };
    let (mut object, managed) = match outcome {
        Ok(outcome) => outcome,
        Err(Failure::Conflicts(conflicts)) => return Err(conflict_status(&conflicts)),
        Err(Failure::Status(status)) => return Err(status),
    };
    if request.manager == "kubectl"
        && meta::annotation(&object, LAST_APPLIED).is_some_and(|a| !a.is_empty())
    {
        let mut last = applied.clone();
        if let Some(annotations) = last
            .pointer_mut("/metadata/annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.remove(LAST_APPLIED);
        }
        meta::set_annotation(&mut object, LAST_APPLIED, &format!("{last}\n"));
    }
    managed.encode_into(&mut object);
    Ok(object)
}

/// Records the ownership of the fields that change when `new` replaces the live object
/// (none on create). Returns `new`, which is as it will be stored, with its
/// `managedFields`.
///
/// If `managedFields` of `new` is an empty list or has one empty entry, all ownership is
/// reset.
pub fn update(request: &Request<'_>, live: Option<&Object>, mut new: Object) -> Object {
    let is_reset = match new.get("metadata").and_then(|m| m.get("managedFields")) {
        Some(Value::Array(entries)) => match entries.as_slice() {
            [] => true,
            [entry] => entry.as_object().is_some_and(serde_json::Map::is_empty),
            _ => false,
        },
        _ => false,
    };
    let mut managed = if request.subresource.is_some_and(|s| !s.is_empty()) {
        Managed::from_object(live)
    } else if is_reset {
        Managed::default()
    } else {
        match Managed::decode(meta::managed_fields(&new)) {
            Ok(managed) if !managed.entries.is_empty() => managed,
            _ => Managed::from_object(live),
        }
    };
    meta::remove(&mut new, "managedFields");
    // An object without managed fields stays so until it is applied.
    let untracked = managed.entries.is_empty() && live.is_some_and(|l| !meta::uid(l).is_empty());
    if !untracked {
        let nothing;
        let live = match live {
            Some(live) => live,
            None => {
                nothing = fields::empty(request.ty);
                &nothing
            }
        };
        track(request, live, &new, &mut managed);
        managed.merge_oldest();
    }
    managed.encode_into(&mut new);
    new
}

/// Returns an object in a version, with its type in that version.
fn object_in_version<'a>(
    request: &Request<'a>,
    object: &'a Object,
    api_version: &str,
) -> Option<(Cow<'a, Object>, Type<'a>)> {
    match request.versions {
        Some(versions) if api_version != request.api_version => versions
            .convert(object, api_version)
            .map(|(object, ty)| (Cow::Owned(object), ty)),
        _ => Some((Cow::Borrowed(object), request.ty)),
    }
}

/// Fields that have no owner.
static STRIPPED: LazyLock<FieldSet> = LazyLock::new(|| {
    let mut set = FieldSet::default();
    for field in ["apiVersion", "kind", "metadata"] {
        set.insert_fields(&[field]);
    }
    for field in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        set.insert_fields(&["metadata", field]);
    }
    set
});

fn reset_fields(request: &Request<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    request
        .reset_fields
        .iter()
        .for_each(|path| set.insert_fields(path));
    set
}

/// Adapts field sets to the current schema, and drops those of versions that are no longer
/// served.
fn reconcile(request: &Request<'_>, live: &Object, managed: &mut Managed) {
    managed.entries.retain(
        |_, owned| match object_in_version(request, live, &owned.api_version) {
            Some((_, ty)) => {
                owned.set = typed::reconcile(Some(ty), &owned.set);
                true
            }
            None => false,
        },
    );
}

/// Removes the changed fields from all managers but `own`, and returns how the objects
/// differ.
///
/// # Errors
/// The conflicts, unless `force` is set.
fn take_over(
    request: &Request<'_>,
    live: &Object,
    new: &Object,
    managed: &mut Managed,
    own: Option<&Manager>,
    force: bool,
) -> Result<Comparison, Failure> {
    let whole = typed::compare(Some(request.ty), live, new);
    let reset = reset_fields(request);
    let mut by_version: BTreeMap<String, Option<Comparison>> = BTreeMap::new();
    by_version.insert(
        request.api_version.to_owned(),
        Some(without_reset_fields(&whole, &reset)),
    );
    let mut conflicts: Vec<Conflict> = Vec::new();
    for (manager, owned) in &managed.entries {
        if Some(manager) == own {
            continue;
        }
        let comparison = by_version
            .entry(owned.api_version.clone())
            .or_insert_with(|| {
                let (old, ty) = object_in_version(request, live, &owned.api_version)?;
                let (new, _) = object_in_version(request, new, &owned.api_version)?;
                Some(without_reset_fields(
                    &typed::compare(Some(ty), &old, &new),
                    &reset,
                ))
            });
        if let Some(comparison) = comparison {
            let changed = comparison.modified.clone().union(&comparison.added);
            owned
                .set
                .intersection(&changed)
                .for_each(&mut Vec::new(), &mut |path| {
                    conflicts.push((manager.clone(), path.to_vec()));
                });
        }
    }
    if !force && !conflicts.is_empty() {
        return Err(Failure::Conflicts(conflicts));
    }
    managed.entries.retain(|manager, owned| {
        if Some(manager) == own {
            return true;
        }
        // Sets of versions that are no longer served are dropped too.
        let Some(Some(comparison)) = by_version.get(&owned.api_version) else {
            return false;
        };
        let changed = comparison.modified.clone().union(&comparison.added);
        owned.set = owned
            .set
            .difference(&owned.set.intersection(&changed))
            .difference(&comparison.removed);
        !owned.set.is_empty()
    });
    Ok(whole)
}

fn without_reset_fields(comparison: &Comparison, reset: &FieldSet) -> Comparison {
    if reset.is_empty() {
        return comparison.clone();
    }
    Comparison {
        removed: comparison.removed.recursive_difference(reset),
        modified: comparison.modified.recursive_difference(reset),
        added: comparison.added.recursive_difference(reset),
    }
}

/// Makes the manager of an update the owner of the fields that it changed.
fn track(request: &Request<'_>, live: &Object, new: &Object, managed: &mut Managed) {
    reconcile(request, live, managed);
    let Ok(comparison) = take_over(request, live, new, managed, None, true) else {
        // Forced writes have no conflicts.
        return;
    };
    let set = comparison
        .modified
        .union(&comparison.added)
        .recursive_difference(&reset_fields(request))
        .difference(&STRIPPED);
    if set.is_empty() {
        return;
    }
    let manager = Manager::new(
        request.manager,
        Operation::Update,
        request.api_version,
        request.subresource.unwrap_or_default(),
    );
    let owned = managed.entries.entry(manager).or_insert_with(|| Owned {
        set: FieldSet::default(),
        api_version: request.api_version.to_owned(),
        time: None,
    });
    owned.set = std::mem::take(&mut owned.set).union(&set);
    owned.time = Some(request.now.to_owned());
}

fn apply_managed(
    request: &Request<'_>,
    live: &Object,
    applied: &Object,
    mut managed: Managed,
    force: bool,
) -> Result<(Object, Managed), Failure> {
    reconcile(request, live, &mut managed);
    let own = Manager::new(
        request.manager,
        Operation::Apply,
        request.api_version,
        request.subresource.unwrap_or_default(),
    );
    let merged =
        typed::merge(Some(request.ty), Some(live), Some(applied)).unwrap_or_else(|| live.clone());
    let last = managed.entries.get(&own).cloned();
    let set =
        typed::field_set(Some(request.ty), applied).recursive_difference(&reset_fields(request));
    let time = last.as_ref().and_then(|l| l.time.clone());
    managed.entries.insert(
        own.clone(),
        Owned {
            set,
            api_version: request.api_version.to_owned(),
            time,
        },
    );

    let mut object = match &last {
        Some(last) if !last.set.is_empty() => prune(request, &merged, &managed, last)?,
        _ => merged.clone(),
    };
    take_over(request, live, &object, &mut managed, Some(&own), force)?;
    drop_new_nulls(&merged, &mut object);

    let changed = object != *live;
    if let Some(owned) = managed.entries.get_mut(&own) {
        owned.set = owned.set.difference(&STRIPPED);
        if owned.set.is_empty() {
            managed.entries.remove(&own);
        } else if changed {
            owned.time = Some(request.now.to_owned());
        }
    }
    Ok((object, managed))
}

/// Removes the fields that the manager applied last time, does not apply now, and that no
/// other manager owns.
fn prune(
    request: &Request<'_>,
    merged: &Object,
    managed: &Managed,
    last: &Owned,
) -> Result<Object, Status> {
    let Some((at_last, ty)) = object_in_version(request, merged, &last.api_version) else {
        return Ok(merged.clone());
    };
    let named = |set: &FieldSet, ty: Type<'_>| set.with_named_fields(Some(ty));
    let without = |ty: Type<'_>, object: &Object, places: &FieldSet| {
        typed::remove(Some(ty), object, places).unwrap_or(Value::Null)
    };
    let mut pruned = without(ty, &at_last, &named(&last.set, ty));

    // Restore the fields that any manager owns, including the new configuration.
    let mut owned_at: BTreeMap<&str, FieldSet> = BTreeMap::new();
    for owned in managed.entries.values() {
        let set = owned_at.entry(&owned.api_version).or_default();
        *set = std::mem::take(set).union(&owned.set);
    }
    let mut version = last.api_version.clone();
    let first = owned_at
        .remove(last.api_version.as_str())
        .map(|set| (last.api_version.as_str(), set));
    for (at, owned) in first.into_iter().chain(owned_at) {
        let Some((merged_there, ty)) = object_in_version(request, merged, at) else {
            continue;
        };
        let pruned_there = if at == version || request.versions.is_none() {
            pruned.clone()
        } else {
            match request.versions.and_then(|v| v.convert(&pruned, at)) {
                Some((object, _)) => object,
                None => continue,
            }
        };
        let all = named(&typed::field_set(Some(ty), &merged_there), ty);
        let kept = named(&typed::field_set(Some(ty), &pruned_there), ty).union(&named(&owned, ty));
        pruned = without(ty, &merged_there, &all.difference(&kept));
        version = at.to_owned();
    }

    // Restore the fields that the manager did not own before.
    let pruned_at_last = if version == last.api_version || request.versions.is_none() {
        pruned
    } else {
        match request
            .versions
            .and_then(|v| v.convert(&pruned, &last.api_version))
        {
            Some((object, _)) => object,
            None => return Ok(merged.clone()),
        }
    };
    let kept = named(&typed::field_set(Some(ty), &pruned_at_last), ty);
    let all = named(&typed::field_set(Some(ty), &at_last), ty);
    let gone = all.difference(&kept).intersection(&named(&last.set, ty));
    let object = without(ty, &at_last, &gone);
    if last.api_version == request.api_version {
        return Ok(object);
    }
    match request.versions {
        None => Ok(object),
        Some(versions) => versions
            .convert(&object, request.api_version)
            .map(|(object, _)| object)
            .ok_or_else(|| {
                Status::internal(format!("failed to convert to {}", request.api_version))
            }),
    }
}

/// Removes nulls that replaced a map whose last field was removed.
fn drop_new_nulls(before: &Value, after: &mut Value) {
    if let (Value::Object(before), Value::Object(after)) = (before, after) {
        after.retain(|key, value| !value.is_null() || before.get(key).is_none_or(Value::is_null));
        for (key, value) in after.iter_mut() {
            if let Some(before) = before.get(key) {
                drop_new_nulls(before, value);
            }
        }
    }
}

/// Returns the fields of the last client-side apply that are unchanged, which kubectl's
/// server-side apply may take over. `None` if the object has no such record.
fn allowed_by_last_applied(request: &Request<'_>, live: &Object) -> Option<FieldSet> {
    let text = meta::annotation(live, LAST_APPLIED).filter(|a| !a.is_empty())?;
    let (last, _) = fields::parse_json(text.as_bytes()).ok()?;
    if meta::api_version(&last) != request.api_version {
        return None;
    }
    typed::validate(Some(request.ty), &last, false, &mut Vec::new()).ok()?;
    let comparison = typed::compare(Some(request.ty), &last, live);
    let set = typed::field_set(Some(request.ty), &last);
    Some(
        set.difference(&comparison.modified)
            .difference(&comparison.added)
            .difference(&comparison.removed),
    )
}

fn conflict_status(conflicts: &[Conflict]) -> Status {
    let causes = conflicts
        .iter()
        .map(|(manager, path)| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {}", manager.describe()),
            field: path::path_text(path),
        })
        .collect();
    if let [(manager, path)] = conflicts {
        let message = format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            manager.describe(),
            path::path_text(path)
        );
        return Status::apply_conflict(causes, message);
    }
    let mut by_manager: BTreeMap<&Manager, Vec<String>> = BTreeMap::new();
    for (manager, path) in conflicts {
        by_manager
            .entry(manager)
            .or_default()
            .push(format!("- {}", path::path_text(path)));
    }
    let lines: Vec<String> = by_manager
        .into_iter()
        .flat_map(|(manager, paths)| {
            std::iter::once(format!("conflicts with {}:", manager.describe())).chain(paths)
        })
        .collect();
    Status::apply_conflict(
        causes,
        format!(
            "Apply failed with {} conflicts: {}",
            conflicts.len(),
            lines.join("\n")
        ),
    )
}

#[cfg(test)]
mod tests;
