//! What a request asks of a `scale`.

use rkube_api::status::Status;
use rkube_api::{GroupVersionKind, Object, meta};

use super::decode::namespace_of_request;
use super::options::WriteOptions;
use super::patch::{self, Change, Configuration, Form, Patch};
use super::posted;
use crate::admission::attributes::SubresourceKind;
use crate::body::{self, Body};
use crate::call::Call;
use crate::kinds::wrong_kind;
use crate::resources::Resource;

/// The kind of the subresource.
pub const SCALE: SubresourceKind<'static> = SubresourceKind {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    definition: "io.k8s.api.autoscaling.v1.Scale",
};

/// A request for the scale of an object.
pub enum ScaleInput {
    /// The current scale.
    Get,
    /// A new scale.
    Update(WriteOptions, Object),
    /// A change of the scale.
    Patch(WriteOptions, Change),
}

impl ScaleInput {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// 400, 413, 415 or 422.
    pub async fn read(call: &Call, resource: &Resource, body: Body) -> Result<Self, Status> {
        match call.info.verb {
            "get" => Ok(Self::Get),
            "update" => {
                let options = WriteOptions::read(call, "UpdateOptions")?;
                let mut scale = posted::read_object(call, body, &SCALE, &options).await?;
                check_kind(resource, &scale)?;
                namespace_of_request(call, resource, &mut scale)?;
                Ok(Self::Update(options, scale))
            }
            _ => {
                let form = Form::of_request(call, resource)?;
                let mut options = WriteOptions::read(call, "PatchOptions")?;
                patch::check_options(call, form)?;
                let bytes = body::read(body).await?;
                let change = match form {
                    Form::Apply => {
                        let configuration = Configuration::read(call, &mut options, &bytes)?;
                        let own = ("autoscaling/v1", SCALE.kind);
                        patch::check_target(call, resource, own, &configuration.object)?;
                        patch::check_managers(&configuration.object)?;
                        Change::Apply(configuration)
                    }
                    form => Change::Patch(Patch::read(form, &options, &bytes)?),
                };
                Ok(Self::Patch(options, change))
            }
        }
    }
}

/// Checks that an object is a scale in the version that is served. Version and kind may be missing.
///
/// # Errors
///
/// 400 if it is another.
pub fn check_kind(resource: &Resource, scale: &Object) -> Result<(), Status> {
    let (version, kind) = (meta::api_version(scale), meta::kind(scale));
    if matches!(version, "" | "autoscaling/v1") && (kind.is_empty() || kind == SCALE.kind) {
        return Ok(());
    }
    let own = GroupVersionKind::new(SCALE.group, SCALE.version, SCALE.kind);
    let mut error = wrong_kind(&own, "autoscaling.Scale", version, kind);
    if resource.crd_version().is_some() {
        // Upstream reads scales of custom resources with a scheme of their own.
        let scheme = "k8s.io/client-go/scale/util.go:146";
        error.message = error.message.replace(
            "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30",
            scheme,
        );
    }
    Err(error)
}
