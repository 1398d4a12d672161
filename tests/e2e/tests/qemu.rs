//! A cluster of two virtual machines from start to deletion, and the control groups of pods
//! (cgroup v2 with every controller).
//!
//! Without KVM, booting takes long. Therefore one test checks everything on one cluster.

use rkube_testing::image::Image;
use rkube_testing::require_machine;
use rkube_testing::{Cluster, eventually, http_get};

/// The pods whose control groups are checked.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: guaranteed}
spec:
  nodeName: NODE
  containers:
  - name: c
    image: test/cgroup:1
    imagePullPolicy: Never
    command: [/bin/busybox, sleep, "100000"]
    resources: {limits: {cpu: 250m, memory: 48Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: hungry}
spec:
  nodeName: NODE
  restartPolicy: Never
  containers:
  - name: c
    image: test/cgroup:1
    imagePullPolicy: Never
    # The shell's child is what uses up the memory; the shell goes with it.
    command: [/bin/busybox, sh, -c, "/bin/busybox tail /dev/zero; /bin/busybox sleep 100000"]
    resources: {limits: {memory: 16Mi}}
"#;

fn cgroups(cluster: &Cluster) {
    let Some(image) = Image::busybox("test/cgroup:1") else {
        rkube_testing::skip!("needs busybox-static");
    };
    let archive = cluster.path("image.tar");
    std::fs::write(&archive, image.docker_archive()).expect("the archive");
    cluster
        .rkube(&["image", "load", &archive.display().to_string()])
        .ok();
    cluster.apply(&PODS.replace("NODE", &cluster.node(2)));

    // A container sees its own cgroup v2 group with its limits.
    cluster.wait_for(&["get", "pod", "guaranteed"], |t| t.contains("Running"));
    let inside = "cd /sys/fs/cgroup && busybox cat /proc/self/cgroup cpu.max cpu.weight memory.max \
                  memory.swap.max memory.oom.group && ! busybox sh -c 'echo 1 > cpu.weight' 2>/dev/null";
    let args = ["exec", "guaranteed", "--", "/bin/busybox", "sh", "-c"];
    let mut exec = args.to_vec();
    let inside = inside.replace("busybox", "/bin/busybox");
    exec.push(&inside);
    assert_eq!(
        cluster.kubectl(&exec).ok().lines().collect::<Vec<_>>(),
        ["0::/", "25000 100000", "35", "50331648", "0", "1"]
    );
    // The pod's group has the kubelet's weight and limits.
    let uid = cluster
        .kubectl(&["get", "pod", "guaranteed", "-o", "jsonpath={.metadata.uid}"])
        .ok();
    let group = format!("/sys/fs/cgroup/kubepods/pod{uid}");
    let on_node = |command: &str| {
        cluster
            .rkube(&["ssh", "-n", &cluster.node(2), "--", command])
            .ok()
    };
    let around = on_node(&format!("cd {group} && cat cpu.max cpu.weight memory.max"));
    assert_eq!(
        around.lines().collect::<Vec<_>>(),
        ["25000 100000", "10", "50331648"]
    );
    let controllers = on_node("cat /sys/fs/cgroup/cgroup.subtree_control");
    for controller in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
        assert!(
            controllers.split_whitespace().any(|c| c == controller),
            "{controllers}"
        );
    }
    // An eBPF program denies access to devices: creating one works, reading it does not.
    let device = "/bin/busybox mknod /kmsg c 1 11 && ! /bin/busybox head -c 1 /kmsg 2>/dev/null \
                  && /bin/busybox head -c 1 /dev/zero | /bin/busybox wc -c";
    let mut exec = args.to_vec();
    exec.push(device);
    assert_eq!(cluster.kubectl(&exec).ok().trim(), "1");

    // An out-of-memory kill ends the whole container, and the status reports it.
    cluster.wait_for(
        &[
            "get",
            "pod",
            "hungry",
            "-o",
            "jsonpath={.status.containerStatuses[0].state.terminated.reason}",
        ],
        |reason| reason == "OOMKilled",
    );
    let summary = cluster
        .kubectl(&[
            "get",
            "--raw",
            &format!("/api/v1/nodes/{}/proxy/stats/summary", cluster.node(2)),
        ])
        .ok();
    let summary: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
    assert!(
        summary["node"]["memory"]["workingSetBytes"]
            .as_u64()
            .is_some_and(|n| n > 1 << 20),
        "{summary}"
    );

    // The pod's group is removed with the pod.
    cluster
        .kubectl(&["delete", "pod", "guaranteed", "hungry", "--now"])
        .ok();
    eventually("the pod's control group to go", || {
        on_node(&format!("ls -d {group} 2>/dev/null || true"))
            .trim()
            .is_empty()
            .then_some(())
    });
}

/// Returns whether a node can connect to a port of the host's loopback.
fn reaches(cluster: &Cluster, listener: &std::net::TcpListener) -> bool {
    let port = listener.local_addr().expect("an address").port();
    let command = format!("timeout 5 nc 192.0.2.2 {port} </dev/null");
    cluster.rkube(&["ssh", "--", &command]);
    listener.set_nonblocking(true).expect("a socket");
    listener.accept().is_ok()
}

/// Returns the directory with the modules of the tested kernel.
fn modules_folder() -> std::path::PathBuf {
    let kernel = std::env::var_os("RKUBE_KERNEL").map(std::path::PathBuf::from);
    let root = match &kernel {
        // An unpacked package: `boot` and `lib` are in the same directory.
        Some(image) => image.ancestors().nth(2).expect("a root"),
        None => std::path::Path::new("/"),
    };
    let entries = std::fs::read_dir(root.join("lib/modules")).expect("modules");
    entries.flatten().next().expect("a kernel's modules").path()
}

/// Kills a node's QEMU process without rkube.
fn kill_machine(cluster: &Cluster, node: &str) {
    let name = format!("rkube/{}/{node}", cluster.profile);
    for process in std::fs::read_dir("/proc").expect("processes").flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        if line.split(|b| *b == 0).any(|a| a == name.as_bytes()) {
            let pid = process.file_name().to_string_lossy().parse().expect("pid");
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
            return;
        }
    }
    panic!("no QEMU of {node}");
}

#[test]
fn virtual_machines_make_a_cluster() {
    // SAFETY: this is the only test of this program, and it has not started a thread.
    unsafe { std::env::set_var("RKUBE_TEST_DRIVER", "qemu") };
    require_machine!();
    let cluster = Cluster::plan("qemu");

    // rkube reports QEMU's error message at once.
    let kernel = cluster.path("vmlinuz-broken");
    std::fs::write(&kernel, "no kernel").expect("a file");
    let modules = modules_folder();
    let broken = cluster.rkube(&[
        "start",
        "--kernel",
        &kernel.display().to_string(),
        "--modules",
        &modules.display().to_string(),
    ]);
    assert_ne!(broken.code, 0, "{broken:?}");
    assert!(broken.stderr.contains("cannot start node"), "{broken:?}");
    cluster.rkube(&["delete"]);

    let started = std::time::Instant::now();
    let listen = || std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let (open, closed) = (listen(), listen());
    let registry = open.local_addr().expect("an address").to_string();
    let said = cluster
        .rkube(&["start", "--nodes", "2", "--insecure-registry", &registry])
        .ok();
    eprintln!("two machines are ready after {:?}", started.elapsed());
    assert!(said.contains("is ready: 2 nodes"), "{said}");
    let second = cluster.node(2);
    assert_eq!(
        cluster
            .rkube(&["ssh", "-n", &second, "--", "hostname"])
            .ok()
            .trim(),
        second
    );

    // Machines reach only the allowed ports of the host's loopback.
    assert!(reaches(&cluster, &open));
    assert!(!reaches(&cluster, &closed));

    // Pods on both nodes respond across the nodes' network.
    cluster.deploy_kubia(2);
    let pods = cluster.pods("kubia");
    let logs = cluster.kubectl(&["logs", &pods[0]]).ok();
    assert!(logs.contains("Kubia server"), "{logs}");
    cluster
        .kubectl(&[
            "expose",
            "deployment",
            "kubia",
            "--type=LoadBalancer",
            "--port=8080",
        ])
        .ok();
    let address = cluster.wait_for(
        &[
            "get",
            "service",
            "kubia",
            "-o",
            "jsonpath={.status.loadBalancer.ingress[0].ip}",
        ],
        |ip| !ip.is_empty(),
    );
    let mut seen = std::collections::BTreeSet::new();
    eventually("both pods to answer", || {
        seen.extend(http_get(&format!("{}:8080", address.trim())));
        (seen.len() == 2).then_some(())
    });

    cgroups(&cluster);

    // A machine that dies is restarted with its disk.
    let boot = || {
        let done = cluster.rkube(&[
            "ssh",
            "-n",
            &second,
            "--",
            "cat /proc/sys/kernel/random/boot_id",
        ]);
        (done.code == 0).then_some(done.stdout)
    };
    let before = boot().expect("the boot's identity");
    kill_machine(&cluster, &second);
    eventually("the machine to be there again", || {
        boot().filter(|now| *now != before)
    });
    cluster.wait_for(&["get", "node", &second], |t| t.contains(" Ready"));

    // A stop preserves everything.
    cluster.rkube(&["stop"]).ok();
    assert_eq!(cluster.rkube(&["status"]).code, 7);
    let logs = cluster.rkube(&["logs"]).ok();
    assert!(logs.contains("Power down"), "{logs}");
    cluster.rkube(&["start"]).ok();
    cluster.kubectl(&["get", "service", "kubia"]).ok();

    // The cluster is deleted with one machine dead. Dropping `Cluster` checks for
    // leftovers.
    kill_machine(&cluster, &second);
}
