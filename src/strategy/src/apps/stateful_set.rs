//! Stateful sets.

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::{FieldError, Status};
use serde_json::{Value, json};

use super::{
    always_restarted, count_or_percent, not_negative, plain_number, scale_of, selector_and_labels,
    set_replicas, template_warnings,
};
use crate::core::{claims, pod_defaults, pod_validation};
use crate::errors::{
    Errors, index, show_fields, shown_any, shown_number, shown_pointer, shown_text,
};
use crate::generic;
use crate::tree::{
    at, at_mut, default_text, default_value, ensure, has, int, keep, list, list_mut, put, remove,
    same, text,
};
use crate::{Context, NameRule, Strategy, names, quantities, selectors};

/// A field whose feature gate is off in v1.36: new objects do not get it.
const MAX_UNAVAILABLE: &str = "spec.updateStrategy.rollingUpdate.maxUnavailable";

/// The strategy of kind `StatefulSet`.
pub(crate) struct StatefulSet;

impl Strategy for StatefulSet {
    fn name_rule(&self) -> NameRule {
        // The name becomes part of the host names of pods.
        NameRule::Dns1123Label
    }

    fn default(&self, obj: &mut Object) {
        ensure(obj, "spec.updateStrategy");
        let Some(spec) = at_mut(obj, "spec") else {
            return;
        };
        default_text(spec, "podManagementPolicy", "OrderedReady");
        if let Some(strategy) = at_mut(spec, "updateStrategy") {
            // As upstream, a strategy that is given with its type has no details by default.
            if text(strategy, "type").is_empty() {
                default_text(strategy, "type", "RollingUpdate");
                ensure(strategy, "rollingUpdate");
            }
            if text(strategy, "type") == "RollingUpdate"
                && let Some(rolling) = at_mut(strategy, "rollingUpdate")
            {
                default_value(rolling, "partition", 0);
            }
        }
        ensure(spec, "persistentVolumeClaimRetentionPolicy");
        if let Some(policy) = at_mut(spec, "persistentVolumeClaimRetentionPolicy") {
            default_text(policy, "whenDeleted", "Retain");
            default_text(policy, "whenScaled", "Retain");
        }
        default_value(spec, "replicas", 1);
        default_value(spec, "revisionHistoryLimit", 10);
        for claim in list_mut(spec, "volumeClaimTemplates") {
            put(claim, "apiVersion", "v1");
            put(claim, "kind", "PersistentVolumeClaim");
            if let Some(spec) = at_mut(claim, "spec") {
                default_value(spec, "volumeMode", "Filesystem");
                quantities::normalize(spec, "resources.requests");
            }
            put(claim, "status", json!({"phase": "Pending"}));
        }
        if let Some(template) = at_mut(spec, "template") {
            pod_defaults::template(template);
        }
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        put(
            obj,
            "status",
            json!({"replicas": 0, "availableReplicas": 0}),
        );
        put(obj, "metadata.generation", 1);
        remove(obj, MAX_UNAVAILABLE);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        if !has(old, MAX_UNAVAILABLE) {
            remove(new, MAX_UNAVAILABLE);
        }
        generic::prepare_spec_update(new, old);
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let rules = Rules {
            new: true,
            pod_spec: true,
        };
        validate(obj, &rules)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let mut normal = new.clone();
        for key in [
            "replicas",
            "template",
            "updateStrategy",
            "minReadySeconds",
            "ordinals",
            "persistentVolumeClaimRetentionPolicy",
            "revisionHistoryLimit",
        ] {
            keep(&mut normal, old, &format!("spec.{key}"));
        }
        // Fields that cannot change are not validated for existing objects; neither is a
        // template that was invalid before the update.
        let mut rules = Rules {
            new: false,
            pod_spec: true,
        };
        rules.pod_spec = validate(old, &rules).is_empty();
        errors.extend(validate(new, &rules));
        if !same(at(&normal, "spec"), at(old, "spec")) {
            errors.forbidden(
                "spec",
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
        errors.0
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        not_negative(
            &mut errors,
            new,
            "status",
            &[
                "replicas",
                "readyReplicas",
                "currentReplicas",
                "updatedReplicas",
                "availableReplicas",
                "observedGeneration",
                "collisionCount",
            ],
        );
        let of = |key: &str| int(new, &format!("status.{key}")).unwrap_or(0);
        for key in [
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
        ] {
            if of(key) > of("replicas") {
                errors.invalid(
                    format!("status.{key}"),
                    of(key),
                    "cannot be greater than status.replicas",
                );
            }
        }
        if of("availableReplicas") > of("readyReplicas") {
            errors.invalid(
                "status.availableReplicas",
                of("availableReplicas"),
                "cannot be greater than status.readyReplicas",
            );
        }
        super::collision_count(&mut errors, new, old);
        errors.0
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let unchanged =
            |old: &Object| int(old, "metadata.generation") == int(new, "metadata.generation");
        let mut warnings = match old.is_some_and(unchanged) {
            true => Vec::new(),
            false => template_warnings(new, old),
        };
        for (i, claim) in list(new, "spec.volumeClaimTemplates").iter().enumerate() {
            let mut field = index("spec.volumeClaimTemplates", i);
            // As upstream, the paths of updates have another step, in this spelling.
            if old.is_some() {
                field.push_str(".Spec");
            }
            warnings.extend(claim_warnings(claim, &field));
        }
        if at(new, "spec.revisionHistoryLimit")
            .as_i64()
            .is_some_and(|n| n < 0)
        {
            warnings.push(
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned(),
            );
        }
        warnings
    }

    fn scale(&self, obj: &Object) -> Option<Object> {
        Some(scale_of(obj, &selectors::format(at(obj, "spec.selector"))))
    }

    fn set_scale(&self, obj: &mut Object, scale: &Object) -> Result<(), Status> {
        set_replicas(obj, scale)
    }
}

/// Selects the optional rules of [`validate`].
struct Rules {
    /// Whether to validate the fields that are immutable after creation.
    new: bool,
    /// Whether to validate the pod spec of the template.
    pod_spec: bool,
}

fn validate(obj: &Object, rules: &Rules) -> Vec<FieldError> {
    let mut errors = Errors::new();
    match text(obj, "spec.podManagementPolicy") {
        "OrderedReady" | "Parallel" => {}
        "" => errors.required("spec.podManagementPolicy", ""),
        other => errors.invalid(
            "spec.podManagementPolicy",
            other,
            "must be 'OrderedReady' or 'Parallel'",
        ),
    }
    let strategy = at(obj, "spec.updateStrategy");
    match text(strategy, "type") {
        "" => errors.required("spec.updateStrategy", ""),
        "OnDelete" => {
            if has(strategy, "rollingUpdate") {
                errors.invalid_shown(
                    "spec.updateStrategy.rollingUpdate",
                    &shown_rolling(at(strategy, "rollingUpdate")),
                    "only allowed for updateStrategy 'RollingUpdate'",
                );
            }
        }
        "RollingUpdate" => {
            let rolling = at(strategy, "rollingUpdate");
            if !rolling.is_null() {
                not_negative(
                    &mut errors,
                    obj,
                    "spec.updateStrategy.rollingUpdate",
                    &["partition"],
                );
                let unavailable = at(rolling, "maxUnavailable");
                if !unavailable.is_null() {
                    let field = "spec.updateStrategy.rollingUpdate.maxUnavailable";
                    count_or_percent(&mut errors, unavailable, field);
                    if plain_number(unavailable) == 0 {
                        errors.invalid(field, unavailable.clone(), "cannot be 0");
                    }
                    super::at_most_all(&mut errors, unavailable, field);
                }
            }
        }
        _ => {
            let shown = show_fields(&[
                ("Type", shown_text(strategy, "type")),
                (
                    "RollingUpdate",
                    shown_pointer(at(strategy, "rollingUpdate"), shown_rolling),
                ),
            ]);
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            errors.invalid_shown("spec.updateStrategy", &shown, why);
        }
    }
    for key in ["whenDeleted", "whenScaled"] {
        let path = format!("spec.persistentVolumeClaimRetentionPolicy.{key}");
        let policy = text(obj, &path);
        if !matches!(policy, "" | "Retain" | "Delete") {
            errors.not_supported(path, policy, &["Retain", "Delete"]);
        }
    }
    if rules.new {
        for (i, claim) in list(obj, "spec.volumeClaimTemplates").iter().enumerate() {
            let path = index("spec.volumeClaimTemplates", i);
            claims::claim_spec(&mut errors, at(claim, "spec"), &format!("{path}.spec"));
        }
    }
    not_negative(&mut errors, obj, "spec", &["replicas", "minReadySeconds"]);
    not_negative(&mut errors, obj, "spec.ordinals", &["start"]);
    let service = text(obj, "spec.serviceName");
    if rules.new && !service.is_empty() {
        errors.invalid_each("spec.serviceName", service, names::dns1123_label(service));
    }
    let template = at(obj, "spec.template");
    if selector_and_labels(&mut errors, obj, "statefulset", "") {
        if rules.pod_spec {
            pod_validation::template(&mut errors, &as_its_pods(obj), "spec.template");
        }
        // As upstream, which validates these a second time without their parent in the path.
        let metadata = at(template, "metadata");
        crate::metadata::labels(&mut errors, metadata, "spec.template.labels");
        crate::metadata::annotations(&mut errors, metadata, "spec.template.annotations");
    }
    always_restarted(&mut errors, template, "spec.template", "StatefulSet");
    errors.0
}

fn shown_rolling(rolling: &Value) -> String {
    show_fields(&[
        ("Partition", shown_number(rolling, "partition")),
        ("MaxUnavailable", shown_any(rolling, "maxUnavailable")),
    ])
}

/// Returns the warnings about the storage that claims ask for.
fn claim_warnings(claim: &Value, field: &str) -> Vec<String> {
    ["requests", "limits"]
        .into_iter()
        .filter_map(|kind| {
            let amounts = at(claim, &format!("spec.resources.{kind}"));
            let amount = quantities::read(amounts.get("storage"));
            (amount.milli_value() % 1000 != 0).then(|| {
                format!(
                    "{field}.resources.{kind}[storage]: fractional byte value \"{amount}\" is invalid, must be an integer"
                )
            })
        })
        .collect()
}

/// Returns the template as the controller completes it, with one volume per claim template that
/// replaces a volume of the same name. Removes host name and subdomain: pods get theirs from
/// the pod name and the service.
fn as_its_pods(obj: &Object) -> Object {
    let mut template = at(obj, "spec.template").clone();
    remove(&mut template, "spec.hostname");
    remove(&mut template, "spec.subdomain");
    let claims: BTreeSet<&str> = list(obj, "spec.volumeClaimTemplates")
        .iter()
        .map(|claim| text(claim, "metadata.name"))
        .collect();
    if !claims.is_empty() {
        let mut volumes: Vec<Value> = claims
            .iter()
            .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
            .collect();
        volumes.extend(
            list(&template, "spec.volumes")
                .iter()
                .filter(|volume| !claims.contains(text(volume, "name")))
                .cloned(),
        );
        put(&mut template, "spec.volumes", volumes);
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_what_may_change() {
        let mut s = json!({"metadata": {"name": "s"}, "spec": {"serviceName": "s",
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}});
        StatefulSet.default(&mut s);
        assert_eq!(s["spec"]["updateStrategy"]["rollingUpdate"]["partition"], 0);
        assert_eq!(s["spec"]["podManagementPolicy"], "OrderedReady");
        assert_eq!(StatefulSet.validate_create(&s), vec![]);
        let mut t = s.clone();
        t["spec"]["replicas"] = json!(4);
        assert_eq!(StatefulSet.validate_update(&t, &s), vec![]);
        t["spec"]["serviceName"] = json!("other");
        assert!(
            StatefulSet.validate_update(&t, &s)[0]
                .detail
                .starts_with("updates to statefulset spec")
        );
    }

    #[test]
    fn claim_templates_are_volumes_of_the_template() {
        let mut s = json!({"metadata": {"name": "s"}, "spec": {"serviceName": "s",
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {
                "hostname": "not checked",
                "volumes": [{"name": "data", "nonsense": {}}, {"name": "tmp", "emptyDir": {}}],
                "containers": [{"name": "c", "image": "i:1", "volumeMounts": [
                    {"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}});
        StatefulSet.default(&mut s);
        assert_eq!(StatefulSet.validate_create(&s), vec![]);
        let mut other = s.clone();
        other["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] = json!("other");
        other["spec"]["template"]["spec"]["volumes"] = json!([{"name": "tmp", "emptyDir": {}}]);
        let found = StatefulSet.validate_create(&other);
        assert!(
            found
                .iter()
                .any(|e| e.field == "spec.template.spec.containers[0].volumeMounts[0].name"),
            "{found:?}"
        );
        // An invalid template that is already stored does not prevent other updates.
        let mut scaled = other.clone();
        scaled["spec"]["replicas"] = json!(0);
        assert_eq!(StatefulSet.validate_update(&scaled, &other), vec![]);
        s["spec"]["serviceName"] = json!("Not.A.Label");
        assert_eq!(StatefulSet.validate_create(&s)[0].field, "spec.serviceName");
    }
}
