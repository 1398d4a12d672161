//! An application, from its deployment to its load balancer.

use rkube_testing::require_machine;
use std::collections::BTreeSet;

use rkube_testing::{Cluster, eventually, http_get};

fn answers(address: &str, times: usize) -> BTreeSet<String> {
    (0..times)
        .map(|_| {
            eventually(&format!("an answer of {address}"), || {
                http_get(address).filter(|b| b.starts_with("You've hit"))
            })
        })
        .collect()
}

#[test]
fn a_deployment_is_spread_exposed_and_balanced() {
    require_machine!();
    let count = rkube_testing::nodes(4);
    let replicas = count.min(3);
    let cluster = Cluster::start("app", 4);
    cluster
        .kubectl(&["create", "deployment", "kubia", "--image=rkube/kubia"])
        .ok();
    cluster
        .kubectl(&[
            "scale",
            "deployment",
            "kubia",
            &format!("--replicas={replicas}"),
        ])
        .ok();
    cluster
        .kubectl(&[
            "rollout",
            "status",
            "deployment/kubia",
            &rkube_testing::timeout(),
        ])
        .ok();

    let text = cluster
        .kubectl(&[
            "get",
            "pods",
            "-l",
            "app=kubia",
            "-o",
            "wide",
            "--no-headers",
        ])
        .ok();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), replicas, "{text}");
    let nodes: BTreeSet<&str> = rows.iter().map(|r| r[6]).collect();
    assert_eq!(nodes.len(), replicas, "pods share nodes: {text}");
    for row in &rows {
        assert_eq!(row[2], "Running", "{text}");
        let range = cluster
            .kubectl(&["get", "node", row[6], "-o", "jsonpath={.spec.podCIDR}"])
            .ok();
        let range: ipnet::Ipv4Net = range.parse().expect("a range");
        assert!(
            range.contains(&row[5].parse::<std::net::Ipv4Addr>().expect("an address")),
            "{text}"
        );
    }

    cluster
        .kubectl(&[
            "expose",
            "deployment",
            "kubia",
            "--type=LoadBalancer",
            "--name",
            "kubia-http",
            "--port=8080",
        ])
        .ok();
    let node_port = cluster
        .kubectl(&[
            "get",
            "service",
            "kubia-http",
            "-o",
            "jsonpath={.spec.ports[0].nodePort}",
        ])
        .ok();
    let addresses = cluster
        .kubectl(&[
            "get",
            "nodes",
            "-o",
            "jsonpath={range .items[*]}{.status.addresses[0].address}{\"\\n\"}{end}",
        ])
        .ok();
    for ip in addresses.lines() {
        answers(&format!("{ip}:{node_port}"), 1);
    }
    let external = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    let external = ["get", "service", "kubia-http", "-o", external];
    let ip = cluster.wait_for(&external, |ip| !ip.is_empty());
    let hit = answers(&format!("{}:8080", ip.trim()), 60);
    assert_eq!(hit.len(), replicas, "{hit:?}");
    let url = cluster.rkube(&["service", "kubia-http", "--url"]).ok();
    assert_eq!(url.trim(), format!("http://{}:8080", ip.trim()));
}

/// Returns what a pod of the demo answers to the pod `client`.
fn answer_to_client(cluster: &Cluster, ip: &str, port: u16) -> Option<String> {
    // busybox-static's wget crashes without a C library in the image; nc works.
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {ip} {port}");
    let done = cluster.kubectl(&["exec", "client", "--", "sh", "-c", &script]);
    let line = done.stdout.lines().last()?;
    line.starts_with("You've hit").then(|| line.to_owned())
}

#[test]
fn pods_find_services_by_name_and_each_other_by_address() {
    require_machine!();
    let Some(image) = rkube_testing::image::Image::busybox("test/busybox:1") else {
        rkube_testing::skip!("no busybox-static");
    };
    let cluster = Cluster::start("dns", 2);
    std::fs::write(cluster.path("busybox.tar"), image.docker_archive()).expect("the archive");
    cluster
        .rkube(&[
            "image",
            "load",
            &cluster.path("busybox.tar").display().to_string(),
        ])
        .ok();
    cluster.deploy_kubia(2);
    cluster
        .kubectl(&[
            "expose",
            "deployment",
            "kubia",
            "--port=80",
            "--target-port=8080",
        ])
        .ok();
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: client}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {name: c, image: 'test/busybox:1', command: [sleep, '3600']}\n",
    );
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "pod/client",
            &rkube_testing::timeout(),
        ])
        .ok();
    let resolved = cluster
        .kubectl(&[
            "exec",
            "client",
            "--",
            "nslookup",
            "kubernetes.default.svc.cluster.local",
        ])
        .ok();
    assert!(resolved.contains("10.96.0.1"), "{resolved}");
    // The C library's resolver applies the search path; busybox's own does not.
    let by_name = [
        "exec",
        "deployment/kubia",
        "--",
        "/rkube",
        "demo",
        "lookup",
        "kubia",
    ];
    let ip = cluster.kubectl(&by_name).ok().trim().to_owned();
    assert_eq!(
        cluster
            .kubectl(&[
                "get",
                "service",
                "kubia",
                "-o",
                "jsonpath={.spec.clusterIP}"
            ])
            .ok(),
        ip
    );
    let get = |ip: &str, port: u16| answer_to_client(&cluster, ip, port);
    let hit: BTreeSet<String> = (0..30)
        .map(|_| eventually("an answer through the service", || get(&ip, 80)))
        .collect();
    assert_eq!(hit.len(), 2, "{hit:?}");
    let ips = cluster
        .kubectl(&[
            "get",
            "pods",
            "-l",
            "app=kubia",
            "-o",
            "jsonpath={.items[*].status.podIP}",
        ])
        .ok();
    for ip in ips.split(' ') {
        assert!(get(ip, 8080).is_some(), "{ip} does not answer");
    }
    let missing = cluster.kubectl(&[
        "exec",
        "client",
        "--",
        "nslookup",
        "nothing.default.svc.cluster.local",
    ]);
    assert_ne!(missing.code, 0, "{missing:?}");
}

const SIZED: &str = "apiVersion: v1
kind: Pod
metadata: {name: sized}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: quiet
    image: test/busybox:1
    command: [sleep, '36000']
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 32Mi}}
  - name: restarted
    image: test/busybox:1
    command: [sleep, '36000']
    resources: {requests: {cpu: 50m}}
    resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]
";

/// The pod of [`SIZED`].
struct SizedPod<'a>(&'a Cluster);

impl SizedPod<'_> {
    fn get(&self, path: &str) -> String {
        let path = format!("jsonpath={path}");
        self.0.kubectl(&["get", "pod", "sized", "-o", &path]).ok()
    }

    fn resize(&self, container: &str, resources: &str) {
        let patch = format!(
            r#"{{"spec":{{"containers":[{{"name":"{container}","resources":{resources}}}]}}}}"#
        );
        let resize = "--subresource=resize";
        self.0
            .kubectl(&["patch", "pod", "sized", resize, "-p", &patch])
            .ok();
    }

    fn wait_until_settled(&self) {
        eventually("the end of the resize", || {
            let conditions = self.get("{.status.conditions[*].type}");
            let observed = self.get("{.metadata.generation} {.status.observedGeneration}");
            let (now, seen) = observed.split_once(' ')?;
            (!conditions.contains("Resize") && now == seen).then_some(())
        });
    }

    /// Returns the limits of processor time and memory of the container `quiet`.
    fn limits(&self) -> String {
        let line = "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max 2>/dev/null \
            || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes";
        let args = [
            "exec", "sized", "-c", "quiet", "--", "busybox", "sh", "-c", line,
        ];
        let text = self.0.kubectl(&args).ok();
        let words: Vec<&str> = text.split_whitespace().filter(|w| *w != "100000").collect();
        words.join(" ")
    }

    fn wait_for_limits(&self, wanted: String) {
        eventually(&format!("limits {wanted}"), || {
            (self.limits() == wanted).then_some(())
        });
    }
}

#[test]
fn a_pod_is_resized_in_place() {
    require_machine!();
    let Some(image) = rkube_testing::image::Image::busybox("test/busybox:1") else {
        rkube_testing::skip!("no busybox-static");
    };
    let cluster = Cluster::start("resize", 1);
    let archive = cluster.path("busybox.tar");
    std::fs::write(&archive, image.docker_archive()).expect("archive");
    let archive = archive.to_str().expect("UTF-8");
    cluster.rkube(&["image", "load", archive]).ok();
    cluster.apply(SIZED);
    let ready = "--for=condition=Ready";
    cluster
        .kubectl(&["wait", "pod/sized", ready, &rkube_testing::timeout()])
        .ok();
    let pod = SizedPod(&cluster);
    let quiet = "{.status.containerStatuses[?(@.name=='quiet')]";
    let before = pod.get(&format!("{quiet}.containerID}}"));
    assert_eq!(pod.limits(), format!("20000 {}", 32 << 20));

    // An increase of both resources keeps the container running.
    pod.resize(
        "quiet",
        r#"{"requests":{"memory":"64Mi"},"limits":{"cpu":"500m","memory":"64Mi"}}"#,
    );
    pod.wait_for_limits(format!("50000 {}", 64 << 20));
    pod.wait_until_settled();
    assert_eq!(pod.get(&format!("{quiet}.resources.limits.cpu}}")), "500m");
    assert_eq!(
        pod.get(&format!("{quiet}.allocatedResources.memory}}")),
        "64Mi"
    );
    assert_eq!(pod.get(&format!("{quiet}.containerID}}")), before);
    assert_eq!(
        pod.get("{.status.containerStatuses[*].restartCount}"),
        "0 0"
    );

    // Its resize policy restarts this container.
    pod.resize("restarted", r#"{"requests":{"cpu":"70m"}}"#);
    eventually("the restart", || {
        (pod.get("{.status.containerStatuses[*].restartCount}") == "0 1").then_some(())
    });
    pod.wait_until_settled();

    // A request beyond the node's capacity is refused.
    pod.resize(
        "quiet",
        r#"{"requests":{"memory":"900Gi"},"limits":{"memory":"900Gi"}}"#,
    );
    let refusal = "{.status.conditions[?(@.type=='PodResizePending')].reason}";
    eventually("a refusal", || {
        (pod.get(refusal) == "Infeasible").then_some(())
    });
    assert_eq!(pod.limits(), format!("50000 {}", 64 << 20));
    if rkube_testing::is_native("the agent is not killed") {
        // The restarted agent keeps the granted resources.
        cluster.rkube(&["ssh", "--", "pkill -f 'rkube agent'"]);
        eventually("the agent's return", || {
            let args = ["exec", "sized", "-c", "quiet", "--", "busybox", "true"];
            (cluster.kubectl(&args).code == 0).then_some(())
        });
        assert_eq!(pod.limits(), format!("50000 {}", 64 << 20));
        assert_eq!(pod.get(refusal), "Infeasible");
    }
    pod.resize(
        "quiet",
        r#"{"requests":{"memory":"48Mi"},"limits":{"memory":"48Mi"}}"#,
    );
    pod.wait_for_limits(format!("50000 {}", 48 << 20));
    pod.wait_until_settled();
    assert_eq!(pod.get(&format!("{quiet}.containerID}}")), before);
}
