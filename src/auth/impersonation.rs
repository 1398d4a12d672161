//! Acting as another user: the `Impersonate-*` headers.

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

/// The user that the request wants to act as, after checking that `user` may
/// impersonate each part of it: `Ok(None)` when the request asks for no
/// impersonation.
pub fn impersonate(
    headers: &HeaderMap,
    user: &UserInfo,
    authorizer: &Authorizer,
) -> Result<Option<UserInfo>, Status> {
    let Some(wanted) = wanted(headers)? else {
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

/// With the groups that go without saying.
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

/// The user that the headers name.
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
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

/// Whether a header is one of impersonation, to be removed before a request
/// goes anywhere else.
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
}
