//! Reads the manifest of a static pod.

use std::path::Path;

use rkube_api::schema::Schema;
use rkube_api::{Object, fields, meta};
use rkube_auth::references;
use rkube_strategy::{strategy_for, validate_metadata};
use serde_json::json;

use super::{FROM_FILE, HASH, SOURCE};
use crate::kinds::*;

/// Maximum size of a manifest in bytes.
pub(super) const MAX_SIZE: u64 = 10 << 20;

/// Definition of the schema of pods.
const POD: &str = "io.k8s.api.core.v1.Pod";

/// Returns the pod of a manifest, YAML or JSON, as the node runs it: with defaults, validated, named
/// after the node, and with a UID that changes with the manifest.
///
/// # Errors
///
/// Returns the kubelet's words for the file's log entry.
pub(super) fn read(data: &[u8], file: &Path, node: &str) -> Result<Pod, String> {
    let pod = parse(data).map_err(|why| {
        let file = file.display();
        format!("{file}: couldn't parse as pod({why}), please check config file")
    })?;
    if meta::name(&pod).is_empty() {
        return Err("invalid pod: name is needed for the pod".into());
    }
    let pod = complete(pod, file, node)?;
    let strategy = strategy_for("", "Pod");
    let mut errors = validate_metadata(&pod, true, strategy.name_rule());
    errors.extend(strategy.validate_create(&pod));
    if !errors.is_empty() {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(format!("invalid pod: [{}]", errors.join(" ")));
    }
    if let Some(kind) = references::api_object(&pod) {
        return Err(format!("static pods may not reference {kind}"));
    }
    typed(pod)
}

/// Returns the object of a manifest if it is a pod, with the API's defaults.
fn parse(data: &[u8]) -> Result<Object, String> {
    let (mut object, _) = fields::parse_yaml(data).map_err(|status| status.message)?;
    if !object.is_object() {
        return Err(format!("Object 'Kind' is missing in '{object}'"));
    }
    match (meta::api_version(&object), meta::kind(&object)) {
        ("v1", "Pod") => {}
        (_, "") => return Err(format!("Object 'Kind' is missing in '{object}'")),
        ("", _) => return Err(format!("Object 'apiVersion' is missing in '{object}'")),
        (version, kind) => return Err(format!("invalid pod: it is a {kind} of {version}")),
    }
    let schema = Schema::builtin().definition(POD);
    let schema = schema.ok_or("the schema of pods is missing")?;
    // Unknown fields are dropped, as the kubelet's decoder does.
    fields::check(schema, &mut object).map_err(|status| status.message)?;
    strategy_for("", "Pod").default(&mut object);
    Ok(object)
}

fn typed(pod: Object) -> Result<Pod, String> {
    serde_json::from_value(pod).map_err(|e| format!("invalid pod: {e}"))
}

/// Gives a pod the name, the UID, the namespace and the other properties of a static pod of the
/// node.
fn complete(mut pod: Object, file: &Path, node: &str) -> Result<Object, String> {
    let given = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let uid = match given {
        // The typed form is hashed: it does not depend on the order of keys in the file.
        "" => uid(&typed(pod.clone())?, file, node)?,
        given => given.to_owned(),
    };
    let name = format!("{}-{}", meta::name(&pod), node.to_lowercase());
    if meta::namespace(&pod).is_empty() {
        meta::set_namespace(&mut pod, "default");
    }
    let metadata = &mut pod["metadata"];
    metadata["name"] = name.into();
    metadata["uid"] = uid.as_str().into();
    metadata["annotations"][HASH] = uid.into();
    metadata["annotations"][SOURCE] = FROM_FILE.into();
    pod["spec"]["nodeName"] = node.into();
    tolerate(&mut pod["spec"]);
    pod["status"] = json!({"phase": "Pending"});
    Ok(pod)
}

/// Adds the toleration of static pods: they stay when something is wrong with the node.
fn tolerate(spec: &mut Object) {
    let toleration = json!({"operator": "Exists", "effect": "NoExecute"});
    match &mut spec["tolerations"] {
        Object::Array(list) if list.contains(&toleration) => {}
        Object::Array(list) => list.push(toleration),
        none => *none = json!([toleration]),
    }
}

/// Returns the UID of a pod without one: a hash of its manifest, file and node.
fn uid(pod: &Pod, file: &Path, node: &str) -> Result<String, String> {
    let mut text = serde_json::to_string(pod).map_err(|e| format!("invalid pod: {e}"))?;
    text.push_str(&format!("host:{node}file:{}", file.display()));
    Ok(format!("{:032x}", fnv128a(text.as_bytes())))
}

/// Returns the FNV-1a hash of 128 bits, with the constants of RFC 9923.
fn fnv128a(data: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    data.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/etc/kubernetes/manifests/web.yaml";

    fn read_text(text: &str) -> Result<Pod, String> {
        read(text.as_bytes(), Path::new(FILE), "node-1")
    }

    fn with(spec: &str) -> Result<Pod, String> {
        read_text(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  containers: [{{name: c, image: i}}]\n{spec}"
        ))
    }

    #[test]
    fn pods_belong_to_the_node() {
        let pod = with("").unwrap();
        assert_eq!(pod.name(), "web-node-1");
        assert_eq!(pod.namespace(), "default");
        let spec = pod.spec();
        assert_eq!(spec.node_name.as_deref(), Some("node-1"));
        assert_eq!(spec.termination_grace_period_seconds, Some(30));
        assert_eq!(
            spec.containers[0].image_pull_policy.as_deref(),
            Some("Always")
        );
        let toleration = &spec.tolerations.as_ref().unwrap()[0];
        assert_eq!(toleration.operator.as_deref(), Some("Exists"));
        assert_eq!(toleration.effect.as_deref(), Some("NoExecute"));
        assert_eq!(pod.api_phase(), "Pending");
        assert_eq!(pod.uid().len(), 32);
        let annotations = pod.metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations[HASH], pod.uid());
        assert_eq!(annotations[SOURCE], "file");
        assert!(super::super::is_static(&pod));
    }

    #[test]
    fn the_toleration_is_added_once() {
        let pod = with(
            "  tolerations: [{operator: Exists, effect: NoExecute}, {key: a, operator: Exists}]",
        );
        assert_eq!(pod.unwrap().spec().tolerations.as_ref().unwrap().len(), 2);
    }

    #[test]
    fn uids_follow_the_content() {
        let one = with("  restartPolicy: Never").unwrap();
        assert_eq!(one.uid(), with("  restartPolicy: Never").unwrap().uid());
        assert_ne!(one.uid(), with("").unwrap().uid());
        // The order of keys and the form do not matter; place and node do.
        let json = r#"{"spec": {"restartPolicy": "Never", "containers": [{"image": "i", "name": "c"}]},
            "kind": "Pod", "metadata": {"name": "web"}, "apiVersion": "v1"}"#;
        assert_eq!(read_text(json).unwrap().uid(), one.uid());
        let elsewhere = read(json.as_bytes(), Path::new("/b.json"), "node-1").unwrap();
        assert_ne!(elsewhere.uid(), one.uid());
        let other_node = read(json.as_bytes(), Path::new(FILE), "n").unwrap();
        assert_ne!(other_node.uid(), one.uid());
        let fixed = json.replace(r#""name": "web""#, r#""name": "web", "uid": "mine""#);
        assert_eq!(read_text(&fixed).unwrap().uid(), "mine");
    }

    #[test]
    fn the_hash_is_that_of_the_standard() {
        // Of the RFC's test vectors.
        assert_eq!(fnv128a(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(fnv128a(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }

    #[test]
    fn manifests_that_are_no_pods_are_refused() {
        let parse = |text: &str| read_text(text).unwrap_err();
        for (text, why) in [
            ("", "Object 'Kind' is missing in 'null'"),
            ("a: b", "Object 'Kind' is missing in '{\"a\":\"b\"}'"),
            (
                "kind: Pod",
                "Object 'apiVersion' is missing in '{\"kind\":\"Pod\"}'",
            ),
            (
                "{apiVersion: apps/v1, kind: Deployment}",
                "invalid pod: it is a Deployment of apps/v1",
            ),
            (
                "{apiVersion: v1, kind: PodList}",
                "invalid pod: it is a PodList of v1",
            ),
        ] {
            let expected =
                format!("{FILE}: couldn't parse as pod({why}), please check config file");
            assert_eq!(parse(text), expected);
        }
        assert!(parse("{apiVersion: v1, kind: Pod, spec: 3}").contains("couldn't parse as pod("));
        assert!(parse("a: [").contains("couldn't parse as pod(yaml: "));
        let nameless = parse("{apiVersion: v1, kind: Pod, spec: {containers: []}}");
        assert_eq!(nameless, "invalid pod: name is needed for the pod");
    }

    #[test]
    fn invalid_pods_are_refused_with_all_errors() {
        let pod = with("  restartPolicy: Sometimes\n  dnsPolicy: x").unwrap_err();
        assert!(
            pod.starts_with("invalid pod: [spec.restartPolicy: Unsupported value"),
            "{pod}"
        );
        assert!(pod.contains(" spec.dnsPolicy: "), "{pod}");
    }

    /// Upstream's `TestStaticPodNameGenerate` and the cases of `PreventStaticPodAPIReferences`.
    #[test]
    fn references_to_the_api_are_refused() {
        for (spec, kind) in [
            ("  serviceAccountName: a", "serviceaccounts"),
            ("  serviceAccount: a", "serviceaccounts"),
            ("  imagePullSecrets: [{name: s}]", "secrets"),
            (
                "  initContainers: [{name: i, image: i, envFrom: [{configMapRef: {name: m}}]}]",
                "configmaps",
            ),
            (
                "  resourceClaims: [{name: c, resourceClaimName: c}]",
                "resourceclaims",
            ),
            (
                "  volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]",
                "persistentvolumeclaims",
            ),
            (
                "  volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]",
                "serviceaccounts (via projected volumes)",
            ),
        ] {
            let refused = with(spec).unwrap_err();
            let said = format!("static pods may not reference {kind}");
            assert!(
                refused == said || refused.starts_with("invalid pod: ["),
                "{refused}"
            );
        }
        let allowed = "  volumes: [{name: e, emptyDir: {}}, {name: h, hostPath: {path: /tmp}}]";
        assert!(with(allowed).is_ok());
    }
}
