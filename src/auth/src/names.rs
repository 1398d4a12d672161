//! Well-known names of users and groups.

/// The user of a request without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group whose members are authorized for every request.
pub const MASTERS: &str = "system:masters";
/// The group of every node agent.
pub const NODES: &str = "system:nodes";
/// Prefix of the user name of a node agent.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// The group of requests without credentials.
pub const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group of requests with credentials.
pub const ALL_AUTHENTICATED: &str = "system:authenticated";
/// The group of every service account.
pub const ALL_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// Prefix of the user name of a service account.
pub const SERVICE_ACCOUNT_USER_PREFIX: &str = "system:serviceaccount:";
/// The user of the API server's internal requests.
pub const API_SERVER: &str = "system:apiserver";
/// The user of the API server's certificate for node agents.
pub const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// Returns the user name of a service account.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_USER_PREFIX}{namespace}:{name}")
}

/// Returns the groups of a service account: the common one and that of its namespace.
pub fn service_account_groups(namespace: &str) -> [String; 2] {
    [
        ALL_SERVICE_ACCOUNTS.to_owned(),
        format!("{ALL_SERVICE_ACCOUNTS}:{namespace}"),
    ]
}

/// Splits the user name of a service account into namespace and name. Returns `None` for
/// other users.
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user
        .strip_prefix(SERVICE_ACCOUNT_USER_PREFIX)?
        .split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// Returns the node name of a node agent in `system:nodes`. Returns `None` for other users.
pub fn node_of(user: &crate::UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(NODE_USER_PREFIX)?;
    user.in_group(NODES).then_some(name)
}
