//! CertificateApproval, CertificateSigning, ClusterTrustBundleAttest and
//! CertificateSubjectRestriction: check permissions on the signer of a request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rkube_api::status::Status;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use crate::types::{Operation, Request};
use rkube_auth::authz::{Attributes, Authorizer};
use rkube_auth::{names, tree};

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Returns whether the user may `verb` for a signer, by its name or by the wildcard of its
/// domain (`example.com/*`).
fn may(authorizer: &Authorizer, request: &Request<'_>, verb: &str, signer: &str) -> bool {
    let all = signer
        .split_once('/')
        .map_or_else(|| signer.to_owned(), |(domain, _)| format!("{domain}/*"));
    [signer, &all].into_iter().any(|name| {
        let ask = Attributes {
            name,
            api_version: "*",
            ..Attributes::resource(request.user, verb, GROUP, "signers")
        };
        authorizer.authorize(&ask).is_allowed()
    })
}

pub(super) fn validate(authorizer: &Authorizer, request: &Request<'_>) -> Result<(), Status> {
    if request.is(GROUP, "clustertrustbundles") {
        return attest(authorizer, request);
    }
    if !request.is(GROUP, "certificatesigningrequests") {
        return Ok(());
    }
    let signer = tree::text(request.old_object(), &["spec", "signerName"]);
    match (request.operation, request.subresource) {
        (Operation::Update, "approval") if !may(authorizer, request, "approve", signer) => {
            Err(request.forbidden(format!(
                "user not permitted to approve requests with signerName {signer:?}"
            )))
        }
        (Operation::Update, "status") => {
            let status = |object, field| {
                tree::at(object, &["status", field])
                    .cloned()
                    .unwrap_or_default()
            };
            let same =
                |field| status(request.old_object(), field) == status(request.new_object(), field);
            if same("certificate") && same("conditions") || may(authorizer, request, "sign", signer)
            {
                return Ok(());
            }
            Err(request.forbidden(format!(
                "user not permitted to sign requests with signerName {signer:?}"
            )))
        }
        (Operation::Create, "") => restrict_subject(request),
        _ => Ok(()),
    }
}

/// Checks that the user may attest for the signer of a ClusterTrustBundle.
fn attest(authorizer: &Authorizer, request: &Request<'_>) -> Result<(), Status> {
    if !matches!(request.operation, Operation::Create | Operation::Update)
        || !request.subresource.is_empty()
    {
        return Ok(());
    }
    let signer = tree::text(request.new_object(), &["spec", "signerName"]);
    if signer.is_empty()
        || request.operation == Operation::Update && request.old_object() == request.new_object()
    {
        return Ok(());
    }
    if may(authorizer, request, "attest", signer) {
        return Ok(());
    }
    Err(request.forbidden(format!(
        "user not permitted to attest for signerName {signer:?}"
    )))
}

/// Rejects client certificates for `system:masters`, which bypasses authorization.
fn restrict_subject(request: &Request<'_>) -> Result<(), Status> {
    if tree::text(request.new_object(), &["spec", "signerName"]) != CLIENT_SIGNER {
        return Ok(());
    }
    let groups = organizations(tree::text(request.new_object(), &["spec", "request"]))
        .map_err(|why| request.forbidden(format!("failed to parse CSR: {why}")))?;
    if groups.iter().any(|group| group == names::MASTERS) {
        return Err(request.forbidden(format!(
            "use of {CLIENT_SIGNER} signer with system:masters group is not allowed"
        )));
    }
    Ok(())
}

/// Returns the organizations in the subject of a request (base64 of PEM).
fn organizations(request: &str) -> Result<Vec<String>, String> {
    let csr = parse_request(request)?;
    let (_, csr) = X509CertificationRequest::from_der(&csr).map_err(|e| e.to_string())?;
    let organizations = csr.certification_request_info.subject.iter_organization();
    organizations
        .map(|o| o.as_str().map(str::to_owned).map_err(|e| e.to_string()))
        .collect()
}

/// Decodes a request (base64 of PEM) to DER.
pub(super) fn parse_request(
    request: &str,
) -> Result<CertificateSigningRequestDer<'static>, String> {
    let pem = STANDARD.decode(request).map_err(|e| e.to_string())?;
    CertificateSigningRequestDer::from_pem_slice(&pem)
        .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())
}
