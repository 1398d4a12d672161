//! Docker driver: effects of container engine commands on a cluster.

use rkube_testing::engine::docker;
use rkube_testing::require_machine;
use std::process::Command;

use rkube_testing::{Cluster, Running, eventually, http_get};

/// Returns whether nodes are containers. If not, reports that the test does not apply.
fn is_docker() -> bool {
    let docker = rkube_testing::driver() == "docker";
    if !docker {
        rkube_testing::not_applicable("nodes are no containers");
    }
    docker
}

fn ready(cluster: &Cluster, nodes: usize) {
    cluster.wait_for(&["get", "nodes", "--no-headers"], |t| {
        t.matches(" Ready ").count() == nodes
    });
}

#[test]
fn containers_that_are_restarted_killed_or_removed_come_back() {
    require_machine!();
    if !is_docker() {
        return;
    }
    let cluster = Cluster::start("engine", 2);
    cluster.deploy_kubia(2);
    cluster.kubectl(&["create", "configmap", "kept"]).ok();
    let (first, second) = (cluster.node(1), cluster.node(2));

    docker(&["restart", "-t", "5", &first]).expect("docker restart");
    eventually("the API server", || {
        (cluster.kubectl(&["get", "cm", "kept"]).code == 0).then_some(())
    });
    ready(&cluster, 2);

    docker(&["rm", "-f", "-v", &second]).expect("docker rm");
    assert!(cluster.rkube(&["status"]).stdout.contains("Nonexistent"));
    cluster.rkube(&["start"]).ok();
    ready(&cluster, 2);

    // All objects without state at once.
    docker(&["rm", "-f", &first, &second]).expect("docker rm");
    docker(&["network", "rm", &format!("rkube-{}", cluster.profile)]).expect("docker network rm");
    cluster.rkube(&["start"]).ok();
    ready(&cluster, 2);
    cluster.kubectl(&["get", "cm", "kept"]).ok();
    cluster
        .kubectl(&[
            "rollout",
            "status",
            "deployment/kubia",
            &rkube_testing::timeout(),
        ])
        .ok();
    docker(&["rm", "-f", &first]).expect("docker rm");
    cluster.rkube(&["delete"]).ok();
}

/// A separate container engine for one test.
struct Engine {
    folder: tempfile::TempDir,
    daemon: Option<Running>,
}

impl Engine {
    /// Returns an engine that has not been started.
    fn plan() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            daemon: None,
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock"))
    }

    fn start(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a file");
        let daemon = Command::new("dockerd")
            .args(["--data-root", &self.path("data")])
            .args(["--exec-root", &self.path("run")])
            .args(["--pidfile", &self.path("pid"), "--host", &self.host()])
            // The machine's other engine already has the default bridge.
            .args(["--bridge", "none"])
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("dockerd runs");
        self.daemon = Some(Running(daemon));
        eventually("the engine", || {
            rkube_testing::engine::answers().then_some(())
        });
    }

    fn stop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.interrupt();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
        // Unmounts the network namespaces that the engine had bind-mounted.
        let folder = self.path("");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for line in mounts.lines().rev().filter(|l| l.contains(&folder)) {
            if let Some(place) = line.split(' ').nth(1) {
                let _ = Command::new("umount").args(["-l", place]).status();
            }
        }
    }
}

#[test]
fn a_cluster_comes_back_with_its_engine() {
    require_machine!();
    if !is_docker() {
        return;
    }
    if !rkube_testing::has("dockerd") {
        rkube_testing::skip!("needs dockerd");
    }
    let mut engine = Engine::plan();
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("DOCKER_HOST", engine.host()) };
    engine.start();
    let cluster = Cluster::start("back", 2);
    cluster.kubectl(&["create", "configmap", "kept"]).ok();

    engine.stop();
    // Commands that need the engine report that it does not answer. They change nothing.
    for command in ["status", "start", "delete"] {
        let said = cluster.rkube(&[command]);
        assert_eq!(said.code, 63, "{command}: {said:?}");
        assert!(
            said.stderr.contains("no container engine answers"),
            "{said:?}"
        );
    }
    let listed = cluster.rkube(&["profile", "list"]).ok();
    assert!(
        listed.contains("docker") && listed.contains("Unknown"),
        "{listed}"
    );

    engine.start();
    eventually("the API server", || {
        (cluster.kubectl(&["get", "cm", "kept"]).code == 0).then_some(())
    });
    ready(&cluster, 2);
    cluster.rkube(&["delete"]).ok();
    assert!(rkube_testing::engine::holds(&cluster.profile).is_empty());
}

#[test]
fn ports_are_published_and_a_taken_one_is_told() {
    require_machine!();
    if !is_docker() {
        return;
    }
    let cluster = Cluster::plan("ports");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let ports = format!("{port}:30080");
    let said = cluster.rkube(&["start", "--ports", &ports]).failed(71);
    assert!(
        said.contains(&port.to_string()) && said.contains("choose another port"),
        "{said}"
    );
    drop(listener);
    cluster.rkube(&["start", "--ports", &ports]).ok();
    cluster.deploy_kubia(1);
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: kubia}\nspec:\n  type: NodePort\n  \
         selector: {app: kubia}\n  ports: [{port: 8080, nodePort: 30080}]\n",
    );
    let address = format!("127.0.0.1:{port}");
    eventually("the app", || {
        http_get(&address).filter(|b| b.starts_with("You've hit"))
    });
    let limits = docker(&[
        "inspect",
        "--format",
        "{{.HostConfig.Privileged}} {{.HostConfig.RestartPolicy.Name}}",
        &cluster.profile,
    ]);
    assert!(limits.expect("docker inspect").contains("unless-stopped"));
}

#[test]
fn nodes_run_the_binary_that_the_environment_names() {
    require_machine!();
    if !is_docker() {
        return;
    }
    let cluster = Cluster::plan("binary");
    let start = |binary: &std::path::Path| {
        let mut command = cluster.rkube_command(&["start"]);
        command
            .env("RKUBE_NODE_BINARY", binary)
            .output()
            .expect("rkube runs")
    };
    let text = cluster.path("text");
    std::fs::write(&text, "#!/bin/sh\n").expect("a file");
    let refused = start(&text);
    assert_eq!(refused.status.code(), Some(16), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("RKUBE_NODE_BINARY") && said.contains("no program of Linux"),
        "{said}"
    );

    // The length distinguishes it from the running binary. Trailing bytes do not affect a
    // program.
    let named = cluster.path("rkube-of-linux");
    std::fs::copy(rkube_testing::binary(), &named).expect("a copy");
    std::fs::File::options()
        .append(true)
        .open(&named)
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"mark"))
        .expect("a file");
    let started = start(&named);
    assert!(started.status.success(), "{started:?}");
    ready(&cluster, 1);
    let found = cluster.path("found");
    let from = format!("{}:/rkube", cluster.node(1));
    docker(&["cp", &from, &found.display().to_string()]).expect("docker cp");
    let length = |path| std::fs::metadata(path).expect("a file").len();
    assert_eq!(length(&found), length(&named));
    cluster.rkube(&["delete"]).ok();
}
