//! References of pods and persistent volumes to other objects.

use rkube_api::Object;

use crate::tree;

/// Returns every container of a pod: init, regular and ephemeral.
pub fn containers(pod: &Object) -> impl Iterator<Item = &Object> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| tree::items(pod, &["spec", field]))
}

fn volumes(pod: &Object) -> &[Object] {
    tree::items(pod, &["spec", "volumes"])
}

/// Returns the string at a path unless it is absent or empty.
fn named<'a>(object: &'a Object, path: &[&str]) -> Option<&'a str> {
    Some(tree::text(object, path)).filter(|name| !name.is_empty())
}

/// Returns the names of the secrets that a pod refers to.
pub fn secrets(pod: &Object) -> impl Iterator<Item = &str> {
    let pull = tree::items(pod, &["spec", "imagePullSecrets"])
        .iter()
        .filter_map(|s| named(s, &["name"]));
    pull.chain(containers(pod).flat_map(|c| environment(c, "secretRef", "secretKeyRef")))
        .chain(volumes(pod).iter().flat_map(volume_secrets))
}

/// Returns the names of the config maps that a pod refers to.
pub fn config_maps(pod: &Object) -> impl Iterator<Item = &str> {
    let projected = |volume| {
        tree::items(volume, &["projected", "sources"])
            .iter()
            .filter_map(|s| named(s, &["configMap", "name"]))
    };
    containers(pod)
        .flat_map(|c| environment(c, "configMapRef", "configMapKeyRef"))
        .chain(volumes(pod).iter().flat_map(move |v| {
            named(v, &["configMap", "name"])
                .into_iter()
                .chain(projected(v))
        }))
}

/// Returns the names in a container's `envFrom` (field `whole`) and `env` (field `key`).
fn environment<'a>(
    container: &'a Object,
    whole: &'a str,
    key: &'a str,
) -> impl Iterator<Item = &'a str> {
    let from = tree::items(container, &["envFrom"])
        .iter()
        .filter_map(move |e| named(e, &[whole, "name"]));
    let env = tree::items(container, &["env"]).iter();
    from.chain(env.filter_map(move |e| named(e, &["valueFrom", key, "name"])))
}

fn volume_secrets(volume: &Object) -> impl Iterator<Item = &str> {
    const PATHS: [&[&str]; 10] = [
        &["azureFile", "secretName"],
        &["cephfs", "secretRef", "name"],
        &["cinder", "secretRef", "name"],
        &["flexVolume", "secretRef", "name"],
        &["rbd", "secretRef", "name"],
        &["secret", "secretName"],
        &["scaleIO", "secretRef", "name"],
        &["iscsi", "secretRef", "name"],
        &["storageos", "secretRef", "name"],
        &["csi", "nodePublishSecretRef", "name"],
    ];
    let projected = tree::items(volume, &["projected", "sources"])
        .iter()
        .filter_map(|s| named(s, &["secret", "name"]));
    PATHS
        .iter()
        .filter_map(|path| named(volume, path))
        .chain(projected)
}

/// Returns the names of the persistent volume claims that a pod uses, including those of its
/// ephemeral volumes.
pub fn volume_claims(pod: &Object) -> impl Iterator<Item = String> {
    volumes(pod).iter().filter_map(|volume| {
        if let Some(claim) = named(volume, &["persistentVolumeClaim", "claimName"]) {
            return Some(claim.to_owned());
        }
        volume.get("ephemeral")?;
        Some(format!(
            "{}-{}",
            tree::name(pod),
            tree::text(volume, &["name"])
        ))
    })
}

/// Returns the names of the resource claims that a pod uses. Claims from a template are
/// included once they are created.
pub fn resource_claims(pod: &Object) -> impl Iterator<Item = &str> {
    let direct = tree::items(pod, &["spec", "resourceClaims"])
        .iter()
        .filter_map(|c| named(c, &["resourceClaimName"]));
    let made = tree::items(pod, &["status", "resourceClaimStatuses"]).iter();
    let extended = named(
        pod,
        &["status", "extendedResourceClaimStatus", "resourceClaimName"],
    );
    direct
        .chain(made.filter_map(|c| named(c, &["resourceClaimName"])))
        .chain(extended)
}

/// Returns the kind of API object that a pod refers to, if any, as upstream's messages name it.
/// Static pods, and the mirror pods that stand for them, must not refer to API objects.
pub fn api_object(pod: &Object) -> Option<&'static str> {
    if !tree::text(pod, &["spec", "serviceAccountName"]).is_empty() {
        return Some("serviceaccounts");
    }
    if secrets(pod).next().is_some() {
        return Some("secrets");
    }
    if config_maps(pod).next().is_some() {
        return Some("configmaps");
    }
    if !tree::items(pod, &["spec", "resourceClaims"]).is_empty() {
        return Some("resourceclaims");
    }
    const OF_VOLUMES: [(&str, &str); 7] = [
        ("configMap", "configmaps (via configmap volumes)"),
        ("secret", "secrets (via secret volumes)"),
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        (
            "ephemeral",
            "persistentvolumeclaims (via ephemeral volumes)",
        ),
        ("azureFile", "secrets (via azureFile volumes)"),
    ];
    const OF_SOURCES: [(&str, &str); 5] = [
        ("configMap", "configmaps (via projected volumes)"),
        ("secret", "secrets (via projected volumes)"),
        (
            "serviceAccountToken",
            "serviceaccounts (via projected volumes)",
        ),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    let among = |part: &Object, kinds: &[(&'static str, &'static str)]| {
        kinds
            .iter()
            .find(|(field, _)| part.get(field).is_some_and(Object::is_object))
            .map(|(_, kind)| *kind)
    };
    tree::items(pod, &["spec", "volumes"])
        .iter()
        .find_map(|volume| {
            let sources = tree::items(volume, &["projected", "sources"]);
            among(volume, &OF_VOLUMES)
                .or_else(|| sources.iter().find_map(|source| among(source, &OF_SOURCES)))
        })
}

/// Returns namespace and name of the secrets that a node needs to mount a persistent volume.
pub fn volume_secrets_for_node(volume: &Object) -> Vec<(&str, &str)> {
    let claim = tree::text(volume, &["spec", "claimRef", "namespace"]);
    let mut found = Vec::new();
    if let Some(name) = named(volume, &["spec", "azureFile", "secretName"]) {
        let own = tree::text(volume, &["spec", "azureFile", "secretNamespace"]);
        found.push((if own.is_empty() { claim } else { own }, name));
    }
    // The namespace may be missing and defaults to the claim's.
    for kind in ["cephfs", "flexVolume", "rbd", "scaleIO", "iscsi"] {
        if let Some(name) = named(volume, &["spec", kind, "secretRef", "name"]) {
            let own = tree::text(volume, &["spec", kind, "secretRef", "namespace"]);
            found.push((if own.is_empty() { claim } else { own }, name));
        }
    }
    for path in [
        ["cinder", "secretRef"],
        ["storageos", "secretRef"],
        ["csi", "nodePublishSecretRef"],
        ["csi", "nodeStageSecretRef"],
        ["csi", "nodeExpandSecretRef"],
    ] {
        if let Some(name) = named(volume, &["spec", path[0], path[1], "name"]) {
            found.push((
                tree::text(volume, &["spec", path[0], path[1], "namespace"]),
                name,
            ));
        }
    }
    found
}
