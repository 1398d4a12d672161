//! Defaulting, preparation and validation of built-in kinds.
//!
//! The API server's request handling is generic. This crate holds what a schema cannot express
//! about the built-in kinds, in one module per kind or API group. The functions are pure: they
//! receive untyped [`Object`]s that conform to their schema, and a [`Context`] with the time and
//! the user. They follow Kubernetes v1.36: defaulting its `SetDefaults_*` functions, preparation
//! its registry strategies, validation its `validation` packages.
//!
//! Upstream validates *internal* types after conversion; here objects have a served version. For
//! groups with several versions, the rules accept the form of the storage version.

mod admissionregistration;
mod apiextensions;
mod apps;
mod authentication;
mod autoscaling;
mod batch;
mod certificates;
mod conditions;
mod coordination;
mod core;
mod discovery;
mod errors;
mod flowcontrol;
mod generic;
mod metadata;
mod names;
mod networking;
mod node_labels;
mod pem;
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

pub use self::core::cluster_ip_errors;
pub use self::core::pod::addresses as pod_addresses;
pub use apiextensions::hoist as hoist_shared_of_versions;
pub use generic::{Generic, WithoutStatus};
pub use metadata::{NameRule, validate_metadata, validate_metadata_update};
pub use rkube_api::Object;
use rkube_api::status::{FieldError, Status};
pub use selectors::{format as format_selector, format_labels};

static NO_EXTRA: BTreeMap<String, Vec<String>> = BTreeMap::new();

/// Time and user of a request. Strategies have no other access to clock or session.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Time of the request.
    pub now: jiff::Timestamp,
    /// Name of the authenticated user.
    pub user: &'a str,
    /// UID of the user; empty if the authenticator provides none.
    pub uid: &'a str,
    /// Groups of the user.
    pub groups: &'a [String],
    /// Additional attributes of the user from the authenticator.
    pub extra: &'a BTreeMap<String, Vec<String>>,
}

impl<'a> Context<'a> {
    /// Returns a context for a user without UID, groups and extra attributes.
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

/// Default propagation policy of deletions: the fate of dependents if the request names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GarbageCollection {
    /// The garbage collector deletes them after their owner.
    Background,
    /// The dependents are kept (`ReplicationController` and `Job`, for compatibility).
    Orphan,
    /// The objects have no dependents; a policy of the request has no effect.
    Unsupported,
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

/// Behavior of one kind (upstream: `rest.RESTCreateStrategy` and `rest.RESTUpdateStrategy`).
/// The default methods implement a generic resource; custom resources use them unchanged.
///
/// The API server calls them in this order. Create: [`default`](Self::default),
/// system metadata (uid, creationTimestamp, generated name),
/// [`prepare_create`](Self::prepare_create), admission, `default` again,
/// [`validate_metadata`], [`validate_create`](Self::validate_create). Update:
/// `default`, [`prepare_update`](Self::prepare_update), admission,
/// [`validate_metadata_update`], [`validate_update`](Self::validate_update).
pub trait Strategy: Send + Sync {
    /// Sets upstream's defaults. Idempotent.
    fn default(&self, _obj: &mut Object) {}

    /// Returns the syntax of the kind's names.
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Subdomain
    }

    /// Returns whether the errors of a new object's metadata are returned with those of the rest.
    fn validates_metadata(&self) -> bool {
        true
    }

    /// Prepares a new object: removes the status and sets generation 1.
    fn prepare_create(&self, ctx: &Context<'_>, obj: &mut Object) {
        let _ = ctx;
        generic::prepare_create(obj);
    }

    /// Prepares an update of the main resource: keeps the status of `old`, and increments the
    /// generation if anything but metadata and status changed.
    fn prepare_update(&self, ctx: &Context<'_>, new: &mut Object, old: &Object) {
        let _ = ctx;
        generic::prepare_update(new, old);
    }

    /// Prepares an update of `/status`: keeps the fields of `old` except metadata and status.
    fn prepare_status_update(&self, ctx: &Context<'_>, new: &mut Object, old: &Object) {
        let _ = ctx;
        generic::prepare_status_update(new, old);
    }

    /// Prepares an update through another subresource: keeps the fields of `old` that the
    /// subresource must not change.
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

    /// Validates a new object, except its metadata.
    fn validate_create(&self, _obj: &Object) -> Vec<FieldError> {
        Vec::new()
    }

    /// Validates an updated object, except its metadata.
    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        errors::ratcheted(self.validate_create(new), || self.validate_create(old))
    }

    /// Validates an update of `/status`.
    fn validate_status_update(&self, _new: &Object, _old: &Object) -> Vec<FieldError> {
        Vec::new()
    }

    /// Validates an update through another subresource.
    fn validate_subresource_update(
        &self,
        _subresource: Subresource,
        new: &Object,
        old: &Object,
    ) -> Vec<FieldError> {
        self.validate_update(new, old)
    }

    /// Returns messages for the `Warning` header of a create (`old` is `None`) or an update.
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// Returns whether a PUT may create the object.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Returns whether a PUT may omit `metadata.resourceVersion`.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Returns the grace period in seconds for delete requests that name none. `None` if the
    /// kind has no graceful deletion.
    fn default_grace_period(&self, _obj: &Object) -> Option<i64> {
        None
    }

    /// Returns the grace period of a delete request in seconds; `requested` is the request's.
    /// `None` if the kind has no graceful deletion.
    fn grace_period(&self, obj: &Object, requested: Option<i64>) -> Option<i64> {
        self.default_grace_period(obj)
            .map(|default| requested.unwrap_or(default))
    }

    /// Returns the value of a field for field selectors, `None` if the kind does not support
    /// the field. All kinds support `metadata.name` and `metadata.namespace`.
    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        generic::field_value(obj, field)
    }

    /// Returns the propagation policy for delete requests that name none.
    fn default_garbage_collection(&self) -> GarbageCollection {
        GarbageCollection::Background
    }

    /// Applies a `Binding` to the object (`pods/binding`).
    ///
    /// # Errors
    ///
    /// Returns a bad request if the kind cannot be bound, or why the binding is rejected.
    fn bind(&self, _ctx: &Context<'_>, _obj: &mut Object, _binding: &Object) -> Result<(), Status> {
        Err(Status::bad_request("this kind can not be bound"))
    }

    /// Returns the object as `autoscaling/v1` `Scale`, `None` if the kind has no scale.
    fn scale(&self, _obj: &Object) -> Option<Object> {
        None
    }

    /// Sets the object's replicas to `spec.replicas` of a `Scale`.
    ///
    /// # Errors
    ///
    /// Returns a bad request if the kind has no scale, or why the value is invalid.
    fn set_scale(&self, _obj: &mut Object, _scale: &Object) -> Result<(), Status> {
        Err(Status::bad_request("this kind can not be scaled"))
    }
}

/// Returns the strategy of a kind; [`Generic`] for kinds without a specific one.
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
        "events.k8s.io" => core::strategy_of_events(kind),
        "authentication.k8s.io" => authentication::strategy_for(kind),
        _ => None,
    }
    .unwrap_or(&Generic)
}
