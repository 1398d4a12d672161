//! Containers of sandboxes with a user namespace.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use rkube_runtime::{
    ExecSpec, IdRange, ImageMount, Mount, PidMode, Runtime, SandboxSpec, Security, TmpfsMount,
};
use tokio::io::AsyncReadExt;

use crate::support::{Bench, IMAGE, with_bench};

const RANGE: IdRange = IdRange {
    first: 0x7000_0000,
    length: 65_536,
};

/// Returns the test's sandbox; `None` if the kernel has no user namespaces.
async fn sandbox(b: &Bench, share_pid: bool) -> Option<String> {
    if !b.runtime.supports_users() {
        rkube_testing::skipped("no user namespaces, or no idmapped mounts");
        return None;
    }
    // The processes must be able to search the run directory, as on nodes.
    std::fs::set_permissions(&b.dir, std::fs::Permissions::from_mode(0o711)).unwrap();
    let spec = SandboxSpec {
        hostname: "pod-1".into(),
        users: Some(RANGE),
        share_pid,
        ..SandboxSpec::default()
    };
    Some(b.sandbox_with(spec).await)
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

pub fn users_are_others_on_the_node() {
    with_bench(|b| async move {
        let Some(sandbox) = sandbox(&b, false).await else {
            return;
        };
        let id = b.start(&sandbox, b.script("touch /made; sleep 1000")).await;
        let status = b.runtime.container_status(&id).unwrap();
        let pid = status.pid.unwrap();
        assert_eq!(
            owner(Path::new(&format!("/proc/{pid}"))),
            (RANGE.first, RANGE.first)
        );
        // Commands are in the namespace, too.
        let first = std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
        let own = b.out(&id, "readlink /proc/self/ns/user").await;
        assert_eq!(own, first.to_str().unwrap());
        assert_ne!(first, std::fs::read_link("/proc/self/ns/user").unwrap());
        let map = b
            .out(&id, "cat /proc/self/uid_map /proc/self/gid_map")
            .await;
        let map: Vec<&str> = map.split_whitespace().collect();
        assert_eq!(
            map,
            ["0", "1879048192", "65536", "0", "1879048192", "65536"]
        );
        let owners = "stat -c %u:%g / /etc/notes /bin/busybox /made /srv/dir /dev/shm";
        assert_eq!(b.out(&id, owners).await, ["0:0"; 6].join("\n"));
        assert_eq!(b.out(&id, "cat /etc/notes").await, "secret");
        // Written files have the pod's IDs on the node; the image keeps its own.
        let made = b.dir.join("root/containers").join(&id).join("upper/made");
        assert_eq!(owner(&made), (RANGE.first, RANGE.first));
        // Copied up.
        let change = "echo more >> /etc/notes && cat /etc/notes | wc -l";
        assert_eq!(b.out(&id, change).await, "1");
        // The namespaces belong to the pod: its root has rights over them, and over nothing else.
        assert_eq!(
            b.out(&id, "hostname; echo $$ > /dev/null; id -u").await,
            "pod-1\n0"
        );
        assert_ne!(b.sh(&id, ": > /proc/sys/kernel/sysrq").await.exit_code, 0);
        assert_ne!(b.sh(&id, "mknod /tmp/d b 7 0").await.exit_code, 0);
        let seen = b
            .out(
                &id,
                "cat /sys/class/net/lo/mtu; head -c 4 /dev/urandom | wc -c",
            )
            .await;
        assert_eq!(seen, "65536\n4");
    });
}

pub fn files_keep_their_owners() {
    with_bench(|b| async move {
        let Some(sandbox) = sandbox(&b, false).await else {
            return;
        };
        let (volume, file) = (b.dir.join("volume"), b.dir.join("hosts"));
        std::fs::create_dir(&volume).unwrap();
        std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o777)).unwrap();
        for (name, uid, gid) in [("root", 0, 0), ("web", 33, 2000), ("far", 70_000, 0)] {
            std::fs::write(volume.join(name), name).unwrap();
            chown(volume.join(name), Some(uid), Some(gid)).unwrap();
        }
        std::fs::write(&file, "hosts").unwrap();
        let mut spec = b.script("sleep 1000");
        spec.mounts = vec![
            Mount::bind(&volume, "/volume"),
            Mount::bind(&file, "/etc/hosts"),
            Mount::bind(&volume, "/fixed").read_only(),
        ];
        spec.tmpfs = vec![TmpfsMount {
            container_path: "/cache".into(),
            ..TmpfsMount::default()
        }];
        spec.image_mounts = vec![ImageMount {
            image: IMAGE.into(),
            container_path: "/image".into(),
            ..ImageMount::default()
        }];
        spec.security = Security {
            run_as_user: Some(33),
            run_as_group: Some(2000),
            ..Security::default()
        };
        let id = b.start(&sandbox, spec).await;
        let owners =
            "stat -c %u:%g /volume/root /volume/web /volume/far /etc/hosts /image/etc/notes /cache";
        assert_eq!(
            b.out(&id, owners).await,
            "0:0\n33:2000\n65534:0\n0:0\n0:0\n0:0"
        );
        assert_eq!(
            b.out(&id, "cat /etc/hosts; touch /volume/new; id -u").await,
            "hosts33"
        );
        assert_eq!(owner(&volume.join("new")), (33, 2000));
        assert_ne!(b.sh(&id, "cat /image/etc/notes").await.exit_code, 0);
        for denied in ["echo x > /volume/root", "touch /fixed/x", "touch /image/x"] {
            assert_ne!(b.sh(&id, denied).await.exit_code, 0, "{denied}");
        }
        // Its streams are its own.
        assert_eq!(b.out(&id, "echo own > /dev/stdout").await, "own");
        b.runtime.remove_container(&id).await.unwrap();
        let (_, log) = b
            .run(&sandbox, {
                let mut spec = b.script("echo own > /dev/stderr");
                spec.security.run_as_user = Some(33);
                spec
            })
            .await;
        assert_eq!(log, "own\n");
    });
}

pub fn users_without_an_id_are_refused() {
    with_bench(|b| async move {
        let Some(sandbox) = sandbox(&b, false).await else {
            return;
        };
        for (security, message) in [
            (
                Security {
                    run_as_user: Some(65_536),
                    ..Security::default()
                },
                "cannot set uid to unmapped user in user namespace",
            ),
            (
                Security {
                    supplemental_groups: vec![100_000],
                    ..Security::default()
                },
                "cannot set gid to unmapped user in user namespace",
            ),
        ] {
            let mut spec = b.script("true");
            spec.security = security;
            let error = b
                .runtime
                .create_container(&sandbox, spec)
                .await
                .unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        // The kernel's own files have no other owners.
        let mut spec = b.script("true");
        spec.mounts = vec![Mount::bind("/proc/sys", "/mnt")];
        let error = b
            .runtime
            .create_container(&sandbox, spec)
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to set MOUNT_ATTR_IDMAP on /proc/sys: invalid argument (maybe the filesystem used doesn't support idmap mounts on this kernel?)"
        );
        let host = rkube_runtime::HostNamespaces {
            network: true,
            ..Default::default()
        };
        let spec = SandboxSpec {
            host,
            users: Some(RANGE),
            ..SandboxSpec::default()
        };
        assert!(b.runtime.run_sandbox(spec).await.is_err());
    });
}

pub fn unmasked_and_privileged_stay_in_their_namespace() {
    with_bench(|b| async move {
        let Some(sandbox) = sandbox(&b, false).await else {
            return;
        };
        let mut spec = b.script("sleep 1000");
        spec.security.masked_paths = Some(Vec::new());
        spec.security.readonly_paths = Some(Vec::new());
        let unmasked = b.start(&sandbox, spec).await;
        let mut spec = b.script("sleep 1000");
        spec.security.privileged = true;
        let privileged = b.start(&sandbox, spec).await;
        for id in [&unmasked, &privileged] {
            for denied in [
                ": > /proc/sys/kernel/core_pattern",
                ": > /proc/sysrq-trigger",
                ": > /proc/sys/vm/drop_caches",
                "head -c 1 /proc/kcore",
            ] {
                assert_ne!(b.sh(id, denied).await.exit_code, 0, "{denied}");
            }
            // Nothing hides anything in it, so that it can be mounted again.
            assert_eq!(
                b.out(id, "grep -c ' /proc/' /proc/self/mountinfo").await,
                "0"
            );
        }
        // Its own network is at its disposal.
        let own =
            "echo 7 > /proc/sys/net/ipv4/ip_default_ttl && cat /proc/sys/net/ipv4/ip_default_ttl";
        assert_eq!(b.out(&privileged, own).await, "7");
        let mount = "mkdir /tmp/m && mount -t tmpfs none /tmp/m && echo mounted";
        assert_eq!(b.out(&privileged, mount).await, "mounted");
    });
}

pub fn parameters_of_the_ipc_namespace_are_set() {
    with_bench(|b| async move {
        if sandbox(&b, false).await.is_none() {
            return;
        }
        let sysctls = [
            ("kernel.shm_rmid_forced", "1"),
            ("fs.mqueue.msg_max", "11"),
            ("net.ipv4.ip_default_ttl", "9"),
        ];
        let spec = SandboxSpec {
            users: Some(RANGE),
            sysctls: sysctls
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            ..SandboxSpec::default()
        };
        let sandbox = b.sandbox_with(spec).await;
        let id = b.start(&sandbox, b.script("sleep 1000")).await;
        let read =
            "cd /proc/sys; cat kernel/shm_rmid_forced fs/mqueue/msg_max net/ipv4/ip_default_ttl";
        assert_eq!(b.out(&id, read).await, "1\n11\n9");
        // Nobody else sees the whole `/proc` that the kernel demands.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(b.dir.join("run").to_str().unwrap())
                || !mounts.contains("/kernel/proc")
        );
    });
}

pub fn processes_are_shared_within_the_user_namespace() {
    with_bench(|b| async move {
        let Some(sandbox) = sandbox(&b, true).await else {
            return;
        };
        let pause = b.runtime.sandbox_status(&sandbox).unwrap().pid.unwrap();
        let own = RANGE.first + 65_535;
        assert_eq!(
            std::fs::read_to_string(format!("/proc/{pause}/status"))
                .unwrap()
                .lines()
                .find_map(|line| line.strip_prefix("Uid:"))
                .map(|line| line
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()),
            Some(vec![own.to_string(); 4])
        );
        let first = b.start(&sandbox, b.script("sleep 1111")).await;
        let second = b.start(&sandbox, b.script("sleep 2222")).await;
        let seen = b.out(&first, "ps").await;
        assert!(
            seen.contains("sleep 2222") && seen.contains("pause"),
            "{seen}"
        );
        b.runtime
            .stop_container(&second, Duration::ZERO)
            .await
            .unwrap();
    });
}

pub fn debuggers_join_a_user_namespace() {
    with_bench(|b| async move {
        let Some(sandbox) = sandbox(&b, false).await else {
            return;
        };
        let target = b.start(&sandbox, b.script("sleep 1111")).await;
        let mut spec = b.script("sleep 2222");
        spec.pid = PidMode::Container(target.clone());
        let debugger = b.start(&sandbox, spec).await;
        let seen = b.out(&debugger, "ps").await;
        assert!(seen.contains("sleep 1111"), "{seen}");
        assert_eq!(
            b.out(&debugger, "cat /proc/1/root/etc/notes").await,
            "secret"
        );
        b.runtime
            .stop_container(&debugger, Duration::ZERO)
            .await
            .unwrap();
        b.runtime
            .stop_container(&target, Duration::ZERO)
            .await
            .unwrap();
        let mut spec = b.script("sleep 2222");
        spec.pid = PidMode::Container(target);
        assert!(b.runtime.create_container(&sandbox, spec).await.is_err());
    });
}

pub fn user_namespaces_outlive_the_agent() {
    with_bench(|b| async move {
        let Some(sandbox) = sandbox(&b, false).await else {
            return;
        };
        let id = b.start(&sandbox, b.script("sleep 1000")).await;
        let again = Runtime::open(Bench::config(&b.dir, &b.cgroup))
            .await
            .unwrap();
        assert_eq!(
            again.sandbox_status(&sandbox).unwrap().spec.users,
            Some(RANGE)
        );
        let next = again
            .create_container(&sandbox, b.script("sleep 1000"))
            .await
            .unwrap();
        again.start_container(&next).await.unwrap();
        let mut session = again
            .exec(
                &next,
                ExecSpec {
                    command: vec![
                        "sh".into(),
                        "-c".into(),
                        "tty; id -u; stat -c %u $(tty)".into(),
                    ],
                    tty: true,
                    ..ExecSpec::default()
                },
            )
            .await
            .unwrap();
        let mut text = String::new();
        let mut output = session.stdout.take().unwrap();
        // A terminal ends with an error once it is closed everywhere.
        let _ = output.read_to_string(&mut text).await;
        assert!(
            text.contains("/dev/pts/0") && text.contains("0\r\n0"),
            "{text:?}"
        );
        again.remove_container(&next).await.unwrap();
        b.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    });
}
