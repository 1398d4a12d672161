//! Types that the rules of containers and of volumes have in common.

use std::collections::BTreeSet;

use serde_json::Value;

/// A container, with its position in the pod.
pub(crate) struct Container<'a> {
    /// The container.
    pub(crate) value: &'a Value,
    /// Field path of the container.
    pub(crate) path: String,
}

/// The kind of object that a pod spec is a part of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A pod.
    Pod,
    /// A template, whose pods get further defaults.
    Template,
}

/// Values that a pod may keep because it has them already, although a new pod must not have it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Allowances {
    /// A cost of deletion that is no number.
    pub(crate) deletion_cost: bool,
    /// Amounts of huge pages that are no multiples of a page.
    pub(crate) parts_of_huge_pages: bool,
    /// Label selectors of pod affinity with malformed values.
    pub(crate) affinity_selectors: bool,
    /// Node affinity with malformed values.
    pub(crate) node_affinity_values: bool,
    /// Malformed label selectors of topology spread constraints.
    pub(crate) spread_selectors: bool,
    /// Label keys of topology spread constraints that are in the selector too.
    pub(crate) spread_keys: bool,
    /// Paths of tokens that lead out of their volume.
    pub(crate) loose_token_paths: bool,
    /// Sysctls of namespaces that the pod shares with its node.
    pub(crate) host_sysctls: bool,
    /// Any policy of changing `SELinux` labels.
    pub(crate) selinux_policies: bool,
    /// Volume devices in a pod with its own users.
    pub(crate) devices_of_own_users: bool,
    /// Init containers that restart when they are resized.
    pub(crate) restarting_init: bool,
}

/// The valid volumes of a pod.
pub(crate) struct Volumes<'a> {
    /// Names of all valid volumes.
    pub(crate) names: BTreeSet<&'a str>,
    /// Names of the volumes backed by a claim, which may be raw block devices.
    pub(crate) claims: BTreeSet<&'a str>,
}

/// Calls `visit` with every container of a pod spec and its field, in upstream's order.
pub(crate) fn visit<'a>(spec: &'a Value, path: &str, mut visit: impl FnMut(&'a Value, String)) {
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        let list = crate::tree::list(spec, key);
        for (i, container) in list.iter().enumerate() {
            let field = crate::errors::child(path, key);
            visit(container, crate::errors::index(&field, i));
        }
    }
}
