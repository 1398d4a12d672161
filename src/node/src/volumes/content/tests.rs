use super::*;

/// `TestMakePayload` of config maps and secrets, and the rules of `TestValidatePath`: items as
/// `KEY>PATH` or `KEY>PATH@MODE` in octal, whether keys may be missing, and the files as
/// `PATH=CONTENT@MODE`, or the message after `!`.
#[test]
fn keys_are_selected_and_renamed() {
    const ALL: &str = "a=1@644 b=2@644 c.d=3@644";
    let long = format!("a>{}", "x".repeat(256));
    let long_error = format!("!invalid path {:?}", "x".repeat(256));
    for (items, optional, files) in [
        ("", false, ALL),
        ("a>x", false, "x=1@644"),
        ("a>x b>dir/y", false, "dir/y=2@644 x=1@644"),
        ("a>deep/er/x@400 b>y@755", false, "deep/er/x=1@400 y=2@755"),
        ("a>same b>same", false, "same=2@644"),
        ("a>x//y/", false, "x/y=1@644"),
        (
            "a>x none>y",
            false,
            "!references non-existent config key: none",
        ),
        ("a>x none>y", true, "x=1@644"),
        ("none>y", true, ""),
        ("a>../x", false, "!invalid path \"../x\""),
        ("a>x/../../y", false, "!invalid path \"x/../../y\""),
        ("a>/x", false, "!invalid path \"/x\""),
        ("a>..x", false, "!invalid path \"..x\""),
        ("a>..", false, "!invalid path \"..\""),
        ("a>x/..y", false, "x/..y=1@644"),
        (&long, false, &long_error),
    ] {
        let all = [("a", "1"), ("b", "2"), ("c.d", "3")]
            .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
        let items: Vec<KeyToPath> = items
            .split_whitespace()
            .map(|item| {
                let (key, path) = item.split_once('>').expect(item);
                let (path, mode) = match path.split_once('@') {
                    Some((path, mode)) => (path, Some(i32::from_str_radix(mode, 8).expect(item))),
                    None => (path, None),
                };
                KeyToPath {
                    key: key.into(),
                    path: path.into(),
                    mode,
                }
            })
            .collect();
        let wanted = KeySelection {
            kind: ObjectKind::ConfigMap,
            name: "m",
            items: Some(&items),
            optional,
            mode: 0o644,
        };
        let mut made = Files::new();
        let got = match select(&mut made, &all, &wanted) {
            Ok(()) => {
                let files: Vec<String> = made
                    .iter()
                    .map(|(path, file)| {
                        let content = String::from_utf8_lossy(&file.content);
                        format!("{path}={content}@{:o}", file.mode)
                    })
                    .collect();
                files.join(" ")
            }
            Err(message) => format!("!{message}"),
        };
        assert_eq!(got, files);
    }
}

#[test]
fn tokens_are_replaced_in_time() {
    let s = SignedDuration::from_secs;
    assert_eq!(refresh_after(s(3607)), s(2885));
    assert_eq!(refresh_after(s(10 * 86400)), MAX_TOKEN_AGE);
}

fn pod_of_users(pod: Option<i64>, containers: &[Option<i64>]) -> Pod {
    use k8s_openapi::api::core::v1::{PodSecurityContext, SecurityContext};
    Pod {
        spec: Some(PodSpec {
            security_context: Some(PodSecurityContext {
                run_as_user: pod,
                ..Default::default()
            }),
            containers: containers
                .iter()
                .map(|user| Container {
                    security_context: Some(SecurityContext {
                        run_as_user: *user,
                        ..Default::default()
                    }),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn a_common_user_owns_tokens() {
    for (pod, containers, user) in [
        (None, &[None][..], None),
        (Some(5), &[None, None], Some(5)),
        (Some(5), &[Some(6), Some(6)], Some(6)),
        (Some(5), &[None, Some(6)], None),
        (None, &[Some(6), None], None),
        (Some(-1), &[None], None),
    ] {
        assert_eq!(
            common_user(&pod_of_users(pod, containers)),
            user,
            "{pod:?} {containers:?}"
        );
    }
}

#[test]
fn paths_are_checked() {
    let mut files = Files::new();
    assert!(put(&mut files, "../a", vec![], 0o644, None).is_err());
    put(&mut files, "a//b", b"x".to_vec(), -1, Some(3)).unwrap();
    let file = &files["a/b"];
    assert_eq!((file.mode, file.uid), (0o644, Some(3)));
}

#[test]
fn directories_have_upstreams_modes() {
    for (memory, group, mode) in [
        (false, None, 0o777),
        (true, None, 0o1777),
        (false, Some(1), 0o2777),
        (true, Some(1), 0o3777),
    ] {
        assert_eq!(dir_mode(memory, group), mode);
    }
}

#[test]
fn mount_points_of_other_volumes_are_found() {
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        ..Default::default()
    };
    let pod = |mounts: Vec<VolumeMount>| Pod {
        spec: Some(PodSpec {
            containers: vec![Container {
                volume_mounts: Some(mounts),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let pod = pod(vec![
        mount("v", "/etc/v/"),
        mount("other", "/etc/v/a"),
        mount("deeper", "/etc/v/a/b"),
        mount("deep", "/etc/v/c/./d/"),
        mount("outside", "/etc/v/../u"),
        mount("beside", "/etc/v-x/e"),
        mount("v", "/etc/w"),
        mount("other", "/etc/w/f"),
    ]);
    let found = mount_points_in(&pod, "v");
    assert_eq!(found.iter().collect::<Vec<_>>(), ["a", "c/d", "f"]);
    assert_eq!(
        mount_points_in(&pod, "other").iter().collect::<Vec<_>>(),
        ["b"]
    );
    assert!(mount_points_in(&pod, "deep").is_empty());
}

/// `TestGetNestedMountpoints`: mounts of containers as `VOLUME:PATH`, and the directories that the
/// volume `v` needs.
#[test]
fn nested_mount_points_are_upstreams() {
    for (containers, directories) in [
        (&["v:/dir"][..], ""),
        (&["v:/dir w:/dir/nested"], "nested"),
        (
            &["x:/dir/nested/double y:/ignore w:/dir/nested z:/ignore2 v:/dir x:/dir/nested2"],
            "nested nested2",
        ),
        (
            &["v:/dir w:/dir/nested y:/ignore v:/other x:/other/nested2"],
            "nested nested2",
        ),
        // Each container counts by itself.
        (
            &[
                "v:/mnt a:/ignore b:/mnt/s1/s2/s3 c:/mnt/s1/s2/s4 d:/mnt/s1/s2/s4/skip e:/mnt/s1/s2/s6 f:/mnt7",
                "v:/mnt/dir g:/mnt/dir_ignore h:/ignore i:/mnt/dir/sub",
            ],
            "s1/s2/s3 s1/s2/s4 s1/s2/s6 sub",
        ),
        (&["v:/dir", "w:/dir/nested"], ""),
    ] {
        let containers = containers.iter().map(|mounts| Container {
            volume_mounts: Some(
                mounts
                    .split_whitespace()
                    .map(|mount| {
                        let (name, path) = mount.split_once(':').expect(mount);
                        VolumeMount {
                            name: name.into(),
                            mount_path: path.into(),
                            ..Default::default()
                        }
                    })
                    .collect(),
            ),
            ..Default::default()
        });
        let pod = Pod {
            spec: Some(PodSpec {
                containers: containers.collect(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let found = Vec::from_iter(mount_points_in(&pod, "v"));
        assert_eq!(found.join(" "), directories);
    }
}

#[test]
fn volumes_of_the_api() {
    let mut volume = Volume::default();
    assert!(!is_content(&volume));
    volume.empty_dir = Some(Default::default());
    assert!(!is_content(&volume));
    volume.projected = Some(Default::default());
    assert!(is_content(&volume));
}
