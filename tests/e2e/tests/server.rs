//! The image of a node that configures itself (`images/node/build`), in a container engine.

use std::process::Command;
use std::time::{Duration, Instant};

use rkube_testing::engine::{answers, docker};
use rkube_testing::{Cluster, binary, is_native, require_machine, skip};

/// The line that test libraries for k3s wait for.
const READY: &str = "Node controller sync successful";
const WAIT: Duration = Duration::from_secs(60);

/// A container and its image, which are removed with this.
struct Container {
    id: String,
    image: &'static str,
}

impl Drop for Container {
    fn drop(&mut self) {
        docker(&["rm", "-f", "-v", &self.id]);
        docker(&["rmi", self.image]);
    }
}

impl Container {
    fn logs(&self) -> String {
        let out = Command::new("docker").args(["logs", &self.id]).output();
        let out = out.expect("docker runs");
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    }

    /// Waits until the line is there `count` times.
    fn wait(&self, count: usize) {
        let deadline = Instant::now() + WAIT;
        while self.logs().matches(READY).count() < count {
            assert!(Instant::now() < deadline, "{}", self.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs kubectl with the node's own kubeconfig and the published port.
    fn kubectl(&self, dir: &std::path::Path, args: &[&str]) -> String {
        let place = "/etc/rancher/k3s/k3s.yaml";
        let text = docker(&["exec", &self.id, "cat", place]).expect("a kubeconfig");
        let port = docker(&["port", &self.id, "6443/tcp"]).expect("a port");
        let port = port.lines().next().and_then(|line| line.rsplit(':').next());
        let server = format!("localhost:{}", port.expect("a port"));
        let file = dir.join("k3s.yaml");
        std::fs::write(&file, text.replace("127.0.0.1:6443", &server)).expect("a file");
        let out = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&file)
            .args(args)
            .output()
            .expect("kubectl runs");
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {error}{}", self.logs());
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

/// Returns the flags that give a container the rights of a node: all, or those that this machine has.
fn rights() -> Vec<String> {
    if docker(&["run", "--rm", "--privileged", "rkube/node:e2e", "version"]).is_some() {
        return vec!["--privileged".into()];
    }
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let bound = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bound = u64::from_str_radix(bound.expect("a set").trim(), 16).expect("a number");
    // Numbers of capabilities are those of the kernel; Docker takes names only.
    const NAMES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP \
        LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE \
        SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME \
        SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG \
        WAKE_ALARM BLOCK_SUSPEND AUDIT_READ";
    let names = NAMES.split_whitespace().enumerate();
    let held = names.filter(|(i, _)| bound & (1 << i) != 0);
    let mut flags: Vec<String> = held.map(|(_, name)| format!("--cap-add={name}")).collect();
    for option in ["seccomp=unconfined", "apparmor=unconfined"] {
        flags.push(format!("--security-opt={option}"));
    }
    flags
}

#[test]
fn the_node_image_configures_itself_and_keeps_its_state() {
    require_machine!();
    // One run is enough: no driver has a part in it.
    if !is_native("a node without a driver") {
        return;
    }
    if !answers() {
        skip!("no container engine answers");
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let built = Command::new(format!("{root}/images/node/build"))
        .arg(binary())
        .arg("rkube/node:e2e")
        .output()
        .expect("the script runs");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    // Only for its directory.
    let place = Cluster::plan("server");
    let dir = place.path("");
    let rights = rights();
    let mut words = vec!["run", "-d", "-p", "127.0.0.1::6443"];
    words.extend(rights.iter().map(String::as_str));
    // As the libraries do it.
    words.extend(["--tmpfs", "/run", "--tmpfs", "/var/run", "rkube/node:e2e"]);
    words.extend(["server", "--disable", "traefik", "--tls-san=ci.example"]);
    let ran = Command::new("docker").args(&words).output();
    let ran = ran.expect("docker runs");
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{words:?}: {error}");
    let id = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
    let node = Container {
        id,
        image: "rkube/node:e2e",
    };
    node.wait(1);
    let nodes = node.kubectl(&dir, &["get", "nodes", "--no-headers"]);
    assert!(nodes.contains(" Ready "), "{nodes}");
    node.kubectl(&dir, &["create", "configmap", "kept"]);
    let tls = [
        "--tls-server-name",
        "ci.example",
        "get",
        "configmap",
        "kept",
    ];
    node.kubectl(&dir, &tls);

    docker(&["restart", "-t", "10", &node.id]).expect("a restart");
    node.wait(2);
    node.kubectl(&dir, &["get", "configmap", "kept"]);
}
