use super::*;

fn with(own: SecurityContext, pod: PodSecurityContext) -> (Pod, Container) {
    let c = Container {
        security_context: Some(own),
        ..Default::default()
    };
    let p = Pod {
        spec: Some(PodSpec {
            security_context: Some(pod),
            ..Default::default()
        }),
        ..Default::default()
    };
    (p, c)
}

#[test]
fn a_containers_own_settings_win() {
    let (p, c) = with(
        SecurityContext {
            run_as_user: Some(5),
            ..Default::default()
        },
        PodSecurityContext {
            run_as_user: Some(1),
            run_as_group: Some(2),
            fs_group: Some(3),
            supplemental_groups: Some(vec![4]),
            ..Default::default()
        },
    );
    let s = security(&p, &c, None, rkube_runtime::SeccompProfile::RuntimeDefault);
    assert_eq!((s.run_as_user, s.run_as_group), (Some(5), Some(2)));
    assert_eq!(s.supplemental_groups, [4, 3]);
    assert_eq!(s.seccomp, SeccompProfile::RuntimeDefault);
}

#[test]
fn root_is_refused_where_it_must_not_be() {
    let must = || PodSecurityContext {
        run_as_non_root: Some(true),
        ..Default::default()
    };
    let image = |uid, name: Option<&str>| ImageStatus {
        uid,
        username: name.map(Into::into),
        ..Default::default()
    };
    let (p, c) = with(SecurityContext::default(), must());
    assert!(check_non_root(&p, &c, &image(Some(0), None)).is_err());
    assert!(check_non_root(&p, &c, &image(None, None)).is_err());
    assert!(check_non_root(&p, &c, &image(None, Some("www"))).is_err());
    assert!(check_non_root(&p, &c, &image(Some(1), None)).is_ok());
    let (p, c) = with(
        SecurityContext {
            run_as_user: Some(7),
            ..Default::default()
        },
        must(),
    );
    assert!(check_non_root(&p, &c, &image(Some(0), None)).is_ok());
}

#[test]
fn sub_paths_are_expanded() {
    let lookup = |name: &str| (name == "POD").then(|| "web-0".to_owned());
    let mount = |path: Option<&str>, expression: Option<&str>| VolumeMount {
        name: "data".into(),
        sub_path: path.map(Into::into),
        sub_path_expr: expression.map(Into::into),
        ..Default::default()
    };
    for (path, expression, expected) in [
        (None, None, Ok(None)),
        (Some(""), Some(""), Ok(None)),
        (Some("a"), None, Ok(Some("a".to_owned()))),
        (None, Some("logs/$(POD)"), Ok(Some("logs/web-0".to_owned()))),
        (
            None,
            Some("$(NONE)"),
            Err("missing value for NONE".to_owned()),
        ),
    ] {
        assert_eq!(sub_path(&mount(path, expression), lookup), expected);
    }
}

#[test]
fn images_are_named_as_asked() {
    let image = ImageStatus {
        repo_tags: vec![
            "docker.io/library/nginx:latest".into(),
            "r:5000/a/b:1".into(),
        ],
        repo_digests: vec!["docker.io/library/nginx@sha256:0".into()],
        ..Default::default()
    };
    for (asked, name) in [
        ("nginx", "docker.io/library/nginx:latest"),
        ("library/nginx:latest", "docker.io/library/nginx:latest"),
        ("r:5000/a/b:1", "r:5000/a/b:1"),
        ("other", "docker.io/library/nginx:latest"),
    ] {
        assert_eq!(image_name(&image, asked), name);
    }
    let untagged = ImageStatus {
        repo_tags: vec![],
        ..image
    };
    assert_eq!(
        image_name(&untagged, "nginx"),
        "docker.io/library/nginx@sha256:0"
    );
    assert_eq!(image_name(&ImageStatus::default(), "nginx"), "nginx");
}

#[test]
fn seccomp_and_masks_follow_the_contexts() {
    use k8s_openapi::api::core::v1::SeccompProfile as Profile;
    let profile = |type_: &str, file: Option<&str>| {
        Some(Profile {
            type_: type_.into(),
            localhost_profile: file.map(Into::into),
        })
    };
    let (p, c) = with(
        SecurityContext {
            seccomp_profile: profile("Localhost", Some("a.json")),
            proc_mount: Some("Unmasked".into()),
            allow_privilege_escalation: Some(false),
            ..Default::default()
        },
        PodSecurityContext {
            seccomp_profile: profile("Unconfined", None),
            ..Default::default()
        },
    );
    let s = security(&p, &c, None, rkube_runtime::SeccompProfile::RuntimeDefault);
    assert_eq!(
        s.seccomp,
        SeccompProfile::Localhost(Path::new(SECCOMP_ROOT).join("a.json"))
    );
    // Only with a user namespace.
    assert_eq!(s.masked_paths, None);
    let mut own_users = p.clone();
    own_users.spec.as_mut().unwrap().host_users = Some(false);
    let s = security(
        &own_users,
        &c,
        None,
        rkube_runtime::SeccompProfile::RuntimeDefault,
    );
    assert!(s.no_new_privileges);
    assert_eq!(
        (s.masked_paths, s.readonly_paths),
        (Some(vec![]), Some(vec![]))
    );
    let (p, c) = with(
        SecurityContext::default(),
        PodSecurityContext {
            seccomp_profile: profile("Unconfined", None),
            ..Default::default()
        },
    );
    assert_eq!(
        security(&p, &c, None, rkube_runtime::SeccompProfile::RuntimeDefault).seccomp,
        SeccompProfile::Unconfined
    );
    let (p, c) = with(
        SecurityContext {
            privileged: Some(true),
            ..Default::default()
        },
        PodSecurityContext::default(),
    );
    let s = security(
        &p,
        &c,
        Some(7),
        rkube_runtime::SeccompProfile::RuntimeDefault,
    );
    assert!(s.privileged);
    assert_eq!(s.seccomp, SeccompProfile::Unconfined);
    assert_eq!(s.supplemental_groups, [7]);
}
