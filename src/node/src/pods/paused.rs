//! Namespaces whose containers are frozen (`rkube pause --namespaces`).
//!
//! `rkube ctl pause` writes the list and freezes the containers that run. The agent freezes those that
//! start later, and does not probe any: a frozen process answers nothing, and is not to be restarted
//! for that.

use rkube_config::paths;
use rkube_runtime::Runtime;

/// Returns whether a namespace is on the list.
pub(crate) fn is_paused(namespace: &str) -> bool {
    // Without a file, nothing is paused.
    std::fs::read_to_string(paths::PAUSED_NAMESPACES).is_ok_and(|list| names(&list, namespace))
}

fn names(list: &str, namespace: &str) -> bool {
    list.lines().any(|line| line == namespace)
}

/// Freezes a container that has just started, if its namespace is paused.
pub(crate) async fn hold(runtime: &Runtime, namespace: &str, id: &str) {
    if !is_paused(namespace) {
        return;
    }
    if let Err(e) = runtime.set_container_frozen(id, true).await {
        tracing::warn!("pausing container {id}: {e}");
    }
    // The namespace may have been resumed meanwhile.
    if !is_paused(namespace)
        && let Err(e) = runtime.set_container_frozen(id, false).await
    {
        tracing::warn!("resuming container {id}: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_whole_names() {
        for (list, namespace, listed) in [
            ("a\nweb\n", "web", true),
            ("a\nweb\n", "we", false),
            ("a\nweb", "web", true),
            ("", "web", false),
        ] {
            assert_eq!(names(list, namespace), listed, "{list:?} {namespace}");
        }
    }
}
