//! Security settings of containers.

use rkube_runtime::{ImageStatus, SeccompProfile};

use super::super::container::{check_non_root, mounts_path, security, sub_path};
use super::pod;
use crate::kinds::*;

/// Returns a pod and its container with these security contexts.
fn contexts(of_pod: &str, of_container: &str) -> (Pod, Container) {
    let pod = pod(&format!(
        r#"{{"securityContext": {{{of_pod}}}, "containers": [{{"name": "c", "securityContext": {{{of_container}}}}}]}}"#
    ));
    let container = pod.spec().containers[0].clone();
    (pod, container)
}

/// `TestVerifyRunAsNonRoot`: contexts of pod and container, user and user name of the image, and
/// the message without the pod's name.
#[test]
fn who_may_not_be_root() {
    const SPEC: &str = "container's runAsUser breaks non-root policy";
    const IMAGE: &str = "container has runAsNonRoot and image will run as root";
    const NAME: &str = "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root";
    let no = r#""runAsNonRoot": true"#;
    for (of_pod, of_container, uid, name, message) in [
        ("", "", Some(0), None, ""),
        ("", r#""runAsUser": 0"#, None, None, ""),
        (
            "",
            r#""runAsNonRoot": false, "runAsUser": 0"#,
            None,
            None,
            "",
        ),
        ("", no, Some(1), None, ""),
        ("", no, Some(0), None, IMAGE),
        ("", no, None, Some("www"), NAME),
        ("", no, None, None, IMAGE),
        ("", no, Some(1), Some("www"), ""),
        // A user of the specification counts, not that of the image.
        (
            "",
            r#""runAsNonRoot": true, "runAsUser": 1"#,
            Some(0),
            None,
            "",
        ),
        (
            "",
            r#""runAsNonRoot": true, "runAsUser": 0"#,
            Some(1),
            None,
            SPEC,
        ),
        (no, "", Some(0), None, IMAGE),
        (no, r#""runAsUser": 0"#, Some(1), None, SPEC),
        (
            r#""runAsNonRoot": true, "runAsUser": 0"#,
            r#""runAsUser": 5"#,
            None,
            None,
            "",
        ),
        (no, r#""runAsNonRoot": false"#, Some(0), None, ""),
    ] {
        let (pod, container) = contexts(of_pod, of_container);
        let image = ImageStatus {
            uid,
            username: name.map(str::to_owned),
            ..Default::default()
        };
        let got = check_non_root(&pod, &container, &image)
            .err()
            .unwrap_or_default();
        let want = if message.is_empty() {
            String::new()
        } else {
            format!("{message} (pod: \"web_ns(u)\", container: c)")
        };
        assert_eq!(got, want, "{of_pod} {of_container} {uid:?} {name:?}");
    }
}

/// `TestDetermineEffectiveSecurityContext`: the container's settings replace the pod's, each by
/// itself. Result: user, group, additional groups.
#[test]
fn users_and_groups() {
    for (of_pod, of_container, fs_group, result) in [
        ("", "", None, (None, None, vec![])),
        (
            r#""runAsUser": 1, "runAsGroup": 2"#,
            "",
            None,
            (Some(1), Some(2), vec![]),
        ),
        (
            r#""runAsUser": 1, "runAsGroup": 2"#,
            r#""runAsUser": 3"#,
            None,
            (Some(3), Some(2), vec![]),
        ),
        (
            r#""runAsUser": 1"#,
            r#""runAsUser": 0, "runAsGroup": 0"#,
            None,
            (Some(0), Some(0), vec![]),
        ),
        // The group of the volumes is one of the groups, once.
        (
            r#""supplementalGroups": [7, 8], "fsGroup": 9"#,
            "",
            None,
            (None, None, vec![7, 8, 9]),
        ),
        (
            r#""supplementalGroups": [7, 9], "fsGroup": 9"#,
            "",
            None,
            (None, None, vec![7, 9]),
        ),
        (
            r#""supplementalGroups": [7]"#,
            "",
            Some(5),
            (None, None, vec![7, 5]),
        ),
        (r#""fsGroup": 9"#, "", Some(5), (None, None, vec![9])),
    ] {
        let (pod, container) = contexts(of_pod, of_container);
        let s = security(
            &pod,
            &container,
            fs_group,
            rkube_runtime::SeccompProfile::RuntimeDefault,
        );
        assert_eq!(
            (s.run_as_user, s.run_as_group, s.supplemental_groups),
            result,
            "{of_pod} {of_container}"
        );
    }
}

/// `TestAddNoNewPrivileges`, `TestConvertToRuntimeSecurityContext` and the capabilities: a
/// container's context and whether it is privileged, may gain no privileges, has a read-only root,
/// and the added and dropped capabilities.
#[test]
fn privileges() {
    for (of_container, privileged, no_new, read_only, added, dropped) in [
        ("", false, false, false, "", ""),
        (
            r#""allowPrivilegeEscalation": false"#,
            false,
            true,
            false,
            "",
            "",
        ),
        (
            r#""allowPrivilegeEscalation": true"#,
            false,
            false,
            false,
            "",
            "",
        ),
        (r#""privileged": true"#, true, false, false, "", ""),
        (
            r#""privileged": false, "readOnlyRootFilesystem": true"#,
            false,
            false,
            true,
            "",
            "",
        ),
        (
            r#""capabilities": {"add": ["NET_ADMIN", "SYS_TIME"], "drop": ["ALL"]}"#,
            false,
            false,
            false,
            "NET_ADMIN SYS_TIME",
            "ALL",
        ),
    ] {
        let (pod, container) = contexts("", of_container);
        let s = security(
            &pod,
            &container,
            None,
            rkube_runtime::SeccompProfile::RuntimeDefault,
        );
        assert_eq!(
            (s.privileged, s.no_new_privileges, s.read_only_rootfs),
            (privileged, no_new, read_only),
            "{of_container}"
        );
        assert_eq!(s.add_capabilities.join(" "), added, "{of_container}");
        assert_eq!(s.drop_capabilities.join(" "), dropped, "{of_container}");
    }
}

/// `TestGetSeccompProfile`, with `RuntimeDefault` for a pod without profile, as the kubelet's
/// option `seccompDefault` has it.
#[test]
fn seccomp_profiles() {
    let local = |file: &str| {
        SeccompProfile::Localhost(std::path::Path::new("/var/lib/rkube/seccomp").join(file))
    };
    let profile = |kind: &str| format!(r#""seccompProfile": {{"type": "{kind}"}}"#);
    let file = r#""seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}"#;
    for (of_pod, of_container, want) in [
        (String::new(), String::new(), SeccompProfile::RuntimeDefault),
        (
            profile("RuntimeDefault"),
            String::new(),
            SeccompProfile::RuntimeDefault,
        ),
        (
            profile("Unconfined"),
            String::new(),
            SeccompProfile::Unconfined,
        ),
        (
            profile("Unconfined"),
            profile("RuntimeDefault"),
            SeccompProfile::RuntimeDefault,
        ),
        (
            profile("RuntimeDefault"),
            profile("Unconfined"),
            SeccompProfile::Unconfined,
        ),
        (file.to_owned(), String::new(), local("a/b.json")),
        (profile("Unconfined"), file.to_owned(), local("a/b.json")),
        // A privileged container is not confined.
        (
            profile("RuntimeDefault"),
            r#""privileged": true"#.to_owned(),
            SeccompProfile::Unconfined,
        ),
    ] {
        let (pod, container) = contexts(&of_pod, &of_container);
        assert_eq!(
            security(
                &pod,
                &container,
                None,
                rkube_runtime::SeccompProfile::RuntimeDefault
            )
            .seccomp,
            want,
            "{of_pod} {of_container}"
        );
    }
}

/// `TestMakeMounts` and its tests of `subPathExpr`: a mount, and its path within the volume, or
/// the message after `!`.
#[test]
fn paths_within_volumes() {
    let lookup = |name: &str| match name {
        "POD" => Some("web-0".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    for (mount, path) in [
        ("", ""),
        (r#", "subPath": "a/b""#, "a/b"),
        (r#", "subPathExpr": "$(POD)""#, "web-0"),
        (r#", "subPathExpr": "logs/$(POD)/x""#, "logs/web-0/x"),
        (r#", "subPathExpr": "$$(POD)""#, "$(POD)"),
        (r#", "subPathExpr": "plain""#, "plain"),
        // Neither an unknown variable nor an empty one makes a path.
        (r#", "subPathExpr": "$(NONE)""#, "!missing value for NONE"),
        (
            r#", "subPathExpr": "a$(EMPTY)b""#,
            "!missing value for EMPTY",
        ),
        (
            r#", "subPathExpr": "$(Z)/$(POD)/$(A)""#,
            "!missing value for A, Z",
        ),
    ] {
        let text = format!(r#"{{"name": "v", "mountPath": "/m"{mount}}}"#);
        let mount: VolumeMount = serde_json::from_str(&text).expect("a mount");
        let got =
            sub_path(&mount, lookup).map_or_else(|e| format!("!{e}"), Option::unwrap_or_default);
        assert_eq!(got, path, "{text}");
    }
}

/// `TestMakeMounts`: the node's `/etc/hosts` is not mounted over the container's own.
#[test]
fn own_mounts_come_first() {
    for (path, own) in [
        ("/etc/hosts", true),
        ("/etc/hosts/", true),
        ("/etc", false),
        ("/etc/hosts2", false),
    ] {
        let container = pod(&format!(
            r#"{{"containers": [{{"name": "c", "volumeMounts": [{{"name": "v", "mountPath": "{path}"}}]}}]}}"#
        ));
        assert_eq!(
            mounts_path(&container.spec().containers[0], "/etc/hosts"),
            own,
            "{path}"
        );
    }
}
