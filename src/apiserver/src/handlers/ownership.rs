//! Who owns which field of an object: `managedFields`.

use rkube_api::status::Status;
use rkube_api::{Object, apply, meta};
use rkube_strategy::Subresource;

use crate::resources::Resource;
use crate::versions::{SchemaRef, VersionConverters};

/// Which part of an object a request may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status.
    Main,
    /// The status alone.
    Status,
    /// What another subresource stands for.
    Sub(Subresource),
}

/// How ownership of fields is recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The manager owns what this write changes.
    Update,
    /// Server-side apply has recorded it already.
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

/// All that the tracking of ownership needs, so that it can be done elsewhere.
#[derive(Clone)]
pub struct Tracking {
    /// How objects are shaped.
    pub schema: SchemaRef,
    /// The kind's other versions.
    pub converters: Option<VersionConverters>,
    /// The request's version.
    pub api_version: String,
    /// The field manager.
    pub manager: String,
    /// The subresource that is written.
    pub subresource: Option<String>,
    /// The time of the write.
    pub now: String,
    /// Fields that the write resets.
    pub reset_fields: &'static [&'static [&'static str]],
}

impl Tracking {
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

    /// Does `work`; on a thread that may wait where a webhook has to be asked
    /// for what others own in other versions.
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

/// An apply whose conversions may have to wait.
pub struct Plan {
    /// How ownership is tracked.
    pub tracking: Tracking,
    /// The applied configuration.
    pub patch: Object,
    /// Whether conflicts are overridden.
    pub force: bool,
}

impl Plan {
    /// Applies to an object.
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

/// Fields that a write to `part` resets, which it can therefore not own.
pub fn reset_fields(resource: &Resource, part: Part) -> &'static [&'static [&'static str]] {
    match part {
        Part::Main if resource.subresource("status").is_some() => &[&["status"]],
        Part::Status => &[&["spec"]],
        _ => &[],
    }
}
