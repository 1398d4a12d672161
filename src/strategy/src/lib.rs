//! Defaulting, preparation and validation of built-in kinds.
//!
//! The API server's engine is generic; everything that a schema cannot say
//! about a built-in kind stands here, one small file a kind or family. The
//! functions are pure: they see untyped [`Object`]s that already fit their
//! schema, and a [`Context`] that carries time and user. They follow
//! Kubernetes v1.36: defaults its `SetDefaults_*` functions, preparation its
//! registry strategies, validation its `validation` packages.
//!
//! Upstream validates *internal* types after conversion; here objects are in
//! a served version. For the groups with more than one version the rules
//! accept the storage version's form.

mod admissionregistration;
mod apiextensions;
mod apps;
mod authentication;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
mod core;
mod discovery;
mod errors;
mod flowcontrol;
mod generic;
mod metadata;
mod names;
mod networking;
mod policy;
mod quantities;
mod rbac;
mod resource;
mod scheduling;
mod selectors;
mod storage;
#[cfg(test)]
mod tests;
pub mod tree;

use std::collections::BTreeMap;

pub use self::core::pod::addresses as pod_addresses;
pub use generic::{Generic, WithoutStatus};
pub use metadata::{NameRule, validate_metadata, validate_metadata_update};
pub use rkube_api::Object;
use rkube_api::status::{FieldError, Status};
pub use selectors::{format as format_selector, format_labels};

static NO_EXTRA: BTreeMap<String, Vec<String>> = BTreeMap::new();

/// Who asks, and when. Strategies read no clock and know no session.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The request's time.
    pub now: jiff::Timestamp,
    /// The authenticated user's name.
    pub user: &'a str,
    /// The user's UID, empty when the authenticator knows none.
    pub uid: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
    /// What else the authenticator said of the user.
    pub extra: &'a BTreeMap<String, Vec<String>>,
}

impl<'a> Context<'a> {
    /// A context of a user without UID, groups or extra.
    pub fn new(now: jiff::Timestamp, user: &'a str) -> Self {
        Context {
            now,
            user,
            uid: "",
            groups: &[],
            extra: &NO_EXTRA,
        }
    }
}

/// What happens to an object's dependents when a delete request does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GarbageCollection {
    /// The garbage collector deletes them after their owner.
    Background,
    /// They stay (`ReplicationController` alone, for history's sake).
    Orphan,
}

/// A request to a subresource that changes the parent object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subresource {
    /// `pods/ephemeralcontainers`
    EphemeralContainers,
    /// `pods/resize`
    Resize,
    /// `certificatesigningrequests/approval`
    Approval,
    /// `namespaces/finalize`
    Finalize,
}

/// The behaviour of one kind. The default methods do what a generic resource
/// needs; a custom resource uses them unchanged.
///
/// The API server calls them in this order. Create: [`default`](Self::default),
/// system metadata (uid, creationTimestamp, generated name),
/// [`prepare_create`](Self::prepare_create), admission, `default` again,
/// [`validate_metadata`], [`validate_create`](Self::validate_create). Update:
/// `default`, [`prepare_update`](Self::prepare_update), admission,
/// [`validate_metadata_update`], [`validate_update`](Self::validate_update).
pub trait Strategy: Send + Sync {
    /// Fills in upstream's defaults. Idempotent.
    fn default(&self, _obj: &mut Object) {}

    /// What a name of this kind may look like.
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Subdomain
    }

    /// Makes a new object ready: no status of the user's, generation 1.
    fn prepare_create(&self, ctx: &Context<'_>, obj: &mut Object) {
        let _ = ctx;
        generic::prepare_create(obj);
    }

    /// Makes an update of the main resource ready: status kept from `old`,
    /// generation raised when anything but metadata and status changed.
    fn prepare_update(&self, ctx: &Context<'_>, new: &mut Object, old: &Object) {
        let _ = ctx;
        generic::prepare_update(new, old);
    }

    /// Makes an update of `/status` ready: everything but status kept from `old`.
    fn prepare_status_update(&self, ctx: &Context<'_>, new: &mut Object, old: &Object) {
        let _ = ctx;
        generic::prepare_status_update(new, old);
    }

    /// Makes an update through another subresource ready: keeps from `old` what
    /// that subresource may not change.
    fn prepare_subresource_update(
        &self,
        ctx: &Context<'_>,
        subresource: Subresource,
        new: &mut Object,
        old: &Object,
    ) {
        let _ = (ctx, subresource);
        generic::prepare_update(new, old);
    }

    /// The kind's rules for a new object, metadata apart.
    fn validate_create(&self, _obj: &Object) -> Vec<FieldError> {
        Vec::new()
    }

    /// The kind's rules for a changed object, metadata apart.
    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let _ = old;
        self.validate_create(new)
    }

    /// The rules for a changed status.
    fn validate_status_update(&self, _new: &Object, _old: &Object) -> Vec<FieldError> {
        Vec::new()
    }

    /// The rules for a change through another subresource.
    fn validate_subresource_update(
        &self,
        _subresource: Subresource,
        new: &Object,
        old: &Object,
    ) -> Vec<FieldError> {
        self.validate_update(new, old)
    }

    /// Sentences for the `Warning` header of a create (`old` is `None`) or update.
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// May a PUT create the object?
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// May a PUT leave resourceVersion out?
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// The kind's grace period in seconds when a delete request names none;
    /// `None`: the kind is deleted at once (finalizers apart).
    fn default_grace_period(&self, _obj: &Object) -> Option<i64> {
        None
    }

    /// The grace period of a delete request in seconds, given what the request
    /// asked for; `None`: the kind knows no graceful deletion.
    fn grace_period(&self, obj: &Object, requested: Option<i64>) -> Option<i64> {
        self.default_grace_period(obj)
            .map(|default| requested.unwrap_or(default))
    }

    /// A field's value for field selectors, `None` when the kind has no such
    /// selectable field. `metadata.name` and `metadata.namespace` are generic.
    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        generic::field_value(obj, field)
    }

    /// What becomes of dependents unless a delete request says otherwise.
    fn default_garbage_collection(&self) -> GarbageCollection {
        GarbageCollection::Background
    }

    /// Applies a `Binding` to an object (`pods/binding`).
    fn bind(&self, _ctx: &Context<'_>, _obj: &mut Object, _binding: &Object) -> Result<(), Status> {
        Err(Status::bad_request("this kind can not be bound"))
    }

    /// The `autoscaling/v1` `Scale` view of an object, where the kind has one.
    fn scale(&self, _obj: &Object) -> Option<Object> {
        None
    }

    /// Writes a `Scale`'s `spec.replicas` into the object.
    fn set_scale(&self, _obj: &mut Object, _scale: &Object) -> Result<(), Status> {
        Err(Status::bad_request("this kind can not be scaled"))
    }
}

/// The strategy of a kind, the generic one when it has none of its own.
pub fn strategy_for(group: &str, kind: &str) -> &'static dyn Strategy {
    match group {
        "" => core::strategy_for(kind),
        "apps" => apps::strategy_for(kind),
        "batch" => batch::strategy_for(kind),
        "autoscaling" => autoscaling::strategy_for(kind),
        "policy" => policy::strategy_for(kind),
        "networking.k8s.io" => networking::strategy_for(kind),
        "discovery.k8s.io" => discovery::strategy_for(kind),
        "rbac.authorization.k8s.io" => rbac::strategy_for(kind),
        "storage.k8s.io" => storage::strategy_for(kind),
        "coordination.k8s.io" => coordination::strategy_for(kind),
        "certificates.k8s.io" => certificates::strategy_for(kind),
        "admissionregistration.k8s.io" => admissionregistration::strategy_for(kind),
        "apiextensions.k8s.io" => apiextensions::strategy_for(kind),
        "apiregistration.k8s.io" => apiextensions::strategy_for(kind),
        "scheduling.k8s.io" => scheduling::strategy_for(kind),
        "node.k8s.io" => scheduling::strategy_for(kind),
        "flowcontrol.apiserver.k8s.io" => flowcontrol::strategy_for(kind),
        "resource.k8s.io" => resource::strategy_for(kind),
        "events.k8s.io" => core::strategy_for(kind),
        "authentication.k8s.io" => authentication::strategy_for(kind),
        _ => None,
    }
    .unwrap_or(&Generic)
}
