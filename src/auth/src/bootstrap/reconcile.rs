//! Updates of existing default roles, bindings and flow-control objects.

use rkube_api::Object;
use serde_json::{Map, json};

use super::BootstrapObject;
use crate::authz::rule::{Rule, uncovered};
use crate::tree;

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const AUTO_UPDATE_SPEC: &str = "apf.kubernetes.io/autoupdate-spec";

/// Returns the updated form of an existing default object. Returns `None` if it is up to date or
/// its autoupdate annotation disables updates.
///
/// Roles and bindings keep additions and get back missing rules and subjects. Changed labels
/// and annotations are kept. The spec of a flow schema or priority level is restored if its
/// annotation requests it; for mandatory objects always, except for the exempt level.
///
/// The API does not allow updates of `roleRef`. If it differs, the returned object has no
/// `resourceVersion`, and the caller must delete the existing binding and create the returned
/// one.
pub fn reconcile(existing: &Object, expected: &BootstrapObject) -> Option<Object> {
    match expected.resource {
        "roles" | "clusterroles" | "rolebindings" | "clusterrolebindings" => {}
        "flowschemas" | "prioritylevelconfigurations" => {
            return restore_spec(existing, &expected.object);
        }
        _ => return None,
    }
    let expected = &expected.object;
    if tree::map_text(existing, &["metadata", "annotations"], AUTO_UPDATE) == Some("false") {
        return None;
    }
    if existing.get("roleRef") != expected.get("roleRef") {
        return Some(expected.clone());
    }
    let mut object = existing.clone();
    for field in ["annotations", "labels"] {
        let mut merged = map(expected, field);
        merged.extend(map(existing, field));
        if !merged.is_empty() {
            tree::make_map(&mut object, &["metadata"]).insert(field.into(), Object::Object(merged));
        }
    }
    if expected.get("roleRef").is_some() {
        add_missing_subjects(&mut object, expected);
    } else {
        add_missing_rules(&mut object, expected);
        reconcile_aggregation(&mut object, expected);
    }
    (object != *existing).then_some(object)
}

fn map(object: &Object, field: &str) -> Map<String, Object> {
    tree::at(object, &["metadata", field])
        .and_then(Object::as_object)
        .cloned()
        .unwrap_or_default()
}

fn add_missing_subjects(binding: &mut Object, expected: &Object) {
    let present = tree::items(binding, &["subjects"]).to_vec();
    let missing: Vec<Object> = tree::items(expected, &["subjects"])
        .iter()
        .filter(|s| !present.contains(s))
        .cloned()
        .collect();
    if !missing.is_empty() {
        tree::make_array(binding, &["subjects"]).extend(missing);
    }
}

fn add_missing_rules(role: &mut Object, expected: &Object) {
    let missing = uncovered(&Rule::of_role(role), &Rule::of_role(expected));
    if !missing.is_empty() {
        tree::make_array(role, &["rules"]).extend(missing.iter().map(Rule::to_object));
    }
}

fn reconcile_aggregation(role: &mut Object, expected: &Object) {
    const PATH: [&str; 2] = ["aggregationRule", "clusterRoleSelectors"];
    if expected.get("aggregationRule").is_none() {
        if let Some(map) = role.as_object_mut() {
            map.remove("aggregationRule");
        }
        return;
    }
    let present = tree::items(role, &PATH).to_vec();
    let missing: Vec<Object> = tree::items(expected, &PATH)
        .iter()
        .filter(|s| !present.contains(s))
        .cloned()
        .collect();
    if !missing.is_empty() {
        tree::make_array(role, &PATH).extend(missing);
    }
}

fn restore_spec(existing: &Object, expected: &Object) -> Option<Object> {
    let mandatory = matches!(tree::name(expected), "exempt" | "catch-all");
    // Operators may tune the shares of the exempt level.
    let tunable = tree::text(expected, &["spec", "type"]) == "Exempt";
    let follows = tree::map_text(existing, &["metadata", "annotations"], AUTO_UPDATE_SPEC);
    if follows != Some("true") && (!mandatory || tunable) {
        return None;
    }
    let mut object = existing.clone();
    tree::make_map(&mut object, &["metadata", "annotations"])
        .insert(AUTO_UPDATE_SPEC.into(), json!("true"));
    object["spec"] = expected["spec"].clone();
    (object != *existing).then_some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(name: &str, resource: &str) -> BootstrapObject {
        let all = super::super::objects(&super::super::BootstrapConfig::default());
        all.into_iter()
            .find(|o| o.resource == resource && tree::name(&o.object) == name)
            .unwrap()
    }

    #[test]
    fn leaves_alone_what_is_right_or_opted_out() {
        let role = expected("system:kube-scheduler", "clusterroles");
        assert_eq!(reconcile(&role.object, &role), None);
        let mut changed = role.object.clone();
        changed["rules"] = json!([]);
        changed["metadata"]["annotations"][AUTO_UPDATE] = json!("false");
        assert_eq!(reconcile(&changed, &role), None);
    }

    #[test]
    fn gives_back_rules_and_keeps_additions() {
        let role = expected("system:public-info-viewer", "clusterroles");
        let mut changed = role.object.clone();
        let own = json!({"verbs": ["get"], "nonResourceURLs": ["/own"]});
        changed["rules"] = json!([own]);
        changed["metadata"]["labels"]["mine"] = json!("kept");
        let updated = reconcile(&changed, &role).unwrap();
        assert_eq!(updated["rules"][0], own);
        assert!(uncovered(&Rule::of_role(&updated), &Rule::of_role(&role.object)).is_empty());
        assert_eq!(updated["metadata"]["labels"]["mine"], "kept");
        assert_eq!(reconcile(&updated, &role), None);
    }

    #[test]
    fn gives_back_subjects_and_replaces_a_role_reference() {
        let binding = expected("system:public-info-viewer", "clusterrolebindings");
        let mut changed = binding.object.clone();
        changed["subjects"] =
            json!([{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "x"}]);
        let updated = reconcile(&changed, &binding).unwrap();
        assert_eq!(updated["subjects"].as_array().unwrap().len(), 3);
        changed["roleRef"]["name"] = json!("other");
        assert_eq!(reconcile(&changed, &binding), Some(binding.object));
    }
}
