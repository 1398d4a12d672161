//! NodeRestriction: limits a node agent to its own Node, Lease and CSINode, the status of its
//! own pods, and a few related objects.

use std::collections::BTreeSet;

use rkube_api::gvk::GroupResource;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use crate::types::{Operation, Request};
use rkube_auth::authz::{Attributes, Authorizer};
use rkube_auth::{ObjectReader, names, references, tree};

const MIRROR: &str = "kubernetes.io/config.mirror";

/// A request of the node agent `name`.
struct Node<'a> {
    name: &'a str,
    reader: &'a dyn ObjectReader,
    request: &'a Request<'a>,
}

pub(super) fn admit(
    reader: &dyn ObjectReader,
    authorizer: &Authorizer,
    request: &Request<'_>,
) -> Result<(), Status> {
    let Some(name) = names::node_of(request.user) else {
        return Ok(());
    };
    if request.operation == Operation::Connect {
        return Ok(());
    }
    if name.is_empty() {
        let user = &request.user.name;
        return Err(request.forbidden(format!("could not determine node from user {user:?}")));
    }
    let node = Node {
        name,
        reader,
        request,
    };
    match (request.group, request.resource, request.subresource) {
        ("", "pods", "") => node.pod(),
        ("", "pods", "status") => node.pod_status(),
        ("", "pods", "eviction") => node.eviction(),
        ("", "pods", other) => node.no(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
        ("", "nodes", _) => node.node(),
        ("", "persistentvolumeclaims", "status") => node.claim_status(),
        ("", "persistentvolumeclaims", _) => node.no("may only update PVC status"),
        ("", "serviceaccounts", "token") => node.token(authorizer),
        ("coordination.k8s.io", "leases", _) => node.lease(),
        ("storage.k8s.io", "csinodes", _) => {
            node.own_name("can only access CSINode with the same name as the requesting node")
        }
        ("resource.k8s.io", "resourceslices", _) => node.resource_slice(),
        ("certificates.k8s.io", "certificatesigningrequests", _) => node.signing_request(),
        ("certificates.k8s.io", "podcertificaterequests", _) => node.pod_certificate_request(),
        _ => Ok(()),
    }
}

impl Node<'_> {
    fn no(&self, why: impl std::fmt::Display) -> Result<(), Status> {
        Err(self.request.forbidden(why))
    }

    fn find(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<std::sync::Arc<Object>, Status> {
        let found = self.reader.get("", resource, namespace, name);
        found.ok_or_else(|| Status::not_found(&GroupResource::new("", resource), name))
    }

    /// Nodes may only create mirror pods and delete their own pods.
    fn pod(&self) -> Result<(), Status> {
        let node = self.name;
        match self.request.operation {
            Operation::Create => self.mirror_pod(),
            Operation::Delete => {
                let pod = self.find("pods", self.request.namespace, self.request.name)?;
                if tree::text(&pod, &["spec", "nodeName"]) != node {
                    return self.no(format!(
                        "node {node:?} can only delete pods with spec.nodeName set to itself"
                    ));
                }
                Ok(())
            }
            other => self.no(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                other.as_str()
            )),
        }
    }

    fn mirror_pod(&self) -> Result<(), Status> {
        let (node, pod) = (self.name, self.request.new_object());
        if meta::annotation(pod, MIRROR).is_none() {
            return self.no(format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            ));
        }
        if tree::text(pod, &["spec", "nodeName"]) != node {
            return self.no(format!(
                "node {node:?} can only create pods with spec.nodeName set to itself"
            ));
        }
        let owner = match meta::owner_references(pod) {
            [owner] => owner,
            [] => {
                return self.no(format!(
                    "node {node:?} can only create pods with an owner reference set to itself"
                ));
            }
            _ => {
                return self.no(format!(
                    "node {node:?} can only create pods with a single owner reference set to itself"
                ));
            }
        };
        let field = |field| tree::text(owner, &[field]);
        if (field("apiVersion"), field("kind"), field("name")) != ("v1", "Node", node) {
            return self.no(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        if tree::flag(owner, &["controller"]) != Some(true) {
            return self.no(format!(
                "node {node:?} can only create pods with a controller owner reference set to itself"
            ));
        }
        if tree::flag(owner, &["blockOwnerDeletion"]) == Some(true) {
            return self.no(format!(
                "node {node:?} must not set blockOwnerDeletion on an owner reference"
            ));
        }
        let own = self.find("nodes", "", node)?;
        if field("uid") != tree::uid(&own) {
            let (asked, uid) = (field("uid"), tree::uid(&own));
            return self.no(format!(
                "node {node} UID mismatch: expected {asked} got {uid}"
            ));
        }
        match references::api_object(pod) {
            Some(kind) => self.no(format!(
                "node {node:?} can not create pods that reference {kind}"
            )),
            None => Ok(()),
        }
    }

    fn pod_status(&self) -> Result<(), Status> {
        let (node, new, old) = (
            self.name,
            self.request.new_object(),
            self.request.old_object(),
        );
        if self.request.operation != Operation::Update {
            return self.no(format!(
                "unexpected operation {:?}",
                self.request.operation.as_str()
            ));
        }
        if tree::text(old, &["spec", "nodeName"]) != node {
            return self.no(format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            ));
        }
        if meta::labels(new).cloned().unwrap_or_default()
            != meta::labels(old).cloned().unwrap_or_default()
        {
            return self.no(format!(
                "node {node:?} cannot update labels through pod status"
            ));
        }
        let claims = |pod| -> Vec<(String, Option<String>)> {
            let statuses = tree::items(pod, &["status", "resourceClaimStatuses"]).iter();
            let claim = |s: &Object| {
                s.get("resourceClaimName")
                    .and_then(Object::as_str)
                    .map(str::to_owned)
            };
            statuses
                .map(|s| (tree::name_field(s).to_owned(), claim(s)))
                .collect()
        };
        if claims(new) != claims(old) {
            return self.no(format!(
                "node {node:?} cannot update resource claim statues"
            ));
        }
        let extended = |pod| {
            tree::at(pod, &["status", "extendedResourceClaimStatus"])
                .cloned()
                .unwrap_or_default()
        };
        if extended(new) != extended(old) {
            return self.no(format!(
                "node {node:?} cannot update extended resource claim status"
            ));
        }
        Ok(())
    }

    fn eviction(&self) -> Result<(), Status> {
        if self.request.operation != Operation::Create {
            return self.no(format!(
                "unexpected operation {}",
                self.request.operation.as_str()
            ));
        }
        let name = match self.request.name {
            "" => tree::name(self.request.new_object()),
            name => name,
        };
        if name.is_empty() {
            return self.no("could not determine pod from request data");
        }
        let pod = self.find("pods", self.request.namespace, name)?;
        if tree::text(&pod, &["spec", "nodeName"]) != self.name {
            return self.no(format!(
                "node {} can only evict pods with spec.nodeName set to itself",
                self.name
            ));
        }
        Ok(())
    }

    /// Nodes may only change the fields of a claim's status that describe a resize.
    fn claim_status(&self) -> Result<(), Status> {
        if self.request.operation != Operation::Update {
            return self.no(format!(
                "unexpected operation {:?}",
                self.request.operation.as_str()
            ));
        }
        let without_own = |claim: &Object| {
            let mut claim = claim.clone();
            for field in ["resourceVersion", "managedFields"] {
                meta::remove(&mut claim, field);
            }
            let status = tree::make_map(&mut claim, &["status"]);
            for field in [
                "capacity",
                "conditions",
                "allocatedResourceStatuses",
                "allocatedResources",
            ] {
                status.remove(field);
            }
            claim
        };
        if without_own(self.request.new_object()) != without_own(self.request.old_object()) {
            let node = self.name;
            return self.no(format!(
                "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
            ));
        }
        Ok(())
    }

    /// Nodes may only write their own Node, without its taints, owners and protected labels.
    fn node(&self) -> Result<(), Status> {
        let (node, new, old) = (
            self.name,
            self.request.new_object(),
            self.request.old_object(),
        );
        let requested = match self.request.name {
            "" => tree::name(new),
            name => name,
        };
        if requested != node {
            return self.no(format!(
                "node {node:?} is not allowed to modify node {requested:?}"
            ));
        }
        let config_source = |node| {
            tree::at(node, &["spec", "configSource"])
                .filter(|c| !c.is_null())
                .cloned()
        };
        match self.request.operation {
            Operation::Create => {
                if config_source(new).is_some() {
                    return self.no(format!(
                        "node {node:?} is not allowed to create pods with a non-nil configSource"
                    ));
                }
                let labels = forbidden_labels(new, &Object::Null);
                if !labels.is_empty() {
                    return self.no(format!(
                        "node {node:?} is not allowed to set the following labels: {labels}"
                    ));
                }
            }
            Operation::Update => {
                if config_source(new).is_some() && config_source(new) != config_source(old) {
                    return self.no(format!(
                        "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                    ));
                }
                if tree::items(new, &["spec", "taints"]) != tree::items(old, &["spec", "taints"]) {
                    return self.no(format!("node {node:?} is not allowed to modify taints"));
                }
                if meta::owner_references(new) != meta::owner_references(old) {
                    return self.no(format!(
                        "node {node:?} is not allowed to modify ownerReferences"
                    ));
                }
                let labels = forbidden_labels(new, old);
                if !labels.is_empty() {
                    return self.no(format!("is not allowed to modify labels: {labels}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Nodes may only request tokens that are bound to one of their pods, for an audience that
    /// the pod uses or that the authorizer permits.
    fn token(&self, authorizer: &Authorizer) -> Result<(), Status> {
        if self.request.operation != Operation::Create {
            return Ok(());
        }
        let request = self.request.new_object();
        let bound = |field| tree::text(request, &["spec", "boundObjectRef", field]);
        if (bound("apiVersion"), bound("kind")) != ("v1", "Pod") || bound("name").is_empty() {
            return self.no("node requested token not bound to a pod");
        }
        if bound("uid").is_empty() {
            return self.no("node requested token with a pod binding without a uid");
        }
        let pod = self.find("pods", self.request.namespace, bound("name"))?;
        if bound("uid") != tree::uid(&pod) {
            return self.no(format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                bound("uid")
            ));
        }
        if tree::text(&pod, &["spec", "nodeName"]) != self.name {
            return self.no("node requested token bound to a pod scheduled on a different node");
        }
        let audience = match tree::strings(request, &["spec", "audiences"])[..] {
            [] => "",
            [one] => one,
            _ => return self.no("node may only request 0 or 1 audiences"),
        };
        if self.pod_wants_audience(&pod, audience) {
            return Ok(());
        }
        let ask = Attributes {
            namespace: self.request.namespace,
            name: self.request.name,
            api_version: "v1",
            ..Attributes::resource(
                self.request.user,
                "request-serviceaccounts-token-audience",
                "",
                audience,
            )
        };
        if authorizer.authorize(&ask).is_allowed() {
            return Ok(());
        }
        self.no(format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            self.request.user.name
        ))
    }

    /// Returns whether a volume of the pod, or its CSI driver, requests tokens for `audience`.
    fn pod_wants_audience(&self, pod: &Object, audience: &str) -> bool {
        let driver_of_claim = |claim: &str| {
            let claim =
                self.reader
                    .get("", "persistentvolumeclaims", tree::namespace(pod), claim)?;
            let volume = tree::text(&claim, &["spec", "volumeName"]);
            let volume = self.reader.get("", "persistentvolumes", "", volume)?;
            Some(tree::text(&volume, &["spec", "csi", "driver"]).to_owned())
        };
        let projected = |volume: &Object| {
            tree::items(volume, &["projected", "sources"])
                .iter()
                .any(|source| {
                    source
                        .get("serviceAccountToken")
                        .is_some_and(Object::is_object)
                        && tree::text(source, &["serviceAccountToken", "audience"]) == audience
                })
        };
        let inline = tree::items(pod, &["spec", "volumes"])
            .iter()
            .map(|v| tree::text(v, &["csi", "driver"]).to_owned());
        let drivers = inline
            .chain(references::volume_claims(pod).filter_map(|claim| driver_of_claim(&claim)));
        tree::items(pod, &["spec", "volumes"]).iter().any(projected)
            || drivers.filter(|driver| !driver.is_empty()).any(|driver| {
                self.reader
                    .get("storage.k8s.io", "csidrivers", "", &driver)
                    .is_some_and(|driver| {
                        let requests = tree::items(&driver, &["spec", "tokenRequests"]);
                        requests
                            .iter()
                            .any(|request| tree::text(request, &["audience"]) == audience)
                    })
            })
    }

    fn lease(&self) -> Result<(), Status> {
        if self.request.namespace != "kube-node-lease" {
            return self.no("can only access leases in the \"kube-node-lease\" system namespace");
        }
        self.own_name("can only access node lease with the same name as the requesting node")
    }

    /// Checks that the object has the node's name; `otherwise` is the reason for rejection.
    fn own_name(&self, otherwise: &str) -> Result<(), Status> {
        let name = match self.request.operation {
            Operation::Create => tree::name(self.request.new_object()),
            _ => self.request.name,
        };
        if name == self.name {
            Ok(())
        } else {
            self.no(otherwise)
        }
    }

    fn resource_slice(&self) -> Result<(), Status> {
        let (slice, verb) = match self.request.operation {
            Operation::Create => (self.request.new_object(), "create"),
            Operation::Delete => (self.request.old_object(), "delete"),
            _ => return Ok(()),
        };
        if tree::text(slice, &["spec", "nodeName"]) == self.name {
            return Ok(());
        }
        self.no(format!(
            "can only {verb} ResourceSlice with the same NodeName as the requesting node"
        ))
    }

    /// Checks that a node requests certificates of the kubelet signers for its own user only.
    fn signing_request(&self) -> Result<(), Status> {
        const OF_NODES: [&str; 2] = [
            "kubernetes.io/kubelet-serving",
            "kubernetes.io/kube-apiserver-client-kubelet",
        ];
        let csr = self.request.new_object();
        let signer = tree::text(csr, &["spec", "signerName"]);
        if self.request.operation != Operation::Create || !OF_NODES.contains(&signer) {
            return Ok(());
        }
        let der = super::certificates::parse_request(tree::text(csr, &["spec", "request"]))
            .map_err(|why| {
                self.request
                    .forbidden(format!("unable to parse csr: {why}"))
            })?;
        let (_, parsed) = X509CertificationRequest::from_der(&der).map_err(|why| {
            self.request
                .forbidden(format!("unable to parse csr: {why}"))
        })?;
        let names = parsed.certification_request_info.subject.iter_common_name();
        let name = names
            .last()
            .and_then(|name| name.as_str().ok())
            .unwrap_or_default();
        let own = format!("{}{}", names::NODE_USER_PREFIX, self.name);
        if name == own {
            Ok(())
        } else {
            self.no(format!("can only create a node CSR with CN={own}"))
        }
    }

    /// Checks that names and UIDs match a pod that is assigned to the node.
    fn pod_certificate_request(&self) -> Result<(), Status> {
        if self.request.operation != Operation::Create {
            return self.no(format!(
                "unexpected operation {}",
                self.request.operation.as_str()
            ));
        }
        if !self.request.subresource.is_empty() {
            return self.no(format!(
                "unexpected subresource {}",
                self.request.subresource
            ));
        }
        let spec = |field| tree::text(self.request.new_object(), &["spec", field]);
        if spec("nodeName") != self.name {
            return self.no(format!(
                "PodCertificateRequest.Spec.NodeName={:?}, which is not the requesting node {:?}",
                spec("nodeName"),
                self.name
            ));
        }
        let namespace = self.request.namespace;
        let pod_name = format!("{namespace}/{}", spec("podName"));
        let node = self.find("nodes", "", self.name)?;
        let pod = self.find("pods", namespace, spec("podName"))?;
        let account = self.find("serviceaccounts", namespace, spec("serviceAccountName"))?;
        if tree::text(&pod, &["spec", "nodeName"]) != self.name {
            return self.no(format!(
                "pod {pod_name:?} is not running on node {:?} named in the PodCertificateRequest",
                self.name
            ));
        }
        if meta::annotation(&pod, MIRROR).is_some() {
            return self.no(format!("pod {pod_name:?} is a mirror pod"));
        }
        let running = tree::text(&pod, &["spec", "serviceAccountName"]);
        if spec("serviceAccountName") != running {
            return self.no(format!(
                "PodCertificateRequest for pod {pod_name:?} contains serviceAccountName ({:?}) that differs from running pod ({running:?})",
                spec("serviceAccountName")
            ));
        }
        for (field, object, what) in [
            ("nodeUID", &node, "node"),
            ("podUID", &pod, "pod"),
            ("serviceAccountUID", &account, "service account"),
        ] {
            if spec(field) != tree::uid(object) {
                return self.no(format!(
                    "PodCertificateRequest for pod {pod_name:?} names {what} UID {:?}, inconsistent with the running {what} ({:?})",
                    spec(field),
                    tree::uid(object)
                ));
            }
        }
        Ok(())
    }
}

/// Returns the changed labels that nodes may not set, separated by commas.
fn forbidden_labels(new: &Object, old: &Object) -> String {
    let (new, old) = (meta::labels(new), meta::labels(old));
    let keys: BTreeSet<&String> = new
        .into_iter()
        .chain(old)
        .flat_map(|labels| labels.keys())
        .collect();
    let value = |labels: Option<&'_ serde_json::Map<String, Object>>, key: &str| {
        labels.and_then(|labels| labels.get(key)).cloned()
    };
    let forbidden = keys
        .into_iter()
        .filter(|key| value(new, key) != value(old, key) && is_forbidden_label(key));
    forbidden.map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Returns whether nodes may not set the label: those of `node-restriction.kubernetes.io`,
/// and of `kubernetes.io` and `k8s.io` except for the kubelet's.
fn is_forbidden_label(key: &str) -> bool {
    const OF_KUBELET: [&str; 11] = [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |suffix: &str| {
        domain
            .strip_suffix(suffix)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let of_kubelet = OF_KUBELET.contains(&key)
        || within("kubelet.kubernetes.io")
        || within("node.kubernetes.io");
    (within("kubernetes.io") || within("k8s.io")) && !of_kubelet
}
