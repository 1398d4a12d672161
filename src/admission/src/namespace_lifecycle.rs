//! NamespaceLifecycle: rejects writes to namespaces that do not exist, creates in namespaces
//! that are being terminated, and the deletion of three system namespaces.

use rkube_api::gvk::GroupResource;
use rkube_api::status::{Cause, Status};

use crate::types::{Operation, Request};
use rkube_auth::{ObjectReader, tree};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn admit(reader: &dyn ObjectReader, request: &Request<'_>) -> Result<(), Status> {
    if request.is("", "namespaces") {
        if request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
            return Err(Status::forbidden(
                &request.resource(),
                request.name,
                "this namespace may not be deleted",
            ));
        }
        return Ok(());
    }
    let local_review = request.is("authorization.k8s.io", "localsubjectaccessreviews");
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if request.namespace.is_empty() || !writes || local_review {
        return Ok(());
    }
    let Some(namespace) = reader.get("", "namespaces", "", request.namespace) else {
        return Err(Status::not_found(
            &GroupResource::new("", "namespaces"),
            request.namespace,
        ));
    };
    if request.operation != Operation::Create
        || tree::text(&namespace, &["status", "phase"]) != "Terminating"
    {
        return Ok(());
    }
    let name = request.namespace;
    let mut refusal = request.forbidden(format!(
        "unable to create new content in namespace {name} because it is being terminated"
    ));
    refusal.details.get_or_insert_default().causes.push(Cause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {name} is being terminated"),
        field: "metadata.namespace".into(),
    });
    Err(refusal)
}
