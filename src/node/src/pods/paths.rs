//! Paths of a pod's files on the node.

use std::path::{Path, PathBuf};

use rkube_config::paths;

use crate::kinds::*;

/// Returns the directory with a pod's files: volumes, `/etc` files and termination messages.
pub(crate) fn pod_dir(uid: &str) -> PathBuf {
    Path::new(paths::PODS).join(uid)
}

/// Returns the directory of a pod's logs.
pub(crate) fn log_dir(pod: &Pod) -> PathBuf {
    Path::new(paths::POD_LOGS).join(format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid()))
}

/// Returns the log file of one attempt of a container.
pub(crate) fn log_path(pod: &Pod, container: &str, attempt: u32) -> PathBuf {
    log_dir(pod).join(container).join(format!("{attempt}.log"))
}

/// Returns the termination message file of one attempt of a container.
pub(crate) fn message_file(uid: &str, container: &str, attempt: u32) -> PathBuf {
    pod_dir(uid)
        .join("containers")
        .join(container)
        .join(attempt.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_where_the_kubelet_has_them() {
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some("web".into()),
                namespace: Some("ns".into()),
                uid: Some("123".into()),
                ..Default::default()
            },
            ..Default::default()
        };
        let path = log_path(&pod, "c", 2);
        assert_eq!(
            path.strip_prefix(paths::POD_LOGS).unwrap(),
            Path::new("ns_web_123/c/2.log")
        );
        let path = message_file("123", "c", 2);
        assert_eq!(
            path.strip_prefix(paths::PODS).unwrap(),
            Path::new("123/containers/c/2")
        );
    }
}
