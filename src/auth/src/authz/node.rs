//! The Node authorizer: node agents can read only the objects that their pods need.
//!
//! Upstream maintains a graph from secrets, config maps, claims and volumes to nodes. This
//! implementation keeps no state: for each request it searches the node's pods in the object's
//! namespace for a reference.

use std::sync::Arc;

use rkube_api::Object;
use rkube_api::selector::FieldSelector;

use super::rule::Rule;
use super::types::{Attributes, Decision};
use crate::{ObjectReader, UserInfo, names, references, tree};

const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) struct NodeAuthorizer {
    reader: Arc<dyn ObjectReader>,
    rules: Vec<Rule>,
}

/// Kinds that a node may access if the object is related to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ConfigMap,
    Secret,
    ServiceAccount,
    VolumeClaim,
    Volume,
    ResourceClaim,
    ResourceSlice,
    VolumeAttachment,
    Pod,
    PodCertificateRequest,
}

fn no(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion(reason.into())
}

fn yes() -> Decision {
    Decision::Allow(String::new())
}

impl NodeAuthorizer {
    pub(super) fn new(reader: Arc<dyn ObjectReader>) -> NodeAuthorizer {
        let rules = crate::bootstrap::node_rules()
            .iter()
            .map(Rule::from_object)
            .collect();
        NodeAuthorizer { reader, rules }
    }

    /// Returns whether `user` is a node agent. Its permissions cannot be enumerated completely.
    pub(super) fn is_node(user: &UserInfo) -> bool {
        user.name.starts_with(names::NODE_USER_PREFIX) && user.in_group(names::NODES)
    }

    pub(super) fn authorize(&self, ask: &Attributes<'_>) -> Decision {
        let Some(node) = names::node_of(ask.user) else {
            return no("");
        };
        if node.is_empty() {
            return no(format!("unknown node for user {:?}", ask.user.name));
        }
        if ask.is_resource_request {
            match (ask.api_group, ask.resource) {
                ("", "secrets") => return self.read_namespaced(node, Kind::Secret, ask),
                ("", "configmaps") => return self.read_namespaced(node, Kind::ConfigMap, ask),
                ("", "persistentvolumeclaims") if ask.subresource == "status" => {
                    return match ask.verb {
                        "update" | "patch" => self.related(node, Kind::VolumeClaim, ask),
                        _ => no("can only get/update/patch this type"),
                    };
                }
                ("", "persistentvolumeclaims") => return self.get(node, Kind::VolumeClaim, ask),
                ("", "persistentvolumes") => return self.get(node, Kind::Volume, ask),
                ("resource.k8s.io", "resourceclaims") => {
                    return self.get(node, Kind::ResourceClaim, ask);
                }
                ("storage.k8s.io", "volumeattachments") => {
                    return self.get(node, Kind::VolumeAttachment, ask);
                }
                ("", "serviceaccounts") => return self.service_account(node, ask),
                ("coordination.k8s.io", "leases") => return lease(node, ask),
                ("storage.k8s.io", "csinodes") => return csi_node(node, ask),
                ("resource.k8s.io", "resourceslices") => return self.resource_slice(node, ask),
                ("", "nodes") => return node_object(node, ask),
                ("", "pods") => return self.pod(node, ask),
                ("certificates.k8s.io", "podcertificaterequests") => {
                    return self.pod_certificate_request(node, ask);
                }
                _ => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(ask)) {
            yes()
        } else {
            no("")
        }
    }

    fn read_namespaced(&self, node: &str, kind: Kind, ask: &Attributes<'_>) -> Decision {
        if !matches!(ask.verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !ask.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if ask.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(node, kind, ask)
    }

    fn get(&self, node: &str, kind: Kind, ask: &Attributes<'_>) -> Decision {
        if ask.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !ask.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(node, kind, ask)
    }

    fn service_account(&self, node: &str, ask: &Attributes<'_>) -> Decision {
        if ask.verb == "get" && ask.subresource.is_empty() {
            return self.read_namespaced(node, Kind::ServiceAccount, ask);
        }
        if ask.verb != "create" || ask.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if ask.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(node, Kind::ServiceAccount, ask)
    }

    fn resource_slice(&self, node: &str, ask: &Attributes<'_>) -> Decision {
        if !ask.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match ask.verb {
            // NodeRestriction checks the node name in the new object.
            "create" => yes(),
            "get" | "update" | "patch" | "delete" => self.related(node, Kind::ResourceSlice, ask),
            "watch" | "list" | "deletecollection" if selects_node(ask, "spec.nodeName", node) => {
                yes()
            }
            "watch" | "list" | "deletecollection" => no(
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, ask: &Attributes<'_>) -> Decision {
        match (ask.subresource, ask.verb) {
            ("", "get") => self.get(node, Kind::Pod, ask),
            ("", "list" | "watch") if selects_node(ask, "spec.nodeName", node) => yes(),
            ("", "list" | "watch") if !ask.name.is_empty() => self.related(node, Kind::Pod, ask),
            ("", "list" | "watch") => {
                no("can only list/watch pods with spec.nodeName field selector")
            }
            // NodeRestriction limits these to mirror pods and the node's own pods.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                yes()
            }
            _ => no(""),
        }
    }

    fn pod_certificate_request(&self, node: &str, ask: &Attributes<'_>) -> Decision {
        if !ask.subresource.is_empty() {
            return no("nodes may not access the status subresource of PodCertificateRequests");
        }
        match ask.verb {
            "create" => yes(),
            "get" => self.related(node, Kind::PodCertificateRequest, ask),
            "list" | "watch" if selects_node(ask, "spec.nodeName", node) => yes(),
            "list" | "watch" => {
                no("can only list/watch podcertificaterequests with nodeName field selector")
            }
            verb => no(format!("nodes may not {verb} podcertificaterequests")),
        }
    }

    /// Allows the request if the object is related to the node.
    fn related(&self, node: &str, kind: Kind, ask: &Attributes<'_>) -> Decision {
        if ask.name.is_empty() {
            return no("No Object name found");
        }
        if self.reaches(node, kind, ask.namespace, ask.name) {
            return yes();
        }
        no(format!(
            "no relationship found between node '{node}' and this object"
        ))
    }

    /// Returns whether the object is related to `node`.
    fn reaches(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let on_node = |group, resource| {
            self.reader
                .get(group, resource, namespace, name)
                .is_some_and(|object| tree::text(&object, &["spec", "nodeName"]) == node)
        };
        match kind {
            Kind::Pod => on_node("", "pods"),
            Kind::VolumeAttachment => on_node("storage.k8s.io", "volumeattachments"),
            Kind::ResourceSlice => on_node("resource.k8s.io", "resourceslices"),
            Kind::PodCertificateRequest => on_node("certificates.k8s.io", "podcertificaterequests"),
            Kind::ServiceAccount => self.pod_on(node, namespace, |pod| {
                tree::text(pod, &["spec", "serviceAccountName"]) == name
            }),
            Kind::ConfigMap => self.pod_on(node, namespace, |pod| {
                references::config_maps(pod).any(|config_map| config_map == name)
            }),
            Kind::VolumeClaim => self.claim_on(node, namespace, name),
            Kind::ResourceClaim => self.pod_on(node, namespace, |pod| {
                references::resource_claims(pod).any(|claim| claim == name)
            }),
            Kind::Volume => {
                let volume = self.reader.get("", "persistentvolumes", "", name);
                volume.is_some_and(|volume| self.volume_on(node, &volume))
            }
            Kind::Secret => {
                self.pod_on(node, namespace, |pod| {
                    references::secrets(pod).any(|secret| secret == name)
                }) || self
                    .reader
                    .list("", "persistentvolumes", None)
                    .iter()
                    .any(|volume| {
                        references::volume_secrets_for_node(volume).contains(&(namespace, name))
                            && self.volume_on(node, volume)
                    })
            }
        }
    }

    /// Returns whether a pod of the node uses the volume's claim.
    fn volume_on(&self, node: &str, volume: &Object) -> bool {
        let claim = tree::text(volume, &["spec", "claimRef", "name"]);
        !claim.is_empty()
            && self.claim_on(
                node,
                tree::text(volume, &["spec", "claimRef", "namespace"]),
                claim,
            )
    }

    /// Returns whether a pod of the node uses the claim.
    fn claim_on(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.pod_on(node, namespace, |pod| {
            references::volume_claims(pod).any(|claim| claim == name)
        })
    }

    /// Returns whether a pod of `namespace` on `node` matches `refers`. Mirror pods are ignored:
    /// nodes create them, so they must not grant access.
    fn pod_on(&self, node: &str, namespace: &str, refers: impl Fn(&Object) -> bool) -> bool {
        self.reader.pods_on_node(node, namespace).iter().any(|pod| {
            tree::map_text(pod, &["metadata", "annotations"], MIRROR).is_none() && refers(pod)
        })
    }
}

/// Returns whether the field selector limits the request to the node.
fn selects_node(ask: &Attributes<'_>, field: &str, node: &str) -> bool {
    FieldSelector::parse(ask.field_selector)
        .is_ok_and(|selector| selector.exact(field) == Some(node))
}

fn lease(node: &str, ask: &Attributes<'_>) -> Decision {
    if !matches!(ask.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if ask.namespace != "kube-node-lease" {
        return no("can only access leases in the \"kube-node-lease\" system namespace");
    }
    // NodeRestriction checks the name in a create request.
    if ask.verb != "create" && ask.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    yes()
}

fn csi_node(node: &str, ask: &Attributes<'_>) -> Decision {
    if !matches!(ask.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !ask.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if ask.verb != "create" && ask.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    yes()
}

fn node_object(node: &str, ask: &Attributes<'_>) -> Decision {
    match (ask.subresource, ask.verb) {
        // NodeRestriction limits these to the node's own object.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
        ("", "get" | "list" | "watch") if ask.name == node => yes(),
        ("", "get" | "list" | "watch") if ask.name.is_empty() => no(format!(
            "node '{node}' cannot read all nodes, only its own Node object"
        )),
        ("", "get" | "list" | "watch") => no(format!(
            "node '{node}' cannot read '{}', only its own Node object",
            ask.name
        )),
        _ => no(""),
    }
}
