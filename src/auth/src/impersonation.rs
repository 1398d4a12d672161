//! Impersonation: requests on behalf of another user with the `Impersonate-*` headers.

use std::collections::BTreeMap;

use http::HeaderMap;
use rkube_api::status::Status;

use crate::authn::percent_decoded;
use crate::authz::{Attributes, Authorizer};
use crate::{UserInfo, names};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Returns the impersonated user, `Ok(None)` if the request has no impersonation headers.
///
/// # Errors
///
/// A 403 status unless `user` may impersonate each part: the name, the groups, the UID and
/// the extra values. A 400 status if the headers lack a user name.
pub fn impersonate(
    headers: &HeaderMap,
    user: &UserInfo,
    authorizer: &Authorizer,
) -> Result<Option<UserInfo>, Status> {
    let Some(wanted) = requested_user(headers)? else {
        return Ok(None);
    };
    let check = |api_group, resource, subresource, namespace, name| {
        let ask = Attributes {
            subresource,
            namespace,
            name,
            ..Attributes::resource(user, "impersonate", api_group, resource)
        };
        authorizer.require(&ask)
    };
    const AUTHENTICATION: &str = "authentication.k8s.io";
    let account = names::split_service_account(&wanted.name);
    match account {
        Some((namespace, name)) => check("", "serviceaccounts", "", namespace, name)?,
        None => check("", "users", "", "", &wanted.name)?,
    }
    for group in &wanted.groups {
        check("", "groups", "", "", group)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            check(AUTHENTICATION, "userextras", key, "", value)?;
        }
    }
    if !wanted.uid.is_empty() {
        check(AUTHENTICATION, "uids", "", "", &wanted.uid)?;
    }
    Ok(Some(completed(wanted)))
}

/// The result of a successful impersonation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impersonation {
    /// The impersonated user.
    pub user: UserInfo,
    /// The verb that permitted it, `impersonate:MODE`; empty for the unconstrained verb
    /// `impersonate`.
    pub constraint: String,
}

/// Returns the impersonated user, `Ok(None)` if the request has no impersonation headers.
///
/// Tries the modes of constrained impersonation first, from the narrowest. They need the verb
/// `impersonate:MODE` on the user, and `impersonate-on:MODE:VERB` on the resource of
/// `request`. Falls back to the unconstrained verb `impersonate`.
///
/// # Errors
///
/// If no mode permits it, the rejection of the first mode that applies to the user, or else of
/// `impersonate`.
pub fn act(
    headers: &HeaderMap,
    user: &UserInfo,
    authorizer: &Authorizer,
    request: &Attributes<'_>,
) -> Result<Option<Impersonation>, Status> {
    let Some(wanted) = requested_user(headers)? else {
        return Ok(None);
    };
    let mut refusal = None;
    for mode in MODES {
        if !applies(mode, &wanted, user) {
            continue;
        }
        match constrained(mode, &wanted, user, authorizer, request) {
            Ok(acting) => return Ok(Some(acting)),
            Err(status) => refusal = refusal.or(Some(status)),
        }
    }
    match impersonate(headers, user, authorizer) {
        Ok(found) => Ok(found.map(|user| Impersonation {
            user,
            constraint: String::new(),
        })),
        Err(status) => Err(refusal.unwrap_or(status)),
    }
}

const ASSOCIATED_NODE: &str = "associated-node";
const ARBITRARY_NODE: &str = "arbitrary-node";
const SERVICE_ACCOUNT: &str = "serviceaccount";
const USER_INFO: &str = "user-info";
const MODES: [&str; 4] = [ASSOCIATED_NODE, ARBITRARY_NODE, SERVICE_ACCOUNT, USER_INFO];
/// The key in a user's extra values with the name of the node that its pod runs on.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

fn node_name(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|n| !n.is_empty())
}

/// Returns whether a mode applies to the impersonated user.
fn applies(mode: &str, wanted: &UserInfo, user: &UserInfo) -> bool {
    let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
    let node = node_name(&wanted.name);
    let account = names::split_service_account(&wanted.name);
    match mode {
        ASSOCIATED_NODE => {
            let own = user.extra.get(NODE_NAME).map(Vec::as_slice);
            only_name
                && names::split_service_account(&user.name).is_some()
                && node.is_some_and(|node| own == Some(&[node.to_owned()]))
        }
        ARBITRARY_NODE => only_name && node.is_some(),
        SERVICE_ACCOUNT => only_name && account.is_some(),
        _ => node.is_none() && account.is_none(),
    }
}

/// Checks that `user` may impersonate `wanted` for this request in one mode.
fn constrained(
    mode: &str,
    wanted: &UserInfo,
    user: &UserInfo,
    authorizer: &Authorizer,
    request: &Attributes<'_>,
) -> Result<Impersonation, Status> {
    let on = format!("impersonate-on:{mode}:{}", request.verb);
    authorizer.require(&Attributes {
        verb: &on,
        ..*request
    })?;
    let verb = format!("impersonate:{mode}");
    let check = |resource, subresource, namespace, name| {
        authorizer.require(&Attributes {
            api_version: "v1",
            subresource,
            namespace,
            name,
            ..Attributes::resource(user, &verb, "authentication.k8s.io", resource)
        })
    };
    let mut actual = wanted.clone();
    match (
        node_name(&wanted.name),
        names::split_service_account(&wanted.name),
    ) {
        (Some(node), _) => {
            // The permission for a pod's own node does not depend on the node's name.
            let name = if mode == ASSOCIATED_NODE { "*" } else { node };
            check("nodes", "", "", name)?;
            actual.groups = vec!["system:nodes".to_owned()];
        }
        (None, Some((namespace, name))) => check("serviceaccounts", "", namespace, name)?,
        (None, None) => check("users", "", "", &wanted.name)?,
    }
    if !wanted.uid.is_empty() {
        check("uids", "", "", &wanted.uid)?;
    }
    for group in &wanted.groups {
        check("groups", "", "", group)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            check("userextras", key, "", value)?;
        }
    }
    Ok(Impersonation {
        user: completed(actual),
        constraint: verb,
    })
}

/// Adds the implicit groups: those of a service account, and `system:authenticated` or
/// `system:unauthenticated`.
fn completed(mut user: UserInfo) -> UserInfo {
    if user.groups.is_empty()
        && let Some((namespace, _)) = names::split_service_account(&user.name)
    {
        user.groups = names::service_account_groups(namespace).into();
    }
    let known = user.in_group(names::ALL_UNAUTHENTICATED);
    if user.name == names::ANONYMOUS {
        if !known {
            user.groups.push(names::ALL_UNAUTHENTICATED.to_owned());
        }
    } else if !known && !user.in_group(names::ALL_AUTHENTICATED) {
        user.groups.push(names::ALL_AUTHENTICATED.to_owned());
    }
    user
}

/// Parses the user in the headers. A request with other impersonation headers must name a
/// user.
fn requested_user(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let all = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect()
    };
    let first = |name: &str| all(name).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            extra.entry(percent_decoded(key)).or_default().push(value);
        }
    }
    let user = UserInfo {
        name: first(USER),
        uid: first(UID),
        groups: all(GROUP),
        extra,
    };
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user == UserInfo::default() {
        return Ok(None);
    }
    let parts = [
        (!user.groups.is_empty(), format!("groups {:?}", user.groups)),
        (!user.extra.is_empty(), format!("extra {:?}", user.extra)),
        (!user.uid.is_empty(), format!("uid {:?}", user.uid)),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(given, _)| *given)
        .map(|(_, text)| text)
        .collect();
    Err(Status::bad_request(format!(
        "requested {} without impersonating a user name",
        parts.join(", ")
    )))
}

/// Returns whether a header is an impersonation header. Such headers must be removed before a
/// request is forwarded.
pub fn is_impersonation_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), USER | GROUP | UID) || name.starts_with(EXTRA)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;
    use crate::testing::Cluster;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn masters_become_whom_they_like() {
        let authorizer = Authorizer::new(Cluster::new());
        let root = UserInfo::authenticated("root", &[names::MASTERS]);
        let become_ = |pairs: &[_]| impersonate(&headers(pairs), &root, &authorizer);
        assert_eq!(become_(&[("accept", "*/*")]), Ok(None));
        assert_eq!(
            become_(&[(USER, "jane")]),
            Ok(Some(UserInfo::authenticated("jane", &[])))
        );
        assert_eq!(
            become_(&[(USER, "system:serviceaccount:ns:sa")])
                .unwrap()
                .unwrap()
                .groups,
            [
                "system:serviceaccounts",
                "system:serviceaccounts:ns",
                "system:authenticated"
            ]
        );
        assert_eq!(
            become_(&[(USER, "system:anonymous")])
                .unwrap()
                .unwrap()
                .groups,
            ["system:unauthenticated"]
        );
        let full = become_(&[
            (USER, "jane"),
            (GROUP, "a"),
            (GROUP, "b"),
            (UID, "7"),
            ("impersonate-extra-acme.com%2fproject", "x"),
            ("impersonate-extra-acme.com%2fproject", "y"),
        ]);
        let full = full.unwrap().unwrap();
        assert_eq!(full.groups, ["a", "b", "system:authenticated"]);
        assert_eq!(full.uid, "7");
        assert_eq!(full.extra["acme.com/project"], ["x", "y"]);
        let error = become_(&[(GROUP, "a")]).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (
                400,
                r#"requested groups ["a"] without impersonating a user name"#
            )
        );
    }

    #[test]
    fn others_only_whom_they_may() {
        let cluster = Cluster::new();
        let authorizer = Authorizer::new(cluster.clone());
        let rules = json!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["joe"]}]);
        cluster.put(
            "rbac.authorization.k8s.io",
            "clusterroles",
            json!({"metadata": {"name": "r"}, "rules": rules}),
        );
        cluster.put(
            "rbac.authorization.k8s.io",
            "clusterrolebindings",
            json!({
                "metadata": {"name": "b"},
                "roleRef": {"kind": "ClusterRole", "name": "r"},
                "subjects": [{"kind": "User", "name": "jane"}],
            }),
        );
        let jane = UserInfo::authenticated("jane", &[]);
        let become_ =
            |pairs: &[_]| impersonate(&headers(pairs), &jane, &authorizer).map_err(|e| e.message);
        assert!(become_(&[(USER, "joe")]).is_ok());
        assert_eq!(
            become_(&[(USER, "joe"), (GROUP, "system:masters")]),
            Err(r#"groups "system:masters" is forbidden: User "jane" cannot impersonate resource "groups" in API group "" at the cluster scope"#.into())
        );
        assert_eq!(
            become_(&[(USER, "root")]),
            Err(r#"users "root" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#.into())
        );
    }

    #[test]
    fn rights_may_be_limited_to_what_is_asked() {
        let cluster = Cluster::new();
        cluster.put("rbac.authorization.k8s.io", "clusterroles", json!({"metadata": {"name": "r"}, "rules": [
            {"verbs": ["impersonate:user-info"], "apiGroups": ["authentication.k8s.io"], "resources": ["users"], "resourceNames": ["jane"]},
            {"verbs": ["impersonate-on:user-info:list"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["impersonate:associated-node"], "apiGroups": ["authentication.k8s.io"], "resources": ["nodes"]},
            {"verbs": ["impersonate-on:associated-node:list"], "apiGroups": [""], "resources": ["pods"]},
        ]}));
        cluster.put("rbac.authorization.k8s.io", "clusterrolebindings", json!({"metadata": {"name": "b"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "namespace": "ns", "name": "agent"}]}));
        let authorizer = Authorizer::new(cluster);
        let mut agent = UserInfo::authenticated("system:serviceaccount:ns:agent", &[]);
        agent.extra.insert(NODE_NAME.into(), vec!["n1".into()]);
        let act = |name: &str, verb: &str, resource: &str| {
            let request = Attributes::resource(&agent, verb, "", resource);
            act(&headers(&[(USER, name)]), &agent, &authorizer, &request)
        };
        let jane = act("jane", "list", "pods").unwrap().unwrap();
        assert_eq!(jane.constraint, "impersonate:user-info");
        assert_eq!(jane.user, UserInfo::authenticated("jane", &[]));
        for (name, verb, resource) in [
            ("jane", "get", "pods"),
            ("jane", "list", "secrets"),
            ("joe", "list", "pods"),
            ("system:node:n2", "list", "pods"),
            ("system:serviceaccount:ns:other", "list", "pods"),
        ] {
            let refused = act(name, verb, resource).unwrap_err();
            assert_eq!(refused.code, 403, "{name} {verb} {resource}");
        }
        let refused = act("jane", "get", "pods").unwrap_err();
        assert!(
            refused
                .message
                .contains("cannot impersonate-on:user-info:get resource \"pods\""),
            "{}",
            refused.message
        );
        let node = act("system:node:n1", "list", "pods").unwrap().unwrap();
        assert_eq!(node.constraint, "impersonate:associated-node");
        assert_eq!(node.user.groups, ["system:nodes", "system:authenticated"]);
    }
}
