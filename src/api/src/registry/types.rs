//! Resources and their subresources.

use std::borrow::Cow;

use crate::gvk::{GroupKind, GroupResource, GroupVersionKind, GroupVersionResource, api_version};
use crate::schema::{Schema, TypeRef};

/// The verbs of a resource that is stored.
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
/// The verbs of a subresource that is a part of the object.
pub const PART_VERBS: &[&str] = &["get", "patch", "update"];
/// The verb of a resource that is evaluated and not stored.
pub const CREATE_ONLY: &[&str] = &["create"];
/// The verbs of a subresource that connects to a running workload.
pub const CONNECT_VERBS: &[&str] = &["create", "get"];

/// A resource in one version.
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
    /// The kind of lists.
    pub list_kind: Cow<'static, str>,
    /// Whether objects are namespaced.
    pub namespaced: bool,
    /// Short names for kubectl.
    pub short_names: Vec<Cow<'static, str>>,
    /// Categories for kubectl, as `all`.
    pub categories: Vec<Cow<'static, str>>,
    /// The supported verbs, sorted.
    pub verbs: &'static [&'static str],
    /// The subresources.
    pub subresources: Vec<Subresource>,
    /// The OpenAPI definition's name; empty for custom resources.
    pub definition: Cow<'static, str>,
    /// The group under which objects are stored. It differs from `group` where two groups
    /// serve the same objects, as with events.
    pub storage_group: Cow<'static, str>,
    /// The version in which objects of this group and kind are stored.
    pub storage_version: Cow<'static, str>,
    /// Fields that field selectors may name, beyond `metadata.name` and
    /// `metadata.namespace`.
    pub selectable_fields: Vec<Cow<'static, str>>,
}

/// A subresource of an object, as `pods/exec`.
#[derive(Clone, Debug, PartialEq)]
pub struct Subresource {
    /// The name after the object's, as `status`.
    pub name: Cow<'static, str>,
    /// The kind of its objects; may be of another group.
    pub kind: GroupVersionKind,
    /// The supported verbs, sorted.
    pub verbs: &'static [&'static str],
}

impl Resource {
    /// Returns group, version and kind.
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&*self.group, &*self.version, &*self.kind)
    }

    /// Returns group, version and plural name.
    pub fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource::new(&*self.group, &*self.version, &*self.plural)
    }

    /// Returns group and plural name.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&*self.group, &*self.plural)
    }

    /// Returns group and kind, as errors have them: events are of the core group in all their
    /// groups.
    pub fn group_kind(&self) -> GroupKind {
        let group = match (&*self.group, &*self.kind) {
            ("events.k8s.io", "Event") => "",
            (group, _) => group,
        };
        GroupKind::new(group, &*self.kind)
    }

    /// Returns the `apiVersion` of objects.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Returns the schema of a built-in kind; `None` for custom resources.
    pub fn schema(&self) -> Option<TypeRef> {
        Schema::builtin().definition(&self.definition)
    }

    /// Returns whether `verb` is supported.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Returns a subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Returns whether objects are stored, rather than evaluated or computed.
    pub fn is_stored(&self) -> bool {
        self.has_verb("watch")
    }

    /// Returns whether the response to a deletion is the object even if it is removed at
    /// once. The response of other resources is then a `Status`.
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

    /// Returns the prefix of the objects' keys in the store: `/registry/apps/deployments/`.
    /// All versions and groups that serve the objects share it.
    pub fn storage_prefix(&self) -> String {
        let group = if self.storage_group.is_empty() {
            "core"
        } else {
            &self.storage_group
        };
        format!("/registry/{group}/{}/", self.plural)
    }

    /// Returns the key of an object in the store.
    pub fn storage_key(&self, namespace: &str, name: &str) -> String {
        let mut key = self.storage_prefix();
        if self.namespaced {
            key.push_str(namespace);
            key.push('/');
        }
        key.push_str(name);
        key
    }

    /// Returns the path under which the group version is served: `/api/v1`, `/apis/apps/v1`.
    pub fn group_version_path(&self) -> String {
        group_version_path(&self.group, &self.version)
    }

    /// Returns whether field selectors support `field`.
    pub fn is_selectable(&self, field: &str) -> bool {
        field == "metadata.name"
            || field == "metadata.namespace" && (self.namespaced || self.definition.is_empty())
            || self.selectable_fields.iter().any(|f| f == field)
    }
}

/// Returns the path under which a group version is served.
pub fn group_version_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    }
}
