//! Which requests may be approved without asking anybody: nodes' own.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::sign::Subject;

/// A kind of request that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node renews its own client certificate.
    Own,
    /// Somebody asks for a node's first client certificate.
    First,
}

impl Kind {
    /// The subresource whose creation the requester must be allowed.
    pub fn permission(self) -> &'static str {
        match self {
            Kind::Own => "selfnodeclient",
            Kind::First => "nodeclient",
        }
    }

    /// How the approval calls it.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Own => "self kubelet client",
            Kind::First => "kubelet client",
        }
    }
}

/// Whether the usages are those of a node's client certificate.
pub fn node_client_usages(usages: &[String]) -> bool {
    let mut sorted: Vec<&str> = usages
        .iter()
        .map(String::as_str)
        .filter(|usage| *usage != "key encipherment")
        .collect();
    sorted.sort_unstable();
    sorted == ["client auth", "digital signature"]
}

/// Whether the subject is a node's.
pub fn is_node(subject: &Subject) -> bool {
    subject.organizations == ["system:nodes"] && subject.common_name.starts_with("system:node:")
}

/// Recognizes a request; nothing if it is of no known kind.
pub fn recognize(request: &CertificateSigningRequest) -> Option<Kind> {
    let spec = &request.spec;
    if spec.signer_name != "kubernetes.io/kube-apiserver-client-kubelet" {
        return None;
    }
    let subject = Subject::of(request).ok()?;
    let usages = spec.usages.as_deref().unwrap_or_default();
    if !is_node(&subject) || subject.has_alternatives || !node_client_usages(usages) {
        return None;
    }
    if spec.username.as_deref() == Some(&subject.common_name) {
        Some(Kind::Own)
    } else {
        Some(Kind::First)
    }
}
