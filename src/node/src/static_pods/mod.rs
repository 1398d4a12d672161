//! Static pods: pods from manifests in a directory of the node, which run without the API.
//!
//! - [`manifest`] reads one file, and refuses what static pods may not have.
//! - [`source`] watches the directory.
//! - [`schedule`] decides which pod has a worker: a changed pod starts when the old one has ended.
//! - [`mirror`] keeps a pod in the API that shows each static pod.
//!
//! As the kubelet's `pkg/kubelet/config` and `pkg/kubelet/pod`.

use crate::kinds::*;

pub(crate) mod manifest;
pub(crate) mod mirror;
pub(crate) mod schedule;
pub(crate) mod source;

/// Annotation with the source of a pod: `file`, or `api`.
pub(crate) const SOURCE: &str = "kubernetes.io/config.source";
/// Annotation with the hash of a static pod's manifest, which is its UID, too.
pub(crate) const HASH: &str = "kubernetes.io/config.hash";
/// Annotation with the time when the node first saw the manifest.
pub(crate) const SEEN: &str = "kubernetes.io/config.seen";
/// Annotation of mirror pods: the hash of the static pod's manifest.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// Value of [`SOURCE`] of pods from the API.
const FROM_API: &str = "api";
/// Value of [`SOURCE`] of static pods.
const FROM_FILE: &str = "file";

/// Returns whether the pod is static. Pods from the API must have passed [`from_api`].
pub(crate) fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != FROM_API)
}

/// Returns whether a pod from the API stands for a static one.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// Returns a pod from the API that nobody takes for a static one, whatever its annotations say.
pub(crate) fn from_api(mut pod: Pod) -> Pod {
    let annotations = pod.metadata.annotations.as_mut();
    if let Some(source) = annotations.and_then(|all| all.get_mut(SOURCE)) {
        FROM_API.clone_into(source);
    }
    pod
}

/// Returns `<namespace>/<name>`. A static pod and its mirror have the same.
pub(crate) fn key(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace(), pod.name())
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Returns a pod of namespace `ns` with these annotations.
    pub(crate) fn pod(name: &str, uid: &str, annotations: &[(&str, &str)]) -> Pod {
        let annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(uid.into()),
                annotations: Some(annotations.collect()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    /// Returns a static pod.
    pub(crate) fn static_pod(name: &str, uid: &str) -> Pod {
        pod(name, uid, &[(SOURCE, FROM_FILE), (HASH, uid)])
    }

    /// Returns the mirror pod of a static pod with this hash.
    pub(crate) fn mirror(name: &str, uid: &str, hash: &str) -> Pod {
        pod(name, uid, &[(SOURCE, FROM_FILE), (MIRROR, hash)])
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    /// Upstream's `TestIsStaticPod` and `TestGetPodSource`, and pods that only claim to be static.
    #[test]
    fn the_source_decides_what_is_static() {
        assert!(is_static(&static_pod("p", "u")));
        assert!(is_static(&pod("p", "u", &[(SOURCE, "http")])));
        assert!(!is_static(&pod("p", "u", &[(SOURCE, "api")])));
        assert!(!is_static(&pod("p", "u", &[])));
        assert!(!is_static(&Pod::default()));
        assert!(!is_static(&from_api(static_pod("p", "u"))));
        assert!(is_mirror(&mirror("p", "m", "u")));
        assert!(!is_mirror(&static_pod("p", "u")));
        assert_eq!(key(&static_pod("p", "u")), "ns/p");
    }
}
