//! Pods.

use rkube_api::status::{FieldError, Status};
use rkube_api::{GroupResource, Object, meta};
use rkube_component_helpers::qos;
use serde_json::{Value, json};

use super::{pod_annotations, pod_defaults, pod_drops, pod_resize, pod_status};
use super::{pod_update, pod_validation};
use crate::errors::Errors;
use crate::generic::{self, deleting};
use crate::tree::{
    as_map, at, at_mut, flag, has, int, keep, list, list_mut, map, put, remove, same_at, set, text,
};
use crate::{Context, Strategy, Subresource};

/// The strategy of kind `Pod`.
pub(crate) struct Pod;

impl Strategy for Pod {
    fn default(&self, obj: &mut Object) {
        pod_defaults::pod(obj);
    }

    fn prepare_create(&self, ctx: &Context<'_>, obj: &mut Object) {
        put(obj, "metadata.generation", 1);
        // As upstream, a class that the client gives is kept.
        let class = match text(obj, "status.qosClass") {
            "" => qos::object_class(at(obj, "spec")).as_str(),
            given => given,
        };
        let mut status = json!({"phase": "Pending", "qosClass": class});
        if !list(obj, "spec.schedulingGates").is_empty() {
            set(
                &mut status,
                "conditions",
                json!([{
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates",
                    "lastProbeTime": null,
                    "lastTransitionTime": meta::rfc3339(ctx.now),
                }]),
            );
        }
        as_map(obj).insert("status".into(), status);
        pod_drops::from_spec(ensure_spec(obj));
        merge_match_label_keys(obj);
        profiles_from_annotations(obj);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        keep(new, old, "status");
        pod_drops::from_spec(ensure_spec(new));
        let changed = !pod_update::same_spec(at(new, "spec"), at(old, "spec"));
        generic::set_generation(new, old, changed);
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        pod_status::prepare(new, old);
    }

    fn prepare_subresource_update(
        &self,
        _ctx: &Context<'_>,
        subresource: Subresource,
        new: &mut Object,
        old: &Object,
    ) {
        let mut next = match subresource {
            Subresource::Resize => pod_resize::prepare(new, old),
            _ => {
                let mut next = old.clone();
                for path in ["metadata.managedFields", "metadata.resourceVersion"] {
                    keep(&mut next, new, path);
                }
                if subresource == Subresource::EphemeralContainers {
                    keep(&mut next, new, "spec.ephemeralContainers");
                }
                next
            }
        };
        pod_drops::from_spec(ensure_spec(&mut next));
        let changed = !pod_update::same_spec(at(&next, "spec"), at(old, "spec"));
        generic::set_generation(&mut next, old, changed);
        *new = next;
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        pod_validation::new_pod(obj).0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        pod_update::validate_update(new, old)
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        pod_status::validate(new, old)
    }

    fn validate_subresource_update(
        &self,
        subresource: Subresource,
        new: &Object,
        old: &Object,
    ) -> Vec<FieldError> {
        match subresource {
            Subresource::EphemeralContainers => pod_update::validate_ephemeral(new, old),
            Subresource::Resize => pod_resize::validate(new, old),
            Subresource::Approval | Subresource::Finalize => Vec::new(),
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        if let Some(old) = old {
            // As upstream, only what nodes write is looked at again.
            return match same_at(new, old, "status") {
                true => Vec::new(),
                false => pod_status::warnings(new),
            };
        }
        let mut warnings = Vec::new();
        warnings.extend(super::pod_warnings::name(new, "the Pod's hostname"));
        warnings.extend(super::pod_warnings::pod(new));
        warnings
    }

    fn default_grace_period(&self, obj: &Object) -> Option<i64> {
        Some(int(obj, "spec.terminationGracePeriodSeconds").unwrap_or(0))
    }

    fn grace_period(&self, obj: &Object, requested: Option<i64>) -> Option<i64> {
        let unscheduled = text(obj, "spec.nodeName").is_empty();
        let ended = matches!(text(obj, "status.phase"), "Failed" | "Succeeded");
        let wanted = requested.or(self.default_grace_period(obj)).unwrap_or(0);
        Some(match wanted {
            _ if unscheduled || ended => 0,
            n if n < 0 => 1,
            n => n,
        })
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            "spec.nodeName"
            | "spec.restartPolicy"
            | "spec.schedulerName"
            | "spec.serviceAccountName"
            | "status.phase"
            | "status.nominatedNodeName" => Some(text(obj, field).to_owned()),
            "spec.hostNetwork" => Some(flag(obj, field).to_string()),
            "status.podIP" => Some(
                addresses(obj)
                    .first()
                    .copied()
                    .unwrap_or_default()
                    .to_owned(),
            ),
            "status.podIPs" => Some(addresses(obj).join(",")),
            _ => generic::field_value(obj, field),
        }
    }

    fn bind(&self, ctx: &Context<'_>, pod: &mut Object, binding: &Object) -> Result<(), Status> {
        let name = text(pod, "metadata.name").to_owned();
        let resource = GroupResource::new("", "pods/binding");
        let conflict = |message: String| Status::conflict(&resource, &name, message);
        let kind = text(binding, "target.kind");
        let target = text(binding, "target.name");
        let mut errors = Errors::new();
        if !matches!(kind, "" | "Node") {
            errors.not_supported("target.kind", kind, &["Node", "<empty>"]);
        }
        if target.is_empty() {
            errors.required("target.name", "");
        }
        if !errors.0.is_empty() {
            return Err(Status::invalid(
                &rkube_api::GroupKind::new("", "Binding"),
                text(binding, "metadata.name"),
                errors.0,
            ));
        }
        let uid = text(binding, "metadata.uid");
        if !uid.is_empty() && uid != text(pod, "metadata.uid") {
            return Err(conflict(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                text(pod, "metadata.uid")
            )));
        }
        if deleting(pod) {
            return Err(conflict(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            )));
        }
        let bound = text(pod, "spec.nodeName");
        if !bound.is_empty() {
            return Err(conflict(format!(
                "pod {name} is already assigned to node {bound:?}"
            )));
        }
        if !list(pod, "spec.schedulingGates").is_empty() {
            return Err(conflict(format!(
                "pod {name} has non-empty .spec.schedulingGates"
            )));
        }
        put(pod, "spec.nodeName", target);
        for (key, value) in map(binding, "metadata.annotations").into_iter().flatten() {
            crate::tree::ensure(pod, "metadata.annotations").insert(key.clone(), value.clone());
        }
        // Upstream copies the binding's labels too, such as topology labels of the node.
        for (key, value) in map(binding, "metadata.labels").into_iter().flatten() {
            crate::tree::ensure(pod, "metadata.labels").insert(key.clone(), value.clone());
        }
        set_condition(
            pod,
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
                   "lastTransitionTime": meta::rfc3339(ctx.now)}),
        );
        remove(pod, "status.nominatedNodeName");
        Ok(())
    }
}

/// Returns the spec of a pod.
fn ensure_spec(pod: &mut Object) -> &mut Value {
    crate::tree::ensure(pod, "spec");
    &mut pod["spec"]
}

/// Puts the AppArmor profiles of annotations into the fields of the containers without one.
fn profiles_from_annotations(pod: &mut Object) {
    if text(pod, "spec.os.name") == "windows" {
        return;
    }
    let Some(annotations) = map(pod, "metadata.annotations").cloned() else {
        return;
    };
    let of_pod = at(pod, "spec.securityContext.appArmorProfile").clone();
    for key in [
        "spec.initContainers",
        "spec.containers",
        "spec.ephemeralContainers",
    ] {
        for container in list_mut(pod, key) {
            let annotation = format!("{}{}", pod_annotations::APP_ARMOR, text(container, "name"));
            let profile = annotations
                .get(&annotation)
                .and_then(Value::as_str)
                .and_then(pod_annotations::profile_of)
                .filter(|profile| *profile != of_pod && !pod_annotations::is_bad(profile));
            if let Some(profile) = profile
                && !has(container, "securityContext.appArmorProfile")
            {
                put(container, "securityContext.appArmorProfile", profile);
            }
        }
    }
}

/// Adds or replaces the condition of the same type. Keeps `lastTransitionTime` if the condition's
/// status is unchanged.
fn set_condition(pod: &mut Object, condition: Value) {
    let status = crate::tree::ensure(pod, "status");
    let conditions = status
        .entry("conditions")
        .or_insert_with(|| Value::Array(Vec::new()));
    if !conditions.is_array() {
        *conditions = Value::Array(Vec::new());
    }
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    rkube_component_helpers::conditions::set_condition(conditions, condition);
}

/// Returns the IP addresses of a pod, the primary one first.
pub fn addresses(pod: &Object) -> Vec<&str> {
    let all: Vec<&str> = list(pod, "status.podIPs")
        .iter()
        .map(|ip| text(ip, "ip"))
        .filter(|ip| !ip.is_empty())
        .collect();
    match (all.is_empty(), text(pod, "status.podIP")) {
        (true, ip) if !ip.is_empty() => vec![ip],
        _ => all,
    }
}

/// Adds the values of the labels named by `matchLabelKeys` and `mismatchLabelKeys` to the label
/// selectors of affinity terms and topology spread constraints.
fn merge_match_label_keys(pod: &mut Object) {
    let Some(labels) = map(pod, "metadata.labels").cloned() else {
        return;
    };
    let merge = |term: &mut Value| {
        for (keys, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            if !has(term, "labelSelector") {
                return;
            }
            for key in list(term, keys).to_vec() {
                let Some(value) = key.as_str().and_then(|k| labels.get(k)) else {
                    continue;
                };
                let expression = json!({"key": key, "operator": operator, "values": [value]});
                let selector = crate::tree::ensure(term, "labelSelector");
                let list = selector
                    .entry("matchExpressions")
                    .or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.push(expression);
                }
            }
        }
    };
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    for kind in ["podAffinity", "podAntiAffinity"] {
        let base = format!("spec.affinity.{kind}");
        for term in crate::tree::list_mut(pod, &format!("{base}.{REQUIRED}")) {
            merge(term);
        }
        for term in crate::tree::list_mut(pod, &format!("{base}.{PREFERRED}")) {
            if let Some(term) = at_mut(term, "podAffinityTerm") {
                merge(term);
            }
        }
    }
    for constraint in crate::tree::list_mut(pod, "spec.topologySpreadConstraints") {
        merge(constraint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ctx() -> Context<'static> {
        Context::new(jiff::Timestamp::UNIX_EPOCH, "test")
    }

    fn pod() -> Object {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "u", "labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        Pod.default(&mut pod);
        Pod.prepare_create(&ctx(), &mut pod);
        pod
    }

    fn messages(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn created_pending() {
        let pod = pod();
        assert_eq!(
            pod["status"],
            json!({"phase": "Pending", "qosClass": "BestEffort"})
        );
        assert_eq!(pod["metadata"]["generation"], 1);
        assert_eq!(messages(&Pod.validate_create(&pod)), Vec::<String>::new());
    }

    #[test]
    fn gated_pods_say_so() {
        let mut p = pod();
        p["spec"]["schedulingGates"] = json!([{"name": "x.io/g"}]);
        Pod.prepare_create(&ctx(), &mut p);
        assert_eq!(p["status"]["conditions"][0]["reason"], "SchedulingGated");
    }

    #[test]
    fn invalid_pods() {
        let mut p = json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "C", "ports": [{"containerPort": 0}], "volumeMounts": [{"name": "v", "mountPath": "/x"}]}]}});
        Pod.default(&mut p);
        let found = messages(&Pod.validate_create(&p));
        assert!(found.contains(&"spec.containers[0].image: Required value".to_owned()));
        assert!(
            found.contains(&"spec.containers[0].ports[0].containerPort: Required value".to_owned())
        );
        assert!(
            found.contains(&"spec.containers[0].volumeMounts[0].name: Not found: \"v\"".to_owned())
        );
        assert!(found.iter().any(|m| m.starts_with(
            "spec.containers[0].name: Invalid value: \"C\": a lowercase RFC 1123 label"
        )));
        let none = json!({"spec": {"restartPolicy": "Always", "dnsPolicy": "Default", "terminationGracePeriodSeconds": 30}});
        assert_eq!(
            messages(&Pod.validate_create(&none)),
            ["spec.containers: Required value"]
        );
    }

    #[test]
    fn few_fields_may_change() {
        let old = pod();
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = json!("i:2");
        new["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
        assert_eq!(
            messages(&Pod.validate_update(&new, &old)),
            Vec::<String>::new()
        );
        new["spec"]["hostname"] = json!("other");
        assert!(
            messages(&Pod.validate_update(&new, &old))[0]
                .starts_with("spec: Forbidden: pod updates may not change fields other than")
        );
    }

    #[test]
    fn binding() {
        let mut p = pod();
        Pod.bind(
            &ctx(),
            &mut p,
            &json!({"target": {"kind": "Node", "name": "n"}}),
        )
        .unwrap();
        assert_eq!(p["spec"]["nodeName"], "n");
        assert_eq!(p["status"]["conditions"][0]["status"], "True");
        let again = Pod
            .bind(&ctx(), &mut p, &json!({"target": {"name": "m"}}))
            .unwrap_err();
        assert!(again.is_conflict());
    }

    #[test]
    fn grace_periods() {
        let mut p = pod();
        assert_eq!(Pod.grace_period(&p, None), Some(0));
        p["spec"]["nodeName"] = json!("n");
        assert_eq!(Pod.grace_period(&p, None), Some(30));
        assert_eq!(Pod.grace_period(&p, Some(5)), Some(5));
        p["status"]["phase"] = json!("Failed");
        assert_eq!(Pod.grace_period(&p, Some(5)), Some(0));
    }

    #[test]
    fn ephemeral_containers_only_come() {
        let old = pod();
        let mut new = old.clone();
        new["spec"]["ephemeralContainers"] =
            json!([{"name": "debug", "image": "b:1", "targetContainerName": "c"}]);
        new["spec"]["hostname"] = json!("ignored");
        Pod.default(&mut new);
        Pod.prepare_subresource_update(&ctx(), Subresource::EphemeralContainers, &mut new, &old);
        assert!(new["spec"].get("hostname").is_none());
        assert_eq!(
            messages(&Pod.validate_subresource_update(
                Subresource::EphemeralContainers,
                &new,
                &old
            )),
            Vec::<String>::new()
        );
        assert_eq!(
            Pod.validate_subresource_update(Subresource::EphemeralContainers, &old, &new)
                .len(),
            1
        );
    }
}
