//! Load balancers' addresses, from the machine, from pods, and when nodes go.

use rkube_testing::{Cluster, eventually, http_get, is_native, require_machine};

const ADDRESS: &str = "jsonpath={.status.loadBalancer.ingress[0].ip}";

fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: LoadBalancer\n  \
         selector: {{app: kubia}}\n  ports: [{{port: 80, targetPort: 8080}}]\n{spec}"
    )
}

fn address(cluster: &Cluster, name: &str) -> String {
    let path = ["get", "service", name, "-o", ADDRESS];
    let ip = cluster.wait_for(&path, |ip| !ip.is_empty());
    ip.trim().to_owned()
}

#[test]
fn addresses_are_there_as_long_as_the_cluster_runs() {
    require_machine!();
    if !is_native("the address range of the nodes") {
        return;
    }
    let cluster = Cluster::start("lb", 2);
    if rkube_testing::nodes(2) < 2 {
        return;
    }
    cluster.deploy_kubia(2);
    cluster.apply(&service("web", ""));
    let ip = address(&cluster, "web");
    let at = format!("{ip}:80");
    eventually("an answer", || http_get(&at));
    // No port of the node itself is open there.
    let ssh = std::net::TcpStream::connect(format!("{ip}:22"));
    let refused = ssh.err().map(|e| e.kind());
    assert_eq!(refused, Some(std::io::ErrorKind::ConnectionRefused));
    let nothing = cluster.rkube(&["tunnel"]).ok();
    assert!(nothing.contains("nothing to do"), "{nothing}");

    // A fixed address, one that is taken, and another implementation's.
    let (head, _) = ip.rsplit_once('.').expect("an address");
    let fixed = format!("{head}.200");
    let wish = format!("  loadBalancerIP: {fixed}\n  allocateLoadBalancerNodePorts: false\n");
    cluster.apply(&service("fixed", &wish));
    assert_eq!(address(&cluster, "fixed"), fixed);
    eventually("an answer", || http_get(&format!("{fixed}:80")));
    cluster.apply(&service("late", &format!("  loadBalancerIP: {ip}\n")));
    cluster.apply(&service(
        "other",
        "  loadBalancerClass: example.com/other\n",
    ));
    let events = [
        "get",
        "events",
        "--field-selector",
        "involvedObject.name=late",
    ];
    cluster.wait_for(&events, |text| {
        text.contains("SyncLoadBalancerFailed") && text.contains("is taken")
    });
    let listed = cluster.kubectl(&["get", "services", "late", "other"]).ok();
    assert_eq!(listed.matches("<pending>").count(), 2, "{listed}");

    // The client's address is the machine's.
    let local = "  externalTrafficPolicy: Local\n  loadBalancerSourceRanges: [203.0.113.0/24]\n";
    cluster.apply(&service("closed", local));
    let closed = format!("{}:80", address(&cluster, "closed"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(http_get(&closed).is_none());
    let open =
        format!("  externalTrafficPolicy: Local\n  loadBalancerSourceRanges: [{head}.1/32]\n");
    cluster.apply(&service("closed", &open));
    eventually("an answer", || http_get(&closed));

    // Pods reach it, too; a freed address goes to who waits for it.
    let pod = cluster.pods("kubia").remove(0);
    let script =
        format!("exec 3<>/dev/tcp/{ip}/80 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3");
    let from_node = cluster.rkube(&["ssh", "--", "bash", "-c", &script]);
    assert!(from_node.ok().contains("hit"), "from a node; {pod}");
    cluster.kubectl(&["delete", "service", "web"]).ok();
    assert_eq!(address(&cluster, "late"), ip);

    // Another node answers when one goes, and everything is as before after a restart.
    let (late, second) = (format!("{ip}:80"), cluster.node(2));
    cluster.rkube(&["node", "stop", &second]).ok();
    for at in [&late, &format!("{fixed}:80")] {
        eventually("an answer without the second node", || http_get(at));
    }
    cluster.rkube(&["stop"]).ok();
    cluster.rkube(&["start"]).ok();
    assert_eq!(address(&cluster, "late"), ip);
    eventually("an answer after a restart", || http_get(&late));

    // Turned off, the addresses are taken back, and services go without a finalizer.
    cluster.rkube(&["stop"]).ok();
    cluster.rkube(&["start", "--no-load-balancer"]).ok();
    let path = ["get", "service", "late", "-o", ADDRESS];
    cluster.wait_for(&path, |ip| ip.is_empty());
    cluster
        .kubectl(&["delete", "service", "late", "fixed"])
        .ok();
}
