//! Certificate signing requests: approves requests of nodes, signs approved requests and deletes
//! old ones.

mod approve;
mod clean;
mod sign;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::context::{Context, Deletion, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::informers::Key;
use crate::queue::Queue;

fn has_condition(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).any(|condition| condition.type_ == kind)
}

fn conditions(
    request: &CertificateSigningRequest,
) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    request
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
}

fn certificate(request: &CertificateSigningRequest) -> Option<&ByteString> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    (!certificate.0.is_empty()).then_some(certificate)
}

fn condition(
    ctx: &Context,
    kind: &str,
    reason: &str,
    message: &str,
) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(ctx.now())),
        last_transition_time: Some(Time(ctx.now())),
    }
}

/// The controller of certificate signing requests.
pub struct CertificateController {
    ctx: Context,
    queue: Queue<Key>,
}

impl CertificateController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for CertificateController {
    type Item = Key;

    fn name(&self) -> &'static str {
        "certificatesigningrequest-controller"
    }

    fn workers(&self) -> usize {
        4
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        watches.objects(&self.ctx.informers.signing_requests);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        sync(&self.ctx, &self.queue, key).await
    }
}

async fn sync(ctx: &Context, queue: &Queue<Key>, key: Key) -> Result<()> {
    let store = &ctx.informers.signing_requests;
    let Some(request) = store.by_key(&key) else {
        return Ok(());
    };
    let wait = clean::time_to_deletion(&request, ctx.now());
    if wait.is_some_and(|wait| wait.is_zero()) {
        return optional(
            ctx.delete(store, &request.metadata, &Deletion::default())
                .await,
        )
        .map(drop);
    }
    if let Some(wait) = wait {
        queue.add_after(key.clone(), wait);
    }
    if certificate(&request).is_some()
        || has_condition(&request, "Denied")
        || has_condition(&request, "Failed")
    {
        return Ok(());
    }
    if has_condition(&request, "Approved") {
        return sign(ctx, &request).await;
    }
    let Some(kind) = approve::recognize(&request) else {
        return Ok(());
    };
    let kind = if permitted(ctx, &request, kind).await? {
        kind
    } else if kind == approve::Kind::Own && permitted(ctx, &request, approve::Kind::First).await? {
        // A user that may request certificates for any node may do so for its own.
        approve::Kind::First
    } else {
        return Ok(()); // an authorized user may approve it
    };
    let mut approved = CertificateSigningRequest::clone(&request);
    let message = format!(
        "Auto approving {} certificate after SubjectAccessReview.",
        kind.title()
    );
    let conditions = approved
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    conditions.push(condition(ctx, "Approved", "AutoApproved", &message));
    let body = serde_json::to_vec(&approved)
        .map_err(|error| Error::Api(kube::Error::SerdeError(error)))?;
    let path = format!(
        "/apis/certificates.k8s.io/v1/certificatesigningrequests/{}/approval",
        key.name
    );
    let answer: Result<CertificateSigningRequest> = ctx.raw(http::Method::PUT, &path, body).await;
    if let Some(approved) = optional(answer)? {
        store.observe(approved);
    }
    Ok(())
}

/// Checks with a subject access review whether the requester is allowed automatic approval.
async fn permitted(
    ctx: &Context,
    request: &CertificateSigningRequest,
    kind: approve::Kind,
) -> Result<bool> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": request.spec.username,
            "uid": request.spec.uid,
            "groups": request.spec.groups,
            "extra": request.spec.extra,
            "resourceAttributes": {
                "group": "certificates.k8s.io",
                "resource": "certificatesigningrequests",
                "verb": "create",
                "subresource": kind.permission(),
                "version": "*",
            },
        },
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer: serde_json::Value = ctx
        .raw(http::Method::POST, path, review.to_string().into_bytes())
        .await?;
    Ok(answer["status"]["allowed"] == true)
}

async fn sign(ctx: &Context, request: &CertificateSigningRequest) -> Result<()> {
    let Some(key) = &ctx.config.ca_key_pem else {
        return Ok(());
    };
    let authority = sign::Authority {
        certificate: &ctx.config.ca_cert_pem,
        key,
        lifetime: ctx.config.certificate_lifetime,
    };
    let mut signed = request.clone();
    let status: &mut CertificateSigningRequestStatus = signed.status.get_or_insert_default();
    match sign::sign(request, &authority, ctx.now()) {
        None => return Ok(()), // handled by another signer
        Some(Ok(certificate)) => status.certificate = Some(ByteString(certificate.into_bytes())),
        Some(Err(reason)) => {
            let failed = condition(ctx, "Failed", "SignerValidationFailure", &reason);
            status.conditions.get_or_insert_default().push(failed);
        }
    }
    optional(
        ctx.update_status(&ctx.informers.signing_requests, &signed)
            .await,
    )
    .map(drop)
}
