//! What the rules of containers and of volumes have in common.

use std::collections::BTreeSet;

use serde_json::Value;

/// A container, with its position in the pod.
pub(crate) struct Container<'a> {
    /// The container.
    pub(crate) value: &'a Value,
    /// Field path of the container.
    pub(crate) path: String,
}

/// What a pod spec is a part of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A pod.
    Pod,
    /// A template, whose pods get further defaults.
    Template,
}

/// The valid volumes of a pod.
pub(crate) struct Volumes<'a> {
    /// Names of all valid volumes.
    pub(crate) names: BTreeSet<&'a str>,
    /// Names of the volumes backed by a claim, which may be raw block devices.
    pub(crate) claims: BTreeSet<&'a str>,
    /// Names of the volumes of type `emptyDir`, which may hold files of variables.
    pub(crate) empty_dirs: BTreeSet<&'a str>,
}
