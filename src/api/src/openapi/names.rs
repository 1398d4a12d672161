//! Words in the names of operations.

/// Returns a group as in operation names: `Apps`, `RbacAuthorization`, `Core`.
pub(super) fn group_name(group: &str) -> String {
    if group.is_empty() {
        return "Core".into();
    }
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    group.split('.').map(capitalize).collect()
}

/// Returns `word` with its first letter in upper case.
pub(super) fn capitalize(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Returns `word` with its first letter in lower case.
pub(super) fn lower_first(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Returns the tag of a group version's operations: `apps_v1`.
pub(super) fn tag(group: &str, version: &str) -> String {
    format!("{}_{version}", lower_first(&group_name(group)))
}
