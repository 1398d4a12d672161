//! A cluster of both IP families: pods, services, node ports, DNS and policies.

use rkube_testing::{Cluster, eventually, http_get, is_native, nodes, require_machine};

const OBJECTS: &str = "apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  nodeName: LAST
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: rkube/kubia
    readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: FIRST
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: 'test/busybox:1', command: [sleep, '3600']}]
---
apiVersion: v1
kind: Service
metadata: {name: both}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: six}
spec:
  ipFamilies: [IPv6]
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
";

const DENY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [RULES]}
";

/// Returns which of the addresses answer a request of the client.
fn answering(cluster: &Cluster, addresses: &[(&str, u16)]) -> Vec<bool> {
    let ask = |(address, port): &(&str, u16)| {
        let script = format!(
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} {port} | grep -q hit && echo yes"
        );
        let exec = ["exec", "client", "--", "sh", "-c", &script];
        cluster.kubectl(&exec).stdout.contains("yes")
    };
    addresses.iter().map(ask).collect()
}

fn words(cluster: &Cluster, what: &[&str], path: &str) -> Vec<String> {
    let output = format!("-o=jsonpath={path}");
    let args: Vec<&str> = what.iter().copied().chain([output.as_str()]).collect();
    let text = cluster.kubectl(&args).ok();
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_dual_stack_cluster_serves_both_families() {
    require_machine!();
    if !is_native("IPv6 of the nodes from this machine") {
        return;
    }
    if !std::path::Path::new("/proc/net/if_inet6").exists() {
        rkube_testing::skip!("the kernel has no IPv6");
    }
    let Some(image) = rkube_testing::image::Image::busybox("test/busybox:1") else {
        rkube_testing::skip!("no busybox-static");
    };
    let cluster = Cluster::plan("dual");
    let count = nodes(2).to_string();
    let start = ["start", "--nodes", &count, "--ip-families", "ipv4,ipv6"];
    cluster.rkube(&start).ok();
    let archive = cluster.path("busybox.tar");
    std::fs::write(&archive, image.docker_archive()).expect("the archive");
    let archive = archive.to_str().expect("UTF-8");
    cluster.rkube(&["image", "load", archive]).ok();
    let (first, last) = (cluster.node(1), cluster.node(nodes(2)));
    cluster.apply(&OBJECTS.replace("FIRST", &first).replace("LAST", &last));
    let timeout = rkube_testing::timeout();
    let wait = ["wait", "--for=condition=Ready", "pod", "--all", &timeout];
    cluster.kubectl(&wait).ok();

    let pod = words(
        &cluster,
        &["get", "pod", "server"],
        "{.status.podIPs[*].ip}",
    );
    let node = words(
        &cluster,
        &["get", "node", &first],
        "{.status.addresses[?(@.type==\"InternalIP\")].address}",
    );
    let both = words(
        &cluster,
        &["get", "service", "both"],
        "{.spec.clusterIPs[*]} {.spec.ports[0].nodePort}",
    );
    let six = words(
        &cluster,
        &["get", "service", "six"],
        "{.spec.clusterIPs[*]}",
    );
    let [four, sixth, port] = both.as_slice() else {
        panic!("{both:?}");
    };
    let is_both = |ips: &[String]| ips.len() == 2 && ips[0].contains('.') && ips[1].contains(':');
    assert!(is_both(&pod) && is_both(&node), "{pod:?} {node:?}");
    assert!(six.len() == 1 && six[0].contains(':'), "{six:?}");

    let addresses = [
        (pod[0].as_str(), 8080),
        (&pod[1], 8080),
        (four, 80),
        (sixth, 80),
        (&six[0], 80),
    ];
    eventually("answers of all addresses", || {
        let all = answering(&cluster, &addresses);
        all.iter().all(|answers| *answers).then_some(())
    });
    for ip in [node[0].clone(), format!("[{}]", node[1])] {
        let at = format!("{ip}:{port}");
        eventually(&at, || http_get(&at));
    }
    let lookup = "nslookup -type=AAAA both.default.svc.cluster.local; nslookup IP";
    let lookup = lookup.replace("IP", sixth);
    let exec = ["exec", "client", "--", "sh", "-c", &lookup];
    let answer = cluster.kubectl(&exec).stdout;
    let address = sixth.as_str();
    assert!(answer.contains(address), "{answer}");
    assert!(answer.contains("name = both.default.svc"), "{answer}");

    cluster.apply(&DENY.replace("RULES", ""));
    eventually("the policy", || {
        let all = answering(&cluster, &addresses[..4]);
        (!all.contains(&true)).then_some(())
    });
    let client = words(
        &cluster,
        &["get", "pod", "client"],
        "{.status.podIPs[*].ip}",
    );
    let block = format!("{{from: [{{ipBlock: {{cidr: '{}/128'}}}}]}}", client[1]);
    cluster.apply(&DENY.replace("RULES", &block));
    eventually("the exception for IPv6", || {
        let all = answering(&cluster, &addresses[..4]);
        (all == [false, true, false, true]).then_some(())
    });
}
