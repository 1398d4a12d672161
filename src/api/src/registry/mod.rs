//! The table of resources that the API serves, with their names and verbs. A custom
//! resource has the same form and is created at run time.

mod table;
#[cfg(test)]
mod tests;
mod types;

use std::sync::LazyLock;

pub use types::{
    ALL_VERBS, CONNECT_VERBS, CREATE_ONLY, PART_VERBS, Resource, Subresource, group_version_path,
};

/// Returns every built-in resource, in the order of discovery.
pub fn builtin() -> &'static [Resource] {
    static TABLE: LazyLock<Vec<Resource>> = LazyLock::new(table::rows);
    &TABLE
}

/// Returns a built-in resource by group, version and plural name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    builtin()
        .iter()
        .find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// Returns a built-in resource by group, version and kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    builtin()
        .iter()
        .find(|r| r.group == group && r.version == version && r.kind == kind)
}
