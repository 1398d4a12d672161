//! Propagation of mounts between the node and containers.

use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rkube_runtime::{Mount, MountPropagation};

use crate::support::with_bench;

pub fn mounts_propagate_as_they_say() {
    with_bench(|b| async move {
        let sandbox = b.sandbox().await;
        let volume = b.dir.join("volume");
        std::fs::create_dir_all(volume.join("early")).unwrap();
        let none: Option<&str> = None;
        mount(Some(&volume), &volume, none, MsFlags::MS_BIND, none).unwrap();
        mount(none, &volume, none, MsFlags::MS_SHARED, none).unwrap();
        let mut ids = Vec::new();
        for propagation in [
            MountPropagation::Private,
            MountPropagation::HostToContainer,
            MountPropagation::Bidirectional,
        ] {
            let mut spec = b.script("sleep 1000");
            spec.security.privileged = true;
            spec.mounts = vec![
                Mount {
                    propagation,
                    ..Mount::bind(&volume, "/volume")
                },
                // Its propagation does not depend on the other's.
                Mount::bind(&volume, "/private"),
            ];
            ids.push(b.start(&sandbox, spec).await);
        }
        let [private, follower, both] = <[String; 3]>::try_from(ids).unwrap();
        let in_container = |name: &str| {
            format!(
                "mkdir -p /volume/{name} && mount -t tmpfs {name} /volume/{name} && touch /volume/{name}/file"
            )
        };
        for (id, name) in [(&private, "p"), (&follower, "f"), (&both, "b")] {
            assert_eq!(b.sh(id, &in_container(name)).await.exit_code, 0, "{name}");
        }
        let on_node = volume.join("n");
        std::fs::create_dir(&on_node).unwrap();
        mount(Some("n"), &on_node, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        std::fs::write(on_node.join("file"), "").unwrap();
        let seen = "cd /volume; for m in p f b n; do test -e $m/file && echo -n $m; done; cd /private; for m in p f b n; do test -e $m/file && echo -n $m; done; true";
        assert_eq!(b.out(&private, seen).await, "p");
        assert_eq!(b.out(&follower, seen).await, "fbn");
        assert_eq!(b.out(&both, seen).await, "bn");
        for (name, visible) in [("p", false), ("f", false), ("b", true), ("n", true)] {
            assert_eq!(volume.join(name).join("file").exists(), visible, "{name}");
        }
        for id in [&private, &follower, &both] {
            b.runtime.stop_container(id, Duration::ZERO).await.unwrap();
        }
        for place in ["n", "b", ""] {
            umount2(&volume.join(place), MntFlags::MNT_DETACH).unwrap();
        }
    });
}
