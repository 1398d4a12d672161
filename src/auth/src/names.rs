//! Names of users and groups that the system itself knows.

/// The user of a request without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of every node agent.
pub const NODES: &str = "system:nodes";
/// What a node agent's user name begins with.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// The group of requests without credentials.
pub const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group of requests with credentials.
pub const ALL_AUTHENTICATED: &str = "system:authenticated";
/// The group of every service account.
pub const ALL_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// What a service account's user name begins with.
pub const SERVICE_ACCOUNT_USER_PREFIX: &str = "system:serviceaccount:";
/// The API server's own identity for what it does on its own behalf.
pub const API_SERVER: &str = "system:apiserver";

/// The user name of a service account.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_USER_PREFIX}{namespace}:{name}")
}

/// The groups of a service account: all of them, and those of its namespace.
pub fn service_account_groups(namespace: &str) -> [String; 2] {
    [
        ALL_SERVICE_ACCOUNTS.to_owned(),
        format!("{ALL_SERVICE_ACCOUNTS}:{namespace}"),
    ]
}

/// Namespace and name when `user` is a service account's user name.
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user
        .strip_prefix(SERVICE_ACCOUNT_USER_PREFIX)?
        .split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The node that `user` is, when it is a node agent in `system:nodes`.
pub fn node_of(user: &crate::UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(NODE_USER_PREFIX)?;
    user.in_group(NODES).then_some(name)
}
