//! Roles and bindings. The auth crate checks for privilege escalation.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use crate::errors::{Errors, child, index, show_fields, shown_text};
use crate::generic::Rules;
use crate::tree::{at_mut, default_text, has, list, list_mut, text};
use crate::{NameRule, Strategy, names, selectors};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "Role" => &ROLE,
        "ClusterRole" => &CLUSTER_ROLE,
        "RoleBinding" => &ROLE_BINDING,
        "ClusterRoleBinding" => &CLUSTER_ROLE_BINDING,
        _ => return None,
    })
}

static ROLE: Rules = Rules {
    validate: |obj| rules(obj, true),
    names: NameRule::PathSegment,
    create_on_update: true,
    ..Rules::PLAIN
};

static CLUSTER_ROLE: Rules = Rules {
    validate: |obj| rules(obj, false),
    ..ROLE
};

static ROLE_BINDING: Rules = Rules {
    default: default_binding,
    validate: |obj| binding(obj, true),
    validate_update: |new, old| {
        let mut errors = Errors::new();
        if !crate::tree::same_at(new, old, "roleRef") {
            let role = crate::tree::at(new, "roleRef");
            let shown = show_fields(&[
                ("APIGroup", shown_text(role, "apiGroup")),
                ("Kind", shown_text(role, "kind")),
                ("Name", shown_text(role, "name")),
            ]);
            errors.invalid_shown("roleRef", &shown, "cannot change roleRef");
        }
        errors.0
    },
    names: NameRule::PathSegment,
    create_on_update: true,
    ..Rules::PLAIN
};

static CLUSTER_ROLE_BINDING: Rules = Rules {
    validate: |obj| binding(obj, false),
    ..ROLE_BINDING
};

fn rules(obj: &Object, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Errors::new();
    for (i, rule) in list(obj, "rules").iter().enumerate() {
        let field = index("rules", i);
        if list(rule, "verbs").is_empty() {
            errors.required(
                child(&field, "verbs"),
                "verbs must contain at least one value",
            );
        }
        let urls = list(rule, "nonResourceURLs");
        if !urls.is_empty() {
            if namespaced {
                errors.invalid(
                    child(&field, "nonResourceURLs"),
                    urls.to_vec(),
                    "namespaced rules cannot apply to non-resource URLs",
                );
            }
            let resourceful = ["apiGroups", "resources", "resourceNames"]
                .iter()
                .any(|k| !list(rule, k).is_empty());
            if resourceful {
                errors.invalid(
                    child(&field, "nonResourceURLs"),
                    urls.to_vec(),
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if list(rule, "apiGroups").is_empty() {
            errors.required(
                child(&field, "apiGroups"),
                "resource rules must supply at least one api group",
            );
        }
        if list(rule, "resources").is_empty() {
            errors.required(
                child(&field, "resources"),
                "resource rules must supply at least one resource",
            );
        }
    }
    if !namespaced && has(obj, "aggregationRule") {
        let chosen = list(obj, "aggregationRule.clusterRoleSelectors");
        if chosen.is_empty() {
            errors.required(
                "aggregationRule.clusterRoleSelectors",
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            );
        }
        for (i, selector) in chosen.iter().enumerate() {
            let field = index("aggregationRule.clusterRoleSelectors", i);
            let before = errors.0.len();
            selectors::validate(&mut errors, selector, &field);
            if errors.0.len() > before && !selectors::is_sound(selector) {
                // Upstream does not show the selector here but the result of its failed conversion.
                errors.invalid(field, serde_json::Value::Null, "invalid label selector.");
            }
        }
    }
    errors.0
}

fn default_binding(obj: &mut Object) {
    if let Some(role) = at_mut(obj, "roleRef") {
        default_text(role, "apiGroup", GROUP);
    }
    for subject in list_mut(obj, "subjects") {
        match text(subject, "kind") {
            "ServiceAccount" => {}
            "User" | "Group" => default_text(subject, "apiGroup", GROUP),
            _ => {}
        }
    }
}

fn binding(obj: &Object, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let group = text(obj, "roleRef.apiGroup");
    if group != GROUP {
        errors.not_supported_text("roleRef.apiGroup", group, &[GROUP]);
    }
    let kind = text(obj, "roleRef.kind");
    let known: &[&str] = if namespaced {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    if !known.contains(&kind) {
        errors.not_supported_text("roleRef.kind", kind, known);
    }
    let name = text(obj, "roleRef.name");
    if name.is_empty() {
        errors.required("roleRef.name", "");
    } else {
        errors.invalid_each("roleRef.name", name, names::path_segment_name(name));
    }
    for (i, subject) in list(obj, "subjects").iter().enumerate() {
        subject_of(&mut errors, subject, namespaced, &index("subjects", i));
    }
    errors.0
}

fn subject_of(errors: &mut Errors, subject: &Value, namespaced: bool, field: &str) {
    let name = text(subject, "name");
    if name.is_empty() {
        errors.required(child(field, "name"), "");
    }
    let group = text(subject, "apiGroup");
    match text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.invalid_each(&child(field, "name"), name, names::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported_text(child(field, "apiGroup"), group, &[""]);
            }
            if !namespaced && text(subject, "namespace").is_empty() {
                errors.required(child(field, "namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported_text(child(field, "apiGroup"), group, &[GROUP]);
            }
        }
        other => errors.not_supported_text(
            child(field, "kind"),
            other,
            &["ServiceAccount", "User", "Group"],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bindings() {
        let mut b = json!({"roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
        ROLE_BINDING.default(&mut b);
        assert_eq!(b["roleRef"]["apiGroup"], GROUP);
        assert_eq!(b["subjects"][0]["apiGroup"], GROUP);
        assert!(b["subjects"][1].get("apiGroup").is_none());
        assert_eq!(ROLE_BINDING.validate_create(&b), vec![]);
        let mut c = b.clone();
        c["roleRef"]["name"] = json!("edit");
        assert_eq!(
            ROLE_BINDING.validate_update(&c, &b)[0].detail,
            r#"{"APIGroup":"rbac.authorization.k8s.io","Kind":"ClusterRole","Name":"edit"}: cannot change roleRef"#
        );
    }

    #[test]
    fn roles() {
        let r = json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]});
        assert_eq!(ROLE.validate_create(&r).len(), 1);
        assert_eq!(CLUSTER_ROLE.validate_create(&r), vec![]);
    }
}
