//! Field ownership (`managedFields`).

use rkube_api::status::Status;
use rkube_api::{Object, apply, meta};
use rkube_strategy::Subresource;

use crate::call::Call;
use crate::resources::Resource;
use crate::versions::{SchemaRef, VersionConverters};

/// The part of an object that a request may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectPart {
    /// Everything except the status.
    Main,
    /// Only the status.
    Status,
    /// The part that another subresource represents.
    Sub(Subresource),
}

impl ObjectPart {
    /// Returns the part that a subresource represents; the whole object for an empty name.
    ///
    /// # Errors
    ///
    /// 404 for another subresource.
    pub fn of(subresource: &str) -> Result<Self, Status> {
        Ok(match subresource {
            "" => Self::Main,
            "status" => Self::Status,
            "ephemeralcontainers" => Self::Sub(Subresource::EphemeralContainers),
            "resize" => Self::Sub(Subresource::Resize),
            "approval" => Self::Sub(Subresource::Approval),
            "finalize" => Self::Sub(Subresource::Finalize),
            _ => return Err(Status::page_not_found()),
        })
    }
}

/// The way in which field ownership is recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The manager becomes the owner of the fields that this write changes.
    Update,
    /// Server-side apply has already recorded the owners.
    Applied,
}

pub(super) fn applied(
    request: &apply::Request<'_>,
    live: Option<&Object>,
    patch: &Object,
    force: bool,
) -> Result<Object, Status> {
    let mut new = apply::apply(request, live, patch, force)?;
    if let (Some(live), true) = (live, meta::resource_version(patch).is_empty()) {
        meta::set_resource_version(&mut new, meta::resource_version(live));
    }
    Ok(new)
}

/// The inputs of ownership tracking, owned so that it can run on another thread.
#[derive(Clone)]
pub struct Tracking {
    /// The schema of the objects.
    pub schema: SchemaRef,
    /// Converters to the kind's other versions; `None` if there are none.
    pub converters: Option<VersionConverters>,
    /// The `apiVersion` of the request.
    pub api_version: String,
    /// The field manager.
    pub manager: String,
    /// The subresource that is written, if any.
    pub subresource: Option<String>,
    /// The time of the write, in RFC 3339.
    pub now: String,
    /// The fields that the write resets and cannot own.
    pub reset_fields: &'static [&'static [&'static str]],
}

impl Tracking {
    /// Returns the inputs for an object of another kind than the resource's, or one that is not
    /// stored.
    pub fn of_posted(schema: SchemaRef, call: &Call, object: &Object) -> Self {
        let subresource = &call.info.subresource;
        Self {
            schema,
            converters: None,
            api_version: meta::api_version(object).to_owned(),
            manager: call.field_manager(),
            subresource: Some(subresource.clone()).filter(|s| !s.is_empty()),
            now: meta::now_rfc3339(),
            reset_fields: &[],
        }
    }

    /// Records the owner of the fields of a new object.
    pub fn created(&self, object: Object) -> Object {
        self.request(|request| apply::update(request, None, object))
    }

    pub(super) fn request<T>(&self, work: impl FnOnce(&apply::Request<'_>) -> T) -> T {
        work(&apply::Request {
            ty: self.schema.ty(),
            api_version: &self.api_version,
            manager: &self.manager,
            subresource: self.subresource.as_deref(),
            now: &self.now,
            versions: self.converters.as_ref().map(|v| v as &dyn apply::Versions),
            reset_fields: self.reset_fields,
        })
    }

    /// Calls `work`. If it may have to call a conversion webhook, for field sets of other versions,
    /// calls it on a thread that may block.
    pub async fn run<T: Send + 'static>(
        self,
        live: Option<&Object>,
        work: impl FnOnce(&apply::Request<'_>, Option<&Object>) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let waits = self
            .converters
            .as_ref()
            .is_some_and(|converters| converters.must_wait(live, &self.api_version));
        if !waits {
            return Ok(self.request(|request| work(request, live)));
        }
        let live = live.cloned();
        tokio::task::spawn_blocking(move || self.request(|request| work(request, live.as_ref())))
            .await
            .map_err(Status::internal)
    }
}

/// A server-side apply whose conversions may have to call a webhook.
pub struct Plan {
    /// The inputs of ownership tracking.
    pub tracking: Tracking,
    /// The applied configuration.
    pub patch: Object,
    /// Whether to take over conflicting fields.
    pub force: bool,
}

impl Plan {
    /// Applies the configuration to `live`.
    pub async fn run(&self, live: &Object) -> Result<Object, Status> {
        let (patch, force) = (self.patch.clone(), self.force);
        self.tracking
            .clone()
            .run(Some(live), move |request, live| {
                applied(request, live, &patch, force)
            })
            .await?
    }
}

type Paths = &'static [&'static [&'static str]];

/// Returns the fields that a write to `part` resets, so that it cannot own them.
pub fn reset_fields(resource: &Resource, part: ObjectPart) -> Paths {
    if resource.is("certificates.k8s.io", "certificatesigningrequests") {
        return match part {
            ObjectPart::Main => &[&["spec"], &["status"]],
            ObjectPart::Status => &[&["spec"], &["status", "conditions"]],
            ObjectPart::Sub(_) => &[&["spec"], &["status", "certificate"]],
        };
    }
    match part {
        ObjectPart::Main if resource.subresource("status").is_some() => &[&["status"]],
        ObjectPart::Main => &[],
        ObjectPart::Status => reset_by_status(resource),
        ObjectPart::Sub(Subresource::Finalize) => &[&["status"]],
        ObjectPart::Sub(_) => &[],
    }
}

/// Returns the fields that a write to the status resets: some kinds' statuses reset the metadata.
fn reset_by_status(resource: &Resource) -> Paths {
    match (&*resource.group, &*resource.plural) {
        ("", "pods") => &[
            &["spec"],
            &["metadata", "deletionTimestamp"],
            &["metadata", "ownerReferences"],
        ],
        ("apps", "deployments") => &[&["spec"], &["metadata", "labels"]],
        ("admissionregistration.k8s.io", "validatingadmissionpolicies")
        | ("apiregistration.k8s.io", _)
        | ("flowcontrol.apiserver.k8s.io", _)
        | ("networking.k8s.io", "servicecidrs")
        | ("resource.k8s.io", _)
        | ("storage.k8s.io", "volumeattachments") => &[&["spec"], &["metadata"]],
        _ if resource.crd_version().is_some() => &[&["spec"], &["metadata"]],
        _ => &[&["spec"]],
    }
}
