//! Recognizes the signing requests that may be approved automatically: client certificates of
//! nodes.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::sign::{Names, Subject};

/// A kind of signing request that can be approved automatically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node renews its client certificate.
    Own,
    /// A client, such as a bootstrap token, requests a node's first client certificate.
    First,
}

impl Kind {
    /// Returns the subresource of `certificatesigningrequests` that the requester must be allowed
    /// to create.
    pub fn permission(self) -> &'static str {
        match self {
            Kind::Own => "selfnodeclient",
            Kind::First => "nodeclient",
        }
    }

    /// Returns the description used in the approval message.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Own => "self kubelet client",
            Kind::First => "kubelet client",
        }
    }
}

/// Returns whether the usages are exactly those of a node's certificate: digital signature and
/// `required`. `key encipherment` is optional.
pub fn node_usages(usages: &[String], required: &str) -> bool {
    let allowed = ["digital signature", "key encipherment", required];
    let has = |wanted: &str| usages.iter().any(|usage| usage == wanted);
    has("digital signature")
        && has(required)
        && usages.iter().all(|usage| allowed.contains(&usage.as_str()))
}

/// Returns whether the subject is a node.
pub fn is_node(subject: &Subject) -> bool {
    subject.organizations == ["system:nodes"] && subject.common_name.starts_with("system:node:")
}

/// Returns the kind of the request, or `None` if it must not be approved automatically.
pub fn recognize(request: &CertificateSigningRequest) -> Option<Kind> {
    let spec = &request.spec;
    if spec.signer_name != "kubernetes.io/kube-apiserver-client-kubelet" {
        return None;
    }
    let subject = Subject::of(request).ok()?;
    let usages = spec.usages.as_deref().unwrap_or_default();
    if !is_node(&subject)
        || subject.names != Names::default()
        || !node_usages(usages, "client auth")
    {
        return None;
    }
    if spec.username.as_deref() == Some(&subject.common_name) {
        Some(Kind::Own)
    } else {
        Some(Kind::First)
    }
}
