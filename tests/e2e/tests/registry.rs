//! The registry of the machine, which clusters share.

use std::path::Path;
use std::process::Command;

use rkube_testing::image::Image;
use rkube_testing::{Cluster, eventually, has, http_get, require_machine};

/// Returns a port of the loopback that nobody uses.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn push(archive: &Path, to: &str) {
    let out = Command::new("skopeo")
        .args([
            "copy",
            "--quiet",
            "--insecure-policy",
            "--dest-tls-verify=false",
        ])
        .arg(format!("docker-archive:{}", archive.display()))
        .arg(format!("docker://{to}"))
        .output()
        .expect("skopeo runs");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn pod(name: &str, node: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{name: c, image: '{image}', imagePullPolicy: Always, command: [sleep, '3600']}}\n"
    )
}

#[test]
fn pods_run_what_was_pushed_to_the_registry_of_the_machine() {
    require_machine!();
    let Some(image) = Image::busybox("app:1").filter(|_| has("skopeo")) else {
        rkube_testing::skip!("needs busybox-static and skopeo");
    };
    // The first cluster runs when the registry is created.
    let cluster = Cluster::start("registry", 2);
    let port = free_port().to_string();
    let said = cluster.rkube(&["registry", "create", "--port", &port]).ok();
    assert!(said.contains(&format!("localhost:{port}")), "{said}");
    // Again, nothing changes; other settings are refused.
    cluster.rkube(&["registry", "create"]).ok();
    cluster
        .rkube(&["registry", "create", "--port", "1"])
        .failed(11);
    let config = cluster
        .kubectl(&[
            "get",
            "configmap",
            "-n",
            "kube-public",
            "local-registry-hosting",
            "-o",
            r"jsonpath={.data.localRegistryHosting\.v1}",
        ])
        .ok();
    assert!(
        config.contains(&format!("host: \"localhost:{port}\"")),
        "{config}"
    );

    let archive = cluster.path("app.tar");
    std::fs::write(&archive, image.docker_archive()).expect("a file");
    let name = format!("localhost:{port}/team/app:1");
    push(&archive, &name);
    for (pod_name, node, image) in [
        ("a", cluster.node(1), name.clone()),
        (
            "b",
            cluster.node(2),
            format!("registry.rkube.internal:{port}/team/app:1"),
        ),
    ] {
        cluster.apply(&pod(pod_name, &node, &image));
    }
    let wait = |names: &[&str]| {
        let timeout = rkube_testing::timeout();
        let mut words = vec!["wait", "--for=condition=Ready", &timeout, "pod"];
        words.extend(names);
        cluster.kubectl(&words).ok();
    };
    wait(&["a", "b"]);
    // As a service for pods, plain and by TLS with the cluster's authority.
    let service =
        format!("http://registry.kube-system.svc.cluster.local:{port}/v2/team/app/tags/list");
    let tags = cluster
        .kubectl(&["exec", "a", "--", "wget", "-qO-", &service])
        .ok();
    assert!(tags.contains(r#""tags":["1"]"#), "{tags}");
    // The nodes' own images are pushed there, too.
    let pushed = format!("localhost:{port}/team/copy:1");
    cluster.rkube(&["image", "push", &name, &pushed]).ok();
    let listed = cluster.rkube(&["registry", "list", "-o", "json"]).ok();
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["repositories"], 2, "{listed}");
    assert_eq!(listed[0]["running"], true, "{listed}");

    // It does not end with the cluster, and a node that is new knows it.
    cluster.rkube(&["stop"]).ok();
    assert!(http_get(&format!("127.0.0.1:{port}")).is_some());
    cluster.rkube(&["start"]).ok();
    cluster.rkube(&["node", "add"]).ok();
    cluster.apply(&pod("c", &cluster.node(3), &pushed));
    wait(&["c"]);
    let freed = cluster
        .rkube(&["registry", "gc", "--untagged", "--older-than", "0"])
        .ok();
    assert!(freed.contains("0 blobs"), "{freed}");

    cluster.rkube(&["registry", "delete"]).ok();
    eventually("the end of the registry", || {
        std::net::TcpStream::connect(("127.0.0.1", port.parse().ok()?)).err()
    });
    let gone = cluster.kubectl(&[
        "get",
        "configmap",
        "-n",
        "kube-public",
        "local-registry-hosting",
    ]);
    gone.failed(1);
    assert!(!cluster.home().join("registry").exists());
    cluster.rkube(&["delete"]).ok();
    cluster.assert_nothing_left();
}
