//! Resources and their subresources.

use std::borrow::Cow;

use crate::gvk::{GroupKind, GroupResource, GroupVersionKind, GroupVersionResource, api_version};
use crate::schema::{Schema, TypeRef};

/// The verbs of a resource that is stored and changed in the usual way.
pub const ALL_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// The verbs of a subresource that shows a part of the object.
pub const PART_VERBS: &[&str] = &["get", "patch", "update"];
/// The verb of a resource that only answers.
pub const CREATE_ONLY: &[&str] = &["create"];
/// The verbs of a connection to something that runs.
pub const CONNECT_VERBS: &[&str] = &["create", "get"];

/// A row of the table: a resource in one version.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// The group, empty for the core group.
    pub group: Cow<'static, str>,
    /// The version.
    pub version: Cow<'static, str>,
    /// The plural name in lower case, as in paths.
    pub plural: Cow<'static, str>,
    /// The singular name in lower case.
    pub singular: Cow<'static, str>,
    /// The kind of an object.
    pub kind: Cow<'static, str>,
    /// The kind of a list of them.
    pub list_kind: Cow<'static, str>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Short names for kubectl.
    pub short_names: Vec<Cow<'static, str>>,
    /// Categories for kubectl, as `all`.
    pub categories: Vec<Cow<'static, str>>,
    /// What may be done, sorted; `watch` stands here too.
    pub verbs: &'static [&'static str],
    /// What hangs below an object.
    pub subresources: Vec<Subresource>,
    /// The OpenAPI definition's name; empty for custom resources.
    pub definition: Cow<'static, str>,
    /// The group under which objects are stored: another than `group` where
    /// two groups serve the same objects, as events are.
    pub storage_group: Cow<'static, str>,
    /// The version in which objects of this group and kind are stored.
    pub storage_version: Cow<'static, str>,
    /// Fields that field selectors may name, beyond `metadata.name` and
    /// `metadata.namespace`.
    pub selectable_fields: Vec<Cow<'static, str>>,
}

/// What hangs below an object, as `pods/exec`.
#[derive(Clone, Debug, PartialEq)]
pub struct Subresource {
    /// The name after the object's, as `status`.
    pub name: Cow<'static, str>,
    /// The kind that it takes and gives; may be of another group.
    pub kind: GroupVersionKind,
    /// What may be done, sorted.
    pub verbs: &'static [&'static str],
}

impl Resource {
    /// Group, version and kind.
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&*self.group, &*self.version, &*self.kind)
    }

    /// Group, version and plural name.
    pub fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource::new(&*self.group, &*self.version, &*self.plural)
    }

    /// Group and plural name.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&*self.group, &*self.plural)
    }

    /// Group and kind.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(&*self.group, &*self.kind)
    }

    /// What stands in an object's `apiVersion`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// The schema of a built-in kind; `None` for custom resources.
    pub fn schema(&self) -> Option<TypeRef> {
        Schema::builtin().definition(&self.definition)
    }

    /// Whether `verb` may be done.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether objects are stored, rather than answered or computed.
    pub fn is_stored(&self) -> bool {
        self.has_verb("watch")
    }

    /// Whether deleting an object answers with the object even when it is gone
    /// at once; other resources answer with a `Status`.
    pub fn returns_deleted_object(&self) -> bool {
        matches!(
            (&*self.group, &*self.plural),
            (
                "",
                "persistentvolumeclaims"
                    | "persistentvolumes"
                    | "pods"
                    | "podtemplates"
                    | "resourcequotas"
                    | "serviceaccounts"
                    | "services"
            ) | (
                "resource.k8s.io",
                "deviceclasses" | "resourceclaims" | "resourceclaimtemplates" | "resourceslices"
            ) | (
                "storage.k8s.io",
                "csidrivers"
                    | "csinodes"
                    | "storageclasses"
                    | "volumeattachments"
                    | "volumeattributesclasses"
            )
        )
    }

    /// Where the store keeps the objects: `/registry/apps/deployments/`; all
    /// versions and groups that serve them share it.
    pub fn storage_prefix(&self) -> String {
        let group = if self.storage_group.is_empty() {
            "core"
        } else {
            &self.storage_group
        };
        format!("/registry/{group}/{}/", self.plural)
    }

    /// Where the store keeps one object.
    pub fn storage_key(&self, namespace: &str, name: &str) -> String {
        let mut key = self.storage_prefix();
        if self.namespaced {
            key.push_str(namespace);
            key.push('/');
        }
        key.push_str(name);
        key
    }

    /// The path under which the group version is served: `/api/v1`, `/apis/apps/v1`.
    pub fn group_version_path(&self) -> String {
        group_version_path(&self.group, &self.version)
    }

    /// Whether a field selector may name `field`.
    pub fn is_selectable(&self, field: &str) -> bool {
        field == "metadata.name"
            || field == "metadata.namespace" && (self.namespaced || self.definition.is_empty())
            || self.selectable_fields.iter().any(|f| f == field)
    }
}

/// The path under which a group version is served.
pub fn group_version_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    }
}
