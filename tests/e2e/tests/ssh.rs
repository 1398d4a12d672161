//! Shells on nodes.

use rkube_testing::require_machine;
use rkube_testing::{Cluster, has};

#[test]
fn nodes_have_shells_with_their_tools() {
    require_machine!();
    let cluster = Cluster::start("ssh", 2);
    let second = cluster.node(2);
    assert_eq!(
        cluster
            .rkube(&["ssh", "-n", &second, "--", "hostname"])
            .ok()
            .trim(),
        second
    );
    assert_eq!(cluster.rkube(&["ssh", "--", "exit 7"]).code, 7);
    let out = cluster
        .rkube(&[
            "ssh",
            "--",
            "ps ax; ip addr; mount; rkube ctl ps; rkube ctl images",
        ])
        .ok();
    // A virtual machine's root file system is its disk.
    let root = match rkube_testing::driver().as_str() {
        "qemu" => " on / type ext4 ",
        _ => "overlay on / ",
    };
    for expected in ["rkube agent", "eth0", root, "rkube/kubia"] {
        assert!(out.contains(expected), "{out}");
    }
    // The host's directories are not visible.
    let root = cluster.rkube(&["ssh", "--", "ls /; ls /root /home"]).ok();
    assert!(!root.contains("boot"), "{root}");

    let key = cluster.rkube(&["ssh-key"]).ok();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(key.trim()).expect("key").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    if has("ssh") {
        let target = format!("root@{}", cluster.rkube(&["ip"]).ok().trim());
        let known = cluster.path("known_hosts");
        let out = std::process::Command::new("ssh")
            .args([
                "-i",
                key.trim(),
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=no",
            ])
            .args([
                "-o",
                &format!("UserKnownHostsFile={}", known.display()),
                &target,
                "hostname; cat",
            ])
            .stdin(std::process::Stdio::null())
            .output()
            .expect("ssh runs");
        assert_eq!(
            String::from_utf8_lossy(&out.stdout).trim(),
            cluster.profile,
            "{out:?}"
        );
    }
    let unknown = cluster
        .rkube(&["ssh", "-n", "nobody", "--", "true"])
        .failed(85);
    assert!(unknown.contains(&second), "{unknown}");
}
