//! The resource claims of pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodResourceClaim;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use rkube_plugins::claims::AllocatedClaim;

use super::Plugins;
use crate::kinds::*;

/// A claim of a pod.
struct Reference {
    name: String,
    /// Whether the claim was made for the pod, which then owns it.
    is_own: bool,
}

/// Returns the name of the claim that a pod's entry stands for; `None` if none was needed.
fn reference(pod: &Pod, entry: &PodResourceClaim) -> Result<Option<Reference>, String> {
    let full = format!("{}/{}", pod.namespace(), pod.name());
    if let Some(name) = &entry.resource_claim_name {
        return Ok(Some(Reference {
            name: name.clone(),
            is_own: false,
        }));
    }
    if entry.resource_claim_template_name.is_none() {
        return Err(format!(
            "pod {full:?}, spec.resourceClaim {:?}: none of the supported fields are set",
            entry.name
        ));
    }
    let statuses = pod
        .status
        .iter()
        .flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let status = statuses.into_iter().find(|s| s.name == entry.name);
    let status = status.ok_or_else(|| format!("pod {full:?}: ResourceClaim not created yet"))?;
    Ok(status
        .resource_claim_name
        .clone()
        .map(|name| Reference { name, is_own: true }))
}

/// Returns the name of the claim for a pod's extended resources.
fn extended(pod: &Pod) -> Option<&String> {
    let status = pod
        .status
        .as_ref()?
        .extended_resource_claim_status
        .as_ref()?;
    Some(&status.resource_claim_name)
}

/// Returns whether a pod has claims.
pub(super) fn has_claims(pod: &Pod) -> bool {
    pod.spec()
        .resource_claims
        .as_ref()
        .is_some_and(|c| !c.is_empty())
        || extended(pod).is_some()
}

fn references(pod: &Pod) -> Result<Vec<Reference>, String> {
    let mut all = Vec::new();
    for entry in pod.spec().resource_claims.iter().flatten() {
        all.extend(reference(pod, entry)?);
    }
    all.extend(extended(pod).map(|name| Reference {
        name: name.clone(),
        is_own: false,
    }));
    Ok(all)
}

/// Checks that a pod may use a claim, and returns it.
fn check(
    pod: &Pod,
    reference: &Reference,
    claim: &ResourceClaim,
) -> Result<AllocatedClaim, String> {
    let meta = &claim.metadata;
    let uid = meta.uid.clone().unwrap_or_default();
    let is_controller = |o: &OwnerReference| o.controller == Some(true) && o.uid == pod.uid();
    if reference.is_own && !meta.owner_references.iter().flatten().any(is_controller) {
        let (namespace, name) = (pod.namespace(), pod.name());
        return Err(format!(
            "ResourceClaim {namespace}/{} was not created for pod {namespace}/{name} (pod is not owner)",
            reference.name
        ));
    }
    let status = claim.status.clone().unwrap_or_default();
    if !status
        .reserved_for
        .iter()
        .flatten()
        .any(|user| user.uid == pod.uid())
    {
        return Err(format!(
            "pod {} ({}) is not allowed to use ResourceClaim {} ({uid})",
            pod.name(),
            pod.uid(),
            reference.name
        ));
    }
    let allocation = status
        .allocation
        .ok_or_else(|| format!("ResourceClaim {}: not allocated", reference.name))?;
    let results = allocation
        .devices
        .and_then(|d| d.results)
        .unwrap_or_default();
    Ok(AllocatedClaim {
        uid,
        name: reference.name.clone(),
        namespace: pod.namespace().to_owned(),
        drivers: results.into_iter().map(|r| r.driver).collect(),
    })
}

/// The claims that a container uses: for each claim the requests, where an empty one means all.
pub(super) fn of_container(
    pod: &Pod,
    container: &Container,
) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut used: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let wanted = container
        .resources
        .iter()
        .flat_map(|r| r.claims.iter().flatten());
    for claim in wanted {
        let mut entries = pod.spec().resource_claims.iter().flatten();
        let Some(entry) = entries.find(|entry| entry.name == claim.name) else {
            continue;
        };
        if let Some(reference) = reference(pod, entry)? {
            let requests = used.entry(reference.name).or_default();
            requests.push(claim.request.clone().unwrap_or_default());
        }
    }
    let status = pod
        .status
        .as_ref()
        .and_then(|s| s.extended_resource_claim_status.as_ref());
    if let Some(status) = status {
        let mappings = status.request_mappings.iter();
        for mapping in mappings.filter(|m| m.container_name == container.name) {
            let requests = used.entry(status.resource_claim_name.clone()).or_default();
            requests.push(mapping.request_name.clone());
        }
    }
    Ok(used)
}

/// Returns the name of the claim that an entry of a container's claims stands for.
pub(super) fn name_of(pod: &Pod, entry: &str) -> Option<String> {
    let mut entries = pod.spec().resource_claims.iter().flatten();
    let entry = entries.find(|e| e.name == entry)?;
    Some(reference(pod, entry).ok()??.name)
}

impl Plugins {
    /// Has the drivers prepare a pod's claims.
    ///
    /// # Errors
    ///
    /// Returns the message of the pod's event.
    pub(crate) async fn prepare_claims(
        &self,
        client: &kube::Client,
        pod: &Pod,
    ) -> Result<(), String> {
        if !has_claims(pod) {
            return Ok(());
        }
        let done = async {
            let api: Api<ResourceClaim> = Api::namespaced(client.clone(), pod.namespace());
            let mut claims = Vec::new();
            for reference in references(pod)? {
                let claim = api.get(&reference.name).await.map_err(|e| {
                    let e = match e {
                        kube::Error::Api(status) => status.message,
                        e => e.to_string(),
                    };
                    format!("fetch ResourceClaim {}: {e}", reference.name)
                })?;
                claims.push(check(pod, &reference, &claim)?);
            }
            self.claims.prepare(pod.uid(), &claims).await
        };
        done.await
            .map_err(|e| format!("prepare dynamic resources: {e}"))
    }

    /// Returns the names of a container's devices of claims in the Container Device Interface.
    ///
    /// # Errors
    ///
    /// Returns upstream's message if a claim is not prepared.
    pub(crate) fn claimed_devices(
        &self,
        pod: &Pod,
        container: &Container,
    ) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        for (claim, requests) in of_container(pod, container)? {
            let devices = self.claims.devices(pod.namespace(), &claim)?;
            for request in requests {
                let wanted = devices.iter().filter(|(_, device)| device.is_for(&request));
                names.extend(wanted.flat_map(|(_, device)| device.cdi_device_ids.clone()));
            }
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {
                "resourceClaims": [
                    {"name": "direct", "resourceClaimName": "d"},
                    {"name": "made", "resourceClaimTemplateName": "t"},
                ],
                "containers": [{"name": "c", "resources": {"claims": [
                    {"name": "direct"}, {"name": "made", "request": "gpu"},
                ]}}],
            },
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn names_come_from_the_status() {
        let names = |status: Value| {
            references(&pod(status)).map(|all| all.into_iter().map(|r| r.name).collect::<Vec<_>>())
        };
        assert_eq!(
            names(json!({})).unwrap_err(),
            "pod \"ns/p\": ResourceClaim not created yet"
        );
        let made = json!([{"name": "made", "resourceClaimName": "p-made-x"}]);
        let status = json!({"resourceClaimStatuses": made, "extendedResourceClaimStatus": {
            "resourceClaimName": "ext", "requestMappings": [
                {"containerName": "c", "resourceName": "e.com/a", "requestName": "r0"}]}});
        assert_eq!(names(status.clone()).unwrap(), ["d", "p-made-x", "ext"]);
        let none = json!({"resourceClaimStatuses": [{"name": "made"}]});
        assert_eq!(names(none).unwrap(), ["d"], "none was needed");
        let pod = pod(status);
        let used = of_container(&pod, &pod.spec().containers[0]).unwrap();
        assert_eq!(used["d"], [""]);
        assert_eq!(used["p-made-x"], ["gpu"]);
        assert_eq!(used["ext"], ["r0"]);
    }

    #[test]
    fn claims_must_be_for_the_pod() {
        let claim = |owner: &str, user: &str, allocated: bool| -> ResourceClaim {
            serde_json::from_value(json!({
                "metadata": {"name": "c", "namespace": "ns", "uid": "cu", "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]},
                "spec": {},
                "status": {
                    "reservedFor": [{"resource": "pods", "name": "p", "uid": user}],
                    "allocation": allocated.then(|| json!({"devices": {"results": [
                        {"driver": "x", "pool": "p", "device": "d", "request": "r"}]}})),
                },
            }))
            .unwrap()
        };
        let own = Reference {
            name: "c".into(),
            is_own: true,
        };
        let pod = pod(json!({}));
        for (owner, user, allocated, message) in [
            ("u", "u", true, None),
            (
                "v",
                "u",
                true,
                Some("ResourceClaim ns/c was not created for pod ns/p (pod is not owner)"),
            ),
            (
                "u",
                "v",
                true,
                Some("pod p (u) is not allowed to use ResourceClaim c (cu)"),
            ),
            ("u", "u", false, Some("ResourceClaim c: not allocated")),
        ] {
            let answer = check(&pod, &own, &claim(owner, user, allocated));
            assert_eq!(answer.as_ref().err().map(String::as_str), message);
            if let Ok(claim) = answer {
                assert!(claim.drivers.contains("x"));
            }
        }
    }
}
